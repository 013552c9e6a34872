"""Which chain leads to which: one dump, indexed once for every question about its structure.

Chains whose names begin as kube-proxy's do are told from everybody else's here: KUBE- alone says little, for the
kubelet, kube-router and ipvs mode have chains of that name, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from kproxy.backend.iptables import names
from kproxy.backend.iptables import rules as r
from kproxy.backend.iptables.parse import SavedChain, SavedRule
from kproxy.backend.iptables.rules import Rule, Target
from kproxy.explain.read.dump import Dump

ENDINGS = frozenset({"ACCEPT", "DROP", "REJECT", "DNAT", "SNAT", "MASQUERADE", "REDIRECT", "NETMAP", "TPROXY", "QUEUE"})
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
        case r.Jump(chain) | r.Goto(chain):
            return chain
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
        self._leading: dict[Place, set[Place]] = {}
        self._fates: dict[Place, set[str]] | None = None
        self._ending: set[Place] | None = None
        self.jumps: dict[Place, list[tuple[Place, int]]] = {}  # where a chain's rules lead, and on which line
        for (table, name), chain in self.chains.items():
            jumps = []
            for saved in chain.rules:
                if to := next_chain(saved.rule.target):
                    there = (table, to)
                    jumps.append((there, saved.line))
                    self.referrers.setdefault(there, []).append((name, saved))
            self.jumps[table, name] = jumps

    @property
    def tables(self) -> frozenset[str]:
        return frozenset(self.dump.tables)

    def rules(self, table: str, chain: str) -> list[SavedRule]:
        found = self.chains.get((table, chain))
        return found.rules if found else []

    def below(self, start: Place) -> dict[Place, None]:
        """Every chain that can be reached from ``start``, itself included, in the order met."""
        met: dict[Place, None] = {}
        waiting = [start]
        while waiting:
            place = waiting.pop()
            if place in met or place not in self.chains:
                continue
            met[place] = None
            waiting += [to for to, _ in self.jumps[place]]
        return met

    def leads(self, start: Place, chain: str) -> bool:
        """Whether a packet in ``start`` may come to ``chain``."""
        goal = (start[0], chain)
        if goal not in self._leading:
            self._leading[goal] = self._above({goal}, lambda _place, _saved: True)
        return start in self._leading[goal]

    def fates(self, start: Place) -> frozenset[str]:
        """What rules from ``start`` on can do to a packet (ACCEPT, DROP, DNAT, ...), proxies' own left out."""
        if self._fates is None:
            self._fates = self._find_fates()
        return frozenset(self._fates.get(start, ()))

    def ends_all(self, start: Place) -> bool:
        """Whether no packet comes back from ``start``, whatever it is."""
        if self._ending is None:
            ending = {place for place, chain in self.chains.items() if _ends_by_itself(chain)}
            self._ending = self._above(ending, self._is_met_by_all)
        return start in self._ending

    def _is_met_by_all(self, place: Place, saved: SavedRule) -> bool:
        return is_unconditional(saved.rule) and saved in _unconditional(self.chains[place])

    def _find_fates(self) -> dict[Place, set[str]]:
        holding: dict[str, set[Place]] = {}
        for place, chain in self.chains.items():
            if not is_proxys(place[1]):
                for saved in chain.rules:
                    if fate := fate_of(saved.rule):
                        holding.setdefault(fate, set()).add(place)
        found: dict[Place, set[str]] = {}
        for fate, places in holding.items():
            for place in self._above(places, lambda place, _saved: not is_proxys(place[1])):
                found.setdefault(place, set()).add(fate)
        return found

    def _above(self, places: set[Place], passes: Callable[[Place, SavedRule], bool]) -> set[Place]:
        """``places``, and all from which rules that ``passes`` takes lead there; each rule is looked at once."""
        met = set(places)
        waiting = list(places)
        while waiting:
            place = waiting.pop()
            for name, saved in self.referrers.get(place, ()):
                source = (place[0], name)
                if source not in met and passes(source, saved):
                    met.add(source)
                    waiting.append(source)
        return met

    def proxy_chains(self) -> Iterator[tuple[Place, SavedChain]]:
        return ((place, chain) for place, chain in self.chains.items() if is_proxys(place[1]))


_FATES: dict[type, str] = {
    r.RejectWith: "REJECT",
    r.Dnat: "DNAT",
    r.DnatRange: "DNAT",
    r.Snat: "SNAT",
    r.Masquerade: "MASQUERADE",
    r.Redirect: "REDIRECT",
    r.Tproxy: "TPROXY",
    r.Notrack: "NOTRACK",
    r.Queue: "QUEUE",
}


def fate_of(rule: Rule) -> str:
    """The name of the verdict or rewriting target; empty for everything that lets the packet go on as it is."""
    target = rule.target
    if isinstance(target, r.Verdict):
        return target.value
    if isinstance(target, r.UnknownTarget):
        return target.text.removeprefix("-j ").partition(" ")[0]
    return _FATES.get(type(target), "")


def is_unconditional(rule: Rule) -> bool:
    return all(isinstance(match, r.Comment | r.Nfacct) for match in rule.matches)


def _ends_by_itself(chain: SavedChain) -> bool:
    return any(fate_of(saved.rule) in ENDINGS for saved in _unconditional(chain))


def _unconditional(chain: SavedChain) -> list[SavedRule]:
    """The rules that every packet meets that no rule before took, up to where none goes on."""
    found = []
    for saved in chain.rules:
        if is_unconditional(saved.rule):
            found.append(saved)
            if fate_of(saved.rule) in {*ENDINGS, "RETURN"} or isinstance(saved.rule.target, r.Goto):
                break
    return found
