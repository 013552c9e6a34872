"""A segment that belongs to no window: does it reach the client, and under whose address?

The backend's host sends it on an established connection, far ahead of what was acknowledged. To conntrack it is
INVALID, so nobody translates its source back; if it is forwarded all the same, the client meets an address that it
never spoke to and resets the backend's connection (kubernetes/kubernetes#74839). With tcp_be_liberal it is valid.

Source of the rules: RFC 9293, 3.1; spec: iptables.md 5.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct

from kproxy.sandbox.host import Host

_PATIENCE = 1.0  # seconds in which the client must have seen it
_MARK = b"kproxy stray segment"
_ACK_PUSH = 0x18


def build(source: tuple[str, int], destination: tuple[str, int]) -> bytes:
    """A TCP segment of IPv4, its number taken from far away."""
    addresses = socket.inet_aton(source[0]) + socket.inet_aton(destination[0])
    far, acknowledged = struct.unpack("!II", os.urandom(8))
    head = struct.pack("!HHIIBBHHH", source[1], destination[1], far, acknowledged, 5 << 4, _ACK_PUSH, 512, 0, 0)
    pseudo = addresses + struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(head) + len(_MARK))
    checked = head[:16] + struct.pack("!H", _checksum(pseudo + head + _MARK)) + head[18:]
    return checked + _MARK


async def watch(backend: Host, client: Host, local: str, peer: str) -> str:
    """Send one from ``local`` to ``peer``; "nothing", or from which address the client's host saw it."""
    source, destination = _split(local), _split(peer)
    with client.inside():
        seeing = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_TCP)
    with backend.inside():
        sending = socket.socket(socket.AF_INET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.IPPROTO_TCP)
    with seeing, sending:
        sending.bind((source[0], 0))
        sending.sendto(build(source, destination), (destination[0], 0))
        try:
            async with asyncio.timeout(_PATIENCE):
                while True:
                    packet = await asyncio.get_running_loop().sock_recv(seeing, 65536)
                    if packet.endswith(_MARK):
                        return "translated" if socket.inet_ntoa(packet[12:16]) != source[0] else "untranslated"
        except TimeoutError:
            return "nothing"


def _split(text: str) -> tuple[str, int]:
    ip, _, port = text.rpartition(":")
    return ip, int(port)


def _checksum(data: bytes) -> int:
    data += b"\0" * (len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
