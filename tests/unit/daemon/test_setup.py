"""What is asked of the node at start, and that nothing of it is fatal."""

from __future__ import annotations

import errno
import resource
from pathlib import Path

import pytest

from kproxy.cli.condition import kernel_settings
from kproxy.config import Config
from kproxy.daemon.log import Formatter
from kproxy.daemon.setup import allow_many_files, become_unlikely_victim, prepare, show_flows
from kproxy.errors import KernelError
from kproxy.kernel.fake import FakeSysctl, FakeTimeouts
from kproxy.kernel.sysctl import CONNTRACK_COUNT, CONNTRACK_MAX

ROUTE = "net/ipv4/conf/all/route_localnet"
TIMEOUT = "net/netfilter/nf_conntrack_tcp_timeout_established"
CLOSE_WAIT = "net/netfilter/nf_conntrack_tcp_timeout_close_wait"


def _prepare(config: Config, sysctl: FakeSysctl, refusal: Exception | None = None) -> str:
    return prepare(config, sysctl, FakeTimeouts(sysctl, refusal))


def test_localhost_node_ports_need_route_localnet() -> None:
    values = {ROUTE: 0}
    _prepare(Config(conntrack_max_per_core=0), sysctl := FakeSysctl(values))
    assert sysctl.read(ROUTE) == 1


@pytest.mark.parametrize(
    "config",
    [
        Config(nodeport_addresses=("primary",)),
        Config(nodeport_addresses=("0.0.0.0/0", "localhost")),
        Config(iptables_localhost_nodeports=False),
    ],
)
def test_without_them_it_is_left_alone(config: Config) -> None:
    _prepare(config, sysctl := FakeSysctl({ROUTE: 0}))
    assert sysctl.read(ROUTE) == 0


def test_one_line_says_what_became_of_every_wish(caplog: pytest.LogCaptureFixture) -> None:
    values, wishes = {TIMEOUT: 5, CLOSE_WAIT: 60, ROUTE: 1}, Config(conntrack_max_per_core=0)
    with caplog.at_level("INFO", "kproxy"):
        said = _prepare(wishes, FakeSysctl(values, read_only=[TIMEOUT]), KernelError("not so; either"))
        _prepare(wishes, FakeSysctl(values))
    refused, granted = caplog.records
    assert said.startswith("nf_conntrack_tcp_timeout_established stays 5, wanted 86400: ")
    assert "; by netlink: not so; either; nf_conntrack_tcp_timeout_close_wait" in said
    assert [each.split(" ")[0] for each in kernel_settings(said)[1]] == ["nf_conntrack_tcp_timeout_established"]
    assert said.endswith("; nf_conntrack_tcp_timeout_close_wait 3600, was 60; route_localnet 1 already")
    fields = refused.__dict__["fields"]
    assert (refused.levelname, granted.levelname) == ("WARNING", "INFO")
    assert fields["nf_conntrack_tcp_timeout_established"].startswith("stays 5, wanted 86400: ")
    assert fields["nf_conntrack_tcp_timeout_close_wait"] == "3600, was 60"
    assert fields["route_localnet"] == "1 already"
    assert granted.__dict__["fields"]["nf_conntrack_tcp_timeout_established"] == "86400, was 5"


def test_it_says_what_went_by_netlink_and_that_is_as_wanted(caplog: pytest.LogCaptureFixture) -> None:
    config = Config(conntrack_max_per_core=0, conntrack_udp_timeout=40, iptables_localhost_nodeports=False)
    with caplog.at_level("INFO", "kproxy"):
        said = _prepare(config, FakeSysctl({TIMEOUT: 5, CLOSE_WAIT: 3600}, read_only=[TIMEOUT]))
    assert said == (
        "nf_conntrack_tcp_timeout_established 86400, was 5, by netlink; "
        "nf_conntrack_tcp_timeout_close_wait 3600 already; nf_conntrack_udp_timeout 40, was unknown, by netlink"
    )
    every, troubles = kernel_settings(said)
    assert (len(every), troubles) == (3, [])
    (record,) = caplog.records
    assert (record.levelname, record.getMessage()) == ("INFO", "Kernel settings")


def test_how_full_the_conntrack_table_is() -> None:
    assert show_flows(FakeSysctl({CONNTRACK_COUNT: 7, CONNTRACK_MAX: 9})) == {"Conntrack": "7 of 9 flows"}
    assert show_flows(FakeSysctl({CONNTRACK_COUNT: 7})) == {}


def test_the_oom_score_is_best_effort(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    become_unlikely_victim(-5, tmp_path / "score")
    assert (tmp_path / "score").read_text(encoding="ascii") == "-5\n"
    become_unlikely_victim(-5, tmp_path / "no" / "score")
    assert "The OOM score stays" in caplog.text


def test_an_oom_score_that_is_refused_says_what_is_allowed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    (tmp_path / "score").write_text("-997\n", encoding="ascii")
    monkeypatch.setattr(Path, "write_text", refuse)
    become_unlikely_victim(-999, tmp_path / "score")
    (record,) = caplog.records
    assert 'remedy="give oomScoreAdj -997 or more, or CAP_SYS_RESOURCE"' in Formatter().format(record)


@pytest.mark.parametrize(
    ("given", "expected"),
    [((1024, 4096), (4096, 4096)), ((1024, resource.RLIM_INFINITY), (65536, resource.RLIM_INFINITY))],
)
def test_the_limit_of_open_files_is_raised(
    monkeypatch: pytest.MonkeyPatch, given: tuple[int, int], expected: tuple[int, int]
) -> None:
    wanted: list[tuple[int, tuple[int, int]]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: given)
    monkeypatch.setattr(resource, "setrlimit", lambda which, limits: wanted.append((which, limits)))
    allow_many_files()
    assert wanted == [(resource.RLIMIT_NOFILE, expected)]


def test_a_limit_that_suffices_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (100_000, 200_000))
    monkeypatch.setattr(resource, "setrlimit", lambda *_: pytest.fail("lowered or raised for nothing"))
    allow_many_files()
