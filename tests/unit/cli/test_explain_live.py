"""``explain live``: what of this host is asked for. How it is read is in unit/explain and netns."""

from __future__ import annotations

from pathlib import Path

import pytest

from kproxy.errors import NotPermitted
from kproxy.explain.read import live
from kproxy.explain.read.dump import dumps_of
from kproxy.explain.read.facts import HostFacts
from kproxy.explain.read.flows import Flow
from kproxy.model.enums import Protocol
from tests.unit.cli.conftest import Explain
from tests.unit.explain.dumps import FILTER, NAT, WEB, table

POOL, FIRST, SECOND = "KUBE-SVC-LOLE4ISW44XBNF3G", "KUBE-SEP-AAAAAAAAAAAAAAAA", "KUBE-SEP-BBBBBBBBBBBBBBBB"
LISTED = tuple(
    f"-A {POOL} -m recent --rcheck --seconds 60 --reap --name {each} --mask 255.255.255.255 --rsource -j {each}"
    for each in (FIRST, SECOND)
)
AFFINITY = table("nat", *NAT, WEB[0], *LISTED, *WEB[1:]) + table("filter", *FILTER)
HERTZ, UPTIME = 250, 90_000.0
NOW = (1 << 32) + int((UPTIME - 300) * HERTZ)
ASKED = ("--from=192.0.2.7", "--to=10.96.0.1:80")


def test_live_asks_the_host_for_rules_and_flows(
    explain: Explain, planned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    facts = HostFacts(addresses=frozenset({"192.168.1.10"}))
    flow = Flow(Protocol.TCP, "203.0.113.9", 4000, "192.168.1.10", 30080, "10.244.0.8", 8080, "192.168.1.10", 4000)
    monkeypatch.setattr(live, "read_host", lambda: (dumps_of(planned.encode()), facts))
    monkeypatch.setattr(live, "flows", lambda *_: (flow,))
    assert explain("live").startswith("IPv4, 1 service port: ")
    said = explain("live", "--from=203.0.113.9:4000", "--to=192.168.1.10:30080")
    assert "goes to endpoint 10.244.0.8:8080 of default/web" in said
    assert "of 2 endpoints of default/web" in explain("live", "--from=host", "--to=10.96.0.80:80")


@pytest.fixture
def lists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the kernel would show its lists of clients; the rules are a Service's that has affinity for 60 s."""
    (tmp_path / "timer_list").write_text(f"jiffies: {NOW}\n", encoding="ascii")
    (tmp_path / "xt_recent").mkdir()
    monkeypatch.setattr(live, "_RECENT", tmp_path / "xt_recent")
    monkeypatch.setattr(live, "_TIMERS", tmp_path / "timer_list")
    monkeypatch.setattr(live.time, "monotonic", lambda: UPTIME)
    monkeypatch.setattr(live, "read_host", lambda: (dumps_of(AFFINITY.encode()), HostFacts()))
    monkeypatch.setattr(live, "flows", lambda *_: ())
    return tmp_path / "xt_recent"


def remember(lists: Path, seconds_ago: int) -> None:
    line = f"src=192.0.2.7 ttl: 64 last_seen: {NOW - seconds_ago * HERTZ} oldest_pkt: 1\n"
    (lists / SECOND).write_text(line, encoding="ascii")


def test_a_client_whose_affinity_lasts_goes_where_it_went(explain: Explain, lists: Path) -> None:
    remember(lists, seconds_ago=59)
    assert "goes to endpoint 10.244.0.2:8080 of default/web" in explain("live", *ASKED)


def test_a_client_whose_affinity_has_run_out_goes_anywhere(explain: Explain, lists: Path) -> None:
    remember(lists, seconds_ago=61)
    said = explain("live", *ASKED)
    assert "goes to one of 2 endpoints of default/web" in said
    assert "session affinity" not in said  # the lists were read: nothing is left to be provided


def test_where_lists_cannot_be_read_the_answer_says_so(explain: Explain, lists: Path) -> None:
    lists.rmdir()
    lists.write_bytes(b"")  # no folder: what reads it fails, for root, too
    said = explain("live", *ASKED)
    assert "provided the client did not use default/web in the last 60 s (session affinity)" in " ".join(said.split())


def test_live_without_root_is_a_sentence(explain: Explain, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise NotPermitted("reading this host's rules needs root: run `sudo kproxy explain`")

    monkeypatch.setattr(live, "read_host", refuse)
    said = explain("live")
    assert said.status == 3
    assert said.err == "kproxy explain: reading this host's rules needs root: run `sudo kproxy explain`\n"
