"""One packet: what the rules do with it, and why, as a PacketAnswer.

The evaluator (``backend/iptables/trace.py``) says which rules were met; here they get their lines, their Service, and
words for what they mean. The answer is for the first packet of a new flow, unless a conntrack entry is given that
already decides.

Where both variants of iptables hold rules, the one in which more Services are found answers; that the other does
something else with the packet is told, for the kernel asks both.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_address
from itertools import islice
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from kproxy.backend.iptables import rules as r
from kproxy.backend.iptables import trace as t
from kproxy.errors import InvalidConfig
from kproxy.explain import answer as said
from kproxy.explain import tracked
from kproxy.explain.answer import (
    Endpoint,
    Fate,
    Frontend,
    FrontendKind,
    Nearest,
    PacketAnswer,
    Question,
    ServicePort,
    Severity,
    Way,
)
from kproxy.explain.condition import without_loopback
from kproxy.explain.facts import HostFacts
from kproxy.explain.flows import Flow
from kproxy.explain.journey import Reader, join_address, joined
from kproxy.explain.nearest import find_nearest
from kproxy.explain.question import canonical, packet_of, read_question, resolve
from kproxy.explain.survey import Survey, relay_addresses
from kproxy.model.enums import family_of
from kproxy.model.packet import Packet

if TYPE_CHECKING:  # what reads objects is large, and most questions come without
    from kproxy.explain.objects import Objects

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
    packet = packet_of(question, facts.addresses)
    known = tracked.find(flows, question, packet, facts.addresses)
    survey, *others = _of_family(surveys, question)
    asked = _Asked(survey, packet, facts, known.deciding)
    ways, service, frontend = asked.ways()
    worst = min((way.fate for way in ways), key=WORST.index)
    return PacketAnswer(
        question=question,
        fate=worst,
        service=service.name if service else "",
        frontend=frontend,
        endpoints=endpoints_of(ways, service),
        ways=ways,
        flow=known.words,
        nearest=asked.nearest(ways, service, objects),
        warnings=(
            *tracked.stale(known.flows, service),
            *asked.warnings(ways),
            *_other_variants(others, packet, facts, worst),
        ),
    )


def _of_family(surveys: Sequence[Survey], question: Question) -> list[Survey]:
    """The rules that the packet meets; of two variants, first those in which there are more Services."""
    family = family_of(question.destination)
    fitting = [survey for survey in surveys if survey.dump.facts.family is family]
    if not fitting:
        program = "ip6tables-save" if ":" in question.destination else "iptables-save"
        given = "ip6tables-save" if program == "iptables-save" else "iptables-save"
        raise InvalidConfig(f"this is a dump of {given}; give the output of {program} for an {family} packet")
    return sorted(fitting, key=lambda survey: -len(survey.services))


class _Asked(Struct, frozen=True):
    """One packet before the rules of one survey."""

    survey: Survey
    packet: Packet
    facts: HostFacts
    flow: Flow | None = None

    @property
    def addresses(self) -> frozenset[str]:
        return self.facts.addresses | relay_addresses(self.survey.dump)

    def walk(self) -> tuple[t.Walk, dict[tuple[str, str], list[r.Rule]]]:
        tables = {
            (table, name): [saved.rule for saved in chain.rules]
            for table, chains in self.survey.dump.tables.items()
            for name, chain in chains.items()
        }
        policies = {
            (table, name): chain.policy
            for table, chains in self.survey.dump.tables.items()
            for name, chain in chains.items()
            if chain.policy != "-"
        }
        flow = tracked.tracked(self.flow) if self.flow else None
        host = t.Host(addresses=self.addresses, remembered=self.facts.remembered, flow=flow)
        try:
            return t.walk(tables, self.packet, host, policies), tables
        except t.BrokenTables as broken:
            raise InvalidConfig(
                f"the dump is broken: {broken}; give the whole output of iptables-save, of all tables"
            ) from broken

    def ways(self) -> tuple[tuple[Way, ...], ServicePort | None, Frontend | None]:
        walk, tables = self.walk()
        service, frontend = self._find(walk.outcomes)
        reader = Reader(self.survey, self.packet, tables, service, frontend)
        given = self._given(service, walk.left_out)
        possible = (outcome for outcome in map(self._possible, walk.outcomes) if outcome is not None)
        ways = (replace(way, depends=self._depends(way, given)) for way in map(reader.way, possible))
        return tuple(joined(ways)), service, frontend

    def _possible(self, outcome: t.Outcome) -> t.Outcome | None:
        if self.packet.from_host or self.packet.in_interface or not outcome.depends:
            return outcome
        depends = without_loopback(outcome.depends)
        return None if depends is None else replace(outcome, depends=depends)

    def _depends(self, way: Way, given: tuple[str, ...]) -> tuple[str, ...]:
        if way.fate not in {Fate.DELIVERED, Fate.UNTOUCHED}:
            return way.depends
        if self._needs_route_localnet(way) and self.facts.route_localnet is None:
            given = (*given, "net.ipv4.conf.all.route_localnet is 1 on this node")
        return (*way.depends, *given)

    def _given(self, service: ServicePort | None, left_out: int) -> tuple[str, ...]:
        """What every way depends on by which the packet goes on, besides the conditions of rules."""
        given = []
        if "filter" not in self.survey.dump.tables:
            given.append("the filter table, which is not in this dump, lets it pass")
        if service is not None and service.affinity_seconds and self.flow is None:
            lists = {each.chain for each in service.endpoints}
            if not lists & self.facts.remembered:
                given.append(
                    f"the client did not use {service.name} in the last {service.affinity_seconds} s (session affinity)"
                )
        if left_out:
            given.append(f"none of {left_out} more ways, which were too many to follow, is the packet's")
        return tuple(given)

    def _needs_route_localnet(self, way: Way) -> bool:
        """Whether the node sends to elsewhere from a loopback address."""
        if not way.endpoint or ":" in self.packet.source or not ip_address(self.packet.source).is_loopback:
            return False
        endpoint = way.endpoint.partition(":")[0]
        return self.packet.from_host and endpoint not in self.addresses and not ip_address(endpoint).is_loopback

    # --- whose it is --------------------------------------------------------------------------------------------

    def _find(self, outcomes: Iterable[t.Outcome]) -> tuple[ServicePort | None, Frontend | None]:
        """The Service that the rules met are of; of a flow for which nat is not asked, the one that answers there."""
        if self.flow is None:
            by_line = {each.line: (whose, each) for whose, each in self._frontends() if each.line}
            for met in (met for outcome in outcomes for met in outcome.path):
                chain = self.survey.dump.tables[met.table][met.chain]
                line = chain.rules[met.position].line if 0 <= met.position < len(chain.rules) else 0
                if found := by_line.get(line):
                    return found
                owners = self.survey.owners.get((met.table, met.chain), ())
                if len(owners) == 1:
                    owner = self.survey.services[owners[0]]
                    return owner, next((each for whose, each in self._at_place() if whose is owner), None)
            return None, None
        return next(self._at_place(), (None, None))

    def _frontends(self) -> Iterator[tuple[ServicePort, Frontend]]:
        for service in self.survey.services:
            for frontend in service.frontends:
                if frontend.kind is not FrontendKind.HEALTH_CHECK:
                    yield service, frontend

    def _at_place(self) -> Iterator[tuple[ServicePort, Frontend]]:
        """Frontends of the packet's destination; an address of a Service comes before the node's."""
        there = self.packet.destination
        local = there in self.addresses or ip_address(there).is_loopback
        found = [
            (service, frontend)
            for service, frontend in self._frontends()
            if frontend.port == self.packet.port
            and service.protocol is self.packet.protocol
            and (frontend.address == there or (local and not frontend.address))
        ]
        yield from sorted(found, key=lambda pair: not pair[1].address)

    # --- besides ------------------------------------------------------------------------------------------------

    def nearest(self, ways: Sequence[Way], service: ServicePort | None, objects: Objects | None) -> Nearest | None:
        if self.flow is not None or (service is not None and all(way.fate is not Fate.UNTOUCHED for way in ways)):
            return None
        met = next((way.path for way in ways if way.fate is Fate.UNTOUCHED), ways[0].path)
        return find_nearest(self.survey, self.packet, self.addresses, met, objects)

    def warnings(self, ways: Sequence[Way]) -> Iterator[said.Warning]:
        enabled = self.facts.route_localnet
        if enabled is not None and "all" not in enabled and any(map(self._needs_route_localnet, ways)):
            yield said.Warning(
                "route-localnet-off",
                Severity.ERROR,
                f"the kernel sends nothing from {self.packet.source} to another host while route_localnet is 0",
                "set net.ipv4.conf.all.route_localnet to 1, or dial another address of the node",
            )


def _other_variants(others: Iterable[Survey], packet: Packet, facts: HostFacts, fate: Fate) -> Iterator[said.Warning]:
    for survey in others:
        ways, service, _ = _Asked(survey, packet, facts).ways()
        worst = min((way.fate for way in ways), key=WORST.index)
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


def endpoints_of(ways: Sequence[Way], service: ServicePort | None) -> tuple[Endpoint, ...]:
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
        replace(known.get(where) or _unknown(where), probability=probability)
        for where, probability in sorted(odds.items(), key=lambda pair: -pair[1])
    )


def _unknown(where: str) -> Endpoint:
    """One that is no endpoint of the Service: another program's rule leads there."""
    if canonical(where) is not None:
        return Endpoint(where, 0, 0.0)
    ip, _, port = where.rpartition(":")
    return Endpoint(ip.strip("[]"), int(port), 0.0)
