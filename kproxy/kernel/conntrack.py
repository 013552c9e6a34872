"""The node's conntrack table over raw netlink: find flows, forget flows.

Few queries: the kernel filters (CTA_FILTER, Linux 5.8), so a thousand stale flows among 130,000 cost one walk of the
kernel's table. Many queries (all UDP frontends of a cluster): one dump of the protocol, of which each message is
looked up by the bytes of what the client dialled, at the fixed place where the kernel puts them; a Flow is built only
for what matched and is not kept. Kernels that ignore CTA_FILTER send everything; nothing is trusted, every message is
matched here, too.
For IPv6 the kernel is asked by protocol and port only: on Linux 6.18 its comparison of IPv6 addresses is inverted, and
a filtered dump returns every flow but the ones that were meant.
A deletion names the original tuple and only reaches that flow, so it cannot hit another one's. Flows in a conntrack
zone are passed over: Open vSwitch follows each packet to a Service in a zone of its own, where nothing is rewritten,
and the same tuple without a zone is the flow that serves. A zone of one direction stands in the tuple, which then has
another shape, as that of other protocols has.
Rejected: the conntrack program (10 times the CPU), pyroute2 (300 times), a library of attributes for all of ctnetlink.
Source: linux/netfilter/nfnetlink_conntrack.h; spec model.md 7.
"""

from __future__ import annotations

import asyncio
import errno
import socket
import struct
from collections.abc import Iterable, Sequence
from functools import lru_cache
from pathlib import Path

from kproxy.errors import KernelError
from kproxy.kernel import netlink
from kproxy.kernel.doors import FlowQuery
from kproxy.model.enums import IPFamily, Protocol
from kproxy.model.flow import Flow

KERNEL_FILTER_LIMIT = 4  # queries; a filtered dump costs the kernel a walk of the table, a full one costs us a parse
RETRIES = 5  # of an interrupted dump (spec: model.md 7)
_BATCH = 64  # deletions a message run; their acknowledgements must fit the receive buffer

_GET, _DELETE = 1 << 8 | 1, 1 << 8 | 2
_TUPLE_ORIG, _TUPLE_REPLY, _ZONE, _FILTER = 1, 2, 18, 25
_IP, _PROTO = 1, 2  # inside a tuple
_NUMBER, _SOURCE_PORT, _PORT = 1, 2, 3  # inside the protocol part
_WANT_SOURCE, _WANT_DESTINATION = 1 << 0, 1 << 1  # CTA_FILTER flags
_WANT_PROTOCOL, _WANT_SOURCE_PORT, _WANT_PORT = 1 << 3, 1 << 4, 1 << 5

_NUMBERS = {Protocol.TCP: 6, Protocol.UDP: 17, Protocol.SCTP: 132}
PROTOCOLS = {number: protocol for protocol, number in _NUMBERS.items()}


class Layout:
    """Where the kernel puts things in a message of one family: both tuples come first, always in the same order."""

    def __init__(self, family: IPFamily) -> None:
        v4 = family is IPFamily.IPV4
        self.domain = socket.AF_INET if v4 else socket.AF_INET6
        self.source, self.destination = (1, 2) if v4 else (3, 4)  # CTA_IP_V4_SRC ... CTA_IP_V6_DST
        width = 4 if v4 else 16
        one = f"4s 4x 4x {width}s 4x {width}s 4x 4x B 3x 4x 2s 2x 4x 2s 2x"
        # length, type, flags, then both tuples: header, source, destination, protocol, source port, port
        self.message = struct.Struct(f"=I H H 8x 4x {one} {one}")
        address = netlink.attribute(self.source, bytes(width))
        tuple_length = 4 + 4 + 2 * len(address) + 4 + 3 * 8
        self.original = netlink.ATTRIBUTE.pack(tuple_length, _TUPLE_ORIG | 0x8000)
        self.reply = netlink.ATTRIBUTE.pack(tuple_length, _TUPLE_REPLY | 0x8000)


LAYOUTS = {family: Layout(family) for family in IPFamily}
_Endpoint = tuple[bytes, bytes]  # address, port, as on the wire; b"" is any


