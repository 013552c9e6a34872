"""A segment that belongs to no window: does it reach the client, and under whose address?

The backend's host sends it on an established connection, far ahead of what was acknowledged. To conntrack it is
INVALID, so nobody translates its source back; if it is forwarded all the same, the client meets an address that it
never spoke to and resets the backend's connection (kubernetes/kubernetes#74839). With tcp_be_liberal it is valid. What
lies behind the window would not do: conntrack takes that for a retransmission and lets it pass.

Source of the rules: RFC 9293, 3.1; spec: iptables.md 5.
"""

from __future__ import annotations

import asyncio
import socket
import struct
from types import TracebackType
from typing import Self

from kproxy.sandbox.host import Host

_PATIENCE = 1.0  # seconds in which the client must have seen it
_MARK = b"kproxy stray segment"
ACK_PUSH, SYN_ACK = 0x18, 0x12
_FAR = 1 << 29  # more than any window is wide, less than half of all numbers


class Watch:
    """``with Watch(backend, client, port) as watch``: then let the connection speak, so that its numbers are known."""

    def __init__(self, backend: Host, client: Host, port: int) -> None:
        self._port = port
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK
        with client.inside():
            self._seeing = socket.socket(socket.AF_INET, kind, socket.IPPROTO_TCP)
        with backend.inside():
            self._sending = socket.socket(socket.AF_INET, kind, socket.IPPROTO_TCP)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._seeing.close()
        self._sending.close()

    async def disturb(self, local: str, peer: str) -> str:
        """Send one from ``local`` to ``peer``; "nothing", or how the client's host saw it."""
        source, destination = _split(local), _split(peer)
        try:
            async with asyncio.timeout(_PATIENCE):
                number, acknowledged = await self._numbers()
                self._sending.bind((source[0], 0))
                segment = build(source, destination, (number + _FAR) % 2**32, acknowledged)
                self._sending.sendto(segment, (destination[0], 0))
                while True:
                    packet = await self._receive()
                    if packet.endswith(_MARK):
                        return "translated" if socket.inet_ntoa(packet[12:16]) != source[0] else "untranslated"
        except TimeoutError:
            return "nothing"

    async def _numbers(self) -> tuple[int, int]:
        """Sequence and acknowledgement of a segment that the connection sent to the client."""
        while True:
            packet = await self._receive()
            segment = packet[(packet[0] & 15) * 4 :]
            if struct.unpack_from("!H", segment, 2)[0] == self._port:
                number, acknowledged = struct.unpack_from("!II", segment, 4)
                return number, acknowledged

    async def _receive(self) -> bytes:
        return await asyncio.get_running_loop().sock_recv(self._seeing, 65536)


def build(
    source: tuple[str, int], destination: tuple[str, int], number: int, acknowledged: int, *, flags: int = ACK_PUSH
) -> bytes:
    """A TCP segment of IPv4."""
    head = struct.pack("!HHIIBBHHH", source[1], destination[1], number, acknowledged, 5 << 4, flags, 512, 0, 0)
    addresses = socket.inet_aton(source[0]) + socket.inet_aton(destination[0])
    pseudo = addresses + struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(head) + len(_MARK))
    return head[:16] + struct.pack("!H", _checksum(pseudo + head + _MARK)) + head[18:] + _MARK


def _split(text: str) -> tuple[str, int]:
    ip, _, port = text.rpartition(":")
    return ip, int(port)


def _checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
