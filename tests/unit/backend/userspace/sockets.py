"""Real sockets on loopback, both as clients and as endpoints, and listeners between them."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from msgspec.structs import replace

from kproxy.backend.userspace.apply import Listeners
from kproxy.backend.userspace.counts import Tally
from kproxy.backend.userspace.endpoints import ALWAYS, Endpoint, ServicePort
from kproxy.backend.userspace.rules import Listener, Rule, Ruleset
from kproxy.config import Config
from kproxy.model.enums import Protocol
from kproxy.model.keys import ServicePortKey
from kproxy.model.relay import Relay
from kproxy.plan.plan import Target
from kproxy.plan.relay import default_relay

TCP, UDP = Protocol.TCP, Protocol.UDP
Talk = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
DEADLINE = 20.0  # seconds; only what is broken needs them


def config(**settings: Any) -> Config:
    return Config(**{"relay_sweep": 0.01, **settings})


def free_port(protocol: Protocol = TCP, ip: str = "127.0.0.1") -> int:
    kind = socket.SOCK_STREAM if protocol is TCP else socket.SOCK_DGRAM
    with socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, kind) as probe:
        probe.bind((ip, 0))
        return int(probe.getsockname()[1])


def rule(
    port: int, *targets: Target, protocol: Protocol = TCP, ip: str = "127.0.0.1", affinity: int = 0, **relay: Any
) -> Rule:
    """``relay``: what the Service asks for, instead of the defaults."""
    return Rule(Listener(ip, port, protocol), key(protocol), targets, settings(**relay), affinity_seconds=affinity)


def key(protocol: Protocol = TCP, name: str = "web") -> ServicePortKey:
    return ServicePortKey("default", name, "", protocol)


def settings(**relay: Any) -> Relay:
    """Of a Service that asks for these."""
    return replace(default_relay(Config()), **{"connect_deadlines": (0.05, 0.1, 5.0, 5.0), **relay})


def somebody(**relay: Any) -> Endpoint:
    """One that no rule has."""
    return Endpoint(ServicePort(key(), settings(**relay)), Target("192.0.2.1", 9, local=False), ALWAYS)


def tally_of(listeners: Listeners, protocol: Protocol = TCP, name: str = "web") -> Tally:
    return listeners.tallies()[key(protocol, name)]


def rules(*wanted: Rule) -> Ruleset:
    return Ruleset({each.listener: each for each in wanted})


@contextlib.asynccontextmanager
async def listening(
    *wanted: Rule,
    caps: tuple[int, int] = (100, 100),
    elsewhere: Callable[[ServicePortKey], int] = lambda _: 0,
    **settings: Any,
) -> AsyncIterator[Listeners]:
    """Listeners that serve during the block."""
    made = Listeners(config(**settings), connections=caps[0], sessions=caps[1], chance=lambda: 0, elsewhere=elsewhere)
    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        task = group.create_task(made.run())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert made.reconcile(rules(*wanted)) == []
        yield made
        task.cancel()


@contextlib.asynccontextmanager
async def endpoint(talk: Talk, ip: str = "127.0.0.1", port: int = 0) -> AsyncIterator[Target]:
    """A TCP server that gives each connection to ``talk`` and closes it afterwards."""
    talks: set[asyncio.Task[None] | None] = set()  # nobody else holds one that waits for nothing

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        talks.add(asyncio.current_task())
        try:
            with contextlib.suppress(ConnectionError):
                await talk(reader, writer)
        finally:
            talks.discard(asyncio.current_task())
            writer.close()

    server = await asyncio.start_server(serve, ip, port)
    try:
        yield Target(ip, server.sockets[0].getsockname()[1], local=False)
    finally:
        server.close()
        for each in list(talks):
            if each is not None:
                each.cancel()


async def dial(port: int, ip: str = "127.0.0.1") -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(ip, port)


def reset(writer: asyncio.StreamWriter) -> None:
    writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def until(check: Callable[[], bool]) -> None:
    """Other callbacks of this loop make it so."""
    while not check():  # noqa: ASYNC110 -- what is looked at are counts, which tell nobody
        await asyncio.sleep(0.001)


class silent:  # noqa: N801 -- reads as a word in a with statement
    """An endpoint whose queue is full: it neither accepts nor refuses."""

    def __enter__(self) -> Target:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=0)
        address = self._listener.getsockname()
        self._guests = []
        for _ in range(3):
            guest = socket.socket()
            guest.setblocking(False)
            guest.connect_ex(address)
            self._guests.append(guest)
        return Target("127.0.0.1", address[1], local=False)

    def make_room(self) -> None:
        """Accept whoever comes; those who were not heard ask again."""
        self._listener.setblocking(False)
        asyncio.get_running_loop().add_reader(self._listener, self._accept)
        self._accept()

    def _accept(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                self._guests.append(self._listener.accept()[0])

    def __exit__(self, *_: object) -> None:
        asyncio.get_running_loop().remove_reader(self._listener)
        for each in (*self._guests, self._listener):
            each.close()
