"""One packet: what the rules do with it, and why, as a PacketAnswer.

The evaluator (``backend/iptables/trace.py``) says which rules were met; here they get their lines, their Service, and
words for what they mean. The answer is for the first packet of a new flow, unless a conntrack entry is given that
already decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from kproxy.backend.iptables import names
from kproxy.backend.iptables import rules as r
from kproxy.backend.iptables import trace as t
from kproxy.backend.iptables.rules import Table, Verdict
from kproxy.errors import InvalidConfig
from kproxy.explain.answer import (
    Endpoint,
    Fate,
    Frontend,
    Line,
    Masquerade,
    PacketAnswer,
    Question,
    ServicePort,
    Way,
)
from kproxy.explain.facts import HostFacts
from kproxy.explain.flows import Flow
from kproxy.explain.masquerade import Step, explain_source
from kproxy.explain.question import packet_of, read_question, resolve
from kproxy.explain.spoken import describe, explain, read_packet
from kproxy.explain.survey import Survey
from kproxy.model.enums import family_of
from kproxy.model.packet import Packet

__all__ = ["answer", "describe", "explain", "read_packet", "read_question"]

_WORST = (Fate.DROPPED, Fate.REFUSED, Fate.UNTOUCHED, Fate.DELIVERED)
NO_FACTS = HostFacts()


def answer(
    surveys: Sequence[Survey],
    question: Question,
    facts: HostFacts = NO_FACTS,
    flows: Sequence[Flow] = (),  # noqa: ARG001 -- not yet asked
    objects: object = None,  # noqa: ARG001 -- not yet asked
) -> PacketAnswer:
    """Raises InvalidConfig where no survey is of the packet's family, or no Service has the name that was asked for."""
    question = resolve(surveys, question)
    survey = _of_family(surveys, question)
    host = t.Host(facts.addresses | relays(survey), facts.remembered)
    packet = packet_of(question, facts.addresses)
    outcomes = t.trace(rules_of(survey), packet, host)
    reading = _Reading(survey, packet, facts)
    service, frontend = reading.find(outcomes)
    ways = tuple(_joined(reading.way(outcome, service, frontend) for outcome in outcomes))
    worst = min((way.fate for way in ways), key=_WORST.index)
    return PacketAnswer(
        question=question,
        fate=worst,
        service=service.name if service else "",
        frontend=frontend,
        endpoints=_endpoints(ways, service),
        ways=ways,
    )


def _of_family(surveys: Sequence[Survey], question: Question) -> Survey:
    """The rules that the packet meets; of two variants, those in which there are more Services."""
    family = family_of(question.destination)
    fitting = [survey for survey in surveys if survey.dump.facts.family is family]
    if not fitting:
        program = "ip6tables-save" if ":" in question.destination else "iptables-save"
        given = sorted({survey.dump.facts.family.value for survey in surveys})
        raise InvalidConfig(
            f"{question.destination}: the rules are of {' and '.join(given) or 'no family'}; "
            f"give the output of {program} for an {family} packet"
        )
    return max(fitting, key=lambda survey: len(survey.services))


def rules_of(survey: Survey) -> dict[tuple[str, str], list[r.Rule]]:
    return {
        (table, name): [saved.rule for saved in chain.rules]
        for table, chains in survey.dump.tables.items()
        for name, chain in chains.items()
    }


def relays(survey: Survey) -> frozenset[str]:
    """Where kproxy's relay listens on that node: the address that the rules guard (userspace mode)."""
    chain = survey.dump.tables.get(Table.FILTER, {}).get(names.PROXY_FIREWALL)
    return frozenset(
        match.cidr.partition("/")[0]
        for saved in (chain.rules if chain else ())
        if r.Conntrack(("DNAT",), negated=True) in saved.rule.matches
        for match in saved.rule.matches
        if isinstance(match, r.Destination)
    )


