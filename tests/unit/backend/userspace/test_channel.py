"""Frames and files between two ends, in one process. What they say is test_messages'."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import AsyncIterator, Callable, Iterator, Sequence

import pytest

from kproxy.backend.userspace.channel import Channel
from kproxy.backend.userspace.messages import Ask, BadMessage, Failed, frame, order, report
from tests.unit.backend.userspace.crews import open_files
from tests.unit.backend.userspace.sockets import DEADLINE, until


class Side:
    """What one end heard."""

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self.heard: list[bytes] = []
        self.files: list[Sequence[int]] = []
        self.lost: list[str] = []
        self.rooms = 0
        self.channel = Channel(sock, received=self._received, lost=self.lost.append, room=self._room, pause=0.001)

    def _received(self, said: bytes, files: Sequence[int]) -> None:
        self.heard.append(said)
        self.files.append(files)

    def _room(self) -> None:
        self.rooms += 1


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[tuple[Side, Side]]:
    before = open_files()
    one, other = map(Side, socket.socketpair())
    async with asyncio.timeout(DEADLINE):
        yield one, other
    for each in (one, other):
        each.channel.close()
        for file in (file for files in each.files for file in files):
            os.close(file)
    assert open_files() == before


@contextlib.contextmanager
def a_file(text: bytes) -> Iterator[int]:
    reading, writing = os.pipe()
    os.write(writing, text)
    os.close(writing)
    try:
        yield reading
    finally:
        os.close(reading)


async def test_files_arrive_with_their_frames_in_order() -> None:
    async with connected() as (one, other):
        with a_file(b"a") as first, a_file(b"b") as second, a_file(b"c") as third:
            one.channel.send(frame(Ask(1), 2), [first, second])
            one.channel.send(frame(Ask(2)))
            one.channel.send(frame(Ask(3), 1), [third])
            await until(lambda: len(other.heard) == 3)
        assert [order(each) for each in other.heard] == [Ask(1), Ask(2), Ask(3)]
        assert [[os.read(file, 9) for file in files] for files in other.files] == [[b"a", b"b"], [], [b"c"]]
        assert not any(os.get_inheritable(file) for files in other.files for file in files)


async def test_what_does_not_fit_waits_and_is_not_lost() -> None:
    async with connected() as (one, other):
        long = Failed("x" * 3_000_000)
        with a_file(b"a") as first, a_file(b"b") as second:
            one.channel.send(frame(long, 1), [first])
            one.channel.send(frame(Ask(2), 1), [second])
            was_full, rooms = one.channel.is_full, one.rooms
            await until(lambda: len(other.heard) == 2)
        await until(lambda: one.rooms == 1)
        assert (was_full, rooms, one.channel.is_full) == (True, 0, False)
        assert report(other.heard[0]) == long
        assert [[os.read(file, 9) for file in files] for files in other.files] == [[b"a"], [b"b"]]


async def test_last_words_are_said_before_the_end() -> None:
    ours, theirs = socket.socketpair()
    long = Failed("x" * 1_000_000)

    def listen() -> bytes:
        with theirs, theirs.makefile("rb") as stream:
            return stream.read()

    async with asyncio.timeout(DEADLINE):
        listening = asyncio.get_running_loop().run_in_executor(None, listen)
        side = Side(ours)
        side.channel.send(frame(long))
        side.channel.finish(DEADLINE)
        assert await listening == frame(long)


async def test_files_that_the_receiver_may_not_open_are_missed_and_nothing_else() -> None:
    async with connected() as (one, other):
        with a_file(b"a") as file:
            one.channel.send(frame(Ask(1), 2), [file])  # as if the other one was dropped on the way
            one.channel.send(frame(Ask(2), 1), [file])
            await until(lambda: len(other.heard) == 2)
            assert other.files[0] == ()
            assert [os.read(each, 9) for each in other.files[1]] == [b"a"]


async def test_the_other_side_closes() -> None:
    async with connected() as (one, other):
        one.channel.close()
        await until(lambda: other.lost == [""])
        other.channel.send(frame(Ask(1)))
        other.channel.finish(DEADLINE)


async def test_garbage_ends_it_once_and_says_why() -> None:
    async with connected() as (one, other):
        one.socket.send(b"\xff" * 100)
        await until(lambda: bool(other.lost))
        assert other.lost == ["a frame of 4294967295 bytes and 65535 files"]


async def test_a_frame_without_its_files_ends_it() -> None:
    async with connected() as (one, other):
        one.channel.send(frame(Ask(1), 2))
        await until(lambda: other.lost == ["a frame without its 2 files"])


@pytest.mark.parametrize(("error", "why"), [(BadMessage("no"), "no"), (KeyError("x"), "not to be done: KeyError('x')")])
async def test_what_the_receiver_refuses_ends_it(monkeypatch: pytest.MonkeyPatch, error: Exception, why: str) -> None:
    def refuse(*_: object) -> None:
        raise error

    async with connected() as (one, other):
        monkeypatch.setattr(other.channel, "_received", refuse)
        one.channel.send(frame(Ask(1)) * 2)
        await until(lambda: other.lost == [why])


async def test_files_that_the_kernel_does_not_take_at_once_are_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    async with connected() as (one, other):
        real, refused = one.socket, [0]

        class Crowded:
            def sendmsg(self, *args: object) -> int:
                refused[0] += 1
                if refused[0] < 3:
                    raise OSError(109, "Too many references: cannot splice")
                send: Callable[..., int] = real.sendmsg
                return send(*args)

            def __getattr__(self, name: str) -> object:
                return getattr(real, name)

        monkeypatch.setattr(one.channel, "_socket", Crowded())
        with a_file(b"a") as file:
            one.channel.send(frame(Ask(1), 1), [file])
            await until(lambda: len(other.heard) == 1)
            assert refused == [3]
            assert [os.read(each, 9) for each in other.files[0]] == [b"a"]
