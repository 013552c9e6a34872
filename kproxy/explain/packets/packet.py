"""One packet: what the rules do with it, and why, as a PacketAnswer.

The evaluator (``backend/iptables/trace.py``) says which rules were met; here they get their lines, their Service, and
words for what they mean. The answer is for the first packet of a new flow, unless a conntrack entry is given that
already decides.

Where both variants of iptables hold rules, one in which the packet belongs to a Service answers, and of two that in
which more Services are found; what the other does with the packet is told, for the kernel asks both.

What nobody told of the node is not guessed. Whether an address of which a node port is asked is one of the node's, and
from which address a process of the node sends, decide many answers; where they do, both ways are told, with what each
depends on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from itertools import islice
from typing import TYPE_CHECKING

from msgspec.structs import replace

from kproxy.backend.iptables.state import some_address
from kproxy.errors import InvalidConfig
from kproxy.explain import answer as said
from kproxy.explain.answer import (
    Endpoint,
    Fate,
    Frontend,
    FrontendKind,
    PacketAnswer,
    Question,
    ServicePort,
    Severity,
    Way,
)
from kproxy.explain.packets import tracked
from kproxy.explain.packets.condition import asks
from kproxy.explain.packets.inquiry import Inquiry
from kproxy.explain.packets.journey import join_address
from kproxy.explain.packets.question import packets_of, read_question, resolve
from kproxy.explain.read.address import canonical
from kproxy.explain.read.facts import HostFacts
from kproxy.explain.read.flows import Flow
from kproxy.explain.services.survey import Survey
from kproxy.model.enums import family_of
from kproxy.model.packet import Packet

if TYPE_CHECKING:  # what reads objects is large, and most questions come without
    from kproxy.explain.read.objects import Objects

__all__ = ["answer", "read_question"]

WORST = (Fate.DROPPED, Fate.REFUSED, Fate.UNTOUCHED, Fate.DELIVERED)
NO_FACTS = HostFacts()
_MOST_GROUPS = 100  # sets of conditions, of which the odds are looked at


def answer(
    surveys: Sequence[Survey],
    question: Question,
    facts: HostFacts = NO_FACTS,
    flows: Sequence[Flow] = (),
    objects: Objects | None = None,
) -> PacketAnswer:
    """Raises InvalidConfig: no rules of the packet's family, no such Service, or rules that no kernel can hold."""
    question = resolve(surveys, question)
    packets = packets_of(question, facts.addresses)
    known = tracked.find(flows, question, packets[0], facts.addresses)
    if known.deciding is not None:
        packets = (replace(packets[0], source=known.deciding.source),)
    survey, *others = _of_family(surveys, packets[0], facts)
    asked = _inquiries(survey, question, packets, facts, known.deciding)
    ways, service, frontend = _from_any(asked)
    if known.deciding is None and _may_be_here(survey, question, facts):
        here = replace(facts, addresses=frozenset({question.destination}))
        sent = packets_of(question, here.addresses)
        inside = _from_any(_inquiries(survey, question, sent, here, None))
        if inside[1] is not None or _rewritten(inside[0]) != _rewritten(ways):
            ways, service, frontend = _wherever(inside, (ways, service, frontend), question.destination)
    worst = _worst(ways)
    return PacketAnswer(
        question=question,
        fate=worst,
        service=service.name if service else "",
        frontend=frontend,
        endpoints=endpoints_of(ways, service, objects),
        ways=ways,
        flow=known.words,
        established=known.deciding is not None,
        nearest=asked[0].nearest(ways, service, objects),
        warnings=(
            *tracked.stale(known.flows, service),
            *asked[0].warnings(ways),
            *_other_variants(others, packets[0], facts, worst),
        ),
        relayed=service is not None and service.relayed,
        asks=tuple(asks(ways, question)) if len({way.depends for way in ways}) > 1 else (),
    )


Found = tuple[tuple[Way, ...], ServicePort | None, Frontend | None]  # ways, and whose packet it is


def _worst(ways: Iterable[Way]) -> Fate:
    return min((way.fate for way in ways), key=WORST.index)


def _inquiries(
    survey: Survey, question: Question, packets: Sequence[Packet], facts: HostFacts, flow: Flow | None
) -> list[Inquiry]:
    """One for each packet; of a process that may send from an address that nobody told, the one that tells most.

    Loopback stands for that address, because rules that say what is a pod's rarely hold it to be one. Where an address
    of the node's would have another fate, none is taken for it, and the answer depends on rules that ask for one.
    """
    first = packets[0].source
    assumed = question.here and not question.source and first not in {*facts.addresses, question.destination}
    asked = Inquiry.each(survey, packets, facts, flow, assumed=assumed)
    if assumed and flow is None:
        unknown = [replace(packets[0], source=some_address(survey.dump.facts.family))]
        unsure = Inquiry.each(survey, unknown, facts, assumed=True)
        if {way.fate for way in unsure[0].ways()[0]} != {way.fate for way in asked[0].ways()[0]}:
            return unsure
    return asked


