"""A Delta as inputs for iptables-restore: one, or several where one would be too much at once.

One transaction is the rule: nothing is half done, and on the legacy variant every transaction costs a read and a write
of the whole table. The nft variant is different: one first sync of 5,000 services in a single payload took minutes of
CPU where pieces took seconds (it searches its own list of pending changes again and again), so a large Delta is written
in stages there. The order of the stages keeps traffic whole: new chains before whoever jumps to them, then the lists,
then chains that exist and change, and only then are chains deleted. What exists changes late so that a service that is
there already does not run ahead of those that come: who sees its new endpoints may rely on all that was said before.
A stage that fails leaves the earlier ones in place, which nothing refers to yet or which say the same as before.

iptables-restore commits one table after the other, filter before nat as kube-proxy does, and a refusal meets only
packets that nobody translates. So a service port that loses its last endpoint is refused before its translation goes.
One that gets its first endpoint would be left alone between the two: the SYN of that moment makes a conntrack entry
that is never translated, and its connection hangs. Therefore such refusals stay until nat is written, and a second
filter part takes them away (``then``). Rejected: nat before filter in such rounds; whoever sees by the translation of
one service that a round is done would still meet the refusals of another that are to become something else.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from typing import TypeVar

from msgspec import Struct, field
from msgspec.structs import replace

from kproxy.backend.iptables.dialect import Dialect
from kproxy.backend.iptables.diff import ChainName, Delta, Patch
from kproxy.backend.iptables.rules import Chain, Entry, Table
from kproxy.backend.iptables.service import rule_count
from kproxy.backend.iptables.text import restore_text

_BLOCK = 64 * 1024  # bytes written at once
_USUAL_RULES = 20  # of a service port


class Stage(Struct, frozen=True):
    """What one iptables-restore writes."""

    dialect: Dialect
    chains: tuple[Chain, ...] = ()
    patches: tuple[Patch, ...] = ()
    delete: tuple[ChainName, ...] = ()
    declare: tuple[ChainName, ...] = ()
    entries: tuple[Entry, ...] = ()
    then: Stage | None = None  # another part of the same input

    @property
    def tables(self) -> tuple[Table, ...]:
        """In kube-proxy's order; mangle holds only the canary."""
        used = {chain.table for chain in self.chains} | {table for table, _ in (*self.delete, *self.declare)}
        used |= {entry.table for entry in self.entries}
        if self.patches:
            used.add(Table.NAT)
        return tuple(table for table in (Table.MANGLE, Table.FILTER, Table.NAT) if table in used)


def stages(delta: Delta, chunk: int | None) -> Iterator[Stage]:
    """``chunk``: most service ports, and most chains of lists, a stage; None: everything in one."""
    gone = (*((Table.NAT, name) for patch in delta.patches for name in patch.gone), *delta.gone)
    groups = [delta.patches] if chunk is None else list(_groups(delta.patches, chunk, delta.dialect))
    if chunk is None or (len(groups) <= 1 and max(len(delta.lists), len(gone)) <= chunk):
        yield _whole(delta, gone)
        return
    if len(groups) <= 1 and len(delta.lists) <= chunk:
        whole = _whole(delta, ())
        if whole.tables or whole.then:
            yield whole
    else:
        yield from _in_order(delta, chunk)
    # Emptied first, all of them: one may jump to another that is deleted in an earlier stage than itself.
    for emptied in _pieces(gone, chunk) if len(gone) > chunk else ():
        yield Stage(delta.dialect, declare=emptied)
    for deleted in _pieces(gone, chunk):
        yield Stage(delta.dialect, delete=deleted)


def _whole(delta: Delta, gone: tuple[ChainName, ...]) -> Stage:
    chains = (*delta.fixed, *delta.lists)
    return Stage(delta.dialect, chains, delta.patches, gone, delta.declare, delta.entries, _then(delta))


def _in_order(delta: Delta, chunk: int) -> Iterator[Stage]:
    if delta.fixed:
        yield Stage(delta.dialect, delta.fixed)
    for patches in _groups(_new_chains(delta.patches), chunk, delta.dialect):
        yield Stage(delta.dialect, patches=patches)
    *early, last = _pieces(delta.lists, chunk) or [()]
    for chains in early:
        yield Stage(delta.dialect, chains)
    if last or delta.declare or delta.entries or delta.then:
        yield Stage(delta.dialect, last, declare=delta.declare, entries=delta.entries, then=_then(delta))
    changed = (replace(patch, write=patch.had) for patch in delta.patches if patch.had)
    for patches in _groups(changed, chunk, delta.dialect):
        yield Stage(delta.dialect, patches=patches)


def _new_chains(patches: Iterable[Patch]) -> Iterator[Patch]:
    for patch in patches:
        write = None if patch.write is None else patch.write - patch.had
        if write is None or write:
            yield replace(patch, write=write)


def _then(delta: Delta) -> Stage | None:
    return Stage(delta.then.dialect, delta.then.lists, delete=delta.then.gone) if delta.then else None


def _groups(patches: Iterable[Patch], chunk: int, dialect: Dialect) -> Iterator[tuple[Patch, ...]]:
    """Groups of at most ``chunk`` service ports and, services being of all sizes, not many more rules than usual."""
    group: list[Patch] = []
    rules = 0
    for patch in patches:
        size = rule_count(patch.plan, dialect) if patch.plan else 0
        if group and (len(group) == chunk or rules + size > chunk * _USUAL_RULES):
            yield tuple(group)
            group, rules = [], 0
        group.append(patch)
        rules += size
    if group:
        yield tuple(group)


T = TypeVar("T")


def _pieces(whole: tuple[T, ...], size: int) -> list[tuple[T, ...]]:
    return [whole[start : start + size] for start in range(0, len(whole), size)]


class Written(Struct):
    """What went to the programs, counted on its way."""

    rules: dict[str, int] = field(default_factory=dict)  # by table
    chains: int = 0  # written
    deleted: int = 0
    transactions: int = 0
    bytes: int = 0

    def add(self, table: Table, chains: Collection[Chain], entries: int = 0) -> None:
        self.chains += len(chains)
        rules = sum(len(chain.rules) for chain in chains) + entries
        self.rules[table.value] = self.rules.get(table.value, 0) + rules


def stage_input(stage: Stage, written: Written) -> Iterator[bytes]:
    """The stage as iptables-restore reads it, in blocks; adds what it yields to ``written``."""
    written.transactions += 1
    block = bytearray()
    for piece in _pieces_of_text(stage, written):
        block += piece.encode()
        if len(block) >= _BLOCK:
            written.bytes += len(block)
            yield bytes(block)
            block.clear()
    written.bytes += len(block)
    yield bytes(block)


def _pieces_of_text(stage: Stage, written: Written) -> Iterator[str]:
    for table in stage.tables:
        delete = [name for owner, name in stage.delete if owner is table]
        entries = [entry for entry in stage.entries if entry.table is table]
        chains = [chain for chain in stage.chains if chain.table is table]
        written.deleted += len(delete)
        written.add(table, chains, len(entries))
        yield from restore_text(
            table,
            declare=[name for owner, name in stage.declare if owner is table],
            write=chains,
            groups=_patched(stage, written) if table is Table.NAT else (),
            delete=delete,
            insert=entries,
        )
    if stage.then:
        yield from _pieces_of_text(stage.then, written)


def _patched(stage: Stage, written: Written) -> Iterator[tuple[Chain, ...]]:
    """Each service port's chains, made when they are asked for and forgotten when the next are."""
    for patch in stage.patches:
        chains = tuple(patch.chains(stage.dialect))
        written.add(Table.NAT, chains)
        yield chains
