"""Why endpoints see the client's address, or the node's: read from the rules that a packet met.

The mark is set long before anything is masqueraded, so the rule that says why is the one that led to the mark. What it
asked for tells its purpose, whoever wrote it and with or without comments: a source that is an endpoint's own address
is a hairpin, a source outside of a range is a stranger, and so on (spec: iptables.md 7).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import NamedTuple

from kproxy.backend.iptables import names
from kproxy.backend.iptables import rules as r
from kproxy.backend.iptables.rules import Rule, Table
from kproxy.explain.answer import Frontend, FrontendKind, Line, Masquerade, ServicePort

_WHERE = "POSTROUTING"


class Step(NamedTuple):
    """A rule that the packet met, and where it stands. No rule: the policy of a built-in chain."""

    line: Line
    rule: Rule | None


def explain_source(
    path: Sequence[Step],
    wanted: bool,
    service: ServicePort | None,
    frontend: Frontend | None,
    came_with: int,
) -> Masquerade:
    """``wanted``: whether its source is replaced at last; ``came_with``: the mark that it had from the start."""
    marking = _marking(path)
    if not wanted:
        return Masquerade(wanted=False, why=_why_kept(path, marking, service, frontend))
    replacing = next((step for step in reversed(path) if step.rule and _replaces(step.rule.target)), None)
    if marking is not None and marking.rule is not None:
        return Masquerade(wanted=True, why=_why_marked(marking.rule, path), line=marking.line.number)
    if replacing is None:
        return Masquerade(wanted=True, why="the rules say so")
    if came_with and replacing.line.chain == names.POSTROUTING:
        return Masquerade(wanted=True, why=f"it came with mark {came_with:#x}", line=replacing.line.number)
    where = f"{replacing.line.table} {replacing.line.chain}"
    return Masquerade(wanted=True, why=f"a rule of {where} replaces the source", line=replacing.line.number)


def _marking(path: Sequence[Step]) -> Step | None:
    """The rule for whose sake the packet was marked in the nat table."""
    before: Step | None = None
    for step in path:
        if step.line.table != Table.NAT or step.line.chain == names.POSTROUTING or step.rule is None:
            continue
        if isinstance(step.rule.target, r.SetMark) and step.rule.target.value:
            jumped = before is not None and before.rule is not None
            leads_here = jumped and before.rule.target == r.Jump(step.line.chain)  # type: ignore[union-attr]
            return before if leads_here and not step.rule.matches else step
        before = step
    return None


def _replaces(target: r.Target | None) -> bool:
    return isinstance(target, r.Masquerade) or (
        isinstance(target, r.UnknownTarget) and target.text.split()[1:2] in (["SNAT"], ["NETMAP"])
    )


def _why_marked(rule: Rule, path: Sequence[Step]) -> str:
    rewritten = {step.rule.target.ip for step in path if step.rule and isinstance(step.rule.target, r.Dnat)}
    for match in rule.matches:
        if why := _why_from(match, rewritten):
            return why
    if any(isinstance(match, r.Destination) for match in rule.matches):
        return "all traffic to cluster IPs is masqueraded (masqueradeAll)"
    return "it comes to an external address of traffic policy Cluster"


def _why_from(match: r.Match, rewritten: Collection[str]) -> str:
    """What a condition on the sender means; empty: it is none."""
    match match:
        case r.Source(cidr, False) if cidr.partition("/")[0] in rewritten:
            return "the endpoint is the sender itself (hairpin)"
        case r.Source(cidr, negated):
            return f"the source is {'outside of the pod range' if negated else 'within'} {cidr}"
        case r.InInterface(name, negated):
            return (
                f"it does not come in by the pods' interface {name}" if negated else f"it comes in by interface {name}"
            )
        case r.AddressType(source="LOCAL"):
            return "the node itself sends it to an external address of traffic policy Local"
        case _:
            return ""


def _why_kept(
    path: Sequence[Step], marking: Step | None, service: ServicePort | None, frontend: Frontend | None
) -> str:
    if marking is not None:
        if any(step.line.chain == _WHERE for step in path):
            return "it is marked, but no rule of nat POSTROUTING masquerades it"
        return "it is marked, but an endpoint on this node is reached without nat POSTROUTING"
    if service is None or frontend is None:
        return ""
    if frontend.kind is FrontendKind.CLUSTER_IP:
        return "a cluster IP keeps the source of pods"
    if frontend.endpoints == "local" and not _took_short_cut(path):
        return "traffic policy Local keeps the source"
    return "no rule marks it for masquerading"


def _took_short_cut(path: Sequence[Step]) -> bool:
    """By traffic policy Local's branch for pods, which balances over all endpoints."""
    return any(
        step.line.chain.startswith("KUBE-EXT-") and step.rule is not None and step.rule.matches
        for step in path
        if isinstance(step.rule.target if step.rule else None, r.Jump)
    )
