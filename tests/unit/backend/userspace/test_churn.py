"""Many connections of every kind at once while endpoints come, go and die: no wrong byte, and nobody refused."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
from collections import Counter
from hashlib import sha256

import pytest

from kproxy.backend.userspace.apply import Listeners
from kproxy.plan.plan import Target
from tests.unit.backend.userspace.sockets import dial, free_port, listening, reset, rule, rules, until
from tests.unit.backend.userspace.test_streams import open_files

BANNER = b"220 "
PATTERN = bytes(range(251)) * 4000


def pattern(size: int) -> bytes:
    return (PATTERN * (size // len(PATTERN) + 1))[:size]


async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Speak first, then do what the client wants: sum up what it says, send something long, or break off."""
    writer.write(BANNER)
    kind, size = await reader.readexactly(1), int(await reader.readexactly(8))
    match kind:
        case b"S":
            writer.write(sha256(await reader.read(-1)).digest())
        case b"E":
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        case b"L":
            writer.write(pattern(size))
            await writer.drain()
            assert await reader.read(-1) == b"thanks"
        case b"B":
            writer.write(b"bye")
            await reader.readexactly(1)
            reset(writer)


async def speak(writer: asyncio.StreamWriter, data: bytes, chance: random.Random) -> None:
    at = 0
    while at < len(data):
        size = chance.choice((1, 7, 1460, 20_000, 150_000))
        writer.write(data[at : at + size])
        await writer.drain()
        at += size
    writer.write_eof()


async def use(port: int, chance: random.Random) -> str:
    """One connection; which kind it was."""
    kind = chance.choice("SELB")
    size = chance.choice((0, 1, 5000, 70_000, 600_000))
    reader, writer = await dial(port)
    try:
        if chance.random() < 0.5:  # speaks early, or waits for its turn
            writer.write(f"{kind}{size:08}".encode())
            assert await reader.readexactly(4) == BANNER
        else:
            assert await reader.readexactly(4) == BANNER
            writer.write(f"{kind}{size:08}".encode())
        await KINDS[kind](reader, writer, size, chance)
    finally:
        writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()
    return kind


async def sum_up(r: asyncio.StreamReader, w: asyncio.StreamWriter, size: int, chance: random.Random) -> None:
    data = chance.randbytes(size)
    await speak(w, data, chance)
    assert await r.read(-1) == sha256(data).digest()


async def echo(r: asyncio.StreamReader, w: asyncio.StreamWriter, size: int, chance: random.Random) -> None:
    data = chance.randbytes(size)
    _, got = await asyncio.gather(speak(w, data, chance), r.read(-1))
    assert got == data


async def load(r: asyncio.StreamReader, w: asyncio.StreamWriter, size: int, chance: random.Random) -> None:
    got = bytearray()
    while len(got) < size:
        got += await r.readexactly(min(chance.choice((100, 50_000)), size - len(got)))
        if chance.random() < 0.05:
            await asyncio.sleep(0)
    w.write(b"thanks")
    w.write_eof()
    assert await r.read(-1) == b""
    assert got == pattern(size)


async def break_off(r: asyncio.StreamReader, w: asyncio.StreamWriter, _size: int, chance: random.Random) -> None:
    assert await r.readexactly(3) == b"bye"
    if chance.random() < 0.5:
        reset(w)
        return
    w.write(b"!")
    with pytest.raises(ConnectionResetError):
        await r.read(-1)


KINDS = {"S": sum_up, "E": echo, "L": load, "B": break_off}


class Cluster:
    """Endpoints of which one always lives; the rules list some of the others, alive or dead."""

    def __init__(self) -> None:
        self.listeners: dict[Target, socket.socket] = {}
        self.known: list[Target] = []
        self.tasks: set[asyncio.Task[None]] = set()

    def start(self, port: int = 0) -> None:
        sock = socket.create_server(("127.0.0.1", port), backlog=1000)
        sock.setblocking(False)
        target = Target("127.0.0.1", sock.getsockname()[1], local=False)
        self.listeners[target] = sock
        if target not in self.known:
            self.known.append(target)
        asyncio.get_running_loop().add_reader(sock, self.accept, sock)

    def accept(self, sock: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                guest, _ = sock.accept()
                task = asyncio.create_task(self.serve(guest))
                self.tasks.add(task)

    def stop(self, target: Target) -> None:
        """Whoever has reached it is served still: a listener that closes resets those whom it has not accepted."""
        sock = self.listeners.pop(target)
        self.accept(sock)
        asyncio.get_running_loop().remove_reader(sock)
        sock.close()

    async def serve(self, guest: socket.socket) -> None:
        reader, writer = await asyncio.open_connection(sock=guest)
        with contextlib.suppress(ConnectionError):
            await talk(reader, writer)
        writer.close()

    async def churn(self, listeners: Listeners, port: int, chance: random.Random) -> None:
        """A step each turn: an endpoint dies or comes back, and the rules know of it sooner or later."""
        while True:
            target = chance.choice(self.known[1:])
            if target in self.listeners:
                self.stop(target)
            else:
                with contextlib.suppress(OSError):  # its port went to somebody else meanwhile
                    self.start(target.port)
            listed = [self.known[0], *chance.sample(self.known[1:], chance.randrange(len(self.known)))]
            chance.shuffle(listed)
            assert listeners.reconcile(rules(rule(port, *listed))) == []
            for _ in range(5):
                await asyncio.sleep(0)

    async def close(self) -> None:
        for target in list(self.listeners):
            self.stop(target)
        await asyncio.gather(*self.tasks)


async def test_no_byte_is_wrong_and_nobody_is_refused_while_endpoints_come_and_go() -> None:
    chance, cluster, port = random.Random(11), Cluster(), free_port()
    for _ in range(5):
        cluster.start()
    async with listening(rule(port, *cluster.known), caps=(1000, 1)) as listeners:
        churn = asyncio.create_task(cluster.churn(listeners, port, chance))
        kinds: Counter[str] = Counter()
        for _ in range(2):
            kinds.update(await asyncio.gather(*(use(port, random.Random(n)) for n in range(150))))
        assert not churn.done()
        churn.cancel()
        counts = next(iter(listeners.counts.values()))
        await until(lambda: counts.active == 0)
        assert (counts.flows, counts.refused.total(), kinds.total()) == (300, 0, 300)
        assert min(kinds.values()) > 20
        await cluster.close()


async def test_a_great_many_short_connections_leave_nothing_open() -> None:
    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            await reader.read(1)
            writer.write(b"x")
        writer.close()

    server = await asyncio.start_server(answer, "127.0.0.1", 0, backlog=1000)
    target, port = Target("127.0.0.1", server.sockets[0].getsockname()[1], local=False), free_port()
    async with listening(rule(port, target), caps=(1000, 1)) as listeners:
        counts = next(iter(listeners.counts.values()))
        before, total = open_files(), 1000

        async def some() -> None:
            for _ in range(total // 50):
                reader, writer = await dial(port)
                writer.write(b"?")
                assert await reader.read(-1) == b"x"
                writer.close()

        await asyncio.gather(*(some() for _ in range(50)))
        await until(lambda: counts.active == 0 and open_files() <= before)
        assert (counts.flows, counts.refused.total()) == (total, 0)
        assert not listeners._streams._flows.live
        assert listeners._streams._pipes.taken == 0
    server.close()
