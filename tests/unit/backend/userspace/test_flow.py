"""What one flow carries between two real connections. Beside its specification it is in test_flow_machine."""

from __future__ import annotations

import asyncio
import socket

import pytest

from kproxy.backend.userspace.reactor import READS
from tests.unit.backend.userspace.pairs import (
    becomes,
    held,
    is_reset,
    read,
    read_all,
    reset,
    segments,
    world,
    write,
)

LOTS = bytes(range(251)) * 40_000  # 10 MB; a prime, so that a lost or repeated page shows


async def test_bulk_goes_through_a_pipe_and_back_without_a_wrong_byte() -> None:
    async with world() as made:
        client, endpoint, _, end = made.begin()
        for _ in range(2):
            writing = asyncio.create_task(write(endpoint, LOTS))
            got = bytearray()
            was_bulk = False
            while len(got) < len(LOTS):
                got += await read(client)
                was_bulk |= end._is_bulk
            await writing
            assert got == LOTS
            assert was_bulk
            for n in range(200):  # then it is a conversation again
                await write(endpoint, b"%03d" % n)
                assert await read(client) == b"%03d" % n
            assert not end._is_bulk
            assert end.is_plain
        assert made.pipes.taken == 0
        assert end.moved == 2 * (len(LOTS) + 600)


async def test_where_there_is_no_pipe_bulk_is_copied() -> None:
    async with world(pipes=0) as made:
        client, endpoint, _, end = made.begin()
        writing = asyncio.create_task(write(endpoint, LOTS))
        got = bytearray()
        while len(got) < len(LOTS):
            got += await read(client)
        await writing
        assert got == LOTS
        assert end.moved == len(LOTS)


async def test_what_waits_goes_out_bit_by_bit() -> None:
    async with world(pipes=0) as made:
        client, endpoint, ours, end = made.begin(kernel=2048)
        ours.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2048)
        end.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        writing = asyncio.create_task(write(endpoint, LOTS[:500_000]))
        sizes = set()
        got = bytearray()
        while len(got) < 500_000:
            sizes.add(held(end))
            got += await read(client)
        await writing
        assert got == LOTS[:500_000]
        assert len(sizes) > 5


async def test_an_answer_and_the_end_that_comes_with_it_go_out_as_one_segment() -> None:
    async with world() as made:
        client, endpoint, _, end = made.begin()
        await write(client, b"question")
        assert await read(endpoint) == b"question"
        before = segments(client)
        endpoint.send(b"answer")
        endpoint.shutdown(socket.SHUT_WR)  # before anybody has a turn
        assert await read_all(client) == b"answer"
        assert segments(client) - before == 1
        assert end.has_ended
        await write(client, b"thanks")
        assert await read(endpoint) == b"thanks"


@pytest.mark.parametrize("size", [1, 30_000, 40_000, 65_535, 65_536, 65_537])
async def test_an_end_that_comes_with_the_last_bytes_is_seen_whatever_their_number(size: int) -> None:
    async with world() as made:
        client, endpoint, *_ = made.begin()
        endpoint.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        await asyncio.sleep(0)
        assert endpoint.send(LOTS[:size]) == size
        endpoint.shutdown(socket.SHUT_WR)
        assert await read_all(client) == LOTS[:size]


@pytest.mark.parametrize("meets", ["the rest", "a message", "a burst", "a pipe", "the end"])
async def test_a_reset_that_is_met_before_it_was_told_is_passed_on_all_the_same(meets: str) -> None:
    async with world() as made:
        client, endpoint, ours, end = made.begin()
        if meets == "the rest":
            end._wait(memoryview(b"x"))
        elif meets == "a pipe":
            endpoint.send(b"x")
            pipe = made.pipes.take()
            assert pipe is not None
            pipe.fill(end.sock.fileno())
            end._wait(pipe)
        elif meets == "the end":
            endpoint.shutdown(socket.SHUT_WR)
        else:
            endpoint.send(b"x")
        reset(client)
        if end.rest is not None:
            end.flush()
        else:
            if meets == "a burst":
                end._be_bulk()
            end.read(READS)
        assert ours.peer is None
        assert made.pipes.taken == 0
        await becomes(lambda: is_reset(endpoint))


