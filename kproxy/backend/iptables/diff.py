"""What to write so that the tables hold what is wanted, and nothing else of ours.

Two comparisons with one answer. ``diff`` trusts memory: it compares the ruleset that was applied with the one that is
wanted, by identity, and looks only at what differs. ``repair`` trusts nothing: it compares what iptables-save printed,
reduced to a digest of each chain, with what is wanted; a restart on an unchanged cluster therefore writes nothing, and
a chain that somebody edited is put right without touching its neighbours.

A ``Delta`` says for each service port which of its chains to write, by name; the rules are made while they are written
and forgotten at once, because the first sync of a large cluster would not fit into the memory that a node can spare.

Chains that are not ours, and rules that are not ours in built-in chains, are never part of a Delta. KUBE-FIREWALL is
shared with the kubelet: it is created if it is missing and otherwise only entered into.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from msgspec import Struct
from msgspec.structs import replace

from kproxy.backend.iptables import dispatch, names
from kproxy.backend.iptables.compile import Ruleset
from kproxy.backend.iptables.dialect import Dialect
from kproxy.backend.iptables.dispatch import Listing
from kproxy.backend.iptables.orphans import destination_of
from kproxy.backend.iptables.rules import Chain, Entry, Table
from kproxy.backend.iptables.service import is_served, service_chains
from kproxy.backend.iptables.text import canonical, digest_chain, digest_save, render_rule
from kproxy.backend.iptables.trie import Stop
from kproxy.model.flow import Destination
from kproxy.model.keys import ServicePortKey
from kproxy.plan.plan import ServicePlan

ChainName = tuple[Table, str]


class Patch(Struct, frozen=True):
    """One service port's share of a Delta."""

    key: ServicePortKey
    plan: ServicePlan | None  # None: gone
    write: frozenset[str] | None  # names of its chains; None: all it has
    gone: tuple[str, ...] = ()  # chains that it no longer has
    had: frozenset[str] = frozenset()  # of those to write: chains that exist, with other rules

    def chains(self, dialect: Dialect) -> Iterator[Chain]:
        if self.plan is not None and (self.write is None or self.write):
            for chain in service_chains(self.plan, dialect):
                if self.write is None or chain.name in self.write:
                    yield chain


class Delta(Struct, frozen=True):
    """All that differs. Chains of ``fixed`` and ``lists`` stand after those that they jump to."""

    dialect: Dialect
    fixed: tuple[Chain, ...] = ()
    patches: tuple[Patch, ...] = ()
    lists: tuple[Chain, ...] = ()  # from dispatch
    declare: tuple[ChainName, ...] = ()  # chains that must exist, whatever is in them
    entries: tuple[Entry, ...] = ()  # in the order in which they are to be prepended
    gone: tuple[ChainName, ...] = ()  # chains of ours that no present service port accounts for
    then: Delta | None = None  # to be written after all that, see stages.py

    @property
    def is_empty(self) -> bool:
        differs = self.fixed or self.patches or self.lists or self.declare or self.entries or self.gone
        return not (differs or self.then)


class Saved(Struct, frozen=True):
    """What the tables held, as far as it concerns us."""

    digests: dict[ChainName, int]
    entered: frozenset[ChainName] = frozenset()  # (table, line) of rules in chains that are not ours alone
    datagrams: frozenset[Destination] = frozenset()  # what was dispatched, of protocols whose flows can go stale


def diff(applied: Ruleset, wanted: Ruleset) -> Delta:
    """From memory: what turns ``applied`` into ``wanted``."""
    same = applied.dialect == wanted.dialect
    patches: list[Patch] = []
    needless: list[tuple[int, Stop]] = []
    for key, plan in wanted.services.items():
        before = applied.services.get(key)
        if before is not plan or not same:
            needless += dispatch.needless(before, plan) if before else ()
            patch = _patch(key, before, plan, applied.dialect, wanted.dialect)
            patches += [patch] if patch else []
    for key, before in applied.services.items():
        if key not in wanted.services and (gone := _names(before, applied.dialect)):
            patches.append(Patch(key, None, frozenset(), gone))
    between = wanted
    if needless and same:
        between = replace(wanted, dispatch=dispatch.keeping(wanted.dispatch, needless, wanted.dialect.family))
    lists, orphans = _diff_lists(applied, between)
    known = set(applied.entries)
    return Delta(
        dialect=wanted.dialect,
        fixed=_changed(applied.fixed_chains(), wanted.fixed_chains()),
        patches=tuple(patches),
        lists=lists,
        entries=tuple(entry for entry in wanted.entries if entry not in known),
        gone=orphans,
        then=None if between is wanted else _then(between, wanted),
    )


def _then(between: Ruleset, wanted: Ruleset) -> Delta:
    lists, orphans = _diff_lists(between, wanted)
    return Delta(wanted.dialect, lists=lists, gone=orphans)


def _patch(
    key: ServicePortKey, before: ServicePlan | None, after: ServicePlan, old: Dialect, new: Dialect
) -> Patch | None:
    if before is None:
        return Patch(key, after, None) if is_served(after) else None
    had = {chain.name: chain for chain in service_chains(before, old)}
    existed = frozenset(had)
    write = frozenset(chain.name for chain in service_chains(after, new) if had.pop(chain.name, None) != chain)
    return Patch(key, after, write, tuple(sorted(had)), write & existed) if write or had else None


