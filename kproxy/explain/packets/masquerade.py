"""Why endpoints see the client's address, or the node's: read from the rules that a packet met.

The mark is set long before anything is masqueraded, so the rule that says why is the one that led to the mark. What it
asked for tells its purpose, whoever wrote it and with or without comments: a source that is an endpoint's own address
is a hairpin, a source outside of a range is a stranger, and so on (spec: iptables.md 7). A rule that masquerades
without asking for a mark is somebody else's, and is named.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct

from kproxy.backend.iptables import names
from kproxy.backend.iptables import rules as r
from kproxy.backend.iptables.judge import judge
from kproxy.backend.iptables.rules import Rule, Table
from kproxy.backend.iptables.state import Host, State, is_within
from kproxy.explain.answer import Frontend, FrontendKind, Line, Masquerade
from kproxy.model.packet import Packet

STRANGER = "the source is outside of the pod range"
_REPLACING = (r.Masquerade, r.Snat)
_POSTROUTING = "POSTROUTING"
_EXTERNAL = ("KUBE-EXT-", "KUBE-XLB-")
_HEAD = 4  # rules of a chain among which those that mark stand


class Step(NamedTuple):
    """A rule that the packet met, and where it stands. No rule: the policy of a built-in chain."""

    line: Line
    rule: Rule | None
    position: int  # in its chain, from 0; -1: the policy


class Journey(Struct, frozen=True):
    """One way of a packet, as far as its source address is concerned."""

    path: Sequence[Step]
    tables: Mapping[tuple[str, str], Sequence[Rule]]
    frontend: Frontend | None
    packet: Packet  # as it came
    relayed: bool = False  # our relay is the endpoint
    known: bool = False  # it belongs to a flow that is there already

    def explain(self, wanted: bool) -> Masquerade:
        """``wanted``: whether its source is replaced at last."""
        if self.known:
            return Masquerade(wanted, "the flow began so")
        if not wanted:
            return Masquerade(wanted=False, why=self._why_kept())
        replacing = next(
            (step for step in reversed(self.path) if step.rule and isinstance(step.rule.target, _REPLACING)), None
        )
        if replacing is None:
            return Masquerade(wanted=True)
        bits = self._bits(replacing.line.chain)
        marking = self._marking(bits)
        if bits and marking is not None:
            return Masquerade(wanted=True, why=self._why_marked(marking), line=marking.line.number)
        if bits and self.packet.mark & bits:
            return Masquerade(wanted=True, why=f"it came with mark {self.packet.mark:#x}", line=replacing.line.number)
        where = f"{replacing.line.table} {replacing.line.chain}"
        return Masquerade(wanted=True, why=f"a rule of {where} asks for it", line=replacing.line.number)

    # --- replaced -----------------------------------------------------------------------------------------------

    def _bits(self, chain: str) -> int:
        """The bits of the mark that rules of this chain look at."""
        bits = 0
        for rule in self.tables.get((Table.NAT, chain), ()):
            for match in rule.matches:
                if isinstance(match, r.Mark):
                    bits |= match.value & match.mask
        return bits

    def _marking(self, bits: int) -> Step | None:
        """The rule for whose sake the packet was marked in the nat table."""
        before: Step | None = None
        for step in self.path:
            line, rule, _ = step
            if line.table != Table.NAT or rule is None or line.chain == names.POSTROUTING:
                continue
            if isinstance(rule.target, r.SetMark) and rule.target.value & bits:
                led = before is not None and before.rule is not None and before.rule.target == r.Jump(line.chain)
                return before if led and not rule.matches else step
            before = step
        return None

    def _why_marked(self, marking: Step) -> str:
        line, rule, _ = marking
        rewritten = {step.rule.target.ip for step in self.path if step.rule and isinstance(step.rule.target, r.Dnat)}
        for match in rule.matches if rule else ():
            if why := _why_from(match, rewritten):
                return why
        if not line.chain.startswith("KUBE-"):
            return f"a rule of {line.table} {line.chain} marks it so"
        if self.frontend is not None and self.frontend.kind is FrontendKind.CLUSTER_IP:
            return "all traffic to cluster IPs is masqueraded (masqueradeAll)"
        return "it comes to an external address of traffic policy Cluster"

    # --- kept ---------------------------------------------------------------------------------------------------

    def _why_kept(self) -> str:
        bits = self._bits(names.POSTROUTING)
        if self._marking(bits) is not None:
            met = self.packet.from_host or any(step.line.chain == _POSTROUTING for step in self.path)
            if met or not self._leads_to_postrouting():
                return "it is marked, but no rule of nat POSTROUTING masquerades it"
            return "it is marked, but an address of this node is reached without nat POSTROUTING"
        if any(step.rule is not None and step.rule.target == r.Jump(names.MARK_MASQ) for step in self.path):
            return f"it is led to {names.MARK_MASQ}, which does not mark it for nat POSTROUTING"
        if self.frontend is None:
            return ""
        if self.relayed:
            return "up to kproxy's relay, which speaks to an endpoint for the client"
        return next(self._reprieves(), "no rule asks to replace it")

    def _reprieves(self) -> Iterator[str]:
        """Conditions for marking that did not hold, and conditions that led around it."""
        for step in self.path:
            led_around = step.rule is not None and step.line.chain.startswith(_EXTERNAL)
            for match in step.rule.matches if step.rule and led_around else ():
                if isinstance(match, r.Source | r.InInterface) and not match.negated:
                    yield _within(match)
        for rule in self._beside():
            for match in rule.matches:
                if isinstance(match, r.Source | r.InInterface) and match.negated and not self._fits(match):
                    yield _within(match)
        if self.frontend is not None and self.frontend.kind is not FrontendKind.CLUSTER_IP:
            yield "external traffic policy Local keeps it"

    def _beside(self) -> Iterator[Rule]:
        """Rules that would have marked the packet: at the heads of chains that it met, or right before a rule it met.

        Up to kube-proxy 1.23 they stand in KUBE-SERVICES, beside those that lead to the Service.
        """
        for step in self.path:
            if step.line.table == Table.NAT and step.position >= 0:
                rules = self.tables.get((Table.NAT, step.line.chain), ())
                before = range(max(step.position - _HEAD, 0), step.position)
                for position in (*before, *range(min(_HEAD, len(rules)))):
                    rule = rules[position]
                    if rule.target == r.Jump(names.MARK_MASQ) and all(map(self._concerns, rule.matches)):
                        yield rule

    def _fits(self, match: r.Source | r.InInterface) -> bool:
        """Whether the packet meets it for certain; of what is not known, the tracer took the other way."""
        packet = self.packet
        return judge(match, State(packet, packet, way_in=packet.in_interface or None), Host()) is True

    def _leads_to_postrouting(self) -> bool:
        """Whether the table asks anything of packets that leave."""
        return any(
            isinstance(rule.target, r.Jump | r.Masquerade | r.Snat)
            for rule in self.tables.get((Table.NAT, _POSTROUTING), ())
        )

    def _concerns(self, match: r.Match) -> bool:
        """Whether a rule is about the address and port that were dialled, as far as one match says."""
        match match:
            case r.Destination(cidr, negated):
                return is_within(self.packet.destination, cidr) != negated
            case r.Ports(protocol, low, high) if low or high:
                return protocol is self.packet.protocol and low <= self.packet.port <= high
            case _:
                return True


def _why_from(match: r.Match, rewritten: Collection[str]) -> str:
    """What a condition on the sender means; empty: it is none."""
    match match:
        case r.Source(cidr, False) if cidr.partition("/")[0] in rewritten:
            return "the endpoint is the sender itself (hairpin)"
        case r.Source(cidr, negated):
            return f"{STRANGER if negated else 'the source is within'} {cidr}"
        case r.InInterface(name, negated):
            return f"it does not come in by the pods' interface {name}" if negated else f"it comes in by {name}"
        case r.AddressType(source="LOCAL"):
            return "the node itself sends it to an external address of traffic policy Local"
        case _:
            return ""


def _within(match: r.Source | r.InInterface) -> str:
    if isinstance(match, r.Source):
        return f"the source is within the pod range {match.cidr}"
    return f"it comes in by the pods' interface {match.name}"
