"""Both ends of what passes a relay: UDP servers and clients on loopback."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

from kproxy.backend.userspace.ancillary import UDP_GRO, UDP_SEGMENT
from kproxy.backend.userspace.apply import Listeners
from kproxy.backend.userspace.counts import Counts
from kproxy.plan.plan import Target
from tests.unit.backend.userspace.sockets import UDP

_ports = iter(range(20_000, 32_000))


class Echo:
    """A UDP server that answers with its name and what it was sent; ``seen``: who asked."""

    def __init__(self, name: str, ip: str = "127.0.0.1") -> None:
        self.name = name.encode()
        self.seen: set[tuple[object, ...]] = set()
        self.socket = udp(ip)
        self.target = Target(ip, self.socket.getsockname()[1], local=False)
        asyncio.get_running_loop().add_reader(self.socket, self._answer)

    def _answer(self) -> None:
        data, peer = self.socket.recvfrom(65536)
        self.seen.add(peer)
        self.socket.sendto(self.name + data, peer)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.socket)
        self.socket.close()


class Fountain(Echo):
    """A UDP server that sends a client so much as it asked for, all with one call that the kernel is to cut."""

    def _answer(self) -> None:
        data, peer = self.socket.recvfrom(65536)
        size, segment = struct.unpack("!II", data)
        cut = (socket.SOL_UDP, UDP_SEGMENT, struct.pack("=H", segment))
        self.socket.sendmsg([content(size)], [cut], 0, peer)


class Log:
    """A UDP server that keeps what it is sent, and how the kernel gave it."""

    def __init__(self, *, joined: bool = False) -> None:
        self.socket = udp()
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        self.socket.setsockopt(socket.SOL_UDP, UDP_GRO, joined)
        self.target = Target("127.0.0.1", self.socket.getsockname()[1], local=False)

    def read(self) -> tuple[bytes, int] | None:
        """A datagram, or several with what they are to be cut by."""
        try:
            data, messages, _, _ = self.socket.recvmsg(65536, 64)
        except BlockingIOError:
            return None
        return data, next((struct.unpack("=i", body)[0] for *_, body in messages), 0)

    async def all(self, size: int) -> list[tuple[bytes, int]]:
        """Until there are so many bytes."""
        got: list[tuple[bytes, int]] = []
        while sum(len(data) for data, _ in got) < size:
            await asyncio.sleep(0)
            while (each := self.read()) is not None:
                got.append(each)
        return got


def content(size: int) -> bytes:
    return random.Random(size).randbytes(size)


def cut(data: bytes, segment: int) -> list[bytes]:
    return [data[at : at + segment] for at in range(0, len(data), segment)]


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


def udp(ip: str = "127.0.0.1") -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_DGRAM)
    made.setblocking(False)
    made.bind((ip, 0))
    return made


@contextlib.contextmanager
def echoes(*names: str, ip: str = "127.0.0.1") -> Iterator[list[Echo]]:
    made = [Echo(name, ip) for name in names]
    try:
        yield made
    finally:
        for each in made:
            each.close()


def free_port(ip: str = "127.0.0.1") -> int:
    """Not one that the kernel gives away: these tests have it open many sockets."""
    while True:
        port = next(_ports)
        family = socket.AF_INET6 if ":" in ip else socket.AF_INET
        with socket.socket(family, socket.SOCK_DGRAM) as probe, contextlib.suppress(OSError):
            probe.bind((ip, port))
            return port


async def hear(client: socket.socket) -> tuple[bytes, tuple[object, ...]]:
    """The next datagram, and who sent it; uvloop has no ``sock_recvfrom``."""
    loop = asyncio.get_running_loop()
    while True:
        with contextlib.suppress(BlockingIOError):
            data, peer = client.recvfrom(65536)
            return data, peer[:2]
        there = loop.create_future()
        loop.add_reader(client, lambda there=there: there.done() or there.set_result(None))
        try:
            await there
        finally:
            loop.remove_reader(client)


async def ask(client: socket.socket, port: int, data: bytes = b"?", ip: str = "127.0.0.1") -> bytes:
    client.sendto(data, (ip, port))
    answer, peer = await hear(client)
    assert peer == (ip, port)
    return answer


def counts_of(listeners: Listeners) -> Counts:
    return listeners.counts[UDP]
