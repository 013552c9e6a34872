"""Summaries as text, and the parts that other answers share. Folding and colours are paper's."""

from __future__ import annotations

import re

import pytest
from msgspec.structs import replace

from kproxy.explain.answer import (
    ChainAnswer,
    Endpoint,
    Fate,
    Line,
    Severity,
    Summary,
    Warning,  # noqa: A004 -- the noun that people know
)
from kproxy.explain.services.writer import EITHER
from kproxy.explain.show.text import ROWS, render
from kproxy.explain.show.wording import spoken
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
        "external Local, lb only from 192.168.0.0/16, affinity 10800 s",
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


def test_a_warning_without_a_service_is_known_by_its_message_and_line() -> None:
    two = [
        Warning("dangling-jump", Severity.ERROR, f"chain {name} is missing", "", nth)
        for nth, name in ((3, "A"), (9, "B"))
    ]
    assert show(Summary((), (), tuple(two)))[1:] == [
        "error: chain A is missing (line 3)",
        "  2 such (dangling-jump); the others: chain B is missing (line 9)",
    ]


def test_what_holds_for_both_families_is_said_once_with_both_lines() -> None:
    def dropping(label: str, line: int) -> Warning:
        return Warning("invalid-drop", Severity.NOTE, f"{label}KUBE-FORWARD drops INVALID packets", "", line)

    assert show(Summary((), (), (dropping("IPv4 ", 102), dropping("IPv6 ", 203))))[1:] == [
        "note: IPv4 and IPv6 KUBE-FORWARD drops INVALID packets (lines 102 and 203)"
    ]
    assert show(Summary((), (), (dropping("", 102), dropping("", 0))))[1:] == [
        "note: KUBE-FORWARD drops INVALID packets (line 102)"
    ]
    four = [dropping(f"{family} {variant} ", 0) for family in ("IPv4", "IPv6") for variant in ("nft", "legacy")]
    assert show(Summary((), (), tuple(four)))[1:] == [
        "note: IPv4 nft and IPv4 legacy and IPv6 nft and IPv6 legacy KUBE-FORWARD drops INVALID packets"
    ]


def test_who_wrote_the_rules_is_said_as_far_as_it_is_proven() -> None:
    (said,) = show(Summary((replace(FACTS, writer=EITHER),), ()))
    assert "60 rules in 20 chains, in kube-proxy's layout (kube-proxy or kproxy); iptables" in said


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('-A X -p tcp -m comment --comment "a b" -m tcp -j ACCEPT', ("-p tcp -m tcp -j ACCEPT", "a b")),
        ("-A X -m comment --comment bare -j ACCEPT", ("-j ACCEPT", "bare")),
        ('-A X -m comment --comment "say \\"no\\"" -m comment --comment b', ("", 'say "no", b')),
        ('-A X -j LOG --log-prefix "-m comment --comment x "', ('-j LOG --log-prefix "-m comment --comment x "', "")),
        ("-A X", ("", "")),
        ("-P X DROP", ("-P X DROP", "")),
        ("-A XX -j X", ("-A XX -j X", "")),
    ],
)
def test_a_rule_is_shown_without_its_chain_and_its_comment_behind(text: str, said: tuple[str, str]) -> None:
    assert spoken(text, "X") == said


def test_a_comment_that_has_no_room_stands_on_a_line_of_its_own() -> None:
    rule = Line(7, "nat", "CHAIN", '-A CHAIN -j KUBE-MARK-MASQ -m comment --comment "masquerade all of it"', 5)
    said = render(ChainAnswer("nat", "CHAIN", "", (), (), (rule,)), width=42, colour=False).splitlines()
    assert said[-3:] == [
        "  7  nat CHAIN  -j KUBE-MARK-MASQ",
        "          # masquerade all of it",
        "          [5 packets]",
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
