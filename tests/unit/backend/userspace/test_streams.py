"""TCP through a listener, with real sockets, on both loops.

One flow, event by event against its specification, is test_flow's; many under churn are test_churn's. The decisions
are test_tcp's and test_balance's, limits and counts of a service port test_streams_limits'.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import resource
import socket
import threading
from hashlib import sha256
from pathlib import Path

import pytest

from kproxy.backend.userspace.apply import Listeners
from kproxy.backend.userspace.door import Door
from kproxy.backend.userspace.flow import Client
from kproxy.backend.userspace.pipes import Pipe
from kproxy.backend.userspace.streams import Streams
from kproxy.plan.plan import Target
from tests.unit.backend.userspace.sockets import (
    DEADLINE,
    dial,
    endpoint,
    free_port,
    listening,
    reset,
    rule,
    rules,
    silent,
    until,
)

SIZE = 5_000_000


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()


async def send_in_pieces(writer: asyncio.StreamWriter, data: bytes, chance: random.Random) -> None:
    at = 0
    while at < len(data):
        size = chance.choice((1, 100, 1460, 40_000, 300_000))
        writer.write(data[at : at + size])
        await writer.drain()
        at += size
    writer.write_eof()


@pytest.mark.parametrize("ip", ["127.0.0.1", "::1"])
async def test_every_byte_arrives_in_both_directions_at_once(ip: str) -> None:
    chance = random.Random(7)
    up, down = chance.randbytes(SIZE), chance.randbytes(SIZE)
    heard = asyncio.get_running_loop().create_future()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        _, got = await asyncio.gather(send_in_pieces(writer, down, chance), reader.read(-1))
        heard.set_result(sha256(got).digest())

    port = free_port(ip=ip)
    async with endpoint(talk, ip) as target, listening(rule(port, target, ip=ip)) as listeners:
        reader, writer = await dial(port, ip)
        _, got = await asyncio.gather(send_in_pieces(writer, up, chance), reader.read(-1))
        assert (sha256(got).digest(), await heard) == (sha256(down).digest(), sha256(up).digest())
        writer.close()
        counts = next(iter(listeners.counts.values()))
        await until(lambda: counts.active == 0)
        assert (counts.flows, counts.refused.total()) == (1, 0)


async def test_a_client_that_ends_first_still_gets_its_answer() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        got = await reader.read(-1)
        writer.write(b"after the end: " + got)

    port = free_port()
    async with endpoint(talk) as target, listening(rule(port, target)):
        reader, writer = await dial(port)
        writer.write(b"question")
        writer.write_eof()
        assert await reader.read(-1) == b"after the end: question"
        writer.close()


async def test_an_endpoint_that_speaks_and_ends_first_still_hears_the_client() -> None:
    heard = asyncio.get_running_loop().create_future()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"banner")
        writer.write_eof()
        heard.set_result(await reader.read(-1))

    port = free_port()
    async with endpoint(talk) as target, listening(rule(port, target)):
        reader, writer = await dial(port)
        assert await reader.read(-1) == b"banner"
        writer.write(b"late")
        writer.close()
        assert await heard == b"late"


async def test_what_a_server_says_at_once_is_heard_even_if_it_comes_with_the_connection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    has_spoken = threading.Event()

    def speak_first(server: socket.socket) -> None:
        guest, _ = server.accept()
        with guest:
            guest.send(b"banner")
            has_spoken.set()
            with contextlib.suppress(ConnectionResetError):
                guest.recv(1)

    def admit(streams: Streams, door: Door, family: int, fd: int, ip: str) -> None:
        admitted(streams, door, family, fd, ip)
        has_spoken.wait(DEADLINE)  # so both are one event

    admitted = Streams.admit
    monkeypatch.setattr(Streams, "admit", admit)
    with socket.create_server(("127.0.0.1", 0)) as server:
        target, port = Target("127.0.0.1", server.getsockname()[1], local=False), free_port()
        thread = threading.Thread(target=speak_first, args=(server,))
        thread.start()
        async with listening(rule(port, target)):
            reader, writer = await dial(port)
            assert await reader.readexactly(6) == b"banner"
            writer.close()
        thread.join()


async def test_what_was_written_before_an_end_arrives_however_slow_the_reader() -> None:
    async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"x" * SIZE)

    port = free_port()
    async with endpoint(talk) as target, listening(rule(port, target), relay_buffer=4096):
        reader, writer = await dial(port)
        writer.write_eof()
        got = 0
        while data := await reader.read(65536):
            got += len(data)
            await asyncio.sleep(0)
        assert got == SIZE
        writer.close()


async def test_a_reset_of_the_client_is_a_reset_for_the_endpoint() -> None:
    heard = asyncio.get_running_loop().create_future()

    async def talk(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        assert await reader.readexactly(5) == b"hello"
        try:
            heard.set_result(await reader.read(-1))
        except ConnectionError as error:
            heard.set_result(error)

    port = free_port()
    async with endpoint(talk) as target, listening(rule(port, target)):
        _, writer = await dial(port)
        writer.write(b"hello")
        await writer.drain()
        await asyncio.sleep(0.01)
        reset(writer)
        assert isinstance(await heard, ConnectionResetError)


async def test_a_reset_of_the_endpoint_is_a_reset_for_the_client() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        reset(writer)

    port = free_port()
    async with endpoint(talk) as target, listening(rule(port, target)):
        reader, writer = await dial(port)
        writer.write(b"x")
        with pytest.raises(ConnectionResetError):
            await reader.read(-1)
        writer.close()


@pytest.mark.parametrize("is_bulk", [True, False])
async def test_a_client_that_never_reads_stops_its_endpoint_and_loses_nothing(is_bulk: bool) -> None:
    sent, total, pipes = 0, 40_000_000, 256 if is_bulk else 0

    async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        while sent < total:
            writer.write(b"x" * 50_000)
            await writer.drain()
            sent += 50_000

    port = free_port()
    async with endpoint(talk) as target, listening(rule(port, target), relay_pipes=pipes) as listeners:
        with socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            client.setblocking(False)
            await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
            (flow,) = await flows_of(listeners)
            await until(lambda: flow.peer is not None and flow.peer.rest is not None)
            before = -1
            while sent != before:  # the kernel's buffers fill, and then nothing moves
                before = sent
                await asyncio.sleep(0.05)
            assert sent < total
            assert flow.peer is not None
            rest = flow.peer.rest
            assert isinstance(rest, Pipe) == is_bulk
            held = rest.held if isinstance(rest, Pipe) else len(rest or b"")
            assert 0 < held <= listeners.bounds.of_stall == (1 << 20 if is_bulk else 65536)
            assert not flow.rest
            got = 0
            while data := await asyncio.get_running_loop().sock_recv(client, 1 << 20):
                got += len(data)
            assert got == total


async def flows_of(listeners: Listeners) -> list[Client]:
    flows = listeners._streams._flows.live
    await until(lambda: bool(flows))
    return list(flows)


async def test_a_long_download_is_whole_whether_its_reader_begins_at_once_or_when_all_is_full() -> None:
    total = 20_000_000

    async def talk(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(bytes(range(250)) * (total // 250))

    port = free_port()
    async with endpoint(talk) as target, listening(rule(port, target)) as listeners:
        for waits in (False, True):
            reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=4096)
            if waits:
                (flow,) = await flows_of(listeners)
                await until(lambda flow=flow: flow.peer is not None and flow.peer.rest is not None)  # type: ignore[misc]
            assert sha256(await reader.read(-1)).digest() == sha256(bytes(range(250)) * (total // 250)).digest()
            writer.close()


async def test_an_endpoint_that_does_not_answer_is_passed_over_before_a_byte_is_sent() -> None:
    async with endpoint(echo) as alive:
        refuses = Target("127.0.0.1", free_port(), local=False)
        with silent() as swallows:
            port = free_port()
            async with listening(rule(port, refuses, swallows, alive)) as listeners:
                reader, writer = await dial(port)
                writer.write(b"early")
                assert await reader.readexactly(5) == b"early"
                writer.close()
                counts = next(iter(listeners.counts.values()))
                assert (counts.flows, counts.refused.total()) == (1, 0)


async def test_where_no_endpoint_answers_the_client_is_reset_and_counted() -> None:
    with silent() as swallows:
        refuses = Target("127.0.0.1", free_port(), local=False)
        port = free_port()
        deadlines = (0.01, 0.02, 0.02, 0.02)
        async with listening(rule(port, swallows, refuses, connect_deadlines=deadlines)) as listeners:
            reader, writer = await dial(port)
            with pytest.raises(ConnectionResetError):
                await reader.read(-1)
            writer.close()
            counts = next(iter(listeners.counts.values()))
            assert (counts.flows, counts.active, dict(counts.refused)) == (0, 0, {"endpoints": 1})


async def test_a_client_keeps_its_endpoint_and_without_affinity_they_take_turns() -> None:
    async def name(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(str(writer.get_extra_info("sockname")[1]).encode())

    async with endpoint(name) as first, endpoint(name) as second:
        for affinity, expected in ((10, 1), (0, 2)):
            port, got = free_port(), set()
            async with listening(rule(port, first, second, affinity=affinity)):
                for _ in range(4):
                    reader, writer = await dial(port)
                    got.add(await reader.read(-1))
                    writer.close()
            assert len(got) == expected


async def test_beyond_the_cap_clients_are_reset_at_once() -> None:
    port = free_port()
    async with endpoint(echo) as target, listening(rule(port, target), caps=(1, 1)) as listeners:
        first = await dial(port)
        first[1].write(b"x")
        assert await first[0].readexactly(1) == b"x"
        with pytest.raises(ConnectionResetError):  # while it connects or later
            await (await dial(port))[0].read(-1)
        counts = next(iter(listeners.counts.values()))
        assert (counts.active, dict(counts.refused)) == (1, {"limit": 1})
        first[1].close()
        await until(lambda: counts.active == 0)


async def test_without_files_to_open_clients_wait_until_there_are_some() -> None:
    port = free_port()
    async with endpoint(echo) as target, listening(rule(port, target), relay_accept_pause=0.02) as listeners:
        client = socket.socket()
        client.setblocking(False)
        spare = client.fileno() + 1
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        counts = next(iter(listeners.counts.values()))
        resource.setrlimit(resource.RLIMIT_NOFILE, (spare, hard))
        try:
            await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
            await until(lambda: counts.refused["files"] > 0)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        reader, writer = await asyncio.open_connection(sock=client)
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        writer.close()


@pytest.mark.parametrize("half_closed", [True, False])
async def test_idle_flows_are_reset(half_closed: bool) -> None:
    port, idle = free_port(), 86400 if half_closed else 0.05

    async def wait(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read(-1)
        await asyncio.Event().wait()

    async with endpoint(wait) as target, listening(rule(port, target, idle=idle), relay_half_closed=0.05):
        reader, writer = await dial(port)
        if half_closed:
            writer.write_eof()
        with pytest.raises(ConnectionResetError):
            await reader.read(-1)
        writer.close()


def open_files() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


async def test_many_connections_that_end_in_every_way_leave_no_file_open() -> None:
    chance = random.Random(3)

    async def use(port: int) -> None:
        reader, writer = await dial(port)
        writer.write(b"x" * chance.randrange(1, 5000))
        if chance.random() < 0.7:
            await reader.read(10)
        if chance.random() < 0.3:
            reset(writer)
        else:
            writer.close()
        with contextlib.suppress(ConnectionError):
            await writer.wait_closed()

    port = free_port()
    async with endpoint(echo) as target, listening(rule(port, target)) as listeners:
        before = open_files()
        for _ in range(10):
            await asyncio.gather(*(use(port) for _ in range(40)))
        counts = next(iter(listeners.counts.values()))
        await until(lambda: counts.active == 0 and open_files() == before)
        assert (counts.flows, counts.refused.total()) == (400, 0)


async def test_flows_survive_their_rule_and_end_with_the_program_by_a_reset() -> None:
    port = free_port()
    async with endpoint(echo) as target, endpoint(echo) as other:
        async with listening(rule(port, target)) as listeners:
            reader, writer = await dial(port)
            for wanted in ([rule(port, other)], []):
                writer.write(b"still here")
                assert await reader.readexactly(10) == b"still here"
                assert listeners.reconcile(rules(*wanted)) == []
            writer.write(b"still here")
            assert await reader.readexactly(10) == b"still here"
            with pytest.raises(ConnectionRefusedError):
                await dial(port)
        with pytest.raises(ConnectionResetError):
            await reader.read(-1)
        writer.close()
