"""A trace of live packets: the rule that marks them, and what the kernel then tells. Gone when this process is.

Two sockets: one owns the table of the trace rule (trace_table.py) and is used for nothing else, so that the table lives
exactly as long as this process or this object; the other hears what nf_tables tells. Where legacy tables are in use, a
third hears what they log (logger.py). Legacy sightings are read first and told last: the mark of their packet came
before them, so whoever reads in this order knows which packets are ours.

Foreign traces are not ours to show: who else sets the trace bit (``nft … meta nftrace set 1``, ``-j TRACE``) makes
sightings too, and only those of packets that our rule marked are meant.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Self

from kproxy.errors import KernelError
from kproxy.kernel import netlink, sightings, trace_table
from kproxy.kernel.trace_table import Selector
from kproxy.model.enums import IPFamily
from kproxy.model.sighting import Sighting

_GROUP_NFTRACE = 9
_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP = 270, 1
_RECEIVE_BUFFER = 1 << 20  # bytes: at the highest rate, some seconds of a program that is held up
_AT_ONCE = 1000  # buffers
_GET_CHAIN, _GET_RULE = netlink.NFT | 4, netlink.NFT | 7
_DOMAINS = {IPFamily.IPV4: socket.AF_INET, IPFamily.IPV6: socket.AF_INET6}
_SECOND = "a trace is running on this node already{}: end that one first, or wait for its end"
_TOO_OLD = (
    "this kernel cannot tie a table to the program that made it (NFT_TABLE_F_OWNER, Linux 5.12), so a trace rule could "
    "outlive a crash; use a newer kernel, or `kproxy explain live` with the packet's addresses instead"
)
_LACKING = "make the trace rule: this kernel lacks a part of nf_tables that it needs (inet, ct, fib or limit)"


class TraceRunning(KernelError):
    """One trace at a time: two would mark the same packets, and each would show the other's."""


class TraceRule:
    """The rule, from ``with`` to its end; the kernel removes it, too, when this process is gone."""

    def __init__(self, selectors: Sequence[Selector], *, rate: int, every: bool) -> None:
        self._requests = trace_table.requests(selectors, rate=rate, every=every, process=os.getpid())
        self._socket: netlink.NetfilterSocket | None = None

    def __enter__(self) -> Self:
        """Raises NotPermitted, and KernelError where a trace is running or the kernel is too old."""
        door = netlink.NetfilterSocket()
        try:
            door.transact(self._requests, "make the trace rule")
        except KernelError as error:
            door.raw.close()
            raise _explain(error) from error
        self._socket = door
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def remove(self) -> bool:
        """Before the end; whether it was still there."""
        if self._socket is None:
            return False
        with suppress(KernelError):  # closing removes it as well; somebody may have been faster
            self._socket.transact([trace_table.removal()], "remove the trace rule")
        self._socket.raw.close()
        self._socket = None
        return True


def _explain(error: KernelError) -> KernelError:
    """The error with what is behind it: a kernel that has the table says no more than "not permitted"."""
    number = error.errno if isinstance(error, netlink.NetlinkError) else 0
    if number in {errno.EOPNOTSUPP, errno.EINVAL}:
        return KernelError(_TOO_OLD)
    if number == errno.ENOENT:
        return KernelError(_LACKING)
    try:
        refuse_second()
    except TraceRunning as running:
        return running
    return error


def refuse_second() -> None:
    """Raises TraceRunning where the table is there already."""
    with netlink.NetfilterSocket() as door:
        try:
            parts = door.ask(*trace_table.lookup(), "look for a trace")
        except KernelError:  # it is not there, or nobody may know
            return
    for part in parts:
        process = trace_table.process_of(netlink.find(part, netlink.BODY, len(part), 6) or b"")
        raise TraceRunning(_SECOND.format(f" (process {process})" if process else ""))


