"""Whatever the plan, whoever sends: the answer about its rules is what the plan means.

What is said of one packet, in words, is test_packet.py's. The model of a plan here is an oracle: it knows neither
chains nor rules.
"""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from kproxy.backend.iptables.compile import compile_plan
from kproxy.cli.plan import render
from kproxy.config import Config
from kproxy.errors import InvalidConfig, UnreadableDump
from kproxy.explain.answer import Fate, PacketAnswer, Question
from kproxy.explain.packets.journey import join_address
from kproxy.explain.packets.packet import answer, read_question
from kproxy.explain.read.dump import dumps_of
from kproxy.explain.read.facts import HostFacts
from kproxy.explain.services.survey import survey
from kproxy.model.enums import IPFamily, Protocol
from kproxy.plan.plan import Client, Forward, FromCIDR, Frontend, FrontendKind, Plan, Reject, ServicePlan
from tests.unit.backend.iptables.examples import COUNTED, PODS, plan_of, service_sets
from tests.unit.explain.test_packet import NODE as RECORDED_NODE
from tests.unit.explain.test_packet import recorded

LAYOUTS = (
    replace(PODS, tree_threshold=10**9),
    replace(PODS, tree_threshold=0),
    replace(PODS, tree_threshold=0, endpoint_tree_threshold=1, large_cluster_endpoints=0),
)
NODE = {IPFamily.IPV4: "192.168.0.2", IPFamily.IPV6: "fd00::2"}
SENDERS = {
    IPFamily.IPV4: ("10.244.3.77", "10.9.9.9", "203.0.113.9", ""),
    IPFamily.IPV6: ("fd00:10:244::77", "fd00:9::9", "2001:db8::9", ""),
}


class End(NamedTuple):
    ip: str
    port: int
    odds: float
    masqueraded: bool


class Meaning(NamedTuple):
    fate: Fate
    service: str = ""
    endpoints: tuple[End, ...] = ()


def meaning(plan: Plan, question: Question) -> Meaning:
    found = addressed(plan, question)
    if found is None:
        return Meaning(Fate.UNTOUCHED)
    service, frontend = found
    name = str(service.key)
    source = question.source or NODE[plan.family]
    inside = not frontend.allowed_sources or any(within(source, cidr) for cidr in frontend.allowed_sources)
    if not isinstance(frontend.action, Forward):
        if question.source == "" and is_unheard(frontend):
            return Meaning(Fate.UNTOUCHED)
        return Meaning(Fate.REFUSED if isinstance(frontend.action, Reject) else Fate.DROPPED, name)
    route = next(each for each in frontend.action.routes if is_client(each.client, source, plan))
    targets = service.targets(route.pool) if route.pool else ()
    if not inside or not targets:
        return Meaning(
            Fate.UNTOUCHED if inside and is_unheard(frontend) and not question.source else Fate.DROPPED, name
        )
    odds = 1 / len(targets)
    return Meaning(
        Fate.DELIVERED,
        name,
        tuple(sorted(End(each.ip, each.port, odds, route.masquerade or each.ip == source) for each in targets)),
    )


def addressed(plan: Plan, question: Question) -> tuple[ServicePlan, Frontend] | None:
    to_node = question.destination == NODE[plan.family]
    for service in plan.services.values():
        for frontend in service.frontends:
            if service.key.protocol is question.protocol and frontend.port == question.port:
                if frontend.ip == question.destination:
                    return service, frontend
                if not frontend.ip and to_node:
                    return service, frontend
    return None


def is_unheard(frontend: Frontend) -> bool:
    """Of a process on the node: refusals of external addresses do not stand in OUTPUT (spec: iptables.md 12)."""
    return frontend.kind in {FrontendKind.EXTERNAL_IP, FrontendKind.LOAD_BALANCER_VIP}


def is_client(client: Client, source: str, plan: Plan) -> bool:
    if client is Client.POD:
        return isinstance(plan.detector, FromCIDR) and within(source, plan.detector.cidr)
    return client is Client.ANY or source == NODE[plan.family]


def within(address: str, cidr: str) -> bool:
    return ip_address(address) in ip_network(cidr)


def told(said: PacketAnswer) -> Meaning:
    masqueraded = {way.endpoint: way.masquerade.wanted for way in said.ways if way.endpoint}
    ends = sorted(
        End(each.ip, each.port, each.probability, masqueraded[join_address(each.ip, each.port)])
        for each in said.endpoints
    )
    return Meaning(said.fate, said.service, tuple(ends))


@settings(max_examples=20)
@given(st.data(), st.sampled_from(IPFamily), st.sampled_from(LAYOUTS))
def test_an_answer_is_what_the_plan_means(data: st.DataObject, family: IPFamily, config: Config) -> None:
    plan = plan_of(*data.draw(service_sets(family)), family=family)
    (dump,) = dumps_of(("\n".join((f"# {family}", *render(compile_plan(plan, config, COUNTED)))) + "\n").encode())
    seen = survey(dump)
    facts = HostFacts(addresses=frozenset({NODE[family]}))
    places = [
        (each.ip or NODE[family], each.port, service.key.protocol)
        for service in plan.services.values()
        for each in service.frontends
    ]
    for ip, port, protocol in [*places[:8], (NODE[family], 29999, Protocol.TCP)]:
        for source in SENDERS[family]:
            question = Question(source, 0, ip, port, protocol, "", here=not source)
            expected, found = meaning(plan, question), told(answer([seen], question, facts))
            assert found._replace(endpoints=()) == expected._replace(endpoints=()), question
            assert [each._replace(odds=0) for each in found.endpoints] == [
                each._replace(odds=0) for each in expected.endpoints
            ]
            odds = [each.odds for each in expected.endpoints]
            assert [each.odds for each in found.endpoints] == pytest.approx(odds, abs=1e-6)


PLACES = ("10.96.3.1:80", "203.0.113.31:80", f"{RECORDED_NODE}:30301", "10.96.0.1:443", "10.244.1.10:8080", "9.9.9.9:1")


@settings(max_examples=60)
@given(st.data(), st.sampled_from(["10.244.1.10", "192.0.2.9", "host", RECORDED_NODE]), st.sampled_from(PLACES))
def test_whatever_is_left_of_a_dump_there_is_an_answer_or_a_sentence(data: st.DataObject, source: str, to: str) -> None:
    lines = [line for survey in recorded("etp-local-with-endpoints")[:1] for line in survey.dump.lines]
    rules = [number for number, line in enumerate(lines) if line.startswith(("-A", ":K"))]
    gone = data.draw(st.sets(st.sampled_from(rules), max_size=4))
    cut = data.draw(st.sets(st.sampled_from(rules), max_size=2))
    words = data.draw(st.integers(0, 12))
    kept = [
        " ".join(line.split(" ")[:words]) if number in cut else line
        for number, line in enumerate(lines)
        if number not in gone
    ]
    try:
        surveys = [survey(dump) for dump in dumps_of("\n".join(kept).encode())]
        said = answer(surveys, read_question(source, to), HostFacts(addresses=frozenset({RECORDED_NODE})))
    except (InvalidConfig, UnreadableDump) as problem:
        assert str(problem).isprintable()  # noqa: PT017 -- either outcome is one
        return
    assert said.ways
    assert all(0 < each.probability <= 1.000001 for each in said.endpoints)
    assert (said.nearest is None) == (bool(said.service) and Fate.UNTOUCHED not in {way.fate for way in said.ways})