def _names(plan: ServicePlan, dialect: Dialect) -> tuple[str, ...]:
    return tuple(sorted(chain.name for chain in service_chains(plan, dialect)))


def _changed(before: Iterable[Chain], after: Iterable[Chain]) -> tuple[Chain, ...]:
    known = set(before)
    return tuple(chain for chain in after if chain not in known)


def _diff_lists(applied: Ruleset, wanted: Ruleset) -> tuple[tuple[Chain, ...], tuple[ChainName, ...]]:
    written: list[Chain] = []
    gone: list[ChainName] = []
    same = applied.dialect == wanted.dialect
    for before, after in zip(applied.dispatch, wanted.dispatch, strict=True):
        if before is after and same:
            continue
        had = {chain.name: chain for chain in _unshared(before, applied.dialect, after if same else None)}
        have = _unshared(after, wanted.dialect, before if same else None)
        written += (chain for chain in have if had.pop(chain.name, None) != chain)
        gone += ((after.table, name) for name in had)
    return tuple(written), tuple(gone)


def _unshared(listing: Listing, dialect: Dialect, other: Listing | None) -> Iterator[Chain]:
    """The chains of a list that are not, as the very same object, in the other."""
    shared: set[int] = set()
    if other is not None and dispatch.is_tree(other, dialect):
        shared = {id(branch.node) for branch in dispatch.branches(other, dialect)}
    for branch in dispatch.branches(listing, dialect):
        if id(branch.node) not in shared:
            yield dispatch.branch_chain(branch, listing, dialect)
    yield dispatch.root_chain(listing, dialect)


# --- against the kernel ---------------------------------------------------------------------------------------


def read_save(lines: Iterable[str]) -> Saved:
    """What iptables-save printed, of all tables that matter, reduced to what ``repair`` needs."""
    entered: set[ChainName] = set()
    datagrams: set[Destination] = set()
    mine = frozenset().union(*names.FIXED.values(), (names.FIREWALL,))

    def noticing() -> Iterator[str]:
        table = Table.MANGLE
        for line in lines:
            if line.startswith("*"):
                table = Table(line[1:].strip()) if line[1:].strip() in _TABLES else Table.MANGLE
            elif line.startswith("-A ") and not _chain_of(line).startswith("KUBE-"):
                if line.rstrip().rpartition(" ")[2] in mine:
                    entered.add((table, canonical(line)))
            elif line.startswith(f"-A {names.FIREWALL} "):
                entered.add((table, canonical(line)))
            elif table is Table.NAT and (destination := destination_of(line)):
                datagrams.add(destination)
            yield line

    digests = digest_save(noticing())
    return Saved(
        digests={(Table(table), chain): digest for (table, chain), digest in digests.items() if table in _TABLES},
        entered=frozenset(entered),
        datagrams=frozenset(datagrams),
    )


_TABLES = frozenset(table.value for table in Table)


def _chain_of(line: str) -> str:
    return line[3 : line.index(" ", 3)]


def repair(saved: Saved, wanted: Ruleset) -> Delta:
    """From the kernel's own words: what turns it into ``wanted``."""
    stale = {name for name in saved.digests if names.is_perishable(*name)}
    if stale:
        patches = [patch for patch in _repair_services(saved, wanted, stale) if patch.write]
    else:
        patches = [Patch(key, plan, None) for key, plan in wanted.services.items() if is_served(plan)]
    lists: list[Chain] = []
    for chain in wanted.dispatch_chains():
        stale.discard((chain.table, chain.name))
        if not _is_saved(saved, chain):
            lists.append(chain)
    shared = (Table.FILTER, names.FIREWALL)
    return Delta(
        dialect=wanted.dialect,
        fixed=tuple(chain for chain in wanted.fixed_chains() if not _is_saved(saved, chain)),
        patches=tuple(patches),
        lists=tuple(lists),
        declare=() if shared in saved.digests else (shared,),
        entries=tuple(entry for entry in wanted.entries if not _is_entered(saved, entry)),
        gone=tuple(sorted(stale)),
    )


def _repair_services(saved: Saved, wanted: Ruleset, stale: set[ChainName]) -> Iterator[Patch]:
    """Every service port's patch; takes from ``stale`` the chains that are wanted."""
    for key, plan in wanted.services.items():
        write = []
        for chain in service_chains(plan, wanted.dialect):
            stale.discard((chain.table, chain.name))
            if not _is_saved(saved, chain):
                write.append(chain.name)
        had = frozenset(name for name in write if (Table.NAT, name) in saved.digests)
        yield Patch(key, plan, frozenset(write), had=had)


def holds_others(saved: Saved, delta: Delta) -> bool:
    """Whether a chain that ``delta`` writes holds other rules; one that was flushed holds none."""
    found = {(chain.table, chain.name) for chain in (*delta.fixed, *delta.lists)}
    found.update((Table.NAT, name) for patch in delta.patches for name in patch.had)
    return any(saved.digests.get(name) for name in found)


def _is_saved(saved: Saved, chain: Chain) -> bool:
    digest = saved.digests.get((chain.table, chain.name))
    return digest is not None and digest == digest_chain(chain)


def _is_entered(saved: Saved, entry: Entry) -> bool:
    return (entry.table, render_rule(entry.hook, entry.rule)) in saved.entered
