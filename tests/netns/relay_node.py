"""A node whose relay serves service ports, between a client and the endpoints' host: real workers, real wires.

    client 10.77.1.2 ─ veth ─ 10.77.1.1 node 10.77.2.1 ─ veth ─ 10.77.2.2, 10.77.2.3 endpoints

The same with fd77:1:: and fd77:2::. Clients reach the relay's sockets at the node's own address; that rules lead them
there is tests/e2e's. The calling thread is in the node's network as long as this lasts, for the workers are started by
it. Sockets of this process are made in any of the three, and stay there.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from kproxy.backend.userspace.counts import Tally
from kproxy.backend.userspace.crew import Crew
from kproxy.backend.userspace.rules import Listener, Rule
from kproxy.backend.userspace.seat import Ended, Event
from kproxy.config import Config
from kproxy.model.enums import Protocol
from kproxy.model.keys import ServicePortKey
from kproxy.plan.plan import Target
from kproxy.plan.relay import default_relay
from kproxy.sandbox.host import Host

TCP, UDP = Protocol.TCP, Protocol.UDP
DEADLINE = 30.0  # seconds; only what is broken needs them
FRONT = {4: "10.77.1.1", 6: "fd77:1::1"}
CLIENT = {4: "10.77.1.2", 6: "fd77:1::2"}
INSIDE = {4: "10.77.2.1", 6: "fd77:2::1"}
ENDPOINTS = {4: ("10.77.2.2", "10.77.2.3"), 6: ("fd77:2::2", "fd77:2::3")}
_WORKERS = 2

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


class RelayNode:
    """``front`` opens a service port; everything else asks how it went."""

    def __init__(self, client: Host, node: Host, pods: Host, crew: Crew) -> None:
        self.client = client
        self.node = node
        self.pods = pods
        self.crew = crew
        self._numbers = count()
        self.keys: dict[Listener, ServicePortKey] = {}
        self.dialled: list[asyncio.StreamWriter] = []

    async def front(self, *targets: Target, protocol: Protocol = TCP, family: int = 4, **relay: Any) -> Listener:
        """A service port that is served; ``relay``: what it asks for instead of the defaults."""
        listener = self.crew.open(FRONT[family], protocol)
        self.keys[listener] = ServicePortKey("default", f"service-{next(self._numbers)}", "", protocol)
        await self.change(listener, *targets, **relay)
        return listener

    async def change(self, listener: Listener, *targets: Target, **relay: Any) -> None:
        """It has other endpoints from now on."""
        how = replace(default_relay(Config()), **relay)
        assert await self.crew.push([Rule(listener, self.keys[listener], targets, how)]) == []

    async def tally(self, listener: Listener) -> Tally:
        """Of all workers, as it is now."""
        await self.crew.refresh(DEADLINE)
        return self.crew.tallies.get(self.keys[listener], Tally())

    async def over(self, listener: Listener) -> Tally:
        """The same once all flows have ended."""
        while (tally := await self.tally(listener)).active:  # noqa: ASYNC110 -- other processes work
            await asyncio.sleep(0.01)
        return tally

    def files(self) -> int:
        """Sockets that the workers have."""
        return sum(len(sockets(worker.pid)) for worker in self.crew.serving)

    async def dial(self, listener: Listener, host: Host | None = None) -> Streams:
        """From the client's host, unless it is another."""
        with (host or self.client).inside():
            sock = socket.socket(socket.AF_INET6 if ":" in listener.ip else socket.AF_INET)
        sock.setblocking(False)
        try:
            await asyncio.get_running_loop().sock_connect(sock, (listener.ip, listener.port))
        except OSError:
            sock.close()
            raise
        streams = await asyncio.open_connection(sock=sock)
        self.dialled.append(streams[1])
        return streams

    def listening(self, ip: str = ENDPOINTS[4][0], host: Host | None = None, port: int = 0) -> socket.socket:
        """A socket of an endpoint; ``port`` 0: of the kernel's choice."""
        with (host or self.pods).inside():
            family = socket.AF_INET6 if ":" in ip else socket.AF_INET
            sock = socket.create_server((ip, port), family=family, backlog=4096)
        sock.setblocking(False)
        return sock

    @contextlib.asynccontextmanager
    async def endpoint(self, talk: Talk, ip: str = ENDPOINTS[4][0], host: Host | None = None) -> AsyncIterator[Target]:
        """Gives each connection to ``talk`` and closes it afterwards."""
        talks: set[asyncio.Task[None]] = set()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            try:
                with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
                    await talk(reader, writer)
            finally:
                writer.close()

        def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            task = asyncio.create_task(serve(reader, writer))
            talks.add(task)
            task.add_done_callback(talks.discard)

        sock = self.listening(ip, host)
        server = await asyncio.start_server(accept, sock=sock)
        try:
            yield target(sock)
        finally:
            server.close()
            for each in talks:
                each.cancel()
            await asyncio.gather(*talks, return_exceptions=True)


def target(sock: socket.socket) -> Target:
    ip, port, *_ = sock.getsockname()
    return Target(ip, port, local=False)


def reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def is_reset(streams: Streams) -> bool:
    """What becomes of a connection: it is cut, not ended. Waits until something does."""
    try:
        while await streams[0].read(65536):
            pass
    except ConnectionResetError:
        return True
    finally:
        streams[1].close()
    return False


def sockets(pid: int) -> list[str]:
    """Of a process; a file may close while one looks."""
    found = []
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            if (name := os.readlink(each)).startswith("socket:"):  # noqa: PTH115 -- it is not a path
                found.append(name)
    return found


async def wire(node: Host, link: str, other: Host, ours: Sequence[str], theirs: Sequence[str]) -> None:
    """A cable, both ends up; the other host sends everything through ``ours``."""
    await node.configure(
        [f"link add {link} type veth peer name eth0 netns {other.path}", f"link set {link} up", "link set lo up"]
        + [f"address add {_prefix(ip)} dev {link}" for ip in ours],
        giving=[other],
    )
    await other.configure(
        ["link set lo up", "link set eth0 up", *(f"address add {_prefix(ip)} dev eth0" for ip in theirs)]
        + [f"route add default via {ip}" for ip in ours]
    )


def _prefix(ip: str) -> str:
    return f"{ip}/64 nodad" if ":" in ip else f"{ip}/24"


@contextlib.asynccontextmanager
async def relay_node(**settings: Any) -> AsyncIterator[RelayNode]:
    """``settings``: of Config. In the end every worker has let go of every connection."""
    if os.geteuid() != 0:
        pytest.skip("needs root: makes network namespaces")
    hosts = client, node, pods = Host("client"), Host("node"), Host("pods", (*ENDPOINTS[4], *ENDPOINTS[6]))
    events: list[Event] = []
    try:
        await wire(node, "outside", client, tuple(FRONT.values()), tuple(CLIENT.values()))
        await wire(node, "inside", pods, tuple(INSIDE.values()), pods.ips)
        crew = Crew(Config(**settings), workers=_WORKERS, told=events.append)
        with node.inside():
            made = RelayNode(client, node, pods, crew)
            running = asyncio.create_task(crew.run())
            try:
                yield made
                assert [each for each in events if isinstance(each, Ended)] == []
            finally:
                for each in made.dialled:  # whom a failed test left
                    each.transport.abort()
                await crew.stop(0)
                await running
    finally:
        await asyncio.gather(*(host.close() for host in hosts))
