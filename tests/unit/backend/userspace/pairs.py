"""A flow between two real TCP connections, without listeners: what its far ends say and hear."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import sys
from collections.abc import AsyncIterator, Callable

from kproxy.backend.userspace.endpoints import Endpoint
from kproxy.backend.userspace.flow import Client, End, Flows
from kproxy.backend.userspace.pipes import Pipe, Pipes
from kproxy.backend.userspace.reactor import INPUT_AND_OUTPUT, Handler, Reactor, Socket
from tests.unit.backend.userspace.sockets import DEADLINE, somebody, until

CLOSED = 7  # TCP_CLOSE of TCP_INFO


def pair(buffer: int | None) -> tuple[socket.socket, Socket]:
    """A far end, and ours. ``buffer``: bytes for which the kernel is asked, of each of the four."""
    with socket.socket() as listener:
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        if buffer:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        far = socket.socket()
        far.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if buffer:
            far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
            far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, buffer)
        far.connect(listener.getsockname())
        accepted, _ = listener.accept()
    far.setblocking(False)
    near = Socket(socket.AF_INET, socket.SOCK_STREAM, 0, accepted.detach())
    near.setblocking(False)
    return far, near


class Nobody(Handler):
    """Has the endpoint's registration until the flow has."""

    is_plain = False  # type: ignore[assignment]

    def handle(self, mask: int) -> None:
        pass

    def fail(self) -> None:
        pass


class World:
    """Flows without listeners. ``over``: the clients' ends of those that are."""

    def __init__(self, *, buffer: int = 65536, pipe: int = 262144, pipes: int = 8) -> None:
        self.reactor = Reactor(buffer)
        self.pipes = Pipes(limit=pipes, size=pipe)
        self.over: list[Client] = []
        self.flows = Flows(self.reactor, self.pipes, self.over.append)
        self.far: list[socket.socket] = []

    def begin(
        self, *, kernel: int | None = None, to: Endpoint | None = None
    ) -> tuple[socket.socket, socket.socket, End, End]:
        """The far ends of client and endpoint, and the flow's ends of both."""
        (client, near_client), (endpoint, near_endpoint) = pair(kernel), pair(kernel)
        self.far += [client, endpoint]
        self.reactor.register(Nobody(), near_endpoint, INPUT_AND_OUTPUT)
        end = self.flows.join(near_client, near_endpoint, to or somebody(), 0)
        assert end.peer is not None
        return client, endpoint, end.peer, end

    def stop(self) -> None:
        for client in list(self.flows.live):
            client.fail()
        self.reactor.stop()
        self.pipes.close()
        for each in self.far:
            each.close()


@contextlib.asynccontextmanager
async def world(**settings: int) -> AsyncIterator[World]:
    made = World(**settings)
    try:
        async with asyncio.timeout(DEADLINE):
            yield made
    finally:
        made.stop()


def held(end: End) -> int:
    """Bytes that were read from this side and that its peer has not taken."""
    return end.rest.held if isinstance(end.rest, Pipe) else len(end.rest or b"")


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def is_reset(sock: socket.socket) -> bool:
    return sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == CLOSED


def segments(sock: socket.socket) -> int:
    """Packets that have arrived so far: tcpi_segs_in of TCP_INFO."""
    return int.from_bytes(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 144)[140:], sys.byteorder)


async def read(sock: socket.socket, size: int = 1 << 20) -> bytes:
    return await asyncio.get_running_loop().sock_recv(sock, size)


async def read_all(sock: socket.socket) -> bytes:
    """Until the end. Raises ConnectionResetError."""
    got = bytearray()
    while data := await read(sock):
        got += data
    return bytes(got)


async def write(sock: socket.socket, data: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(sock, data)


async def becomes(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE):
        await until(check)
