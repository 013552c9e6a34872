"""One packet where other programs' rules stand beside a proxy's: who did what, and what rules cannot show."""

from __future__ import annotations

import pytest

from kproxy.explain.answer import Fate, Severity
from kproxy.explain.read.facts import HostFacts
from tests.unit.explain.dumps import NAT, WEB, survey_of, table
from tests.unit.explain.questions import OPEN, SERVICES, TO_WEB, ask, web


def test_a_stranger_that_masquerades_is_named() -> None:
    said = ask(web("-A POSTROUTING -s 10.244.0.0/16 -j MASQUERADE"), "10.244.1.7", TO_WEB)
    (way,) = said.ways
    assert (way.masquerade.wanted, way.masquerade.why) == (True, "a rule of nat POSTROUTING asks for it")
    assert "-s 10.244.0.0/16" in next(each.text for each in way.path if each.number == way.masquerade.line)
    snat = ask(web("-A POSTROUTING -o eth7 -j SNAT --to-source 192.0.2.1"), "10.244.1.7", TO_WEB)
    assert {(way.masquerade.wanted, way.depends) for way in snat.ways} == {
        (True, ("it leaves by interface eth7",)),
        (False, ("it does not leave by interface eth7",)),
    }
    assert [each.probability for each in snat.endpoints] == [1.0]


@pytest.mark.parametrize(
    ("rule", "ends", "depends"),
    [
        ("-j DNAT --to-destination 10.9.9.9:99", {("10.9.9.9", 99)}, set()),
        ("-j DNAT --to-destination 10.9.9.9", {("10.9.9.9", 80)}, set()),
        ("-p tcp -j DNAT --to-destination 10.9.9.9:80-90", {("10.9.9.9", 0)}, set()),
        ("-p tcp -j REDIRECT --to-ports 99", {("0.0.0.0", 99)}, set()),
        (
            "-j DNAT --to-destination 10.9.9.8-10.9.9.9",
            {("10.9.9.8", 80), ("10.9.9.9", 80)},
            {f"`-j DNAT --to-destination 10.9.9.8-10.9.9.9` chooses 10.9.9.{n}" for n in (8, 9)},
        ),
    ],
)
def test_a_stranger_that_rewrites_is_named(rule: str, ends: set[tuple[str, int]], depends: set[str]) -> None:
    said = ask(web(f"-A PREROUTING -d 10.96.0.1/32 {rule}"), "10.244.1.7", TO_WEB)
    assert (said.fate, said.service) == (Fate.DELIVERED, "")
    assert {(each.ip, each.port) for each in said.endpoints} == ends
    assert {each for way in said.ways for each in way.depends} == depends
    assert said.nearest is not None
    assert said.nearest.message.endswith(
        "in nat PREROUTING, rewrites the packet before it comes to KUBE-SERVICES, where a/web is answered"
    )
    elsewhere = ask(
        web("-A PREROUTING -d 10.7.7.7/32 -j DNAT --to-destination 10.9.9.9:99"), "10.244.1.7", "10.7.7.7:8"
    )
    assert elsewhere.nearest is not None
    assert elsewhere.nearest.message.endswith("to where it leads, and belongs to no Service that is known here")


def test_a_program_of_the_node_may_decide() -> None:
    said = ask(web("-A PREROUTING -j NFQUEUE --queue-num 1"), "10.244.1.7", TO_WEB)
    assert {(way.fate, way.depends) for way in said.ways} == {
        (Fate.DROPPED, ("`-j NFQUEUE --queue-num 1` drops it",)),
        (Fate.UNTOUCHED, ("`-j NFQUEUE --queue-num 1` accepts it",)),
    }


def test_a_mark_may_come_with_the_packet() -> None:
    said = ask(web(), "10.244.1.7", TO_WEB, mark="0x4000")
    assert said.ways[0].masquerade.why == "it came with mark 0x4000"
    assert ask(web(), "10.244.1.7", TO_WEB).ways[0].masquerade.why == "no rule asks to replace it"


