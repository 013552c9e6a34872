"""Chains that are there and do not do what they are for: a list without endpoints, an endpoint that nothing dials.

A kernel takes them, and a proxy's syncs leave them alone as long as the proxy believes that it wrote them; packets pass
through as if no Service were there, which neither a refusal nor a counter shows. What leads nowhere because the dump
lacks the chain is ``structure.py``'s.
Source of what each chain is for: spec iptables.md 1, 4, 7.
"""

from __future__ import annotations

from collections.abc import Iterator

from kproxy.backend.iptables import names
from kproxy.backend.iptables import rules as r
from kproxy.backend.iptables.parse import SavedChain
from kproxy.explain import answer
from kproxy.explain.answer import Severity
from kproxy.explain.services.graph import PER_SERVICE, Graph

_REMEDY = "restart the proxy: a full sync writes the chain again; then find out who changed it"
_NAT = r.Table.NAT.value
_ENDPOINT = "KUBE-SEP-"
_REPLACING = (r.Masquerade, r.Snat, r.UnknownTarget)
_REWRITING = (r.Dnat, r.DnatRange, r.Redirect, r.Jump, r.Goto, r.UnknownTarget)
_MARKING = (r.SetMark, r.Jump, r.Goto, r.UnknownTarget)


def look(graph: Graph) -> Iterator[answer.Warning]:
    for (table, name), chain in graph.chains.items():
        if table != _NAT or (table, name) not in graph.referrers:
            continue
        if lost := _lost(name, chain):
            does = "holds no rule" if not chain.rules else "does not do what it is for"
            yield answer.Warning(
                "hollow-chain", Severity.ERROR, f"{graph.place}nat {name} {does}: {lost}", _REMEDY, chain.line
            )


def _lost(name: str, chain: SavedChain) -> str:
    """What does not happen for want of a rule; empty: nothing."""
    targets = [saved.rule.target for saved in chain.rules]
    if name.startswith(_ENDPOINT):
        dials = any(isinstance(target, _REWRITING) and target != r.Jump(names.MARK_MASQ) for target in targets)
        return "" if dials else "packets for that endpoint stay as they are"
    if name.startswith(PER_SERVICE):
        return "" if chain.rules else "what comes to it goes on as if no Service were there"
    if name == names.MARK_MASQ:
        marks = any(isinstance(target, _MARKING) for target in targets)
        return "" if marks else "nothing marks what is to be masqueraded, and answers miss the node"
    if name == names.POSTROUTING:
        replaces = any(isinstance(target, (*_REPLACING, r.Jump, r.Goto)) for target in targets)
        return "" if replaces else "nothing is masqueraded, and answers miss the node"
    return ""
