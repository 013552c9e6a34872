"""SCTP without the kernel's SCTP: an INIT is asked and an INIT-ACK answered through raw sockets.

Two packets are all that translation needs, and few test machines load the sctp module. The answer's state cookie
carries what other servers say in JSON. A raw socket sees every SCTP packet of its host; each side picks its own ports.

Source of the rules: RFC 9260, 3.1 (common header), 3.3.2 (INIT), 3.3.3 (INIT ACK), appendix A (CRC32c); conntrack
checks the sum and the verification tag.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from kproxy.sandbox.host import Host
from kproxy.sandbox.workload import describe

_PROTOCOL = 132
_INIT, _INIT_ACK, _ABORT = 1, 2, 6
_COOKIE = 7  # parameter: state cookie
_POLYNOMIAL = 0x82F63B78


def _make_table() -> list[int]:
    table = []
    for number in range(256):
        rest = number
        for _ in range(8):
            rest = (rest >> 1) ^ (_POLYNOMIAL if rest & 1 else 0)
        table.append(rest)
    return table


_TABLE = _make_table()


def _checksum(packet: bytes) -> bytes:
    rest = 0xFFFFFFFF
    for byte in packet:
        rest = (rest >> 8) ^ _TABLE[(rest ^ byte) & 0xFF]
    return struct.pack("<I", rest ^ 0xFFFFFFFF)


@dataclass(frozen=True, slots=True)
class Chunk:
    """The first chunk of a packet, with what the common header says."""

    source: int
    destination: int
    kind: int
    tag: int  # the sender's initiate tag
    cookie: bytes = b""


def build(chunk: Chunk, verification: int) -> bytes:
    """A packet with an INIT, or an INIT-ACK with a cookie."""
    value = struct.pack("!IIHHI", chunk.tag, 65536, 1, 1, chunk.tag)
    if chunk.cookie:
        padding = b"\0" * (-len(chunk.cookie) % 4)
        value += struct.pack("!HH", _COOKIE, 4 + len(chunk.cookie)) + chunk.cookie + padding
    body = struct.pack("!BBH", chunk.kind, 0, 4 + len(value)) + value
    ports = struct.pack("!HHI", chunk.source, chunk.destination, verification)
    return ports + _checksum(ports + b"\0\0\0\0" + body) + body


def parse(packet: bytes) -> Chunk | None:
    """The first chunk, or None for what is too short to have one."""
    if len(packet) < 16:
        return None
    source, destination = struct.unpack_from("!HH", packet)
    kind = packet[12]
    tag = struct.unpack_from("!I", packet, 16)[0] if len(packet) >= 20 else 0
    cookie = b""
    if kind == _INIT_ACK and len(packet) > 36:
        length = struct.unpack_from("!H", packet, 34)[0]
        cookie = packet[36 : 32 + length]
    return Chunk(source, destination, kind, tag, cookie)


def _receive(raw: socket.socket) -> tuple[bytes, Any]:
    data, peer = raw.recvfrom(65536)
    if raw.family == socket.AF_INET:
        data = data[(data[0] & 15) * 4 :]
    return data, peer


def _open(host: Host, family: socket.AddressFamily) -> socket.socket:
    with host.inside():
        return socket.socket(family, socket.SOCK_RAW | socket.SOCK_NONBLOCK, _PROTOCOL)


class SctpServer:
    """Answers every INIT to one of its ports."""

    def __init__(self, name: str, host: Host, ports: Sequence[int]) -> None:
        self._name, self._host, self._ports = name, host, frozenset(ports)
        self._raw: list[socket.socket] = []

    def start(self) -> Callable[[], None]:
        """Serve on the running loop; returns what ends it."""
        loop = asyncio.get_running_loop()
        for ip in self._host.ips:
            raw = _open(self._host, socket.AF_INET6 if ":" in ip else socket.AF_INET)
            raw.bind((ip, 0))
            loop.add_reader(raw, self._answer, raw)
            self._raw.append(raw)
        return self.stop

    def stop(self) -> None:
        for raw in self._raw:
            asyncio.get_running_loop().remove_reader(raw)
            raw.close()
        self._raw.clear()

    def _answer(self, raw: socket.socket) -> None:
        with suppress(BlockingIOError):
            data, peer = _receive(raw)
            asked = parse(data)
            if asked is None or asked.kind != _INIT or asked.destination not in self._ports:
                return
            local = (raw.getsockname()[0], asked.destination)
            cookie = describe(self._name, local, (peer[0], asked.source))
            tag = int.from_bytes(os.urandom(4), "big") or 1
            answer = Chunk(asked.destination, asked.source, _INIT_ACK, tag, cookie)
            raw.sendto(build(answer, asked.tag), (peer[0], 0))


async def ask(host: Host, address: str, port: int, source_port: int, deadline: float) -> tuple[str, dict[str, str]]:
    """Send an INIT and wait: ("ok", the server's JSON), ("refused", {}) after an ABORT; raises TimeoutError."""
    loop = asyncio.get_running_loop()
    with _open(host, socket.AF_INET6 if ":" in address else socket.AF_INET) as raw:
        raw.connect((address, 0))
        tag = int.from_bytes(os.urandom(4), "big") or 1
        raw.send(build(Chunk(source_port, port, _INIT, tag), 0))
        async with asyncio.timeout(deadline):
            while True:
                data = await loop.sock_recv(raw, 65536)
                heard = parse(data[(data[0] & 15) * 4 :] if raw.family == socket.AF_INET else data)
                if heard is None or heard.destination != source_port:
                    continue
                if heard.kind == _ABORT:
                    return "refused", {}
                if heard.kind == _INIT_ACK:
                    return "ok", {**json.loads(heard.cookie), "source": raw.getsockname()[0]}