class _Reading(Struct, frozen=True):
    """Outcomes of one packet in words."""

    survey: Survey
    packet: Packet
    facts: HostFacts

    def steps(self, outcome: t.Outcome) -> tuple[Step, ...]:
        dump = self.survey.dump
        found = []
        for met in outcome.path:
            chain = dump.tables[met.table][met.chain]
            if 0 <= met.position < len(chain.rules):
                saved = chain.rules[met.position]
                found.append(Step(dump.line(met.table, met.chain, saved), saved.rule))
            else:
                found.append(Step(Line(chain.line, met.table, met.chain, f"policy {chain.policy}"), None))
        return tuple(found)

    def find(self, outcomes: Iterable[t.Outcome]) -> tuple[ServicePort | None, Frontend | None]:
        """The Service that the rules met are of."""
        by_line = {
            frontend.line: (service, frontend)
            for service in self.survey.services
            for frontend in service.frontends
            if frontend.line
        }
        owner: ServicePort | None = None
        for outcome in outcomes:
            for met in outcome.path:
                chain = self.survey.dump.tables[met.table][met.chain]
                line = chain.rules[met.position].line if 0 <= met.position < len(chain.rules) else 0
                if found := by_line.get(line):
                    return found
                owners = self.survey.owners.get((met.table, met.chain), ())
                if owner is None and len(owners) == 1:
                    owner = self.survey.services[owners[0]]
        return owner, self._frontend_of(owner)

    def _frontend_of(self, service: ServicePort | None) -> Frontend | None:
        """Of a Service whose dispatching rule the survey knows by another line."""
        for frontend in service.frontends if service else ():
            if frontend.port == self.packet.port and frontend.address in {self.packet.destination, ""}:
                return frontend
        return None

    def way(self, outcome: t.Outcome, service: ServicePort | None, frontend: Frontend | None) -> Way:
        steps = self.steps(outcome)
        path = tuple(step.line for step in steps)
        match outcome.fate:
            case t.Delivered(ip, port, masquerade):
                source = explain_source(steps, masquerade, service, frontend, self.packet.mark)
                return Way(outcome.probability, Fate.DELIVERED, address(ip, port), source, outcome.depends, path)
            case t.Untouched(masquerade):
                source = explain_source(steps, masquerade, service, frontend, self.packet.mark)
                return Way(outcome.probability, Fate.UNTOUCHED, "", source, outcome.depends, path)
            case t.Refused():
                fate = Fate.REFUSED
            case t.Dropped():
                fate = Fate.DROPPED
        why = self._why_not(steps, service, frontend)
        return Way(outcome.probability, fate, "", Masquerade(wanted=False), outcome.depends, path, why)

    def _why_not(self, steps: Sequence[Step], service: ServicePort | None, frontend: Frontend | None) -> str:
        if not steps:
            return "the policy of a built-in chain drops it"
        line, rule = steps[-1]
        if rule is None:
            return f"the policy of {line.table} {line.chain} is to drop what no rule accepts"
        if service is not None and service.source_ranges and line.chain.startswith((names.PROXY_FIREWALL, "KUBE-LBF-")):
            ranges = ", ".join(service.source_ranges)
            return f"{self.packet.source} is in none of the source ranges of {service.name}: {ranges}"
        for match in rule.matches:
            if isinstance(match, r.Comment) and match.text.endswith(("has no endpoints", "has no local endpoints")):
                return match.text
        if service is not None and frontend is not None and frontend.fate is not Fate.DELIVERED:
            return frontend.why or f"{service.name} has no endpoints for it"
        does = "drops" if rule.target is Verdict.DROP else "refuses"
        return f"the rule at line {line.number}, of {line.table} {line.chain}, {does} it"


def _joined(ways: Iterable[Way]) -> Iterator[Way]:
    """Ways that differ in nothing but chance, as one."""
    summed: dict[Way, float] = {}
    for way in ways:
        same = replace(way, probability=0.0)
        summed[same] = summed.get(same, 0.0) + way.probability
    for way, probability in sorted(summed.items(), key=lambda pair: -pair[1]):
        yield replace(way, probability=probability)


def _endpoints(ways: Iterable[Way], service: ServicePort | None) -> tuple[Endpoint, ...]:
    """With the odds of this packet, likeliest first."""
    odds: dict[str, float] = {}
    for way in ways:
        if way.endpoint:
            odds[way.endpoint] = odds.get(way.endpoint, 0.0) + way.probability
    known: Mapping[str, Endpoint] = {address(each.ip, each.port): each for each in service.endpoints} if service else {}
    return tuple(
        replace(known.get(where) or _unknown(where), probability=probability)
        for where, probability in sorted(odds.items(), key=lambda pair: -pair[1])
    )


def _unknown(where: str) -> Endpoint:
    ip, _, port = where.rpartition(":")
    return Endpoint(ip.strip("[]"), int(port), 0.0)


def address(ip: str, port: int) -> str:
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