def _may_be_here(survey: Survey, question: Question, facts: HostFacts) -> bool:
    """Whether the destination may be the node's: nobody told, and no Service has it as its cluster IP.

    A load balancer's address may: what a kube-proxy before 1.24 marks to be dropped is dropped by INPUT alone.
    """
    if facts.addresses or ip_address(question.destination).is_loopback:
        return False
    return not any(
        frontend.address == question.destination and frontend.kind is FrontendKind.CLUSTER_IP
        for service in survey.services
        for frontend in service.frontends
    )


def _rewritten(ways: Iterable[Way]) -> frozenset[str]:
    """Where packets get another destination: at node ports, and at those that another program serves (hostPort)."""
    return frozenset(way.endpoint for way in ways)


def _wherever(inside: Found, outside: Found, address: str) -> Found:
    """What becomes of a packet whether or not its destination is the node's."""
    if _alike(inside[0]) == _alike(outside[0]):
        return outside
    found = [replace(way, depends=(f"{address} is an address of this node", *way.depends)) for way in inside[0]]
    found += [replace(way, depends=(f"{address} is no address of this node", *way.depends)) for way in outside[0]]
    service, frontend = inside[1:] if inside[1] is not None else outside[1:]
    return tuple(found), service, frontend


def _alike(ways: Iterable[Way]) -> frozenset[Way]:
    """Ways without the rules by which they lead."""
    return frozenset(replace(way, path=()) for way in ways)


def _from_any(asked: Sequence[Inquiry]) -> Found:
    """The ways of packets that differ in their source; which source it is matters only where the ways differ, too."""
    (first, service, frontend), *others = (inquiry.ways() for inquiry in asked)
    alike: dict[frozenset[Way], list[int]] = {}
    for place, ways in enumerate((first, *(each[0] for each in others))):
        alike.setdefault(_alike(ways), []).append(place)
    if len(alike) == 1:
        return first, service, frontend
    every = (first, *(each[0] for each in others))
    found = []
    for places in alike.values():
        sent = f"it is sent from {' or '.join(asked[place].packet.source for place in places)}"
        found += [replace(way, depends=(sent, *way.depends)) for way in every[places[0]]]
    return tuple(sorted(found, key=lambda way: -way.probability)), service, frontend


def _of_family(surveys: Sequence[Survey], packet: Packet, facts: HostFacts) -> list[Survey]:
    """The rules that the packet meets; of two variants, first those in which it is a Service's."""
    family = family_of(packet.destination)
    fitting = [survey for survey in surveys if survey.dump.facts.family is family]
    if not fitting:
        program = "ip6tables-save" if ":" in packet.destination else "iptables-save"
        given = "ip6tables-save" if program == "iptables-save" else "iptables-save"
        raise InvalidConfig(f"this is a dump of {given}; give the output of {program} for an {family} packet")
    if len(fitting) == 1:
        return fitting
    whose = {id(survey): Inquiry.each(survey, [packet], facts)[0].ways()[1] for survey in fitting}
    return sorted(fitting, key=lambda survey: (whose[id(survey)] is None, -len(survey.services)))


def _other_variants(others: Iterable[Survey], packet: Packet, facts: HostFacts, fate: Fate) -> Iterator[said.Warning]:
    for survey in others:
        ways, service, _ = Inquiry.each(survey, [packet], facts)[0].ways()
        worst = _worst(ways)
        if worst is Fate.UNTOUCHED:
            continue
        variant = survey.dump.facts.variant or "other"
        whose = f" as a packet for {service.name}" if service else ""
        yield said.Warning(
            "other-variant",
            Severity.WARNING if worst is fate else Severity.ERROR,
            f"the {variant} rules have it {worst}{whose}, too; the kernel asks both variants",
            "remove the rules of the variant that nobody updates",
            line=next((line.number for line in ways[0].path[-1:]), 0),
        )


def endpoints_of(
    ways: Sequence[Way], service: ServicePort | None, objects: Objects | None = None
) -> tuple[Endpoint, ...]:
    """With the odds of this packet, likeliest first; where they depend on something, the best that can be."""
    odds: dict[str, float] = {}
    groups = dict.fromkeys(way.depends for way in ways)
    for given in islice(groups, _MOST_GROUPS):
        under: dict[str, float] = {}
        for way in ways:
            if way.endpoint and set(way.depends).issubset(given):
                under[way.endpoint] = under.get(way.endpoint, 0.0) + way.probability
        for where, probability in under.items():
            odds[where] = max(odds.get(where, 0.0), probability)
    known: Mapping[str, Endpoint] = (
        {join_address(each.ip, each.port): each for each in service.endpoints} if service else {}
    )
    return tuple(
        replace(known.get(where) or _unknown(where, objects), probability=probability)
        for where, probability in sorted(odds.items(), key=lambda pair: -pair[1])
    )


def _unknown(where: str, objects: Objects | None) -> Endpoint:
    """One that is no endpoint of the Service: a known flow or another program's rule leads there."""
    ip, port = where, 0
    if canonical(where) is None:
        address, _, number = where.rpartition(":")
        ip, port = address.strip("[]"), int(number)
    found = objects.pods.get(ip) if objects else None
    if found is None:
        return Endpoint(ip, port, 0.0)
    return Endpoint(ip, port, 0.0, pod=found.pod, node=found.node, state=found.state)
