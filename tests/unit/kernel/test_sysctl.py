"""Kernel settings, on files that look like /proc/sys."""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from kproxy.config import Config
from kproxy.kernel.fake import FakeSysctl
from kproxy.kernel.sysctl import (
    CONNTRACK_ACCOUNTING,
    CONNTRACK_BUCKETS,
    CONNTRACK_EVENTS,
    CONNTRACK_MAX,
    Sysctl,
    conntrack_limit,
    tune_conntrack,
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "net").mkdir()
    (tmp_path / "net/x").write_text("5\n")
    return tmp_path


def test_a_number_is_written_only_when_it_differs(root: Path) -> None:
    sysctl = Sysctl(root)
    same, other = sysctl.set_to("net/x", 5), sysctl.set_to("net/x", 3)
    assert (same.changed, other.changed) == (False, True)
    assert (other.before, other.wanted, other.after, other.why) == (5, 3, 3, "")
    assert sysctl.read("net/x") == 3


def test_raising_never_lowers(root: Path) -> None:
    sysctl = Sysctl(root)
    assert sysctl.raise_to("net/x", 4).after == 5
    assert sysctl.raise_to("net/x", 6).after == 6


def test_what_cannot_be_done_is_explained(root: Path) -> None:
    outcome = Sysctl(root).set_to("net/absent/y", 1)
    assert (outcome.before, outcome.after) == (None, None)
    assert "no such setting" in outcome.why
    (root / "net/words").write_text("many words")
    assert Sysctl(root).read("net/words") is None
    assert Sysctl(root).set_to("net", 1).why


@pytest.mark.parametrize(
    ("per_core", "minimum", "cores", "expected"),
    [
        (0, 131072, 8, 0),
        (32768, 131072, 2, 131072),
        (32768, 131072, 8, 262144),
        (32768, 131072, 64, 1048576),
        (32768, 2000000, 64, 2000000),
        (32768, 2000000, 8, 2000000),
    ],
)
def test_the_size_of_the_conntrack_table(per_core: int, minimum: int, cores: int, expected: int) -> None:
    assert conntrack_limit(per_core, minimum, cores) == expected


def test_conntrack_is_tuned_as_configured_and_the_table_never_shrunk() -> None:
    prefix = "net/netfilter/nf_conntrack_"
    sysctl = FakeSysctl(
        {
            CONNTRACK_MAX: 900000,
            CONNTRACK_BUCKETS: 10,
            f"{prefix}tcp_timeout_established": 432000,
            f"{prefix}tcp_timeout_close_wait": 60,
            f"{prefix}udp_timeout": 30,
            f"{prefix}tcp_be_liberal": 0,
        }
    )
    outcomes = tune_conntrack(sysctl, Config(conntrack_tcp_be_liberal=True), cores=2)
    assert [outcome.why for outcome in outcomes] == [""] * 5
    assert sysctl.values == {
        CONNTRACK_MAX: 900000,
        CONNTRACK_BUCKETS: 131072 // 4,
        f"{prefix}tcp_timeout_established": 86400,
        f"{prefix}tcp_timeout_close_wait": 3600,
        f"{prefix}udp_timeout": 30,
        f"{prefix}tcp_be_liberal": 1,
    }


def test_a_twin_explains_like_the_door() -> None:
    sysctl = FakeSysctl({"a": 1}, read_only=["a"])
    assert "read-only" in sysctl.set_to("a", 2).why
    assert "no such setting" in sysctl.raise_to("b", 2).why


@pytest.mark.parametrize(("events", "then"), [(0, 1), (1, 1), (2, 2)])  # 2: only while somebody listens
def test_accounting_is_switched_on_for_service_metrics_alone(events: int, then: int) -> None:
    twin = FakeSysctl({CONNTRACK_ACCOUNTING: 0, CONNTRACK_EVENTS: events})
    quiet = Config(conntrack_max_per_core=0, conntrack_tcp_timeout_established=0, conntrack_tcp_timeout_close_wait=0)
    assert tune_conntrack(twin, quiet, 2) == ()
    assert twin.values == {CONNTRACK_ACCOUNTING: 0, CONNTRACK_EVENTS: events}
    assert len(tune_conntrack(twin, replace(quiet, service_metrics=5), 2)) == 2
    assert twin.values == {CONNTRACK_ACCOUNTING: 1, CONNTRACK_EVENTS: then}
