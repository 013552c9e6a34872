"""What the tables hold, in the programs' words, and what to do where they find none.

One rule that iptables-save cannot print makes it fail for the whole table: on nft a rule that somebody added with
``nft`` in words that iptables does not have, on legacy one that needs an extension which is not installed here.
Restoring works all the same, so such a table is programmed without being read (spec: iptables.md 11): all our chains
are written anew, chains that may be stale are left alone, and what must not be there twice is asked for one by one.

``iptables -C`` finds a jump that stands before the unreadable rule and fails at it otherwise; the jump is prepended
then, and found the next time. At worst it is there twice for each time that somebody puts such a rule before ours,
which changes no packet's way. Rejected: believing the part of the dump that came before the failure; nothing says that
it is whole up to there.
"""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable

from msgspec import Struct
from msgspec.structs import replace

from kproxy.backend.base import Unread
from kproxy.backend.iptables import names
from kproxy.backend.iptables.diff import Delta
from kproxy.backend.iptables.rules import Entry, Table
from kproxy.backend.iptables.text import render_rule
from kproxy.errors import ProgramFailed, RestoreRefused
from kproxy.kernel.doors import IptablesDoor


class Dump(Struct, frozen=True):
    lines: Iterable[str]  # to be read once
    unread: tuple[Unread, ...]  # these tables have no lines


async def read_tables(door: IptablesDoor) -> Dump:
    """All tables in which we have chains. Raises KernelError where a failure says nothing about the table."""
    kept = io.BytesIO()
    unread: list[Unread] = []
    for table in Table:
        start = kept.tell()
        try:
            await door.save(table.value, kept.write)
        except ProgramFailed as error:
            kept.seek(start)
            kept.truncate()
            unread.append(Unread(table.value, str(error)))
    kept.seek(0)
    # A comment of somebody else may hold a carriage return, which ends no line.
    return Dump(io.TextIOWrapper(kept, encoding="utf-8", errors="replace", newline="\n"), tuple(unread))


async def without_doubt(delta: Delta, door: IptablesDoor, unread: Collection[Unread]) -> Delta:
    """``delta`` takes unread tables for empty; here is one that is right whatever they hold. Raises KernelError."""
    doubtful = {each.table for each in unread}
    declare = [chain for chain in delta.declare if chain[0] not in doubtful]
    for table, name in delta.declare:
        if table in doubtful:
            await _ensure(door, table, name)
    entries = [entry for entry in delta.entries if entry.table not in doubtful or not await _stands(door, entry)]
    # These alone can be deleted unseen, as writing makes them; left behind they would hold on to service chains.
    scratch = [each for each in names.SCRATCH if each[0] in doubtful]
    return replace(delta, declare=tuple(declare), entries=tuple(entries), gone=(*delta.gone, *scratch))


async def _ensure(door: IptablesDoor, table: Table, chain: str) -> None:
    """Make the chain unless it is there; one that is shared must not be emptied."""
    try:
        await door.restore(f"*{table}\n-N {chain}\nCOMMIT\n".encode())
    except RestoreRefused:
        return  # it is there; if that was not the reason, what comes next is refused as well, and raised


async def _stands(door: IptablesDoor, entry: Entry) -> bool:
    return await door.has_rule(entry.table, render_rule(entry.hook, entry.rule))
