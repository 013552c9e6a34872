"""Kernel settings, on files that look like /proc/sys; the kernel's own: tests/netns/test_kernel_timeouts.py."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest
from msgspec.structs import replace

from kproxy.config import Config
from kproxy.errors import NotPermitted
from kproxy.kernel.fake import FakeSysctl, FakeTimeouts
from kproxy.kernel.sysctl import (
    CONNTRACK_ACCOUNTING,
    CONNTRACK_BUCKETS,
    CONNTRACK_EVENTS,
    CONNTRACK_MAX,
    TCP_BE_LIBERAL,
    Sysctl,
    conntrack_limit,
    tune_conntrack,
)
from kproxy.kernel.timeouts import TCP_CLOSE_WAIT, TCP_ESTABLISHED

TIMEOUTS = Config(conntrack_max_per_core=0)


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
    outcomes = tune_conntrack(sysctl, unasked(), Config(conntrack_tcp_be_liberal=True), cores=2)
    assert [outcome.why for outcome in outcomes] == [""] * 5
    assert sysctl.values == {
        CONNTRACK_MAX: 900000,
        CONNTRACK_BUCKETS: 131072 // 4,
        f"{prefix}tcp_timeout_established": 86400,
        f"{prefix}tcp_timeout_close_wait": 3600,
        f"{prefix}udp_timeout": 30,
        f"{prefix}tcp_be_liberal": 1,
    }


def unasked() -> FakeTimeouts:
    """Where sysctls can be written nobody may come here."""
    return FakeTimeouts(FakeSysctl(), AssertionError("asked, although the sysctl can be written"))


@pytest.mark.parametrize("number", [errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOENT, errno.EINVAL])
def test_a_file_that_is_barred_leaves_another_way_and_a_number_that_is_refused_does_not(
    root: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise OSError(number, "no")

    monkeypatch.setattr(Path, "write_text", refuse)
    outcome = Sysctl(root).set_to("net/x", 3)
    assert outcome.why
    assert outcome.refused == (number != errno.EINVAL)


def test_a_timeout_that_may_not_be_written_is_set_by_netlink_and_the_others_are_written() -> None:
    sysctl = FakeSysctl({TCP_ESTABLISHED: 432000, TCP_CLOSE_WAIT: 60}, read_only=[TCP_CLOSE_WAIT])
    written, sent = tune_conntrack(sysctl, FakeTimeouts(sysctl), TIMEOUTS, 2)
    assert sysctl.values == {TCP_ESTABLISHED: 86400, TCP_CLOSE_WAIT: 3600}
    assert (written.by_netlink, written.why) == (False, "")
    assert (sent.by_netlink, sent.why, sent.before, sent.after) == (True, "", 60, 3600)


def test_a_timeout_that_is_as_wanted_is_neither_written_nor_sent() -> None:
    values = {TCP_ESTABLISHED: 86400, TCP_CLOSE_WAIT: 3600}
    outcomes = tune_conntrack(FakeSysctl(values, read_only=values), unasked(), TIMEOUTS, 2)
    assert [(each.changed, each.by_netlink, each.why) for each in outcomes] == [(False, False, "")] * 2


def test_a_timeout_without_a_sysctl_is_set_all_the_same() -> None:
    """In a user namespace of an older kernel, or before conntrack is loaded."""
    outcomes = tune_conntrack(sysctl := FakeSysctl(), FakeTimeouts(sysctl), TIMEOUTS, 2)
    assert [(each.before, each.after, each.by_netlink) for each in outcomes] == [
        (None, 86400, True),
        (None, 3600, True),
    ]


def test_a_number_that_the_kernel_refuses_is_not_sent_by_another_way(root: Path) -> None:
    for name in (TCP_ESTABLISHED, TCP_CLOSE_WAIT):
        (root / name).mkdir(parents=True)  # EISDIR, as good as EINVAL
    outcomes = tune_conntrack(Sysctl(root), unasked(), TIMEOUTS, 2)
    assert all(each.why and not each.refused for each in outcomes)


def test_what_no_way_can_set_says_why_of_both() -> None:
    values = {TCP_ESTABLISHED: 432000, TCP_CLOSE_WAIT: 60}
    sysctl = FakeSysctl(values, read_only=values)
    outcomes = tune_conntrack(sysctl, FakeTimeouts(sysctl, NotPermitted("set it: no; give it x")), TIMEOUTS, 2)
    assert [each.why for each in outcomes] == ["/proc/sys is read-only; by netlink: set it: no; give it x"] * 2
    assert [(each.after, each.by_netlink) for each in outcomes] == [(432000, False), (60, False)]
    assert sysctl.values == values


def test_a_yes_without_effect_is_none() -> None:
    values = {TCP_ESTABLISHED: 432000, TCP_CLOSE_WAIT: 60}
    elsewhere = FakeTimeouts(FakeSysctl())
    outcomes = tune_conntrack(FakeSysctl(values, read_only=values), elsewhere, TIMEOUTS, 2)
    assert all("to no effect" in each.why and not each.by_netlink for each in outcomes)


def test_nothing_but_timeouts_goes_by_netlink() -> None:
    values = {CONNTRACK_MAX: 9, CONNTRACK_BUCKETS: 9, TCP_BE_LIBERAL: 0, CONNTRACK_ACCOUNTING: 0, CONNTRACK_EVENTS: 0}
    config = Config(
        conntrack_tcp_timeout_established=0,
        conntrack_tcp_timeout_close_wait=0,
        conntrack_tcp_be_liberal=True,
        service_metrics=5,
    )
    outcomes = tune_conntrack(FakeSysctl(values, read_only=values), unasked(), config, 2)
    assert {each.name for each in outcomes} == set(values)
    assert all(each.why for each in outcomes)


def test_a_twin_explains_like_the_door() -> None:
    sysctl = FakeSysctl({"a": 1}, read_only=["a"])
    assert "read-only" in sysctl.set_to("a", 2).why
    assert "no such setting" in sysctl.raise_to("b", 2).why


@pytest.mark.parametrize(("events", "then"), [(0, 1), (1, 1), (2, 2)])  # 2: only while somebody listens
def test_accounting_is_switched_on_for_service_metrics_alone(events: int, then: int) -> None:
    twin = FakeSysctl({CONNTRACK_ACCOUNTING: 0, CONNTRACK_EVENTS: events})
    quiet = Config(conntrack_max_per_core=0, conntrack_tcp_timeout_established=0, conntrack_tcp_timeout_close_wait=0)
    assert tune_conntrack(twin, unasked(), quiet, 2) == ()
    assert twin.values == {CONNTRACK_ACCOUNTING: 0, CONNTRACK_EVENTS: events}
    assert len(tune_conntrack(twin, unasked(), replace(quiet, service_metrics=5), 2)) == 2
    assert twin.values == {CONNTRACK_ACCOUNTING: 1, CONNTRACK_EVENTS: then}