async def test_what_waits_is_not_overwritten_by_what_others_say() -> None:
    async with world(pipes=0) as made:
        client, endpoint, _, end = made.begin(kernel=32768)
        writing = asyncio.create_task(write(endpoint, LOTS))
        await becomes(lambda: end.rest is not None)
        other, other_endpoint, *_ = made.begin()
        await write(other, b"-" * 30_000)
        others = 0
        while others < 30_000:
            others += len(await read(other_endpoint))
        assert end.rest is not None
        got = bytearray()
        while len(got) < len(LOTS):
            got += await read(client)
        await writing
        assert got == LOTS


@pytest.mark.parametrize("pipes", [0, 8])
async def test_an_end_behind_bytes_that_wait_comes_after_them(pipes: int) -> None:
    async with world(pipes=pipes) as made:
        client, endpoint, _, end = made.begin(kernel=32768)
        writing = asyncio.create_task(write(endpoint, LOTS))
        await becomes(lambda: end.rest is not None)
        got = bytearray()
        while not writing.done():
            got += await read(client, 30_000)
        endpoint.shutdown(socket.SHUT_WR)
        assert got + await read_all(client) == LOTS
        await write(client, b"thanks")
        assert await read(endpoint) == b"thanks"


@pytest.mark.parametrize("resets", [0, 1], ids=["client", "endpoint"])
@pytest.mark.parametrize("ends", ["nobody", "itself", "its peer"])
async def test_a_reset_is_a_reset_whoever_has_ended_before(resets: int, ends: str) -> None:
    async with world() as made:
        both = made.begin()[:2]
        one, other = both[resets], both[1 - resets]
        if ends == "itself":
            one.shutdown(socket.SHUT_WR)
            assert await read(other) == b""
        elif ends == "its peer":
            other.shutdown(socket.SHUT_WR)
            assert await read(one) == b""
        reset(one)
        await becomes(lambda: is_reset(other))
        assert len(made.over) == 1
        if ends != "itself":
            with pytest.raises(ConnectionResetError):
                await read(other)


async def test_a_reset_of_a_side_that_nobody_reads_is_noticed() -> None:
    async with world(pipes=0) as made:
        client, endpoint, _, end = made.begin(kernel=32768)
        writing = asyncio.create_task(write(endpoint, LOTS))
        await becomes(lambda: end.rest is not None)
        writing.cancel()
        reset(endpoint)
        await becomes(lambda: is_reset(client))


@pytest.mark.parametrize("is_met_first", [True, False])
async def test_what_was_said_before_a_reset_is_passed_on(is_met_first: bool) -> None:
    """A server that answers and closes without having read the request resets; its answer is worth having."""
    async with world() as made:
        client, endpoint, *_ = made.begin()
        for _ in range(3):
            await asyncio.sleep(0)
        if is_met_first:  # sending to the endpoint fails before its answer is read
            client.send(b"x" * 1000)
        endpoint.send(b"413 too large")
        reset(endpoint)
        assert await read(client) == b"413 too large"
        await becomes(lambda: is_reset(client))


async def test_urgent_bytes_stay_where_they_were_said_and_hold_up_nothing() -> None:
    async with world() as made:
        client, endpoint, _, _ = made.begin()
        for one, other in ((client, endpoint), (endpoint, client)):
            one.send(b"before")
            one.send(b"!", socket.MSG_OOB)
            one.send(b"after")
            got = b""
            while len(got) < 12:
                got += await read(other)
            assert got == b"before!after"


async def test_a_flow_that_never_stops_leaves_others_their_turn() -> None:
    async with world(buffer=4096, pipes=0) as made:
        noisy, sink, *_ = made.begin()
        client, endpoint, *_ = made.begin()
        async with asyncio.TaskGroup() as group:
            writing = group.create_task(write(noisy, LOTS))
            reading = group.create_task(_sink(sink, len(LOTS)))
            turns = 0
            while not reading.done() and turns < 50:
                await write(client, b"?")
                assert await read(endpoint) == b"?"
                turns += 1
            assert turns == 50 or writing.done()


async def _sink(sock: socket.socket, size: int) -> None:
    while size:
        size -= len(await read(sock))