class Ear:
    """One netlink socket whose messages are sightings."""

    def __init__(self, door: netlink.NetfilterSocket, read: Callable[[bytes], Sighting | None], what: str) -> None:
        self._socket = door.raw
        self._read = read
        self._what = what
        self.lost = 0  # times that the kernel had more to tell than it could keep
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)
        self._socket.setblocking(False)

    def fileno(self) -> int:
        return self._socket.fileno()

    def close(self) -> None:
        self._socket.close()

    def hear(self) -> Iterator[Sighting]:
        """What has been told since; at some point the caller's turn comes, however much others trace.

        Raises KernelError.
        """
        for _ in range(_AT_ONCE):
            try:
                data = self._socket.recv(1 << 20)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise netlink.failure(error.errno or 0, self._what) from error
                self.lost += 1
                continue
            for part in netlink.split(data):
                if (sighting := self._read(part)) is not None:
                    yield sighting


def hear_nft() -> Ear:
    """What nf_tables tells of traced packets in this network namespace, from now on. Raises KernelError."""
    what = "listen to traced packets"
    door = netlink.NetfilterSocket()
    try:
        door.raw.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _GROUP_NFTRACE)
    except OSError as error:
        door.raw.close()
        raise netlink.failure(error.errno or 0, what) from error
    return Ear(door, sightings.read_nft, what)


class Watch:
    """Both ears at once, in the order that tells which packets are ours."""

    def __init__(self, nft: Ear, legacy: Ear | None) -> None:
        self._nft = nft
        self._legacy = legacy

    @property
    def lost(self) -> int:
        return self._nft.lost + (self._legacy.lost if self._legacy else 0)

    async def wait(self, seconds: float) -> None:
        """Until something is told, at most so long."""
        loop = asyncio.get_running_loop()
        told = asyncio.Event()
        ears = [ear for ear in (self._nft, self._legacy) if ear is not None]
        for ear in ears:
            loop.add_reader(ear.fileno(), told.set)
        try:
            async with asyncio.timeout(seconds):
                await told.wait()
        except TimeoutError:
            pass
        finally:
            for ear in ears:
                loop.remove_reader(ear.fileno())

    def hear(self) -> list[Sighting]:
        later = list(self._legacy.hear()) if self._legacy else []
        return [*self._nft.hear(), *later]


def rule_handles(family: IPFamily, table: str, chain: str) -> tuple[int, ...]:
    """The handles of a chain's rules, in their order; none where there is no such chain. Raises KernelError."""
    body = netlink.attribute(1, table.encode() + b"\0") + netlink.attribute(2, chain.encode() + b"\0")
    with netlink.NetfilterSocket() as door:
        try:
            parts = door.ask(_GET_RULE, netlink.DUMP, _DOMAINS[family], body, f"list the rules of chain {chain}")
        except netlink.NetlinkError as error:
            if error.errno == errno.ENOENT:
                return ()
            raise
    found = []
    for part in parts:
        fields = {n: part[first:last] for n, first, last in netlink.attributes(part, netlink.BODY, len(part)) if n <= 3}
        if netlink.text(fields.get(1)) == table and netlink.text(fields.get(2)) == chain and 3 in fields:
            found.append(int.from_bytes(fields[3], "big"))
    return tuple(found)


def hooked_chains(family: IPFamily) -> frozenset[tuple[str, str]]:
    """(table, chain) of those that nf_tables asks about packets of this family. Raises KernelError.

    iptables-nft-save prints every built-in chain of a table, whether the kernel has it or not.
    """
    with netlink.NetfilterSocket() as door:
        parts = door.ask(_GET_CHAIN, netlink.DUMP, _DOMAINS[family], b"", "list the chains of nf_tables")
    found = set()
    for part in parts:
        fields = {n: part[first:last] for n, first, last in netlink.attributes(part, netlink.BODY, len(part)) if n <= 4}
        if 4 in fields:
            found.add((netlink.text(fields.get(1)), netlink.text(fields.get(3))))
    return frozenset(found)
