"""Packets of flows that the kernel knows. How entries are read is test_flows.py's."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from kproxy.explain.answer import Fate, Masquerade, PacketAnswer, Severity
from kproxy.explain.packets.packet import answer, read_question
from kproxy.explain.read.facts import HostFacts
from kproxy.explain.read.flows import flows_of
from kproxy.explain.read.objects import NOTHING, Backing
from tests.unit.explain.dumps import survey_of, table
from tests.unit.explain.test_packet import OPEN, SERVICES

NODE = "192.168.0.2"
WEB = "10.96.0.1:80"
ESTABLISHED = "tcp 6 86399 ESTABLISHED"


def entry(
    before: str = ESTABLISHED,
    to: str = "10.96.0.1:80",
    end: str = "10.244.1.1:8080",
    *,
    source: str = "10.244.1.7",
    port: int = 41234,
    back: str = "",
    flags: str = "[ASSURED] mark=0 use=1",
) -> str:
    (there, dport), (who, sport) = to.rsplit(":", 1), end.rsplit(":", 1)
    again, middle = back or source, "[UNREPLIED] " if "[UNREPLIED]" in flags else ""
    return (
        f"{before} src={source} dst={there} sport={port} dport={dport} {middle}"
        f"src={who} dst={again} sport={sport} dport={port} {flags}"
    )


def ask(source: str, *entries: str, to: str = WEB, filtering: str = OPEN) -> PacketAnswer:
    surveys = [survey_of(table("nat", *SERVICES) + filtering)]
    facts = HostFacts(addresses=frozenset({NODE}))
    return answer(surveys, read_question(source, to), facts, flows_of(entries, "flows"))


def test_a_flow_goes_on_and_nat_is_not_asked() -> None:
    said = ask("10.244.1.7:41234", entry())
    assert said.flow == (
        "a known flow from 10.244.1.7:41234 to 10.96.0.1:80 goes on to 10.244.1.1:8080 (ESTABLISHED, ASSURED); "
        "nat is not asked"
    )
    assert (said.fate, said.service) == (Fate.DELIVERED, "a/web")
    assert [(each.ip, each.port, each.probability) for each in said.endpoints] == [("10.244.1.1", 8080, 1.0)]
    assert not {line.table for way in said.ways for line in way.path} & {"nat"}
    assert said.ways[0].masquerade == Masquerade(wanted=False, why="the flow began so")
    assert said.established
    assert (said.nearest, said.warnings) == (None, ())


def test_a_flow_keeps_the_address_that_it_was_given() -> None:
    said = ask("10.244.1.7:41234", entry(back=NODE))
    assert said.ways[0].masquerade.wanted
    assert said.ways[0].masquerade.why == "the flow began so"


def test_a_flow_meets_the_rules_of_filter_as_what_it_is() -> None:
    only_known = table(
        "filter", "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", "-A FORWARD -j DROP"
    )
    assert ask("10.244.1.7:41234", entry(), filtering=only_known).fate is Fate.DELIVERED
    waiting = entry("tcp 6 119 SYN_SENT", flags="[UNREPLIED] mark=0 use=1")
    assert ask("10.244.1.7:41234", waiting, filtering=only_known).fate is Fate.DROPPED
    assert ask("10.244.1.7:41234", filtering=only_known).fate is Fate.DROPPED


@pytest.mark.parametrize(
    ("source", "line", "end", "why", "lasts"),
    [
        (
            "10.244.1.7:41234", entry(end="10.244.2.9:8080"), ["10.244.2.9"],
            "goes on to 10.244.2.9:8080, which is no endpoint of a/web any more", True,
        ),
        (
            "10.244.1.7:41234", entry(end=WEB), [],
            "began before a/web was answered there and goes to 10.96.0.1:80 itself", False,
        ),
        (
            "10.244.1.7", entry(end="10.244.2.9:8080"), ["10.244.1.1"],
            "goes on to 10.244.2.9:8080, which is no endpoint of a/web any more", True,
        ),
    ],
)  # fmt: skip
def test_a_flow_to_what_no_longer_serves_is_stale(
    source: str, line: str, end: list[str], why: str, lasts: bool
) -> None:
    said = ask(source, line)
    (warning,) = said.warnings
    severity = Severity.NOTE if lasts else Severity.ERROR
    assert (warning.code, warning.severity, warning.service) == ("stale-flow", severity, "a/web")
    assert warning.message == f"the flow from 10.244.1.7:41234 {why}"
    delete = "`conntrack -D -p tcp -s 10.244.1.7 -d 10.96.0.1 --sport 41234 --dport 80`"
    assert warning.remedy == (
        f"it lasts until client or server end it; {delete} cuts it"
        if lasts
        else f"{delete} makes the next packet begin anew"
    )
    assert [each.ip for each in said.endpoints] == end
    assert said.fate is (Fate.DELIVERED if end else Fate.UNTOUCHED)


def test_without_a_port_every_flow_is_named_and_the_answer_is_for_a_new_one() -> None:
    said = ask("10.244.1.7", entry(), entry(port=2, end="10.244.1.1:8080", flags="use=1"), entry(source="10.244.1.8"))
    assert said.flow == (
        "2 flows are known from 10.244.1.7 to 10.96.0.1:80/TCP, for which nat is not asked: "
        "from port 41234 to 10.244.1.1:8080 (ESTABLISHED, ASSURED); from port 2 to 10.244.1.1:8080 (ESTABLISHED); "
        "this answer is for a new one"
    )
    assert any(line.table == "nat" for line in said.ways[0].path)
    assert not said.established
    one = ask("10.244.1.7", entry())
    assert one.flow.startswith("1 flow is known from 10.244.1.7 to")
    many = ask("10.244.1.7", *(entry(port=n) for n in range(1, 12)))
    assert "; and 3 more; this answer" in many.flow


@pytest.mark.parametrize("source", [NODE, "127.0.0.1"])
def test_a_process_on_the_node_may_have_sent_from_any_of_its_addresses(source: str) -> None:
    assert ask("host", entry(source=source)).flow.startswith("1 flow is known from this node") == (source == NODE)


@pytest.mark.parametrize(
    "line",
    [
        entry("udp 17 29"),
        entry(source="10.244.1.8"),
        entry(port=41235),
        entry(to="10.96.0.2:80"),
        entry(to="10.96.0.1:81"),
    ],
)
def test_other_flows_decide_nothing(line: str) -> None:
    said = ask("10.244.1.7:41234", line)
    assert said.flow == ""
    assert any(each.table == "nat" for each in said.ways[0].path)


@pytest.mark.parametrize("state", ["TIME_WAIT", "CLOSE"])
def test_a_flow_that_ended_makes_way_for_a_new_one(state: str) -> None:
    said = ask("10.244.1.7:41234", entry(f"tcp 6 100 {state}", end="10.244.2.9:8080"))
    assert "has ended; a new connection takes its place, and nat is asked" in said.flow
    assert [each.ip for each in said.endpoints] == ["10.244.1.1"]
    assert said.warnings == ()


def test_a_flow_of_another_zone_is_told_and_does_not_decide() -> None:
    said = ask("10.244.1.7:41234", entry(end="10.244.2.9:8080", flags="mark=0 zone=7 use=1"))
    assert "is known in zone 7, which decides only about packets of that zone" in said.flow
    assert [each.ip for each in said.endpoints] == ["10.244.1.1"]
    both = ask("10.244.1.7:41234", entry(flags="zone=7"), entry(end="10.244.2.9:8080"))
    assert both.flow.startswith("a known flow")


def test_an_answer_within_a_flow_is_recognised() -> None:
    said = ask("10.244.1.1:8080", entry(), to="10.244.1.7:41234")
    assert said.flow.startswith(
        "this is an answer within the flow from 10.244.1.7:41234 to 10.96.0.1:80 goes on to 10.244.1.1:8080 "
    )
    assert "it goes back to 10.244.1.7:41234 as from 10.96.0.1:80" in said.flow


def test_udp_without_an_answer_goes_where_it_was_sent_first() -> None:
    line = entry("udp 17 29", to="10.9.9.9:53", end="10.9.9.9:53", flags="[UNREPLIED] mark=0 use=1")
    said = ask("10.244.1.7:41234", line, to="10.9.9.9:53/udp")
    assert said.flow == "a known flow from 10.244.1.7:41234 to 10.9.9.9:53 (UNREPLIED); nat is not asked"
    assert (said.fate, said.service, said.warnings) == (Fate.UNTOUCHED, "", ())


def test_the_pod_at_the_end_of_a_flow_is_named() -> None:
    surveys = [survey_of(table("nat", *SERVICES) + OPEN)]
    objects = replace(NOTHING, pods={"10.244.2.9": Backing("a/gone", "n2", "terminating")})
    flows = flows_of([entry(end="10.244.2.9:8080")], "flows")
    (found,) = answer(surveys, read_question("10.244.1.7:41234", WEB), HostFacts(), flows, objects).endpoints
    assert (found.pod, found.node, found.state, found.probability) == ("a/gone", "n2", "terminating", 1.0)
