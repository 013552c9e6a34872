"""How a dump's chains hang together: jumps that lead nowhere, chains that nobody leads to, rules nobody can read.

A kernel refuses dangling jumps and loops, so a dump that has them was cut, filtered or edited: what is said of it may
be wrong, which is worth an error. Chains that nothing refers to are what an interrupted or lazy clean-up left; they
cost memory and no packet meets them.
Source: spec iptables.md 1, 5, 7.
"""

from __future__ import annotations

from collections.abc import Iterator

from kproxy.backend.iptables import names
from kproxy.backend.iptables import rules as r
from kproxy.explain import answer
from kproxy.explain.answer import Severity
from kproxy.explain.services.graph import PER_SERVICE, Graph, Place, hash_of, is_branch, is_proxys

_WHOLE = "give the whole output of iptables-save, of all tables and unfiltered"
_SHOWN = 8  # chains of a circle
_UNSUPPORTED = "[unsupported revision]"


def look(graph: Graph) -> Iterator[answer.Warning]:
    yield from _tables(graph)
    yield from _dangling(graph)
    yield from _loops(graph)
    yield from _orphans(graph)
    yield from _unread(graph)


def _tables(graph: Graph) -> Iterator[answer.Warning]:
    """Only of a dump that shows a proxy at all: an empty family has no tables."""
    have = {table for (table, name), _ in graph.proxy_chains() if name == names.SERVICES}
    for table, lost in (
        (r.Table.NAT, "where Services lead is not in it"),
        (r.Table.FILTER, "which Services refuse clients is not in it, nor who drops packets"),
    ):
        if have and table not in graph.tables:
            yield answer.Warning(
                "table-missing", Severity.WARNING, f"the {graph.place}dump has no table {table}: {lost}", _WHOLE
            )


def _dangling(graph: Graph) -> Iterator[answer.Warning]:
    for (table, chain), led in graph.referrers.items():
        if (table, chain) in graph.chains:
            continue
        source, saved = led[0]
        more = len(led) - 1
        others = f" and {more} more rule{'s' * (more > 1)} lead" if more else " leads"
        # What kernel modules call their targets is upper case and has no hyphen: it may be one that we do not know.
        maybe = "" if "-" in chain else " (unless it is a target of the kernel that kproxy does not know)"
        yield answer.Warning(
            "dangling-jump",
            Severity.ERROR if not maybe else Severity.WARNING,
            f"{graph.place}{table} {source}{others} to chain {chain}, which the dump does not have{maybe}",
            _WHOLE,
            saved.line,
        )


def _loops(graph: Graph) -> Iterator[answer.Warning]:
    """Depth first without recursion; each chain is left for good once everything below it was seen."""
    done: set[Place] = set()
    for start in graph.chains:
        if start in done:
            continue
        way, depth = [(start, iter(graph.jumps[start]))], {start: 0}
        while way:
            last, steps = way[-1]
            found = next(steps, None)
            if found is None:
                done.add(last)
                del depth[last]
                way.pop()
                continue
            to, line = found
            if to in depth:
                circle = [name for (_, name), _ in way[depth[to] : depth[to] + _SHOWN]]
                circle += ["…"] if len(way) - depth[to] > _SHOWN else []
                message = f"chains of {graph.place}{to[0]} lead in a circle: {' → '.join((*circle, to[1]))}"
                yield answer.Warning("chain-loop", Severity.ERROR, f"{message}; no kernel takes that", _WHOLE, line)
            elif to not in done and to in graph.chains:
                depth[to] = len(way)
                way.append((to, iter(graph.jumps[to])))


def _orphans(graph: Graph) -> Iterator[answer.Warning]:
    for place, chain in graph.chains.items():
        table, name = place
        if place in graph.referrers or place in names.SCRATCH:
            continue
        if is_branch(table, name):
            kind = "a branch of kproxy's tree"
        elif name.startswith(PER_SERVICE):
            kind = f"a chain of the service port with hash {hash_of(name)}" if hash_of(name) else "a service's chain"
            kind = "the chain of an endpoint" if name.startswith("KUBE-SEP-") else kind
        else:
            continue
        below = len({to for to, _ in graph.jumps[place]})
        with_it = f", nor by this way {below} that it leads to" if below else ""
        yield answer.Warning(
            "orphaned-chain",
            Severity.NOTE,
            f"nothing leads to {graph.place}{table} {name}, {kind}: no packet meets it{with_it}",
            "none is needed: a proxy deletes such chains with a later sync; `kproxy cleanup` where none runs any more",
            chain.line,
        )


def _unread(graph: Graph) -> Iterator[answer.Warning]:
    """Rules of a proxy's that cannot be evaluated; of other people's only those that no program could print."""
    for (table, name), chain in graph.chains.items():
        ours = is_proxys(name)
        for saved in chain.rules:
            if _UNSUPPORTED in graph.dump.lines[saved.line - 1]:
                yield answer.Warning(
                    "unsupported-revision",
                    Severity.WARNING,
                    f"a rule of {graph.place}{table} {name} was printed as {_UNSUPPORTED}: iptables-save was older "
                    "than the program that wrote it, so what the rule does is not in the dump",
                    "take the dump with the iptables of the proxy's image, or a newer one",
                    saved.line,
                )
            elif ours and (strange := _strange(saved.rule)):
                yield answer.Warning(
                    "unknown-rule",
                    Severity.WARNING,
                    f"a rule of {graph.place}{table} {name} asks something that kproxy cannot evaluate: {strange}",
                    "answers that meet it say what they depend on; no service proxy is known to write it",
                    saved.line,
                )


# Up to 1.18 kube-proxy asked so of packets for external IPs. Nothing is wrong with such a rule, and an answer that
# meets it tells what it depends on.
_OF_OLD_PROXIES = r.Unknown("-m physdev ! --physdev-is-in")


def _strange(rule: r.Rule) -> str:
    for match in rule.matches:
        if isinstance(match, r.Unknown) and match != _OF_OLD_PROXIES:
            return match.text
    return rule.target.text if isinstance(rule.target, r.UnknownTarget) else ""
