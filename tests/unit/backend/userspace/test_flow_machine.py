"""A flow between two real connections against its specification, the machine of tcp.py."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from kproxy.backend.userspace import tcp
from kproxy.backend.userspace.pipes import Pipe
from kproxy.backend.userspace.tcp import Side
from tests.unit.backend.userspace.pairs import (
    World,
    becomes,
    held,
    is_reset,
    read,
    reset,
)
from tests.unit.backend.userspace.sockets import DEADLINE

LOTS = bytes(range(251)) * 40_000  # 10 MB; a prime, so that a lost or repeated page shows
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