class _Wanted:
    """Queries of one protocol, arranged for lookup by what the client dialled."""

    def __init__(self, queries: Iterable[FlowQuery]) -> None:
        self.by_destination: dict[_Endpoint, list[tuple[_Endpoint, frozenset[_Endpoint]]]] = {}
        for query in queries:
            key = (_pack(query.destination), _pack_port(query.port))
            keep = frozenset((_pack(address), _pack_port(port)) for address, port in query.keep)
            answered_by = (_pack(query.reply_source), _pack_port(query.reply_port))
            self.by_destination.setdefault(key, []).append((answered_by, keep))
        keys = self.by_destination
        # The shapes of key that occur; mostly one or two, so a message costs one or two lookups.
        self.exact = any(address and port for address, port in keys)
        self.any_address = any(port and not address for address, port in keys)
        self.any_port = any(address and not port for address, port in keys)
        self.anything = (b"", b"") in keys

    def has(self, address: bytes, port: bytes, reply: _Endpoint) -> bool:
        found = self.by_destination.get
        candidates = (
            found((address, port)) if self.exact else None,
            found((b"", port)) if self.any_address else None,
            found((address, b"")) if self.any_port else None,
            found((b"", b"")) if self.anything else None,
        )
        for answers in candidates:
            for (want_address, want_port), keep in answers or ():
                if (
                    (not want_address or want_address == reply[0])
                    and (not want_port or want_port == reply[1])
                    and reply not in keep
                ):
                    return True
        return False


class Conntrack:
    """The real door of one family."""

    def __init__(self, family: IPFamily, *, deadline: float = 10.0) -> None:
        """``deadline``: seconds for each request to the kernel."""
        self._family = family
        self._layout = LAYOUTS[family]
        self._deadline = deadline

    @property
    def family(self) -> IPFamily:
        return self._family

    async def dump(self, queries: Sequence[FlowQuery]) -> list[Flow]:
        """In a thread, because a big table takes the kernel a good part of a second."""
        return await asyncio.to_thread(self.dump_now, queries)

    async def delete(self, flows: Iterable[Flow]) -> int:
        return await asyncio.to_thread(self.delete_now, list(flows))

    @staticmethod
    def count() -> int:
        return _read_number("nf_conntrack_count")

    @staticmethod
    def limit() -> int:
        return _read_number("nf_conntrack_max")

    def dump_now(self, queries: Sequence[FlowQuery]) -> list[Flow]:
        found: dict[Flow, None] = {}
        for protocol in sorted({query.protocol for query in queries}):
            mine = [query for query in queries if query.protocol is protocol]
            wanted = _Wanted(mine)
            bodies = {self._filter(query) for query in mine}
            everything = self._filter(FlowQuery(protocol))
            if len(bodies) > KERNEL_FILTER_LIMIT or everything in bodies:
                bodies = {everything}
            for body in bodies:
                found.update(dict.fromkeys(self._dump(body, _NUMBERS[protocol], wanted)))
        return list(found)

    def _dump(self, body: bytes, number: int, wanted: _Wanted) -> list[Flow]:
        """One dump. An interrupted one is repeated, and in the end taken as it is: what it found is true."""
        found: dict[Flow, None] = {}
        for _ in range(RETRIES):
            with netlink.NetfilterSocket(self._deadline) as door:
                flows, whole = self._read(door, body, number, wanted)
            found.update(dict.fromkeys(flows))
            if whole:
                break
        return list(found)

    def _read(
        self, door: netlink.NetfilterSocket, body: bytes, number: int, wanted: _Wanted
    ) -> tuple[list[Flow], bool]:
        purpose = "read the conntrack table"
        door.send(_GET, netlink.DUMP, self._layout.domain, body, purpose)
        flows: list[Flow] = []
        whole = True
        while True:
            try:
                data = door.receive(purpose)
            except netlink.NetlinkError as error:
                if error.errno in {errno.EINTR, errno.ENOBUFS, errno.EAGAIN}:
                    return flows, False
                raise
            ended, uninterrupted = self._scan(data, number, wanted, flows)
            whole = whole and uninterrupted
            if ended:
                return flows, whole

    def _scan(self, data: bytes, number: int, wanted: _Wanted, flows: list[Flow]) -> tuple[bool, bool]:
        """Add the flows of one buffer to ``flows``; says whether the dump ended and whether it was uninterrupted.

        The loop runs once for each entry of the table, 130,000 times on a busy node: hence the one unpack.
        """
        layout = self._layout
        unpack, size = layout.message.unpack_from, layout.message.size
        position, total, whole = 0, len(data), True
        while position + 16 <= total:
            if position + size > total or data[position + 4 : position + 6] in _CONTROL:
                return self._ended(data[position:]), whole
            length, _, flags, original, source, to, protocol, sport, port, reply, rsource, rto, _, rsport, rport = (
                unpack(data, position)
            )
            whole = whole and not flags & netlink.DUMP_INTERRUPTED
            if (
                protocol == number
                and original == layout.original
                and reply == layout.reply
                and wanted.has(to, port, (rsource, rsport))
                and netlink.find(data, position + netlink.BODY, position + length, _ZONE) is None
            ):
                flows.append(_flow(protocol, source, sport, to, port, rsource, rsport, rto, rport))
            position += (length + 3) & ~3
        return False, whole

    @staticmethod
    def _ended(rest: bytes) -> bool:
        for part in netlink.split(rest):
            _, kind, _, _, _ = netlink.HEADER.unpack_from(part)
            if kind == netlink.ERROR and (number := netlink.error_number(part)):
                raise netlink.failure(number, "read the conntrack table")
            if kind in {netlink.ERROR, netlink.DONE}:
                return True
        return False

    def _filter(self, query: FlowQuery) -> bytes:
        """The attributes by which the kernel leaves out what does not match."""
        number = bytes([_NUMBERS[query.protocol]])
        original, flags = self._half(number, self._layout.destination, query.destination, _PORT, query.port)
        reply, reply_flags = self._half(number, self._layout.source, query.reply_source, _SOURCE_PORT, query.reply_port)
        tuples = netlink.nested(_TUPLE_ORIG, *original)
        wishes = netlink.attribute(1, struct.pack("=I", flags))
        if reply_flags != _WANT_PROTOCOL:
            tuples += netlink.nested(_TUPLE_REPLY, *reply)
            wishes += netlink.attribute(2, struct.pack("=I", reply_flags))
        return tuples + netlink.nested(_FILTER, wishes)

    def _half(
        self, number: bytes, address_kind: int, address: str, port_kind: int, port: int
    ) -> tuple[list[bytes], int]:
        flags = _WANT_PROTOCOL
        parts = []
        if address and self._family is IPFamily.IPV4:
            parts.append(netlink.nested(_IP, netlink.attribute(address_kind, _pack(address))))
            is_source = address_kind == self._layout.source
            flags |= _WANT_SOURCE if is_source else _WANT_DESTINATION
        protocol = [netlink.attribute(_NUMBER, number)]
        if port:
            protocol.append(netlink.attribute(port_kind, _pack_port(port)))
            flags |= _WANT_SOURCE_PORT if port_kind == _SOURCE_PORT else _WANT_PORT
        parts.append(netlink.nested(_PROTO, *protocol))
        return parts, flags

    def delete_now(self, flows: Sequence[Flow]) -> int:
        purpose = "delete conntrack entries"
        gone = 0
        with netlink.NetfilterSocket(self._deadline) as door:
            for start in range(0, len(flows), _BATCH):
                requests = [
                    (_DELETE, 0, int(self._layout.domain), self._original(flow))
                    for flow in flows[start : start + _BATCH]
                ]
                for number in door.send_all(requests, purpose):
                    if number not in {0, errno.ENOENT}:
                        raise netlink.failure(number, purpose)
                    gone += number == 0
        return gone

    def _original(self, flow: Flow) -> bytes:
        return netlink.nested(
            _TUPLE_ORIG,
            netlink.nested(
                _IP,
                netlink.attribute(self._layout.source, _pack(flow.source)),
                netlink.attribute(self._layout.destination, _pack(flow.destination)),
            ),
            netlink.nested(
                _PROTO,
                netlink.attribute(_NUMBER, bytes([_NUMBERS[flow.protocol]])),
                netlink.attribute(_SOURCE_PORT, _pack_port(flow.source_port)),
                netlink.attribute(_PORT, _pack_port(flow.port)),
            ),
        )


