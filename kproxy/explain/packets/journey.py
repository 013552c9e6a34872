"""The way of one packet through one dump, rule by rule, and what became of it, in words."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from msgspec import Struct
from msgspec.structs import replace

from kproxy.backend.iptables import names
from kproxy.backend.iptables import rules as r
from kproxy.backend.iptables import trace as t
from kproxy.backend.iptables.rules import Rule
from kproxy.backend.iptables.state import is_known
from kproxy.explain.answer import Fate, Frontend, Line, Masquerade, ServicePort, Way
from kproxy.explain.packets.condition import in_words
from kproxy.explain.packets.masquerade import Journey, Step
from kproxy.explain.services.survey import Survey
from kproxy.model.packet import Packet

_FATES = tuple(Fate)
_FIREWALLS = (names.PROXY_FIREWALL, names.FIREWALL_BRANCH, "KUBE-FW-")


class Reader(Struct, frozen=True):
    """Outcomes of the tracer to ways. ``service``, ``frontend``: whose packet it is, as far as that is known."""

    survey: Survey
    packet: Packet
    tables: Mapping[tuple[str, str], Sequence[Rule]]
    service: ServicePort | None
    frontend: Frontend | None
    known: bool = False  # it belongs to a flow that is there already

    def way(self, outcome: t.Outcome) -> Way:
        steps = tuple(map(self._step, outcome.path))
        way = Way(
            outcome.probability,
            Fate.DELIVERED,
            depends=in_words(outcome.depends),
            path=tuple(step.line for step in steps),
        )
        relayed = self.service is not None and self.service.relayed
        frontend = None if _is_others(steps) else self.frontend
        source = Journey(steps, self.tables, frontend, self.packet, relayed, self.known)
        match outcome.fate:
            case t.Delivered(ip, port, masquerade):
                return replace(way, endpoint=join_address(ip, port), masquerade=source.explain(masquerade))
            case t.Untouched(masquerade):
                return replace(way, fate=Fate.UNTOUCHED, masquerade=source.explain(masquerade))
            case t.Refused():
                fate = Fate.REFUSED
            case t.Dropped():
                fate = Fate.DROPPED
        return replace(way, fate=fate, masquerade=Masquerade(wanted=False), why=self._why_not(steps, fate))

    def _step(self, met: t.Met) -> Step:
        dump = self.survey.dump
        chain = dump.tables[met.table][met.chain]
        if 0 <= met.position < len(chain.rules):
            saved = chain.rules[met.position]
            return Step(dump.line(met.table, met.chain, saved), saved.rule, met.position)
        return Step(Line(chain.line, met.table, met.chain, f"policy {chain.policy}"), None, -1)

    def _why_not(self, steps: Sequence[Step], fate: Fate) -> str:
        """Why it was refused or dropped."""
        if not steps:
            return ""
        line, rule, _ = steps[-1]
        service = self.service
        if rule is None:
            return f"no rule of {line.table} {line.chain} accepts it, and the chain's policy is {line.text.split()[-1]}"
        if service is not None and service.source_ranges and line.chain.startswith(_FIREWALLS):
            ranges = ", ".join(service.source_ranges)
            source = self.packet.source if is_known(self.packet.source) else "the node's address"
            return f"{source} is in none of the source ranges of {service.name}: {ranges}"
        comment = next((match.text for match in rule.matches if isinstance(match, r.Comment)), "")
        if comment.endswith(("has no endpoints", "has no local endpoints")):
            return comment
        if self.frontend is not None and self.frontend.line == line.number and self.frontend.why:
            return f"{service.name} {self.frontend.why}" if service else self.frontend.why
        does = "drops" if fate is Fate.DROPPED else "refuses"
        said = f": {comment}" if comment else ""
        return f"the rule at line {line.number}, in {line.table} {line.chain}, {does} it{said}"


def _is_others(steps: Sequence[Step]) -> bool:
    """Whether a rule that is not a proxy's decided where the packet goes; then nothing of the Service explains it."""
    rewriting = (r.Dnat, r.DnatRange, r.Redirect)
    last = next((step for step in reversed(steps) if step.rule and isinstance(step.rule.target, rewriting)), None)
    return last is not None and not last.line.chain.startswith("KUBE-")


def joined(ways: Iterable[Way]) -> Iterator[Way]:
    """Ways that differ in nothing but chance, as one; likeliest first.

    Odds under different conditions cannot be compared; there what is delivered comes first, by the fewest conditions.
    """
    summed: dict[Way, float] = {}
    for way in ways:
        same = replace(way, probability=0.0)
        summed[same] = summed.get(same, 0.0) + way.probability
    certain = len({way.depends for way in summed}) == 1

    def place(pair: tuple[Way, float]) -> tuple[int, int, float]:
        way, probability = pair
        return (0, 0, -probability) if certain else (_FATES.index(way.fate), len(way.depends), -probability)

    for way, probability in sorted(summed.items(), key=place):
        yield replace(way, probability=probability)


def join_address(ip: str, port: int) -> str:
    """``port`` 0: not known."""
    if not port:
        return ip
    return f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"
