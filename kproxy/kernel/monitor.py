"""Has another program removed rules of ours? Answered within two seconds, for next to no CPU.

nft variant: the kernel announces every transaction. What it deleted and, at its end, its number and the process that
made it are read from the netlink group; our own transactions are told by process id.
legacy variant: nothing is announced, so the tables are measured once a second (legacy.py).
Rejected: kube-proxy's canary chain polled with ``iptables -S`` every syncPeriod (spec: iptables.md 13): slow to notice,
costly on big tables, and blind to ``iptables -F``. Source: linux/netfilter/nf_tables.h.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Protocol

from msgspec import Struct

from kproxy.config import IptablesVariant
from kproxy.kernel import netlink
from kproxy.kernel.doors import Flush
from kproxy.kernel.legacy import TABLES, Footprint
from kproxy.model.enums import IPFamily

PREFIX = "KUBE-"
BASE_CHAINS = frozenset({"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"})

_GROUP_NFTABLES = 7
_NETLINK_ADD_MEMBERSHIP, _SOL_NETLINK = 1, 270
_RECEIVE_BUFFER = 32 << 20  # bytes at most, used only in a burst: one big transaction is announced all at once
_SO_RCVBUFFORCE = 33
_DELETED = {netlink.NFT | 2: "table", netlink.NFT | 5: "chain", netlink.NFT | 8: "rule"}
_DELETED_RULE = netlink.NFT | 8
_NAME_OF_CHAIN = 3  # NFTA_CHAIN_NAME; in a rule the chain is number 2
_FAMILIES = {2: IPFamily.IPV4, 10: IPFamily.IPV6}
_COMM = 15  # characters of a process name that the kernel keeps
_INIT_PID_NAMESPACE = 0xEFFFFFFC  # PROC_PID_INIT_INO, a constant of the kernel's interface


class Deleted(Struct, frozen=True):
    """Something that a transaction removed."""

    family: IPFamily
    table: str
    chain: str  # "" for a whole table
    kind: str  # table, chain, rule


class Generation(Struct, frozen=True):
    """One nf_tables transaction."""

    number: int  # 0: events were lost, everything may have happened
    pid: int  # in the first pid namespace
    process: str
    deleted: frozenset[Deleted]


class Writer(Protocol):
    """What the monitor asks of a door that writes: which transactions were its own."""

    @property
    def family(self) -> IPFamily: ...
    @property
    def restore_name(self) -> str: ...

    pids: deque[int]
    windows: deque[tuple[int, int | None]]
    footprint: Footprint | None  # legacy only


# --- nft ------------------------------------------------------------------------------------------------------


class NftEvents:
    """The announcements of nf_tables in this network namespace, from the moment this object is made."""

    def __init__(self) -> None:
        self._socket = netlink.NetfilterSocket().raw
        self._socket.setblocking(False)
        try:
            self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
        except OSError:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        try:
            self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _GROUP_NFTABLES)
        except OSError as error:
            self._socket.close()
            raise netlink.failure(error.errno or 0, "listen to nf_tables events") from error
        self._deleted: set[Deleted] = set()
        self._heads: set[bytes] = set()  # of messages already noted in this transaction

    def close(self) -> None:
        self._socket.close()

    async def generations(self) -> AsyncIterator[Generation]:
        """One item a transaction, for ever."""
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        loop.add_reader(self._socket.fileno(), ready.set)
        try:
            while True:
                await ready.wait()
                ready.clear()
                for generation in self._drain():
                    yield generation
        finally:
            loop.remove_reader(self._socket.fileno())

    def _drain(self) -> Iterable[Generation]:
        while True:
            try:
                data = self._socket.recv(1 << 20)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise netlink.failure(error.errno or 0, "listen to nf_tables events") from error
                self._deleted.clear()
                self._heads.clear()
                yield Generation(number=0, pid=0, process="", deleted=frozenset())
                continue
            yield from self.parse(data)

    def parse(self, data: bytes) -> Iterable[Generation]:
        """The transactions that end in this buffer; deletions of one that has not ended yet are kept for the next."""
        view = memoryview(data)
        position, total = 0, len(data)
        unpack = netlink.HEADER.unpack_from
        while position + netlink.BODY <= total:
            length, kind, _, _, _ = unpack(data, position)
            if kind in _DELETED:
                part = view[position : position + length]
                if kind != _DELETED_RULE or self._is_new(part):
                    self._note(part, _DELETED[kind])
            elif kind == netlink.NEWGEN:
                yield self._end(view[position : position + length])
            position += max((length + 3) & ~3, netlink.HEADER.size)

    def _is_new(self, part: memoryview) -> bool:
        """One transaction may delete 100,000 rules; those of a chain begin alike, up to the chain's name."""
        table, _ = netlink.ATTRIBUTE.unpack_from(part, netlink.BODY)
        chain_at = netlink.BODY + ((table + 3) & ~3)
        if chain_at + netlink.ATTRIBUTE.size > len(part):
            return True
        chain, _ = netlink.ATTRIBUTE.unpack_from(part, chain_at)
        head = bytes(part[netlink.HEADER.size : chain_at + chain])
        if head in self._heads:
            return False
        self._heads.add(head)
        return True

    def _note(self, part: memoryview, kind: str) -> None:
        family = _FAMILIES.get(part[16])
        if family is None:
            return
        table = netlink.text(netlink.find(part, netlink.BODY, len(part), 1))
        number = {"chain": _NAME_OF_CHAIN, "rule": 2}.get(kind)
        chain = "" if number is None else netlink.text(netlink.find(part, netlink.BODY, len(part), number))
        self._deleted.add(Deleted(family, table, chain, kind))

    def _end(self, part: memoryview) -> Generation:
        fields = {number: bytes(part[first:last]) for number, first, last in netlink.attributes(part, 20, len(part))}
        deleted, self._deleted = frozenset(self._deleted), set()
        self._heads.clear()
        return Generation(
            number=int.from_bytes(fields.get(1, b""), "big"),
            pid=int.from_bytes(fields.get(2, b""), "big"),
            process=netlink.text(fields.get(3)),
            deleted=deleted,
        )


