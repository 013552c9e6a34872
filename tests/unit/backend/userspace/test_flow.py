"""One flow between two real connections: by hand, and against its specification. Through listeners: test_streams."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import socket
import tracemalloc

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kproxy.backend.userspace import tcp
from kproxy.backend.userspace.flow import Client
from kproxy.backend.userspace.pipes import Pipe
from kproxy.backend.userspace.reactor import INPUT_AND_OUTPUT, READS
from kproxy.backend.userspace.tcp import Side
from kproxy.config import Config
from tests.unit.backend.userspace.pairs import (
    Nobody,
    World,
    becomes,
    held,
    is_reset,
    pair,
    read,
    read_all,
    reset,
    world,
    write,
)
from tests.unit.backend.userspace.sockets import DEADLINE

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


async def test_an_idle_flow_is_reset_and_one_that_moves_is_not() -> None:
    async with world() as made:
        client, endpoint, ours, _ = made.begin()
        assert isinstance(ours, Client)
        config = Config(relay_idle=10, relay_half_closed=3)
        for now in (0, 5, 9.9):
            made.flows.age(now, config)
        await write(client, b"x")
        await read(endpoint)
        for now in (12, 21):
            made.flows.age(now, config)
        client.shutdown(socket.SHUT_WR)
        assert await read(endpoint) == b""
        for now in (22, 24.9):
            made.flows.age(now, config)
        assert made.flows.live
        assert ours.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        made.flows.age(25, config)
        assert not made.flows.live
        await becomes(lambda: is_reset(client) and is_reset(endpoint))


async def test_flows_of_a_process_that_is_killed_are_reset() -> None:
    (client, near_client), (endpoint, near_endpoint) = pair(None), pair(None)
    child = os.fork()
    if not child:  # only system calls, and no loop: it is the parent's
        made = World()
        try:
            first = Client(made.flows, near_client)
            second = Client(made.flows, near_endpoint)
            first.peer, second.peer = second, first
            first.age(0, Config())
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    near_client.close()
    near_endpoint.close()
    assert (await asyncio.to_thread(os.waitpid, child, 0))[1] == signal.SIGKILL
    with client, endpoint:
        for each in (client, endpoint):
            with pytest.raises(ConnectionResetError):
                await read(each)


async def test_an_idle_flow_takes_less_than_a_kilobyte() -> None:
    async with world() as made:
        count, pairs = 200, []
        for _ in range(count):
            (client, near_client), (endpoint, near_endpoint) = pair(None), pair(None)
            made.far += [client, endpoint]
            made.reactor.register(Nobody(), near_endpoint, INPUT_AND_OUTPUT)
            pairs.append((client, near_client, endpoint, near_endpoint))
        gc.collect()
        tracemalloc.start()
        try:
            for client, near_client, endpoint, near_endpoint in pairs:
                made.flows.join(near_client, near_endpoint)
                for one, other in ((client, endpoint), (endpoint, client)):
                    await write(one, b"x" * 300)
                    await read(other)
            made.flows.age(0, Config())
            gc.collect()
            taken, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        sockets = 2 * near_client.__sizeof__()  # they were there before
        assert taken / count + sockets < 1000


async def test_flows_are_freed_without_the_collector() -> None:
    async with world() as made:
        gc.collect()
        gc.disable()
        try:
            for _ in range(20):
                client, endpoint = made.begin()[:2]
                client.close()
                assert await read(endpoint) == b""
                endpoint.close()
            await becomes(lambda: len(made.over) == 20)
            made.over.clear()
            assert not [each for each in gc.get_objects() if isinstance(each, Client)]
        finally:
            gc.enable()
        assert not any(made.reactor.handlers)


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


# --- against the specification ------------------------------------------------------------------------------------

SIDES = st.sampled_from(Side)


class Against(RuleBasedStateMachine):
    """The same happens to a flow and to the machine; in the end both far ends must have seen the same."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.machine = tcp.Relay()
        self.world = World(buffer=4096, pipe=8192, pipes=1)
        self.runner.run(self.begin())
        self.said = dict.fromkeys(Side, b"")  # by this side, as the machine sent it on
        self.heard = dict.fromkeys(Side, b"")  # by this side
        self.may_speak = set(Side)
        self.was_told = set[Side]()  # that its peer has ended
        self.was_cut = False
        self.gone = set[Side]()
        self.counter = 0

    async def begin(self) -> None:
        client, endpoint, *self.ends = self.world.begin(kernel=8192)
        self.far = {Side.CLIENT: client, Side.ENDPOINT: endpoint}

    def tell(self, event: tcp.Event) -> None:
        for command in self.machine.handle(event):
            match command:
                case tcp.Send(side, data):
                    self.said[side.peer] += data
                case tcp.EndWrites(side):
                    self.was_told.add(side)
                case tcp.Reset():
                    self.was_cut = True

    async def spin(self) -> None:
        for _ in range(4):
            await asyncio.sleep(0)

    @precondition(lambda self: not self.machine.is_over)
    @rule(side=SIDES, size=st.sampled_from([1, 100, 2048, 4096, 20_000, 100_000]))
    def say(self, side: Side, size: int) -> None:
        if side not in self.may_speak:
            return
        self.counter += 1
        data = (b"%c%07d" % (65 + len(side.value), self.counter) * (size // 8 + 1))[:size]
        with contextlib.suppress(BlockingIOError):
            sent = self.far[side].send(data)
            self.tell(tcp.Received(side, data[:sent]))
        self.runner.run(self.spin())

    @rule(side=SIDES, size=st.sampled_from([1, 5000, 1 << 20]))
    def hear(self, side: Side, size: int) -> None:
        self.runner.run(self.spin())
        if side not in self.gone:
            try:
                self.heard[side] += self.far[side].recv(size)
            except BlockingIOError:
                pass
            except ConnectionError:  # told once; what is heard afterwards means nothing
                assert self.was_cut
                self.gone.add(side)
        assert self.said[side.peer].startswith(self.heard[side])

    @precondition(lambda self: not self.machine.is_over)
    @rule(side=SIDES)
    def end(self, side: Side) -> None:
        if side in self.may_speak:
            self.may_speak.discard(side)
            self.far[side].shutdown(socket.SHUT_WR)
            self.tell(tcp.Ended(side))
            self.runner.run(self.spin())

    @precondition(lambda self: not self.machine.is_over)
    @rule(side=SIDES)
    def break_off(self, side: Side) -> None:
        reset(self.far[side])
        self.gone.add(side)
        self.tell(tcp.Broken(side))

    @precondition(lambda self: not self.machine.is_over)
    @rule()
    def expire(self) -> None:
        self.tell(tcp.Expired())
        self.ends[0].fail()

    @invariant()
    def holds_little(self) -> None:
        assert all(held(end) <= (8192 if isinstance(end.rest, Pipe) else 4096) for end in self.ends)

    def teardown(self) -> None:
        try:
            self.runner.run(self.compare())
        finally:
            self.world.stop()
            self.runner.close()

    async def compare(self) -> None:
        async with asyncio.timeout(DEADLINE):
            await asyncio.gather(*(self.hear_out(side) for side in set(Side) - self.gone))
            await becomes(lambda: len(self.world.over) == self.machine.is_over)
        if self.machine.is_over:
            assert not any(self.world.reactor.handlers)
            assert self.world.pipes.taken == 0

    async def hear_out(self, side: Side) -> None:
        whole, far = self.said[side.peer], self.far[side]
        if self.was_cut:
            try:
                while data := await read(far):
                    self.heard[side] += data
            except ConnectionError:
                pass
            else:  # an end may only be heard if it was one, and all was heard before
                assert side in self.was_told
                assert self.heard[side] == whole
            assert whole.startswith(self.heard[side])
            await becomes(lambda: is_reset(far))
            return
        while len(self.heard[side]) < len(whole):
            data = await read(far)
            assert data, "the stream was cut"
            self.heard[side] += data
        assert self.heard[side] == whole
        if side in self.was_told:
            assert await read(far) == b""
        else:
            with pytest.raises(BlockingIOError):
                far.recv(1)


TestAgainst = Against.TestCase
TestAgainst.settings = settings(max_examples=60, stateful_step_count=30)
