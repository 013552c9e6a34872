"""Readiness, without flows where that is possible. What they do about it is test_flow's."""

from __future__ import annotations

import asyncio
import contextlib
import select
import socket
from typing import Any

import pytest

from kproxy.backend.userspace.flow import Client
from kproxy.backend.userspace.reactor import IN, INPUT, INPUT_AND_OUTPUT, READS, Handler, Reactor
from tests.unit.backend.userspace.pairs import becomes, is_reset, pair, read, world, write


class Diary(Handler):
    """Writes down what it is told, and does what it is given for that."""

    def __init__(self, *deeds: Any) -> None:
        self.told: list[int] = []
        self.deeds = list(deeds)
        self.failed = 0
        self.is_plain = False

    def handle(self, mask: int) -> None:
        self.told.append(mask)
        if self.deeds:
            self.deeds.pop(0)()

    def fail(self) -> None:
        self.failed += 1


async def test_an_edge_is_told_once_and_another_turn_is_given_to_whom_it_was_asked_for() -> None:
    reactor, (far, near) = Reactor(64), pair(None)
    diary = Diary()
    diary.deeds = [lambda: reactor.again(diary)]
    with far, contextlib.closing(near):
        reactor.register(diary, near, INPUT)
        far.send(b"x")
        await becomes(lambda: len(diary.told) == 2)
        for _ in range(5):
            await asyncio.sleep(0)
        assert diary.told == [IN, READS]
        reactor.modify(near, INPUT_AND_OUTPUT)
        await becomes(lambda: len(diary.told) == 3)
        reactor.unregister(near)
        reactor.unregister(near)
        far.send(b"y")
        for _ in range(5):
            await asyncio.sleep(0)
        assert len(diary.told) == 3
        reactor.stop()


async def test_what_is_ready_when_it_is_registered_is_told() -> None:
    reactor, (far, near) = Reactor(64), pair(None)
    with far, contextlib.closing(near):
        far.send(b"x")
        diary = Diary()
        reactor.register(diary, near, INPUT)
        await becomes(lambda: diary.told == [IN])
        reactor.stop()


async def test_a_socket_that_is_closed_in_a_batch_keeps_its_number_until_the_batch_is_over() -> None:
    reactor = Reactor(64)
    pairs = [pair(None) for _ in range(2)]
    numbers: list[int] = []
    closed: list[int] = []
    diaries = [Diary(), Diary()]

    def close_the_other(mine: int) -> None:
        _, near = pairs[1 - mine]
        closed.append(near.fileno())
        reactor.close(near)
        with socket.socket() as newcomer:
            numbers.append(newcomer.fileno())

    for number, ((far, near), diary) in enumerate(zip(pairs, diaries, strict=True)):
        far.send(b"x")
        diary.deeds = [lambda number=number: close_the_other(number)]
        reactor.register(diary, near, INPUT)
    await becomes(lambda: bool(numbers))
    assert closed != numbers
    assert sorted(len(each.told) for each in diaries) == [0, 1]
    await becomes(lambda: any(near.fileno() == -1 for _, near in pairs))
    reactor.stop()
    for far, near in pairs:
        far.close()
        near.close()


async def test_a_mistake_in_one_flow_ends_that_one_and_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _loop, context: told.append(context))
    async with world() as made:
        client, endpoint, ours, _ = made.begin()
        other, other_endpoint, *_ = made.begin()
        monkeypatch.setattr(Client, "carry", lambda *_: 1 / 0)
        await write(client, b"")
        client.shutdown(socket.SHUT_WR)
        await becomes(lambda: is_reset(endpoint))
        assert [type(each["exception"]) for each in told] == [ZeroDivisionError]
        assert ours.peer is None
        await write(other, b"fine")
        assert await read(other_endpoint) == b"fine"


async def test_a_hint_that_is_wrong_does_nothing() -> None:
    """A closed socket that a starting program still holds may report for its successor."""
    async with world() as made:
        client, endpoint, *ends = made.begin()
        everything = READS | select.EPOLLOUT
        for each in ends:
            number = each.sock.fileno()
            for mask in (IN, IN | select.EPOLLOUT, everything):
                made.reactor._serve([(number, mask)])
        client.send(b"?")
        made.reactor._serve([(ends[0].sock.fileno(), IN | select.EPOLLRDHUP)])
        assert endpoint.recv(9) == b"?"  # at once: no end came for which it might wait
        client.shutdown(socket.SHUT_WR)
        assert await read(endpoint) == b""
        for each in ends:
            made.reactor._serve([(each.sock.fileno(), everything)])
        await write(endpoint, b"!")
        assert await read(client) == b"!"


async def test_nothing_is_watched_after_a_stop_and_all_can_begin_anew() -> None:
    reactor, (far, near) = Reactor(64), pair(None)
    with far, contextlib.closing(near):
        diary = Diary()
        reactor.register(diary, near, INPUT)
        reactor.again(diary)
        reactor.stop()
        reactor.stop()
        far.send(b"x")
        for _ in range(5):
            await asyncio.sleep(0)
        assert diary.told == []
        reactor.unregister(near)
        reactor.register(diary, near, INPUT)
        await becomes(lambda: diary.told == [IN])
        reactor.stop()
