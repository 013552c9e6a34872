"""What flows carried, by what clients dialled: read from conntrack's own accounting, both families at once.

The kernel counts the packets and bytes of every flow by itself (nf_conntrack_acct), so nothing is added to a packet's
way through the rules. Two readings together give totals: flows that ended tell their counters in a last message, and
flows that live are read from the table. Only flows that a rule sent elsewhere (status DST_NAT) matter, and the kernel
is told so both times: a socket filter leaves out the messages of all others before they wake anybody, and a dump comes
without them (before Linux 5.18 it holds all, and they are passed over here).

Rejected, with the reason:
* rules that count: a rewritten rule begins at zero, and one that only counts costs every packet of every flow;
* messages of flows that begin: the kernel would make them while the first packet of each connection waits, and they
  say nothing that the other two readings do not;
* reliable delivery (NETLINK_BROADCAST_ERROR): the kernel would keep ended flows until they are read, and a reader that
  hangs could fill the conntrack table, which is an outage for the sake of a figure.

So messages can be lost when nobody reads fast enough. The kernel counts them (SO_MEMINFO), and here they are told.
Flows in a conntrack zone of their own are not ours. ``bench/accounting.py`` measures what it costs.
Source: linux/netfilter/nfnetlink_conntrack.h, nf_conntrack_common.h, linux/filter.h; nf_conntrack-sysctl.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import socket
import struct

from kproxy.errors import KernelError
from kproxy.kernel import netlink
from kproxy.kernel.conntrack import LAYOUTS, PROTOCOLS, RETRIES, unpack_address
from kproxy.model.flow import Destination, Traffic

_GET = 1 << 8 | 1
_STATUS, _COUNTERS_ORIGINAL, _COUNTERS_REPLY, _STATUS_MASK = 3, 9, 10, 26
_BYTES = 2  # inside counters
_DST_NAT, _DYING = 1 << 5, 1 << 9  # status bits

_GROUP_DESTROYED = 3
_NETLINK_ADD_MEMBERSHIP, _NETLINK_NO_ENOBUFS, _SOL_NETLINK = 1, 5, 270
_SO_ATTACH_FILTER, _SO_RCVBUFFORCE, _SO_MEMINFO = 26, 33, 55
_MEMINFO = struct.Struct("=9I")
_MEMINFO_DROPS = 8
_RECEIVE_BUFFER = 32 << 20  # bytes at most, used only in a burst; the kernel doubles it: room for 70,000 messages

# Both counters of a flow as the kernel writes them where it may write unaligned, as on amd64 and arm64.
_HEAD = struct.pack("=HHHH", 28, _COUNTERS_ORIGINAL | 0x8000, 12, 1)
_BOTH = struct.Struct(">20xQ20xQ")

# Classic BPF: pass a message whose CTA_STATUS has DST_NAT; one without a status is left to us.
_LOAD_INDEX, _LOAD, _LOAD_WORD_AT, _LOAD_WORD_BEHIND_INDEX = 0x01, 0x00, 0x20, 0x40
_TO_INDEX, _IF_EQUAL, _IF_SET, _RETURN = 0x07, 0x15, 0x45, 0x06
_FIND_ATTRIBUTE = 0xFFFFF000 + 12  # SKF_AD_OFF + SKF_AD_NLATTR
_FILTER = (
    (_LOAD_INDEX, 0, 0, _STATUS),
    (_LOAD, 0, 0, netlink.BODY),
    (_LOAD_WORD_AT, 0, 0, _FIND_ATTRIBUTE),
    (_IF_EQUAL, 3, 0, 0),
    (_TO_INDEX, 0, 0, 0),
    (_LOAD_WORD_BEHIND_INDEX, 0, 0, netlink.ATTRIBUTE.size),
    (_IF_SET, 0, 1, _DST_NAT),
    (_RETURN, 0, 0, 0xFFFFFFFF),
    (_RETURN, 0, 0, 0),
)

_REMEMBERED = 1 << 16  # destinations; a cluster of 10,000 services has some 20,000
_LAYOUT_OF = {int(layout.domain): layout for layout in LAYOUTS.values()}
_Sums = dict[tuple[bytes, bytes, int], list[int]]  # address, port, protocol → flows, bytes in, bytes out


class _Names:
    """Destinations by what the kernel calls them. Remembered, because making one costs more than counting a flow."""

    def __init__(self) -> None:
        self._known: dict[tuple[bytes, bytes, int], Destination] = {}

    def told(self, sums: _Sums) -> dict[Destination, Traffic]:
        known = self._known
        if len(known) > _REMEMBERED:
            known.clear()
        told: dict[Destination, Traffic] = {}
        for key, sum_ in sums.items():
            destination = known.get(key)
            if destination is None:
                address, port, protocol = key
                if protocol not in PROTOCOLS:
                    continue
                destination = Destination(PROTOCOLS[protocol], unpack_address(address), int.from_bytes(port, "big"))
                known[key] = destination
            told[destination] = Traffic(*sum_)
        return told


class Accounting:
    """The real door, of the network namespace in which it is opened."""

    def __init__(self, *, deadline: float = 10.0) -> None:
        """``deadline``: seconds for each reading of the table."""
        self._deadline = deadline
        self._socket: socket.socket | None = None
        self._buffer = bytearray(1 << 16)
        self._lost_before = 0  # by sockets that were closed
        self._names = _Names()

    def open(self) -> None:
        """Flows that end are told from here on. Raises KernelError."""
        purpose = "listen to the ends of flows"
        raw = netlink.NetfilterSocket().raw
        try:
            raw.setblocking(False)
            _attach(raw)
            _widen(raw)
            # Where a message did not fit, the next one is still wanted; how many were lost is counted anyway.
            raw.setsockopt(_SOL_NETLINK, _NETLINK_NO_ENOBUFS, 1)
            raw.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _GROUP_DESTROYED)
        except OSError as error:
            raw.close()
            raise netlink.failure(error.errno or 0, purpose) from error
        self._socket = raw

    def close(self) -> None:
        if self._socket is not None:
            self._lost_before = self.lost
            self._socket.close()
            self._socket = None

    @property
    def lost(self) -> int:
        """Messages that did not fit since this object was made."""
        if self._socket is None:
            return self._lost_before
        memory = self._socket.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size)
        return self._lost_before + int(_MEMINFO.unpack(memory)[_MEMINFO_DROPS])

    async def wait(self) -> None:
        """Until a flow has ended that was not told yet."""
        loop = asyncio.get_running_loop()
        ready = asyncio.Event()
        descriptor = self._opened().fileno()
        loop.add_reader(descriptor, ready.set)
        try:
            await ready.wait()
        finally:
            loop.remove_reader(descriptor)

    def ended(self, limit: int) -> tuple[int, dict[Destination, Traffic]]:
        """What flows carried that ended since it was asked last: how many messages were read, and their sums.

        Fewer than ``limit`` messages: there are no more. Raises KernelError.
        """
        sums: _Sums = {}
        raw, buffer = self._opened(), self._buffer
        for count in range(limit):
            try:
                length = raw.recv_into(buffer)
            except BlockingIOError:
                return count, self._names.told(sums)
            except OSError as error:
                raise netlink.failure(error.errno or 0, "read the ends of flows") from error
            _add(buffer, 0, length, sums)
        return limit, self._names.told(sums)

    async def living(self) -> dict[Destination, Traffic]:
        """What the flows in the table have carried so far. In a thread, because a big table takes a while."""
        return await asyncio.to_thread(self.living_now)

    def living_now(self) -> dict[Destination, Traffic]:
        """As ``living``, here and now. Raises KernelError."""
        for _ in range(RETRIES):
            sums: _Sums = {}
            with netlink.NetfilterSocket(self._deadline) as door:
                if self._read(door, sums):
                    return self._names.told(sums)
        raise KernelError("read the counters of flows: interrupted again and again; the next reading tries anew")

    @staticmethod
    def _read(door: netlink.NetfilterSocket, sums: _Sums) -> bool:
        """One dump; says whether it is whole."""
        purpose = "read the counters of flows"
        # A flow that is just ending tells its counters in its last message, so it is not counted here.
        body = netlink.attribute(_STATUS, struct.pack(">I", _DST_NAT))
        body += netlink.attribute(_STATUS_MASK, struct.pack(">I", _DST_NAT | _DYING))
        door.send(_GET, netlink.DUMP, socket.AF_UNSPEC, body, purpose)
        while True:
            try:
                data = door.receive(purpose)
            except netlink.NetlinkError as error:
                if error.errno in {errno.EINTR, errno.ENOBUFS, errno.EAGAIN}:
                    return False
                raise
            position = 0
            while position + netlink.HEADER.size <= len(data):
                length, kind, flags, _, _ = netlink.HEADER.unpack_from(data, position)
                if kind in {netlink.ERROR, netlink.DONE}:
                    if kind == netlink.ERROR and (number := netlink.error_number(data[position:])):
                        raise netlink.failure(number, purpose)
                    return True
                if flags & netlink.DUMP_INTERRUPTED:
                    return False
                _add(data, position, position + length, sums)
                position += max((length + 3) & ~3, netlink.HEADER.size)

    def _opened(self) -> socket.socket:
        if self._socket is None:
            raise KernelError("the ends of flows are not listened to: open the door first")
        return self._socket


def _attach(raw: socket.socket) -> None:
    program = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in _FILTER))
    raw.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(_FILTER), ctypes.addressof(program)))


def _widen(raw: socket.socket) -> None:
    try:
        raw.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER)
    except OSError:  # in a user namespace; as much as net.core.rmem_max allows
        raw.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER)


def _add(data: bytes | bytearray, position: int, end: int, sums: _Sums) -> None:
    """Add one message's flow, if its destination was rewritten. Runs for every flow: hence the few steps."""
    layout = _LAYOUT_OF.get(data[position + netlink.HEADER.size])
    if layout is None or position + layout.message.size > end:
        return
    _, _, _, original, _, to, protocol, _, port, reply, answers, _, _, answers_port, _ = layout.message.unpack_from(
        data, position
    )
    if original != layout.original or reply != layout.reply or (answers == to and answers_port == port):
        return
    found = data.find(_HEAD, position + layout.message.size, end)
    if found >= 0:
        bytes_in, bytes_out = _BOTH.unpack_from(data, found)
    else:
        bytes_in, bytes_out = _search(memoryview(data), position + layout.message.size, end)
    key = (to, port, protocol)
    sum_ = sums.get(key)
    if sum_ is None:
        sums[key] = [1, bytes_in, bytes_out]
    else:
        sum_[0] += 1
        sum_[1] += bytes_in
        sum_[2] += bytes_out


def _search(data: memoryview, start: int, end: int) -> tuple[int, int]:
    """The bytes of both directions, wherever they stand; 0 where the flow is older than the accounting."""
    found = {_COUNTERS_ORIGINAL: 0, _COUNTERS_REPLY: 0}
    for number, first, last in netlink.attributes(data, start, end):
        if number in found:
            found[number] = int.from_bytes(netlink.find(data, first, last, _BYTES) or b"", "big")
    return found[_COUNTERS_ORIGINAL], found[_COUNTERS_REPLY]
