"""A worker led by hand: how it begins, what it does not inherit, and how it ends. The rest is test_crew's."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kproxy.backend.userspace import messages
from kproxy.backend.userspace.board import create_board
from kproxy.backend.userspace.messages import Frames, frame
from kproxy.backend.userspace.rules import Listener
from kproxy.backend.userspace.seat import _start
from kproxy.backend.userspace.share import Share
from kproxy.backend.userspace.worker import Worker
from kproxy.config import Config
from tests.unit.backend.userspace.crews import rule_of
from tests.unit.backend.userspace.sockets import DEADLINE, TCP, endpoint
from tests.unit.backend.userspace.test_streams import echo

LOOP = "uvloop"
CREW = """
import asyncio, sys, uvloop
from kproxy.backend.userspace.crew import Crew
from kproxy.config import Config
from kproxy.model.enums import Protocol
from kproxy.plan.plan import Target
from tests.unit.backend.userspace.crews import rule_of

async def main():
    crew = Crew(Config(), workers=2, told=lambda _: None)
    async with asyncio.TaskGroup() as group:
        group.create_task(crew.run())
        listener = crew.open("127.0.0.1", Protocol.TCP)
        await crew.push([rule_of(listener, Target("127.0.0.1", int(sys.argv[1]), local=False))])
        print(listener.port, *(each.pid for each in crew.serving), flush=True)

uvloop.run(main())
"""


class Led:
    """A worker, and what it said."""

    def __init__(self) -> None:
        self.control, theirs = socket.socketpair()
        self.control.settimeout(DEADLINE)
        with theirs:
            self.process = _start(theirs)
        self._frames = Frames()
        self._heard: list[messages.Report] = []

    def say(self, *orders: messages.Order) -> None:
        for each in orders:
            self.control.sendall(frame(each))

    def begin(self) -> None:
        board = create_board(2)
        socket.send_fds(self.control, [frame(messages.Begin(Config(), 0, 1), 1)], [board])
        os.close(board)
        assert isinstance(self.hear(), messages.Ready)

    def hear(self) -> messages.Report | None:
        """None: it said everything."""
        while not self._heard:
            data = self.control.recv(1 << 16)
            if not data:
                return None
            self._heard += [messages.report(said) for said, _ in self._frames.feed(data)]
        return self._heard.pop(0)

    def ended(self) -> int:
        return self.process.wait(DEADLINE)


@pytest.fixture
def led() -> Iterator[Led]:
    made = Led()
    yield made
    made.control.close()
    with contextlib.suppress(ProcessLookupError):
        made.process.kill()
    made.process.wait(DEADLINE)


def ready(files: int) -> messages.Ready:
    return messages.Ready(Share(files * 3 // 8, files // 4, files))


def test_it_has_nothing_of_ours_but_what_it_needs(led: Led, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    led.begin()
    other = Led()  # with the control socket of the first one open here
    other.begin()
    ours = {os.readlink(f"/proc/self/fd/{each.control.fileno()}") for each in (led, other)}  # noqa: PTH115 -- names
    theirs = {os.readlink(each) for each in Path(f"/proc/{other.process.pid}/fd").iterdir()}  # noqa: PTH115 -- names
    assert not ours & theirs
    assert len([each for each in theirs if each.startswith("socket:")]) <= 3  # control, and a pair of the loop's own
    names = {each.partition("=")[0] for each in Path(f"/proc/{other.process.pid}/environ").read_text().split("\0")}
    assert names <= {"", "PYTHONPATH", "LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "TZ"}
    assert os.getpgid(other.process.pid) == other.process.pid
    assert os.getsid(other.process.pid) == os.getsid(0)
    other.control.close()
    assert other.ended() == 0


def test_it_opens_as_many_files_as_it_may_and_says_what_it_may_have(led: Led) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.prlimit(led.process.pid, resource.RLIMIT_NOFILE, (256, min(hard, 4096)))
    led.say(messages.Begin(Config(), 0, 1))  # without a board it keeps caps for itself
    assert led.hear() == ready(min(hard, 4096))


def test_signals_for_all_of_kproxy_are_the_parents(led: Led) -> None:
    led.begin()
    for each in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        led.process.send_signal(each)
    led.say(messages.Ask(1))
    assert led.hear() == messages.Told(1)


@pytest.mark.parametrize("begins", [True, False])
def test_it_ends_when_it_is_left_alone(led: Led, begins: bool) -> None:
    if begins:
        led.begin()
    led.control.close()
    assert led.ended() == 0


def test_it_ends_when_it_does_not_understand(led: Led) -> None:
    led.begin()
    led.say(messages.Begin(Config(), 0, 1))
    assert led.hear() is None
    assert led.ended() == 0


def test_it_ends_when_it_is_told(led: Led) -> None:
    led.begin()
    led.say(messages.Stop(0.0, DEADLINE))
    assert led.hear() is None
    assert led.ended() == 0


async def test_what_it_cannot_do_is_its_last_word(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise ValueError("a mistake")

    monkeypatch.setattr("kproxy.backend.userspace.apply.Listeners.change", fail)
    control, theirs = socket.socketpair()
    with control:
        for each in (messages.Begin(Config(), 0, 1), messages.Serve(1)):
            control.sendall(frame(each))
        async with asyncio.timeout(DEADLINE):
            with pytest.raises(ExceptionGroup):
                await Worker(theirs).run()
        said = [messages.report(each) for each, _ in Frames().feed(control.recv(1 << 16))]
    assert said[-1:] == [messages.Failed("failed: ValueError('a mistake')")]


async def test_a_file_that_is_no_socket_ends_it() -> None:
    control, theirs = socket.socketpair()
    with control:
        control.sendall(frame(messages.Begin(Config(), 0, 1)))
        serve = messages.Serve(1, (rule_of(Listener("127.0.0.1", 1, TCP)),), (0,))
        board = create_board(2)
        socket.send_fds(control, [frame(serve, 1)], [board])
        os.close(board)
        async with asyncio.timeout(DEADLINE):
            await Worker(theirs).run()


async def test_workers_end_with_their_parent_even_stopped_ones_and_reset_what_they_had() -> None:
    async with asyncio.timeout(DEADLINE), endpoint(echo) as target:
        root = str(Path(__file__).parents[4])
        parent = await asyncio.to_thread(
            subprocess.Popen,
            (sys.executable, "-c", CREW, str(target.port)),
            stdout=subprocess.PIPE,
            cwd=root,
            env={**os.environ, "PYTHONPATH": root},
        )
        assert parent.stdout is not None
        port, *pids = map(int, (await asyncio.to_thread(parent.stdout.readline)).split())
        watches = [os.pidfd_open(pid) for pid in pids]
        clients = [await asyncio.open_connection("127.0.0.1", port) for _ in range(8)]
        for reader, writer in clients:
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
        os.kill(pids[0], signal.SIGSTOP)
        parent.kill()
        await asyncio.to_thread(parent.wait)
        parent.stdout.close()
        for watch in watches:
            assert await asyncio.to_thread(select.select, [watch], [], [], DEADLINE) == ([watch], [], [])
            os.close(watch)
        for reader, writer in clients:
            with pytest.raises(ConnectionResetError):
                await reader.readexactly(1)
            writer.close()
