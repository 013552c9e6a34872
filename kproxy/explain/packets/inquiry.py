"""One packet before the rules of one dump: its ways, whose it is, and what besides the rules decides."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from ipaddress import ip_address
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from kproxy.backend.iptables import trace as t
from kproxy.errors import InvalidConfig
from kproxy.explain import answer as said
from kproxy.explain.answer import Fate, Frontend, FrontendKind, Nearest, ServicePort, Severity, Way
from kproxy.explain.packets import tracked
from kproxy.explain.packets.clauses import merge, simplify
from kproxy.explain.packets.condition import without_loopback
from kproxy.explain.packets.journey import Reader, joined
from kproxy.explain.packets.masquerade import STRANGER
from kproxy.explain.packets.nearest import find_nearest
from kproxy.explain.read.facts import HostFacts
from kproxy.explain.read.flows import Flow
from kproxy.explain.services.survey import Survey, relay_addresses
from kproxy.model.packet import Packet

if TYPE_CHECKING:  # what reads objects is large, and most questions come without
    from kproxy.explain.read.objects import Objects

# Without the chains of a Service nobody knows where its packets go; any other may be thought to do nothing
_LOST = re.compile(rf"({t.MISSING}KUBE-(?:EXT|FW|SEP|SVC|SVL|XLB)-\S+ of nat)")


class Inquiry(Struct, frozen=True):
    """One packet before the rules of one survey."""

    survey: Survey
    tables: t.Tables  # the survey's rules, as the tracer takes them
    policies: t.Policies
    packet: Packet
    facts: HostFacts
    flow: Flow | None = None  # to which the packet belongs
    assumed: bool = False  # the source stands for an address of the node that is not known

    @classmethod
    def each(
        cls,
        survey: Survey,
        packets: Iterable[Packet],
        facts: HostFacts,
        flow: Flow | None = None,
        *,
        assumed: bool = False,
    ) -> list[Inquiry]:
        saved = survey.dump.tables
        tables, policies = t.chains_of(saved), t.policies_of(saved)
        return [cls(survey, tables, policies, packet, facts, flow, assumed) for packet in packets]

    @property
    def addresses(self) -> frozenset[str]:
        return self.facts.addresses | relay_addresses(self.survey.dump)

    def ways(self) -> tuple[tuple[Way, ...], ServicePort | None, Frontend | None]:
        """Raises InvalidConfig for rules that no kernel can hold."""
        flow = tracked.tracked(self.flow) if self.flow else None
        host = t.Host(addresses=self.addresses, remembered=self.facts.remembered or frozenset(), flow=flow)
        try:
            walk = t.walk(self.tables, self.packet, host, self.policies, cut=True)
        except t.BrokenTables as broken:
            raise _broken(broken) from broken
        service, frontend = self._find(walk.outcomes)
        reader = Reader(self.survey, self.packet, self.tables, service, frontend, known=self.flow is not None)
        possible = merge(outcome for outcome in map(self._possible, walk.outcomes) if outcome is not None)
        missing = {outcome: found[1] for outcome in possible if (found := _LOST.search("; ".join(outcome.depends)))}
        if len(missing) == len(possible):
            raise _broken(f"{missing[possible[0]]}, which decides about this packet, is missing")
        lost = dict.fromkeys(f"it does not come to {chain}, which this dump lacks" for chain in missing.values())
        given = (*self._given(service, walk.left_out), *lost)
        possible = [outcome for outcome in possible if outcome not in missing]
        ways = (replace(way, depends=self._depends(way, given)) for way in map(reader.way, possible))
        return tuple(joined(ways)), service, frontend

    def _possible(self, outcome: t.Outcome) -> t.Outcome | None:
        if not outcome.depends:
            return outcome
        from_elsewhere = not (self.packet.from_host or self.packet.in_interface)
        depends = without_loopback(outcome.depends) if from_elsewhere else outcome.depends
        left = None if depends is None else simplify(depends)
        return None if left is None else replace(outcome, depends=left)

    def _depends(self, way: Way, given: tuple[str, ...]) -> tuple[str, ...]:
        if way.fate not in {Fate.DELIVERED, Fate.UNTOUCHED}:
            return way.depends
        if self._needs_route_localnet(way) and self.facts.route_localnet is None:
            given = (*given, "net.ipv4.conf.all.route_localnet is 1 on this node")
        if self.assumed and way.masquerade.why.startswith(STRANGER):
            given = (*given, f"{way.masquerade.why.replace('source', 'address of the node')} (--local tells it)")
        return (*way.depends, *given)

    def _given(self, service: ServicePort | None, left_out: int) -> tuple[str, ...]:
        """What every way depends on by which the packet goes on, besides the conditions of rules."""
        given = []
        if "filter" not in self.survey.dump.tables:
            given.append("the filter table, which is not in this dump, lets it pass")
        if self.facts.remembered is None and service is not None and service.affinity_seconds and self.flow is None:
            given.append(
                f"the client did not use {service.name} in the last {service.affinity_seconds} s (session affinity)"
            )
        if left_out:
            given.append(f"none of {left_out} more ways, which were too many to follow, is the packet's")
        return tuple(given)

    def _needs_route_localnet(self, way: Way) -> bool:
        """Whether the node sends to elsewhere from a loopback address."""
        if (
            self.assumed
            or not way.endpoint
            or ":" in self.packet.source
            or not ip_address(self.packet.source).is_loopback
        ):
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


def _broken(why: object) -> InvalidConfig:
    return InvalidConfig(f"the dump is broken: {why}; give the whole output of iptables-save, of all tables")
