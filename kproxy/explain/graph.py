"""Which chain leads to which: one dump, indexed once for every question about its structure.

Chains whose names begin as kube-proxy's do are told from everybody else's here: KUBE- alone says little, for the
kubelet, kube-router and ipvs mode have chains of that name, too.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from kproxy.backend.iptables import names
from kproxy.backend.iptables import rules as r
from kproxy.backend.iptables.parse import SavedChain, SavedRule
from kproxy.backend.iptables.rules import Rule, Target
from kproxy.explain.answer import Line
from kproxy.explain.dump import Dump

HOOKS = frozenset({"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"})
PER_SERVICE = ("KUBE-SVC-", "KUBE-SVL-", "KUBE-EXT-", "KUBE-FW-", "KUBE-SEP-", "KUBE-XLB-")
FIXED = frozenset().union(*names.FIXED.values()) | {names.FIREWALL, "KUBE-MARK-DROP"}
_BRANCHES = (names.REJECT_BRANCH, names.EXTERNAL_BRANCH, names.FIREWALL_BRANCH, names.HEALTH_BRANCH)
_HASHED = re.compile(r"KUBE-(?:SVC|SVL|EXT|FW|XLB)-([A-Z2-7]{16})(?:-[0-9A-Z]{2})?")

Place = tuple[str, str]  # table, chain


def is_proxys(chain: str) -> bool:
    """Whether a service proxy in iptables mode wrote it, ours or kube-proxy."""
    return chain in FIXED or chain.startswith((*PER_SERVICE, *_BRANCHES))


def is_branch(table: str, chain: str) -> bool:
    """Whether it belongs to one of kproxy's trees."""
    if table == r.Table.NAT:
        return chain.startswith(names.NAT_BRANCH) and not _HASHED.fullmatch(chain) and not _is_scratch(table, chain)
    return chain.startswith(_BRANCHES) and not _is_scratch(table, chain)


def hash_of(chain: str) -> str:
    """The hash of the service port whose chain this is; empty for every other chain."""
    found = _HASHED.fullmatch(chain)
    return found[1] if found else ""


def _is_scratch(table: str, chain: str) -> bool:
    return (table, chain) in names.SCRATCH


def next_chain(target: Target | None) -> str:
    """The chain that a target leads to; empty: to none."""
    match target:
        case r.Jump(chain):
            return chain
        case r.UnknownTarget(text) if text.startswith("-g "):
            return text.split()[1]
        case _:
            return ""


class Graph:
    """``place``: what to call the dump in a sentence beside others, such as "IPv6 "; empty where it is the only one."""

    def __init__(self, dump: Dump, place: str = "") -> None:
        self.dump = dump
        self.place = place
        self.chains: dict[Place, SavedChain] = {
            (table, name): chain for table, chains in dump.tables.items() for name, chain in chains.items()
        }
        self.referrers: dict[Place, list[tuple[str, SavedRule]]] = {}
        self._fates: dict[Place, frozenset[str]] = {}
        for (table, name), chain in self.chains.items():
            for saved in chain.rules:
                if to := next_chain(saved.rule.target):
                    self.referrers.setdefault((table, to), []).append((name, saved))

    @property
    def tables(self) -> frozenset[str]:
        return frozenset(self.dump.tables)

    def rules(self, table: str, chain: str) -> list[SavedRule]:
        found = self.chains.get((table, chain))
        return found.rules if found else []

    def line(self, place: Place, saved: SavedRule) -> Line:
        return self.dump.line(*place, saved)

    def below(self, start: Place) -> dict[Place, None]:
        """Every chain that can be reached from ``start``, itself included, in the order met."""
        table = start[0]
        met: dict[Place, None] = {}
        waiting = [start]
        while waiting:
            place = waiting.pop()
            if place in met or place not in self.chains:
                continue
            met[place] = None
            waiting += [(table, to) for saved in self.chains[place].rules if (to := next_chain(saved.rule.target))]
        return met

    def is_reached(self, start: Place, chain: str) -> bool:
        return (start[0], chain) in self.below(start)

    def fates(self, start: Place) -> frozenset[str]:
        """What rules from ``start`` on can do to a packet: ACCEPT, DROP, REJECT, DNAT, ...; without proxies' own."""
        if start not in self._fates:
            self._fates[start] = frozenset(
                fate
                for place in self.below(start)
                if not is_proxys(place[1])
                for saved in self.chains[place].rules
                if (fate := fate_of(saved.rule))
            )
        return self._fates[start]

    def proxy_chains(self) -> Iterator[tuple[Place, SavedChain]]:
        return ((place, chain) for place, chain in self.chains.items() if is_proxys(place[1]))


def fate_of(rule: Rule) -> str:
    """The name of the verdict or rewriting target; empty for everything that lets the packet go on."""
    match rule.target:
        case r.Verdict() as verdict:
            return verdict.value
        case r.RejectWith():
            return "REJECT"
        case r.Dnat():
            return "DNAT"
        case r.Masquerade():
            return "MASQUERADE"
        case r.UnknownTarget(text) if text.startswith("-j "):
            return text.split()[1]
        case _:
            return ""
