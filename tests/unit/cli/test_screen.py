"""One screen: what it looks like, and that it stays one."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from msgspec.structs import replace

from kproxy.cli.condition import Condition, FamilyCondition
from kproxy.cli.screen import BAD, GOOD, age, show

NOW = datetime(2026, 11, 22, 12, 0, 0, tzinfo=UTC)
V4 = FamilyCondition(
    "IPv4",
    last_sync=datetime(2026, 11, 22, 11, 59, 56, tzinfo=UTC),
    pending_seconds=0.0,
    services=1234,
    service_ports=1300,
    endpoints=9000,
    relayed=0,
    rules=45678,
    refused=0,
    failed_restores=0,
)
WELL = Condition(
    healthy=True,
    program="kproxy",
    version="0.1.0",
    node="n1",
    process=4711,
    started=datetime(2026, 11, 22, 8, 47, 0, tzinfo=UTC),
    mode="iptables",
    variant="nft: chains of kubelet are there",
    node_addresses="192.0.2.1, none (IPv6)",
    api_server="answers, heard 4 s ago",
    relay="2 of 2 workers serve",
    kernel_settings="nf_conntrack_max 131072, was 65536; route_localnet 1 already",
    flows=250_000,
    flows_limit=262_144,
    health={"/livez": 200, "/readyz": 200, "/healthz": 0},
    families=(V4, replace(V4, family="IPv6", last_sync=None, pending_seconds=75.4, services=None, refused=2)),
)


def text(condition: Condition, width: int | None = 80) -> list[str]:
    return [line.text for line in show(condition, now=NOW, width=width)]


def test_the_screen() -> None:
    assert text(WELL) == [
        "kproxy 0.1.0 on n1: healthy",
        "  runs          process 4711, for 3 h 13 min, since 2026-11-22 08:47:00 UTC",
        "  mode          iptables",
        "  iptables      nft: chains of kubelet are there",
        "  node IPs      192.0.2.1, none (IPv6)",
        "  API server    answers, heard 4 s ago",
        "  health        /livez 200, /readyz 200, /healthz silent",
        "  relay         2 of 2 workers serve",
        "  kernel        2 of 2 settings as wanted; 250,000 of 262,144 flows",
        "",
        "                          IPv4          IPv6",
        "  last sync            4 s ago         never",
        "  oldest change           none   waits 1 min",
        "  services               1,234             -",
        "  service ports          1,300         1,300",
        "    refused                  0             2",
        "  endpoints              9,000         9,000",
        "  rules                 45,678        45,678",
    ]


def test_the_verdict_comes_first_and_its_reasons_before_warnings() -> None:
    ill = replace(WELL, healthy=False, reasons=("the first sync is not done",), warnings=("kernel setting x stays 0",))
    lines = show(ill, now=NOW)
    assert lines[0] == ("kproxy 0.1.0 on n1: NOT HEALTHY", BAD)
    assert show(WELL, now=NOW)[0].style == GOOD
    assert [line.text for line in lines[-3:]] == ["", "! the first sync is not done", "! kernel setting x stays 0"]


@pytest.mark.parametrize("count", [1, 3, 5, 6, 7, 50])
@pytest.mark.parametrize("width", [80, 50])
def test_it_stays_one_screen(count: int, width: int) -> None:
    crowd = replace(
        WELL,
        variant="nft, " + "because " * 60,
        node_addresses=", ".join(f"2001:db8::{nth:x}" for nth in range(40)),
        warnings=tuple(f"Service default/web-{nth}: " + "is odd " * 30 for nth in range(count)),
    )
    lines = text(crowd, width)
    assert len(lines) <= 23 or width < 80
    assert max(map(len, lines)) <= width
    assert lines[-1].startswith(("! ", "  "))
    told = sum(line.startswith("! Service") for line in lines)
    assert told >= 1
    assert told == count or lines[-1] == f"! {count - told} more: see --json"


def test_without_a_screen_nothing_is_cut() -> None:
    warnings = tuple(f"Service default/web-{nth}: " + "is odd " * 38 + "the end" for nth in range(50))
    variant = "nft, " + "because " * 30 + "of that"
    lines = text(replace(WELL, variant=variant, warnings=warnings), None)
    assert f"  iptables      {variant}" in lines
    assert lines[-51:] == ["", *(f"! {each}" for each in warnings)]
    assert text(WELL, None) == text(WELL)


def test_kube_proxy_is_said_first_and_has_gaps() -> None:
    other = Condition(
        healthy=True,
        program="kube-proxy",
        version="v1.36.2",
        node="n1",
        mode="iptables",
        health={"/livez": 200, "/readyz": 404, "/healthz": 200},
        families=(FamilyCondition("IPv4", last_sync=NOW, rules=7),),
    )
    assert text(other) == [
        "kube-proxy v1.36.2 on n1: healthy",
        "  this is       kube-proxy, not kproxy; what it says of itself follows",
        "  mode          iptables",
        "  health        /livez 200, /readyz 404, /healthz 200",
        "",
        "                          IPv4",
        "  last sync            0 s ago",
        "  rules                      7",
    ]
    assert "  health        the health server is switched off" in text(replace(other, health={}))


@pytest.mark.parametrize(
    ("seconds", "said"),
    [(-1, "0 s"), (59.9, "59 s"), (60, "1 min"), (3599, "59 min"), (3600, "1 h 0 min"), (90061, "1 d 1 h")],
)
def test_ages(seconds: float, said: str) -> None:
    assert age(seconds) == said