# --- both -----------------------------------------------------------------------------------------------------


class FlushMonitor:
    """The real door: watches what the given writers wrote."""

    def __init__(self, variant: IptablesVariant, writers: Sequence[Writer], *, interval: float = 1.0) -> None:
        """``interval``: seconds between two looks at legacy tables; the nft variant needs none."""
        self._variant = variant
        self._writers = writers
        self._interval = interval
        # Process ids in events are the first pid namespace's. In another one they cannot be compared with ours.
        self._pids_comparable = Path("/proc/self/ns/pid").stat().st_ino == _INIT_PID_NAMESPACE

    async def flushes(self) -> AsyncIterator[Flush]:
        """For ever. Start it after the first sync: the kernel builds announcements only while somebody listens."""
        if self._variant is IptablesVariant.LEGACY:
            while True:
                for flush in self.compare():
                    yield flush
                await asyncio.sleep(self._interval)
        events = NftEvents()
        try:
            async for generation in events.generations():
                for flush in self.judge(generation):
                    yield flush
        finally:
            events.close()

    def compare(self) -> list[Flush]:
        """Legacy tables that somebody else changed; each change is told once. Raises KernelError."""
        return [
            Flush(writer.family, table, change.why, is_certain=not change.only_grew)
            for writer in self._writers
            if writer.footprint is not None
            for table, change in writer.footprint.differences().items()
        ]

    def judge(self, generation: Generation) -> list[Flush]:
        """The flushes in a transaction: none when it is ours, or removed nothing of ours."""
        if generation.number == 0:
            return [Flush(None, "", "more happened at once than the kernel could announce")]
        if self._is_ours(generation):
            return []
        touched = sorted({(gone.family, gone.table) for gone in generation.deleted if _may_be_ours(gone)})
        who = f"{generation.process or 'a process'} (pid {generation.pid})"
        return [
            Flush(
                family,
                table,
                f"{who} removed {_describe(generation.deleted, family, table)}",
                is_certain=any(
                    _is_ours(gone) for gone in generation.deleted if (gone.family, gone.table) == (family, table)
                ),
            )
            for family, table in touched
        ]

    def _is_ours(self, generation: Generation) -> bool:
        if self._pids_comparable:
            return any(generation.pid in writer.pids for writer in self._writers)
        # Next best: written by a program of that name while our own ran.
        return any(
            generation.process == writer.restore_name[:_COMM]
            and any(
                first < generation.number and (last is None or generation.number <= last)
                for first, last in writer.windows
            )
            for writer in self._writers
        )


def _may_be_ours(gone: Deleted) -> bool:
    return gone.table in TABLES and (_is_ours(gone) or gone.chain in BASE_CHAINS)


def _is_ours(gone: Deleted) -> bool:
    return gone.kind == "table" or gone.chain.startswith(PREFIX)


def _describe(deleted: frozenset[Deleted], family: IPFamily, table: str) -> str:
    mine = [gone for gone in deleted if (gone.family, gone.table) == (family, table)]
    if any(gone.kind == "table" for gone in mine):
        return f"table {table}"
    names = sorted({gone.chain for gone in mine})
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"rules of {shown} in table {table}"
