"""What is asked of the node at start, and that nothing of it is fatal."""

from __future__ import annotations

from pathlib import Path

import pytest

from kproxy.config import Config
from kproxy.daemon.setup import become_unlikely_victim, prepare
from kproxy.kernel.fake import FakeSysctl

ROUTE = "net/ipv4/conf/all/route_localnet"
TIMEOUT = "net/netfilter/nf_conntrack_tcp_timeout_established"


def test_localhost_node_ports_need_route_localnet() -> None:
    values = {ROUTE: 0}
    prepare(Config(conntrack_max_per_core=0), sysctl := FakeSysctl(values))
    assert sysctl.read(ROUTE) == 1


@pytest.mark.parametrize(
    "config",
    [Config(nodeport_addresses=("primary",)), Config(iptables_localhost_nodeports=False)],
)
def test_without_them_it_is_left_alone(config: Config) -> None:
    prepare(config, sysctl := FakeSysctl({ROUTE: 0}))
    assert sysctl.read(ROUTE) == 0


def test_what_cannot_be_set_is_a_line_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    prepare(Config(conntrack_max_per_core=0), FakeSysctl({TIMEOUT: 5, ROUTE: 1}, read_only=[TIMEOUT]))
    assert any(TIMEOUT in str(record.__dict__["fields"]) for record in caplog.records)


def test_the_oom_score_is_best_effort(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    become_unlikely_victim(-5, tmp_path / "score")
    assert (tmp_path / "score").read_text(encoding="ascii") == "-5\n"
    become_unlikely_victim(-5, tmp_path / "no" / "score")
    assert "The OOM score stays" in caplog.text
