"""Summaries as text, and the parts that other answers share. Folding and colours are paper's."""

from __future__ import annotations

import re

import pytest
from msgspec.structs import replace

from kproxy.explain.answer import Endpoint, Fate, Severity, Summary, Warning  # noqa: A004 -- the noun that people know
from kproxy.explain.text import ROWS, render
from kproxy.model.enums import IPFamily
from tests.unit.explain.answers import FACTS, NODE_PORT, SUMMARY, WEB


def show(answer: Summary, rows: int = 0, width: int = 0) -> list[str]:
    return render(answer, width=width, colour=False, rows=rows).splitlines()


def warning(service: str, severity: Severity = Severity.WARNING, code: str = "no-endpoints") -> Warning:
    return Warning(code, severity, f"{service} has none", "look", 0, service)


def test_a_summary_says_what_was_read_what_is_wrong_what_is_there_and_what_is_good_to_know() -> None:
    head, _, wrong, _, _, row, _, note = show(SUMMARY)
    assert head == (
        "IPv4, 1 service port: 60 rules in 20 chains, written by kube-proxy; iptables 1.8.9 (nft); with counters"
    )
    assert wrong == "warning: shop/web has no endpoints (line 21); look whether its pods are ready"
    assert re.split("  +", row) == [
        "shop/web:http",
        "2, 1 here",
        "cluster 10.96.7.7:80/tcp, node port *:30080/tcp dropped (has no local endpoints)",
        "external Local, only from 192.168.0.0/16, affinity 10800 s",
        "75% 25%",
        "100",
    ]
    assert note == "note: KUBE-FORWARD drops INVALID packets"


def test_a_dump_that_tells_little() -> None:
    facts = replace(FACTS, variant="", version="", writer="", counters=False, rules=1, chains=1)
    assert show(Summary((facts,), ())) == ["IPv4, 0 service ports: 1 rule in 1 chain; without counters (-c)"]


def test_one_name_in_two_families_stands_together_and_variants_are_told() -> None:
    sixth = replace(WEB, family=IPFamily.IPV6, variant="legacy")
    other = replace(WEB, service="shop/zoo")
    said = show(Summary((FACTS, replace(FACTS, family=IPFamily.IPV6, variant="legacy")), (WEB, other, sixth)))
    assert said[0].startswith("IPv4, 2 service ports:")
    assert said[1].startswith("IPv6, 1 service port:")
    assert [row.split()[:2] for row in said[-3:]] == [
        ["shop/web:http", "nft"],
        ["shop/web:http", "legacy"],
        ["shop/zoo:http", "nft"],
    ]


def test_warnings_of_one_kind_are_told_once_the_worst_kind_first() -> None:
    many = [warning(f"shop/s{nth}") for nth in range(214)]
    said = show(Summary((), (), (*many, warning("shop/x", Severity.ERROR, "odd"))), rows=ROWS)
    assert said[1:] == [
        "error: shop/x has none; look",
        "warning: shop/s0 has none; look",
        "  214 such (no-endpoints); the others: shop/s1, shop/s2, shop/s3 and 210 more",
    ]
    assert "shop/s213" in show(Summary((), (), tuple(many)))[-1]  # in a pipe all of them


def test_a_warning_without_a_service_is_known_by_its_message() -> None:
    two = [Warning("dangling-jump", Severity.ERROR, f"chain {name} is missing") for name in ("A", "B")]
    assert show(Summary((), (), tuple(two)))[1:] == [
        "error: chain A is missing",
        "  2 such (dangling-jump); the others: chain B is missing",
    ]


def test_a_table_that_nobody_reads_to_its_end_is_cut_and_begins_with_trouble() -> None:
    services = [replace(WEB, service=f"shop/s{nth:04}") for nth in range(5000)]
    services[7] = replace(services[7], frontends=(replace(WEB.frontends[0], packets=10**6),))
    said = show(Summary((FACTS,), tuple(services), (warning("shop/s4242:http"),)), rows=ROWS)
    rows = [row.split()[0] for row in said if row.startswith("shop/")]
    assert rows[:3] == ["shop/s4242:http", "shop/s0007:http", "shop/s0000:http"]
    assert len(rows) == ROWS
    assert "40 of 5,000 service ports, those in trouble first:" in said
    calm = Summary((FACTS,), tuple(services))
    assert "the busiest 40 of 5,000 service ports:" in show(calm, rows=ROWS)
    still = tuple(replace(each, frontends=()) for each in services)
    assert "the first 40 of 5,000 service ports:" in show(Summary((FACTS,), still), rows=ROWS)
    assert said[-1] == ("… and 4,960 more; name one: kproxy explain DUMP service NAMESPACE/NAME; all of them: --all")
    assert len([row for row in show(Summary((FACTS,), tuple(services))) if row.startswith("shop/")]) == 5000


@pytest.mark.parametrize(
    ("states", "local", "expected"),
    [
        (("ready", "ready"), 0, "2"),
        (("ready", "terminating"), 0, "2 (1 ready)"),
        (("", ""), 1, "2, 1 here"),
        ((), 0, "0"),
    ],
)
def test_endpoints_are_counted(states: tuple[str, ...], local: int, expected: str) -> None:
    every = tuple(Endpoint(f"10.0.0.{nth}", 80, 0.5, state=state) for nth, state in enumerate(states))
    service = replace(WEB, cluster=every, local=every[:local], frontends=(), source_ranges=(), affinity_seconds=0)
    row = show(Summary((FACTS,), (replace(service, external_policy=""),)))[-1]
    assert row == f"shop/web:http  {expected}"


def test_the_relay_stands_for_its_endpoint() -> None:
    assert "  relay  " in show(Summary((FACTS,), (replace(WEB, relayed=True),)))[-1]


def test_even_odds_are_not_told() -> None:
    even = tuple(replace(each, probability=share) for each, share in zip(WEB.cluster, (0.5003, 0.4997), strict=True))
    assert "ODDS" not in show(Summary((FACTS,), (replace(WEB, cluster=even),)))[-2]
    many = tuple(Endpoint(f"10.0.0.{nth}", 80, 0.9 if nth == 1 else 0.02) for nth in range(6))
    assert "2% 90% 2% 2% …" in show(Summary((FACTS,), (replace(WEB, cluster=many),)))[-1]


def test_a_frontend_of_this_nodes_endpoints_says_so() -> None:
    local = replace(NODE_PORT, fate=Fate.DELIVERED, why="")
    assert "node port *:30080/tcp (local)" in show(Summary((FACTS,), (replace(WEB, frontends=(local,)),)))[-1]


@pytest.mark.parametrize("width", [30, 40, 80, 120, 200])
def test_every_width_shows_every_name(width: int) -> None:
    said = show(SUMMARY, width=width)
    assert max(map(len, said)) <= width
    assert "shop/web:http" in "".join(said)
    assert "10.96.7.7:80/tcp" in "".join(each.strip() for each in said)
