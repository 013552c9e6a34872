"""Hears the ICMP errors of a host, because TCP does not tell a reset from an ICMP port unreachable.

One raw socket a family stays open for as long as the world lives; what was heard is kept by protocol and source port
of the packet that the error quotes. ``echo`` is the probe of protocol icmp.

Source of the rules: RFC 792, RFC 4443, raw(7).
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from contextlib import suppress

from kproxy.sandbox.host import Host

_UNREACHABLE = {4: 3, 6: 1}  # the ICMP type, by family
_QUOTED_AT = 8  # bytes of an ICMP error before the quoted packet
_V6_HEADER = 40
PROTOCOLS = {"tcp": 6, "udp": 17, "sctp": 132}


class Errors:
    """The ICMP errors that have reached a host."""

    def __init__(self, host: Host) -> None:
        self._heard: dict[tuple[int, int, int], tuple[int, int]] = {}
        self._sockets: dict[int, socket.socket] = {}
        for family, kind, protocol in (
            (4, socket.AF_INET, socket.IPPROTO_ICMP),
            (6, socket.AF_INET6, socket.IPPROTO_ICMPV6),
        ):
            with host.inside():
                self._sockets[family] = socket.socket(kind, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
            self._sockets[family].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)

    def take(self, family: int, protocol: str, source_port: int) -> tuple[int, int] | None:
        """Type and code of an error about a packet from that port, once."""
        with suppress(BlockingIOError):
            while True:
                self._note(family, self._sockets[family].recv(65536))
        return self._heard.pop((family, PROTOCOLS[protocol], source_port), None)

    def close(self) -> None:
        for raw in self._sockets.values():
            raw.close()

    def _note(self, family: int, packet: bytes) -> None:
        if family == 4:
            packet = packet[(packet[0] & 15) * 4 :]
        if len(packet) < _QUOTED_AT or packet[0] != _UNREACHABLE[family]:
            return
        quoted = packet[_QUOTED_AT:]
        if len(quoted) < (24 if family == 4 else _V6_HEADER + 4):
            return
        protocol = quoted[9] if family == 4 else quoted[6]
        ports = quoted[(quoted[0] & 15) * 4 :] if family == 4 else quoted[_V6_HEADER:]
        source_port = struct.unpack_from("!H", ports)[0]
        self._heard[family, protocol, source_port] = (packet[0], packet[1])


async def echo(host: Host, address: str, deadline: float) -> None:
    """Send one echo request and wait for its reply; raises TimeoutError, or OSError when told unreachable."""
    request, reply = (128, 129) if ":" in address else (8, 0)
    kind, protocol = (
        (socket.AF_INET6, socket.IPPROTO_ICMPV6) if ":" in address else (socket.AF_INET, socket.IPPROTO_ICMP)
    )
    ident = os.urandom(2)
    with host.inside():
        raw = socket.socket(kind, socket.SOCK_RAW | socket.SOCK_NONBLOCK, protocol)
    with raw:
        raw.connect((address, 0))
        unsummed = struct.pack("!BBH", request, 0, 0) + ident + b"\0\1"
        raw.send(struct.pack("!BBH", request, 0, _sum(unsummed)) + ident + b"\0\1")
        async with asyncio.timeout(deadline):
            while True:
                heard = await asyncio.get_running_loop().sock_recv(raw, 65536)
                if kind == socket.AF_INET:
                    heard = heard[(heard[0] & 15) * 4 :]
                if heard[0] == reply and heard[4:6] == ident:
                    return


def _sum(packet: bytes) -> int:
    total: int = sum(struct.unpack(f"!{len(packet) // 2}H", packet))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
