"""Conntrack entries made before their first packet: connections of our own that their peer sees from another address.

The entry says: what leaves from ``source`` leaves as ``seen``. The kernel then rewrites both directions as it would by
a rule, from the first packet on, so answers find their way to us by the ordinary means: through a bridge whose ports
are the two pods, and from a process of this very node.

Rejected: binding to the foreign address (IP_TRANSPARENT, ``-m socket --transparent``, a mark and a routing table for
it). It was tried. Nothing rewrites the answers there, so one between two ports of a bridge (flannel, kubenet)
never leaves the bridge: its client, who knows nothing of it, resets the connection; one of a process of this node
meets no PREROUTING and leaves for the client as well. Besides, that match looks for a socket for every packet that
comes to the node. Also rejected: a rule for each client, which would be a change of rules for each connection.

An entry is made, never changed into another and never removed; it ends by the timeouts of its protocol. Its addresses
are put into a message whose shape is fixed: about 10 µs for all of it, a part of which the kernel would take anyway.
Source: linux/netfilter/nfnetlink_conntrack.h.
"""

from __future__ import annotations

import errno
import socket
import struct

from kproxy.kernel import netlink
from kproxy.kernel.conntrack import LAYOUTS
from kproxy.kernel.netlink import NetfilterSocket, attribute, nested
from kproxy.model.enums import IPFamily, Protocol

_NEW = 1 << 8
_TUPLE_ORIG, _TUPLE_REPLY, _NAT_SRC, _TIMEOUT = 1, 2, 6, 7
_IP, _PROTO = 1, 2  # inside a tuple
_NUMBER, _SOURCE_PORT, _PORT = 1, 2, 3  # inside the protocol part
_FIRST_ADDRESS = {IPFamily.IPV4: 1, IPFamily.IPV6: 4}  # CTA_NAT_V4_MINIP, CTA_NAT_V6_MINIP
_NUMBERS = {Protocol.TCP: 6, Protocol.UDP: 17}
_ANSWER = 128  # bytes; more than an acknowledgement has
_HELD = 60  # seconds, unless a packet says otherwise


class Translations:
    """Of one family and protocol; a netlink socket that is open until ``close``.

    Calls do not wait: the kernel answers within the request. Addresses and ports are as on the wire, 4 or 16 and 2
    bytes.
    """

    def __init__(self, family: IPFamily, protocol: Protocol) -> None:
        """Raises KernelError."""
        self._add = _Message(family, protocol, netlink.CREATE | netlink.EXCL, sees=True)
        self._hold = _Message(family, protocol, 0, sees=False)
        self._door = NetfilterSocket()

    def close(self) -> None:
        self._door.raw.close()

    def add(self, source: bytes, port: bytes, target: bytes, target_port: bytes, seen: bytes) -> int:
        """What leaves from ``source`` for ``target`` leaves as from ``seen``, and by another port if it must.

        Returns an error number: 0 for success, EEXIST where that flow, perhaps an old one, is known already.
        """
        return self._ask(self._add.filled(source, port, target, target_port, seen))

    def hold(self, source: bytes, port: bytes, target: bytes, target_port: bytes) -> int:
        """Remember the flow for a minute, though it says nothing. Returns an error number, ENOENT if it is gone."""
        return self._ask(self._hold.filled(source, port, target, target_port))

    def _ask(self, message: bytes) -> int:
        raw = self._door.raw
        try:
            raw.send(message)
            answer = raw.recv(_ANSWER, socket.MSG_DONTWAIT)
        except OSError as error:
            return error.errno or errno.EIO
        return netlink.error_number(answer)


class _Message:
    """A request with gaps for addresses and ports; packed in one go, as filling them one by one takes seven times."""

    def __init__(self, family: IPFamily, protocol: Protocol, flags: int, *, sees: bool) -> None:
        width = 4 if family is IPFamily.IPV4 else 16
        one = _tuple(family, protocol, _TUPLE_ORIG)
        body = one + _tuple(family, protocol, _TUPLE_REPLY) + attribute(_TIMEOUT, _HELD.to_bytes(4, "big"))
        if sees:
            body += nested(_NAT_SRC, attribute(_FIRST_ADDRESS[family], bytes(width)))
        whole = netlink.message(_NEW, flags | netlink.ACK, LAYOUTS[family].domain, body)
        gaps = [*_gaps(netlink.BODY, width), *_gaps(netlink.BODY + len(one), width)]
        gaps.append(slice(len(whole) - width if sees else len(whole), len(whole)))
        begins = [0, *(gap.stop for gap in gaps)]
        self._pieces = [whole[begin : gap.start] for begin, gap in zip(begins, gaps, strict=False)]
        sizes = zip(self._pieces, gaps, strict=True)
        self._shape = struct.Struct("=" + "".join(f"{len(piece)}s{gap.stop - gap.start}s" for piece, gap in sizes))

    def filled(self, source: bytes, port: bytes, target: bytes, target_port: bytes, seen: bytes = b"") -> bytes:
        a, b, c, d, e, f, g, h, i = self._pieces
        there = (a, source, b, target, c, port, d, target_port)
        return self._shape.pack(*there, e, target, f, source, g, target_port, h, port, i, seen)


def _tuple(family: IPFamily, protocol: Protocol, kind: int) -> bytes:
    layout, address = LAYOUTS[family], bytes(4 if family is IPFamily.IPV4 else 16)
    ports = attribute(_SOURCE_PORT, bytes(2)), attribute(_PORT, bytes(2))
    return nested(
        kind,
        nested(_IP, attribute(layout.source, address), attribute(layout.destination, address)),
        nested(_PROTO, attribute(_NUMBER, bytes([_NUMBERS[protocol]])), *ports),
    )


def _gaps(start: int, width: int) -> tuple[slice, slice, slice, slice]:
    """Where source, destination and their ports are in a tuple of ``_tuple`` that begins at ``start``."""
    head = netlink.ATTRIBUTE.size
    source = start + 3 * head
    destination = source + width + head
    port = destination + width + head + 2 * head + head  # behind the protocol's number, which is padded to 4 bytes
    other = port + 4 + head  # ports are padded as well
    return (
        slice(source, source + width),
        slice(destination, destination + width),
        slice(port, port + 2),
        slice(other, other + 2),
    )