_CONTROL = frozenset(struct.pack("=H", kind) for kind in (netlink.ERROR, netlink.DONE))


def _pack(address: str) -> bytes:
    if not address:
        return b""
    return socket.inet_pton(socket.AF_INET6 if ":" in address else socket.AF_INET, address)


def _pack_port(port: int) -> bytes:
    return port.to_bytes(2, "big") if port else b""


@lru_cache(maxsize=4096)
def unpack_address(address: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(address) == 4 else socket.AF_INET6, address)


def _flow(
    protocol: int,
    source: bytes,
    sport: bytes,
    to: bytes,
    port: bytes,
    rsource: bytes,
    rsport: bytes,
    rto: bytes,
    rport: bytes,
) -> Flow:
    number = int.from_bytes
    return Flow(
        protocol=PROTOCOLS[protocol],
        source=unpack_address(source),
        source_port=number(sport, "big"),
        destination=unpack_address(to),
        port=number(port, "big"),
        reply_source=unpack_address(rsource),
        reply_port=number(rsport, "big"),
        reply_destination=unpack_address(rto),
        reply_destination_port=number(rport, "big"),
    )


def _read_number(name: str) -> int:
    path = Path("/proc/sys/net/netfilter", name)
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise KernelError(f"{path} cannot be read ({error}); is the module nf_conntrack loaded?") from error
