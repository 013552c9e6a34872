"""The ways into a proxy's chains: built-in chains that ought to lead there, do not, or end a packet's walk before.

A chain that holds no rule needs no way in, so what a proxy of another version does without is not missed.
Source: spec iptables.md 2 and 12.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from kproxy.backend.iptables import names
from kproxy.backend.iptables import rules as r
from kproxy.backend.iptables.parse import SavedRule
from kproxy.backend.iptables.rules import Rule
from kproxy.explain import answer
from kproxy.explain.answer import Severity
from kproxy.explain.services.graph import ENDINGS, Graph, Place, fate_of, is_proxys, is_unconditional, next_chain

_NAT, _FILTER = r.Table.NAT.value, r.Table.FILTER.value
_OF_OLD = frozenset({"RELATED", "ESTABLISHED", "INVALID", "UNTRACKED"})


class _Way(NamedTuple):
    table: str
    hook: str
    chain: str
    lost: str  # what does not happen without it

    @property
    def severity(self) -> Severity:
        return Severity.ERROR if self.table == _NAT else Severity.WARNING


_WAYS = (
    _Way(_NAT, "PREROUTING", names.SERVICES, "pods and other hosts reach no Service by this node"),
    _Way(_NAT, "OUTPUT", names.SERVICES, "processes on this node reach no Service"),
    _Way(
        _NAT,
        "POSTROUTING",
        names.POSTROUTING,
        "sources that ought to be replaced by the node's (SNAT) stay as they are, and answers miss this node",
    ),
    _Way(_FILTER, "INPUT", names.EXTERNAL_SERVICES, "node ports without endpoints are not refused"),
    _Way(_FILTER, "FORWARD", names.EXTERNAL_SERVICES, "external addresses without endpoints are not refused"),
    _Way(_FILTER, "INPUT", names.NODE_PORTS, "a firewall may keep load balancers from the health check node ports"),
    _Way(_FILTER, "FORWARD", names.SERVICES, "pods are not told that a Service has no endpoints"),
    _Way(_FILTER, "OUTPUT", names.SERVICES, "processes on this node are not told that a Service has no endpoints"),
    _Way(_FILTER, "FORWARD", names.FORWARD, "no rule of the proxy's accepts what it masquerades, or drops INVALID"),
    _Way(_FILTER, "INPUT", names.PROXY_FIREWALL, "loadBalancerSourceRanges are not enforced for this node's endpoints"),
    _Way(_FILTER, "OUTPUT", names.PROXY_FIREWALL, "loadBalancerSourceRanges are not enforced for this node itself"),
    _Way(_FILTER, "FORWARD", names.PROXY_FIREWALL, "loadBalancerSourceRanges are not enforced"),
    _Way(_FILTER, "INPUT", names.FIREWALL, "neighbours may reach what listens on this node's loopback alone"),
)


def look(graph: Graph) -> Iterator[answer.Warning]:
    for way in _WAYS:
        # Old ones differ in the filter table, and nobody runs them: what matters is that Services are served.
        if graph.rules(way.table, way.chain) and not (way.table == _FILTER and _is_old(graph)):
            yield from _look_at(graph, way)
    for hook in ("INPUT", "FORWARD", "OUTPUT"):
        yield from _policy(graph, hook)


def _is_old(graph: Graph) -> bool:
    return any((_NAT, name) in graph.chains for name in ("KUBE-MARK-DROP",)) or any(
        name.startswith("KUBE-XLB-") for _, name in graph.chains
    )


def _look_at(graph: Graph, way: _Way) -> Iterator[answer.Warning]:
    base = (way.table, way.hook)
    if not graph.leads(base, way.chain):
        yield answer.Warning(
            "entry-missing",
            way.severity,
            f"{graph.place}{way.table} {way.hook} does not lead to {way.chain}: {way.lost}",
            "restart the proxy: a full sync writes the jump again; then find out who removed it",
            graph.chains[base].line if base in graph.chains else 0,
        )
    elif before := _ends_before(graph, base, way.chain):
        yield answer.Warning(
            "entry-cut-off",
            way.severity,
            f"{graph.place}{way.table} {way.hook} ends every packet's walk before its jump to {way.chain}: {way.lost}",
            "move or remove that rule; the proxy does not move a jump that is there",
            before.line,
        )


def _ends_before(graph: Graph, base: Place, chain: str) -> SavedRule | None:
    """The rule that lets no packet come as far as the jump."""
    for saved in graph.rules(*base):
        to = next_chain(saved.rule.target)
        if to == chain or (to and graph.leads((base[0], to), chain)):
            return None
        if is_proxys(to) or not is_unconditional(saved.rule):
            continue
        if fate_of(saved.rule) in {*ENDINGS, "RETURN"} or (to and graph.ends_all((base[0], to))):
            return saved
    return None


# --- policies -------------------------------------------------------------------------------------------------

_SPARED = {
    "FORWARD": (
        "KUBE-FORWARD accepts what is masqueraded and what belongs to known connections; the first packet of a pod "
        "to a Service is neither"
    ),
    "INPUT": "that meets node ports and Services whose endpoint is a process of this node",
    "OUTPUT": "that meets what processes of this node send to Services",
}


def _policy(graph: Graph, hook: str) -> Iterator[answer.Warning]:
    base = graph.chains.get((_FILTER, hook))
    if base is None or not any(is_proxys(name) for _, name in graph.chains):
        return
    last = next((each for each in base.rules if is_unconditional(each.rule) and fate_of(each.rule) in ENDINGS), None)
    fate = fate_of(last.rule) if last else base.policy
    if fate not in {"DROP", "REJECT"}:
        return
    end = "its policy is DROP" if last is None else f"a rule there has no condition: {fate}"
    accepting = sorted(_accepting(graph, hook))
    others = f"; others accept some, in {', '.join(accepting[:4])}" if accepting else ", and nobody else accepts any"
    yield answer.Warning(
        f"{hook.lower()}-drop",
        Severity.NOTE if accepting else Severity.WARNING,
        f"{graph.place}filter {hook} drops what no rule accepts ({end}): {_SPARED[hook]}{others}",
        "let the network plugin or a rule of yours accept traffic of pods and to endpoints",
        last.line if last else base.line,
    )


def _accepting(graph: Graph, hook: str) -> Iterator[str]:
    """Chains of others below a hook, or the hook, with a rule that accepts new connections."""
    for place in graph.below((_FILTER, hook)):
        if is_proxys(place[1]):
            continue
        if any(_accepts_new(saved.rule) for saved in graph.chains[place].rules):
            yield f"chain {place[1]}" if place[1] != hook else f"{hook} itself"


def _accepts_new(rule: Rule) -> bool:
    return rule.target is r.Verdict.ACCEPT and not is_spared(rule)


def is_spared(rule: Rule) -> bool:
    """Whether no first packet to a Service from elsewhere can meet its target."""
    is_known = any(
        isinstance(match, r.Conntrack | r.State)
        and not match.negated
        and match.states
        and _OF_OLD.issuperset(match.states)
        for match in rule.matches
    )
    return is_known or r.InInterface("lo") in rule.matches or rule.target is r.Verdict.RETURN