def test_a_mark_may_be_of_no_use() -> None:
    here = HostFacts(addresses=frozenset({"10.244.1.1"}))
    (way,) = ask(web(), "10.244.1.1", TO_WEB, interface="cni0", facts=here).ways
    assert not way.masquerade.wanted
    assert way.masquerade.why == "it is marked, but an address of this node is reached without nat POSTROUTING"
    gone = [survey_of(table("nat", *(rule for rule in SERVICES if "-j MASQ" not in rule)) + OPEN)]
    (way,) = ask(gone, "10.244.1.1", TO_WEB).ways
    assert way.masquerade.why == "it is marked, but no rule of nat POSTROUTING masquerades it"


@pytest.mark.parametrize(
    ("rules", "fate", "why"),
    [
        (
            (":FORWARD DROP [0:0]",), Fate.DROPPED,
            "no rule of filter FORWARD accepts it, and the chain's policy is DROP",
        ),
        (
            ('-A FORWARD -m comment --comment "nobody comes in" -j REJECT --reject-with icmp-port-unreachable',),
            Fate.REFUSED, "in filter FORWARD, refuses it: nobody comes in",
        ),
        (("-A FORWARD -d 10.244.1.1/32 -j DROP",), Fate.DROPPED, "in filter FORWARD, drops it"),
    ],
)  # fmt: skip
def test_who_else_turns_it_away_is_named(rules: tuple[str, ...], fate: Fate, why: str) -> None:
    said = ask(web(filtering=table("filter", *rules)), "10.244.1.7", TO_WEB)
    assert (said.fate, said.service) == (fate, "a/web")
    assert why in said.ways[0].why
    assert said.ways[0].path[-1].number > 0


def test_what_rules_cannot_show_is_said_and_the_worst_is_the_fate() -> None:
    said = ask(web(filtering=table("filter", "-A FORWARD -m set --match-set bad src -j DROP")), "10.244.1.7", TO_WEB)
    assert said.fate is Fate.DROPPED
    assert {(way.fate, way.depends) for way in said.ways} == {
        (Fate.DROPPED, ("its source is in ipset bad",)),
        (Fate.DELIVERED, ("its source is not in ipset bad",)),
    }
    assert [each.probability for each in said.endpoints] == [1.0]


def test_a_table_that_was_not_given_is_said() -> None:
    assert ask(web(filtering=""), "10.244.1.7", TO_WEB).ways[0].depends == (
        "the filter table, which is not in this dump, lets it pass",
    )


@pytest.mark.parametrize(
    ("known", "depends", "warned"),
    [
        (None, ("net.ipv4.conf.all.route_localnet is 1 on this node",), []),
        (frozenset({"all"}), (), []),
        (frozenset(), (), [("route-localnet-off", Severity.ERROR)]),
    ],
)
def test_node_ports_on_loopback_need_a_setting(
    known: frozenset[str] | None, depends: tuple[str, ...], warned: list[tuple[str, Severity]]
) -> None:
    said = ask(web(), "host", "127.0.0.1:30080", facts=HostFacts(route_localnet=known))
    assert said.ways[0].depends == depends
    assert [(each.code, each.severity) for each in said.warnings] == warned


def test_what_a_stranger_rewrites_is_not_explained_by_the_service() -> None:
    strange = (
        "-A OUTPUT -m owner ! --uid-owner 1337 -j REDIRECT --to-ports 15001",
        *(line for line in NAT if not line.startswith("-A OUTPUT")),
        "-A OUTPUT -j KUBE-SERVICES",
        *WEB,
    )
    said = ask([survey_of(table("nat", *strange))], "host", "10.96.0.1:80")
    (redirected,) = (way for way in said.ways if way.endpoint.endswith(":15001"))
    assert redirected.masquerade.why == ""
    assert said.service == "default/web"


@pytest.mark.parametrize("target", ["NOTRACK", "CT --notrack"])
def test_what_is_not_tracked_comes_to_no_service_for_that_reason(target: str) -> None:
    raw = table("raw", f"-A PREROUTING -d 10.96.0.1/32 -p tcp -m tcp --dport 80 -j {target}")
    said = ask([survey_of(raw + table("nat", *NAT, *WEB))], "10.244.1.7", "10.96.0.1:80")
    assert said.fate is Fate.UNTOUCHED
    assert said.nearest is not None
    assert said.nearest.message.endswith(
        "in raw PREROUTING, keeps the packet from connection tracking, "
        "and what is not tracked does not come to KUBE-SERVICES, where default/web is answered"
    )
