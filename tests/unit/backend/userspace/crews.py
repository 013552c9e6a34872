"""A crew with real workers, and what a test wants to know of them."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from kproxy.backend.userspace.counts import Tally
from kproxy.backend.userspace.crew import Crew
from kproxy.backend.userspace.rules import Listener, Rule
from kproxy.backend.userspace.seat import Ended, Event, Started
from kproxy.model.enums import Protocol
from kproxy.plan.plan import Target
from tests.unit.backend.userspace.sockets import DEADLINE, TCP, config, dial, rule, until

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


class Crewed:
    """``events``: what happened to workers."""

    def __init__(self, workers: int, **settings: Any) -> None:
        settings = {"relay_linger": 0.0, "relay_beat": 0.1, "relay_beats": 100, "relay_patience": DEADLINE, **settings}
        self.events: list[Event] = []
        self._writers: list[asyncio.StreamWriter] = []
        self.crew = Crew(config(**settings), workers=workers, told=self.events.append)

    async def serve(self, *targets: Target, protocol: Protocol = TCP, ip: str = "127.0.0.1") -> Listener:
        """A new listener for these."""
        listener = self.crew.open(ip, protocol)
        await self.again(listener, *targets)
        return listener

    async def again(self, listener: Listener, *targets: Target) -> None:
        assert await self.crew.push([rule_of(listener, *targets)]) == []

    async def started(self, count: int) -> None:
        """So many workers have begun, those that have ended included."""
        await until(lambda: sum(isinstance(each, Started) for each in self.events) >= count)

    async def ended(self) -> Ended:
        await until(lambda: any(isinstance(each, Ended) for each in self.events))
        return next(each for each in self.events if isinstance(each, Ended))

    async def dial(self, listener: Listener) -> Streams:
        """Closed at the end of the block, if not before."""
        streams = await dial(listener.port)
        self._writers.append(streams[1])
        return streams

    async def dial_each(self, listener: Listener, most: int = 2) -> dict[int, list[Streams]]:
        """``most`` connections that each worker has accepted, by process; nobody else's are left."""
        pids = self.pids()
        found: dict[int, list[Streams]] = {pid: [] for pid in pids}
        while any(len(each) < most for each in found.values()):
            reader, writer = await self.dial(listener)
            await said(reader, writer)
            pid = owner(writer, pids)
            if len(found[pid]) < most:
                found[pid].append((reader, writer))
            else:
                writer.close()
        return found

    async def tally(self) -> Tally:
        """Of the one service port that there is, by now."""
        await self.crew.refresh(DEADLINE)
        (tally,) = self.crew.tallies.values()
        return tally

    def hang_up(self) -> None:
        for each in self._writers:
            each.close()

    def pids(self) -> list[int]:
        return [each.pid for each in self.crew.serving]


def rule_of(listener: Listener, *targets: Target, **relay: Any) -> Rule:
    return rule(listener.port, *targets, protocol=listener.protocol, ip=listener.ip, **relay)


@contextlib.asynccontextmanager
async def crewed(workers: int = 2, **settings: Any) -> AsyncIterator[Crewed]:
    """It runs during the block, and leaves nothing behind."""
    made = Crewed(workers, **settings)
    async with asyncio.timeout(2 * DEADLINE), asyncio.TaskGroup() as group:
        task = group.create_task(made.crew.run())
        try:
            yield made
        finally:
            made.hang_up()
        task.cancel()
    begun = {str(each.pid) for each in made.events if isinstance(each, Started)}
    assert not begun & set(os.listdir("/proc"))  # noqa: PTH208 -- names, no paths
    assert not len(made.crew._openings)


def open_files(pid: int | str = "self") -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))  # noqa: PTH208 -- a path object for each would be garbage to count


async def said(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """An echo answers."""
    writer.write(b"hello")
    assert await reader.readexactly(5) == b"hello"


def owner(writer: asyncio.StreamWriter, pids: list[int]) -> int:
    """The worker that has the other end."""
    ours, theirs = (writer.get_extra_info(name)[1] for name in ("sockname", "peername"))
    for line in Path("/proc/net/tcp").read_text(encoding="ascii").splitlines()[1:]:
        fields = line.split()
        if (int(fields[1].partition(":")[2], 16), int(fields[2].partition(":")[2], 16)) == (theirs, ours):
            name = f"socket:[{fields[9]}]"
            for pid in pids:
                for file in Path(f"/proc/{pid}/fd").iterdir():
                    with contextlib.suppress(FileNotFoundError):
                        if os.readlink(file) == name:  # noqa: PTH115 -- a name, no path
                            return pid
    raise AssertionError("nobody has it")


class Echo(asyncio.DatagramProtocol):
    """Answers with who asked, which names the session, and what."""

    def connection_made(self, transport: Any) -> None:
        self._transport = transport

    def datagram_received(self, data: bytes, address: Any) -> None:
        self._transport.sendto(b"%d:%s" % (address[1], data), address)


@contextlib.asynccontextmanager
async def datagram_endpoint() -> AsyncIterator[Target]:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(Echo, local_addr=("127.0.0.1", 0))
    try:
        yield Target("127.0.0.1", transport.get_extra_info("sockname")[1], local=False)
    finally:
        transport.close()


class Asker:
    """A UDP client."""

    def __init__(self, port: int) -> None:
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.setblocking(False)
        self.socket.connect(("127.0.0.1", port))

    async def session(self) -> int:
        """The port of the session that carries what is said; each question is asked once."""
        loop = asyncio.get_running_loop()
        self.socket.send(b"x")
        return int((await loop.sock_recv(self.socket, 100)).partition(b":")[0])
