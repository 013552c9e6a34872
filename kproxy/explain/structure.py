"""How a dump's chains hang together: jumps that lead nowhere, chains that nobody leads to, ways in that are missing.

A kernel refuses dangling jumps and loops, so a dump that has them was cut, filtered or edited: what is said of it may
be wrong, which is worth an error. Chains that nothing refers to are what an interrupted or lazy clean-up left; they
cost memory and no packet meets them.
Source: spec iptables.md 1, 2, 5.
"""

from __future__ import annotations

from collections.abc import Iterator

from kproxy.backend.iptables import names
from kproxy.explain import answer
from kproxy.explain.answer import Severity
from kproxy.explain.graph import PER_SERVICE, Graph

_WHOLE = "give the whole output of iptables-save, of all tables and unfiltered"


def look(graph: Graph) -> Iterator[answer.Warning]:
    yield from _dangling(graph)
    yield from _orphans(graph)


def _dangling(graph: Graph) -> Iterator[answer.Warning]:
    for (table, chain), led in graph.referrers.items():
        if (table, chain) in graph.chains:
            continue
        source, saved = led[0]
        others = f" and {len(led) - 1} more rules lead" if len(led) > 1 else " leads"
        yield answer.Warning(
            "dangling-jump",
            Severity.ERROR,
            f"{graph.place}{table} {source}{others} to chain {chain}, which the dump does not have",
            _WHOLE,
            saved.line,
        )


def _orphans(graph: Graph) -> Iterator[answer.Warning]:
    for (table, name), chain in graph.chains.items():
        if not name.startswith(PER_SERVICE) or (table, name) in graph.referrers or (table, name) in names.SCRATCH:
            continue
        yield answer.Warning(
            "orphaned-chain",
            Severity.NOTE,
            f"nothing leads to {graph.place}{table} {name}: no packet meets its {len(chain.rules)} rules",
            "none is needed: its proxy removes it with a later sync",
            chain.line,
        )
