"""Legacy tables measured from outside: has anybody else changed what our last write left?

The kernel announces nothing about legacy tables, and listing one costs as much as writing it. But IPT_SO_GET_INFO
returns the number and size of a table's rules, and where its base chains begin and end, in microseconds and without a
copy: what was there when we last looked is compared with what is there now.

Our own writes change the measure, too, and another program may come between our commit and our look at it. So a table
is measured before a write and after it. What differs before is foreign, to the byte. What was done meanwhile the base
chains tell: they are the first thing in a table, so nothing that is written behind them moves them, and ``iptables -F``
empties them. After a write that leaves them alone they must be where they were; after one that adds to them they
cannot all be empty. While a write runs nothing is compared at all.

A table that only grew is most often another program's that adds rules of its own, a container runtime's with every
container; that takes a look at the base chains, and not a comparison of everything.

What stays unseen until the tables are next compared in full (``Config.idle_sync_period``): an edit that keeps number,
size and base chains; one that, between two looks, takes rules from inner chains and adds more elsewhere; and, in the
moments of our own write only, one that spares the base chains, or one of few of their rules while we write there
ourselves. Rejected: looking for the canary chain (``-F`` leaves it standing); taking
the xtables lock around the write (its program wants the same lock and would wait for us); reading the table after each
write. Source: linux/netfilter_ipv4/ip_tables.h; the order of chains in a table is libiptc's.
"""

from __future__ import annotations

import ctypes
import errno
import re
import socket
import struct
from collections.abc import AsyncIterable, AsyncIterator, Callable
from pathlib import Path

from msgspec import Struct

from kproxy.errors import KernelError, NotPermitted
from kproxy.kernel.doors import Chunks, TableState
from kproxy.model.enums import IPFamily

TABLES = ("mangle", "nat", "filter")

_GET_INFO = 64  # IPT_SO_GET_INFO and IP6T_SO_GET_INFO alike
_INFO = struct.Struct("=32sI5I5III")
_HOOKS = 5
# Each line that matters, found by the end of the line before: one plain first character is searched fast
_EDIT = re.compile(rb"\n(?:\*(\w+)|-([ADI]) (?:PREROUTING|INPUT|FORWARD|OUTPUT|POSTROUTING) )")


def legacy_tables(family: IPFamily) -> frozenset[str]:
    """The legacy tables in use in this network namespace; asking for another one would create it."""
    name = "ip_tables_names" if family is IPFamily.IPV4 else "ip6_tables_names"
    try:
        return frozenset(Path("/proc/net", name).read_text(encoding="ascii").split())
    except OSError:
        return frozenset()  # no legacy iptables in this kernel


def read_legacy_state(family: IPFamily, table: str) -> TableState | None:
    """The table measured from outside; None where it does not exist. Raises NotPermitted, KernelError.

    Through ctypes, because the table's name goes in by the buffer that getsockopt fills, and socket.getsockopt starts
    with an empty one.
    """
    if table not in legacy_tables(family):
        return None
    buffer = ctypes.create_string_buffer(table.encode(), _INFO.size)
    length = ctypes.c_uint32(_INFO.size)
    domain, level = (socket.AF_INET, socket.SOL_IP) if family is IPFamily.IPV4 else (socket.AF_INET6, 41)
    # A UDP socket serves: the request passes through any socket of the domain, and this needs no CAP_NET_RAW.
    with socket.socket(domain, socket.SOCK_DGRAM) as door:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.getsockopt(door.fileno(), level, _GET_INFO, buffer, ctypes.byref(length)) != 0:
            number = ctypes.get_errno()
            if number == errno.EPERM:
                raise NotPermitted(f"measure legacy table {table}: EPERM; run kproxy as root or with CAP_NET_ADMIN")
            raise KernelError(f"measure legacy table {table}: {errno.errorcode.get(number, number)}")
    _, _, *numbers = _INFO.unpack(buffer.raw)
    entries, size = numbers[-2:]
    return TableState(entries=entries, size=size, hooks=tuple(numbers[: 2 * _HOOKS]))


class Change(Struct, frozen=True):
    """What another program did to a table."""

    why: str
    only_grew: bool = False  # as far as numbers tell


class Footprint:
    """What we left in the legacy tables of one family, and what others did to it since."""

    def __init__(
        self, family: IPFamily, measure: Callable[[IPFamily, str], TableState | None] = read_legacy_state
    ) -> None:
        self._family = family
        self._measure = measure
        self._left: dict[str, TableState | None] = {}  # None: not there
        self._foreign: dict[str, Change] = {}  # by table; found but not told yet
        self._scan: Scan | None = None  # of the write that is under way

    def read(self, table: str) -> None:
        """The table is about to be read as a whole: what happened to it before is no news any more."""
        self._left[table] = self._measure(self._family, table)
        self._foreign.pop(table, None)

    def begin(self) -> Scan:
        """Before a write. The result must see all of its text; whatever happens, ``end`` follows."""
        self._compare()
        self._scan = Scan()
        return self._scan

    def end(self, *, done: bool) -> None:
        """After a write; ``done``: the program said that it was."""
        scan, self._scan = self._scan or Scan(), None
        for table in TABLES:
            now, left = self._measure(self._family, table), self._left.get(table)
            if now is not None and left is not None and table not in scan.touched and now.hooks != left.hooks:
                self._foreign[table] = Change("its base chains changed while we wrote elsewhere in it")
            elif done and table in scan.added and (now is None or _has_empty_base_chains(now)):
                self._foreign[table] = Change("the rules that we wrote into its base chains are gone already")
            self._left[table] = now

    def differences(self) -> dict[str, Change]:
        """What others did, by table, each told once; nothing while we write ourselves. Raises KernelError."""
        if self._scan is not None:
            return {}
        self._compare()
        found, self._foreign = self._foreign, {}
        return found

    def _compare(self) -> None:
        for table, left in self._left.items():
            now = self._measure(self._family, table)
            if left is not None and now != left:
                self._left[table] = now
                grew = now is not None and now.entries > left.entries
                grew &= table not in self._foreign or self._foreign[table].only_grew
                self._foreign[table] = Change(_difference(left, now), only_grew=grew)


class Scan:
    """The text of a write as it passes by: the tables whose base chains it edits."""

    def __init__(self) -> None:
        self.touched: set[str] = set()
        self.added: set[str] = set()
        self._table = ""
        self._rest = b"\n"  # from the last end of a line

    def follow(self, chunks: Chunks) -> Chunks:
        """The same chunks, seen as they are taken."""
        if isinstance(chunks, bytes):
            return self.see(chunks)
        return self._follow(chunks) if isinstance(chunks, AsyncIterable) else map(self.see, chunks)

    async def _follow(self, chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            yield self.see(chunk)

    def see(self, chunk: bytes) -> bytes:
        text = self._rest + chunk
        for table, verb in _EDIT.findall(text):
            if table:
                self._table = table.decode()
            else:
                self.touched.add(self._table)
                if verb != b"D":
                    self.added.add(self._table)
        self._rest = text[text.rfind(b"\n") :]
        return chunk


def _has_empty_base_chains(state: TableState) -> bool:
    """A base chain begins at its hook's entry, and its policy, which is its last rule, is the hook's underflow."""
    return state.hooks[:_HOOKS] == state.hooks[_HOOKS:]


def _difference(left: TableState, now: TableState | None) -> str:
    if now is None:
        return "the table is gone"
    what = "its base chains changed" if left.hooks != now.hooks and left.entries == now.entries else "it changed"
    return f"{what} since our last write: {left.entries} entries, now {now.entries}"
