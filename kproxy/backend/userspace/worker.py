"""A worker of the relay: a process that serves what its parent tells it, until it is told to stop or left alone.

    python -m kproxy.backend.userspace.worker     (started by seat.py; standard input is the control socket)

It decides nothing and knows no cluster: it has one ``Listeners`` for each family, sockets that come with the rules, and
no logging; what it has to say it counts, or says to its parent.

It ends with its parent, in order: the control socket's end is the sign, and its flows are reset, so that nobody takes a
cut stream for a whole one. That is why the kernel is not asked to kill it then (PR_SET_PDEATHSIG), but only to wake it
(SIGCONT), in case it was stopped. A worker that hangs cannot see the sign; it has set itself an alarm that it puts off
as long as its loop turns (faulthandler, which says where it hung). Signals that are meant for the whole of kproxy are
the parent's to understand, so they are ignored here.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import faulthandler
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import cast

import uvloop

from kproxy.backend.userspace.apply import Listeners
from kproxy.backend.userspace.board import Board
from kproxy.backend.userspace.caps import Caps
from kproxy.backend.userspace.channel import Channel
from kproxy.backend.userspace.counts import Counts, Deltas, Tally
from kproxy.backend.userspace.messages import (
    Ask,
    BadMessage,
    Begin,
    Counted,
    Ejected,
    Failed,
    Ready,
    Serve,
    Served,
    Stop,
    Told,
    frame,
    order,
)
from kproxy.backend.userspace.rules import NOTHING, Listener, Rule
from kproxy.backend.userspace.share import Share, raise_files, share
from kproxy.config import Config
from kproxy.model.enums import IPFamily, family_of
from kproxy.model.keys import ServicePortKey

_PR_SET_PDEATHSIG = 1
_AT_ONCE = 500  # tallies in one message
_LOOK = 0.05  # seconds between two looks at whether flows have ended, when they are to
_DEARNESS = 50  # looking at all tallies may take one part in so many of the time
_LOOKS = 10  # in one beat, at what the board should say
_LAST = 2.0  # seconds for the last words
_HUNG = 60.0  # seconds


class Worker:
    """``control``: where orders come from."""

    def __init__(self, control: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        self._channel = Channel(control, received=self._received, lost=self._lost)
        self._begin: asyncio.Future[Begin | None] = loop.create_future()
        self._stop: asyncio.Future[Stop | None] = loop.create_future()  # None: at once, and say nothing
        self._listeners: dict[IPFamily, Listeners] = {}
        self._deltas = {family: Deltas() for family in IPFamily}
        self._changed: dict[Listener, Rule | None] = {}  # since the listeners were told; None: gone
        self._sockets: dict[Listener, socket.socket] = {}  # that came, and are not open yet
        self._caps: Caps | None = None
        self._number = 0  # of the latest rules
        self._due = 0.0  # when tallies are looked at again
        self._is_told = asyncio.Event()
        self._is_alone = asyncio.Event()

    async def run(self) -> None:
        """Until there is nothing more to be done."""
        begin = await self._begin
        if begin is None:
            return
        mine = share(begin.config, raise_files(), begin.workers)
        self._listeners = {family: self._make(family, begin.config, mine) for family in IPFamily}
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(each.run()) for each in self._listeners.values()]
                tasks += [group.create_task(self._serve()), group.create_task(_put_off_the_alarm())]
                tasks += [group.create_task(self._publish(begin.config.relay_beat))]
                for _ in tasks:  # turns in which they begin
                    await asyncio.sleep(0)
                self._channel.send(frame(Ready(mine)))
                if (stop := await self._stop) is not None:
                    await self._end_flows(stop)
                for task in tasks:
                    task.cancel()
            self._count()
        except* Exception as group_of:
            self._channel.send(frame(Failed(f"failed: {group_of.exceptions[0]!r}")))
            raise
        finally:
            self._channel.finish(_LAST)

    def _received(self, said: bytes, files: Sequence[int]) -> None:
        """Raises BadMessage."""
        message = order(said)
        if isinstance(message, Serve):
            self._note(message, files)
        elif isinstance(message, Ask):
            self._answer(message)
        elif isinstance(message, Begin) and not self._begin.done():
            if files:
                self._caps = Caps(Board(files[0]), message.seat)
                os.close(files[0])
            self._begin.set_result(message)
        elif isinstance(message, Stop) and not self._stop.done():
            self._stop.set_result(message)
        else:
            raise BadMessage("an order for the second time")

    def _lost(self, _: str) -> None:
        self._is_alone.set()
        for future in (self._begin, self._stop):
            if not future.done():
                future.set_result(None)

    def _note(self, serve: Serve, files: Sequence[int]) -> None:
        """What changes is done in one go for all that has come by then."""
        for at, file in zip(serve.fresh, files, strict=False):  # without files, if they did not get through
            listener = serve.rules[at].listener
            if old := self._sockets.pop(listener, None):
                old.close()
            self._sockets[listener] = socket.socket(fileno=file)
        self._changed.update({rule.listener: rule for rule in serve.rules})
        self._changed.update(dict.fromkeys(serve.gone))
        if self._caps is not None:
            self._caps.keep(serve.rules, dict(serve.rows))
        self._number = serve.number
        self._is_told.set()

    async def _publish(self, beat: float) -> None:
        while self._caps is not None:
            self._caps.publish()
            await asyncio.sleep(beat / _LOOKS if self._caps.are_any else beat)

    async def _serve(self) -> None:
        while True:
            await self._is_told.wait()
            self._is_told.clear()
            changed, self._changed = self._changed, {}
            failed: list[tuple[Listener, int]] = []
            for family, listeners in self._listeners.items():
                rules = [rule for listener, rule in changed.items() if rule and family_of(listener.ip) is family]
                gone = [listener for listener, rule in changed.items() if not rule and family_of(listener.ip) is family]
                failures = listeners.change(rules, gone)
                failed += [(rule.listener, error.errno or 0) for rule, error in failures]  # they will be sent again
            for unused in self._sockets.values():
                unused.close()
            self._sockets.clear()
            self._channel.send(frame(Served(self._number, tuple(failed))))

    def _make(self, family: IPFamily, config: Config, mine: Share) -> Listeners:
        def tallies() -> Mapping[ServicePortKey, Tally]:
            return self._listeners[family].tallies()

        return Listeners(
            config,
            connections=mine.connections,
            sessions=mine.sessions,
            opened=self._take,
            elsewhere=self._caps.elsewhere(family, tallies) if self._caps is not None else lambda _: 0,
        )

    def _take(self, listener: Listener) -> socket.socket:
        """The socket that came for a listener. Raises OSError: the kernel dropped it where files were short."""
        if (sock := self._sockets.pop(listener, None)) is None:
            raise OSError(errno.EMFILE, "no file was left for it")
        sock.setblocking(False)
        return sock

    def _answer(self, ask: Ask) -> None:
        began = time.monotonic()
        if ask.urgent or began >= self._due:
            self._count()
            now = time.monotonic()
            self._due = now + (now - began) * _DEARNESS
        self._channel.send(frame(Told(ask.number)))

    def _count(self) -> None:
        over: set[ServicePortKey] = set()
        for family, listeners in self._listeners.items():
            tallies = listeners.tallies()
            added = list(self._deltas[family].take(tallies).items())
            for at in range(0, len(added), _AT_ONCE):
                self._channel.send(frame(Counted(tuple(added[at : at + _AT_ONCE]))))
            news = listeners.take_ejections()
            for at in range(0, len(news), _AT_ONCE):
                self._channel.send(frame(Ejected(tuple(news[at : at + _AT_ONCE]))))
            over |= listeners.release()
            if self._caps is not None:
                self._caps.follow(family, listeners.tallies())
        if self._caps is not None:
            self._caps.forget(over - {rule.key for rule in self._changed.values() if rule})

    async def _end_flows(self, stop: Stop) -> None:
        """Returns when they have ended, or their time is over, or there is no parent any more."""
        loop = asyncio.get_running_loop()
        end = loop.time() + stop.grace
        await self._wait(min(stop.linger, stop.grace))
        for each in self._listeners.values():
            each.reconcile(NOTHING)
        while loop.time() < end and not self._is_alone.is_set() and any(each.active for each in self._all_counts()):
            await self._wait(_LOOK)

    async def _wait(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._is_alone.wait()

    def _all_counts(self) -> Iterator[Counts]:
        for each in self._listeners.values():
            yield from each.counts.values()


def main() -> int:
    """Serve the parent that started this process."""
    for each in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(each, signal.SIG_IGN)
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGCONT)
    run = cast("Callable[[object], None]", uvloop.run)
    run(_work())
    return 0


async def _work() -> None:
    await Worker(socket.socket(fileno=sys.stdin.fileno())).run()


async def _put_off_the_alarm() -> None:
    try:
        while True:
            faulthandler.dump_traceback_later(_HUNG, exit=True)
            await asyncio.sleep(_HUNG / 6)
    finally:
        faulthandler.cancel_dump_traceback_later()


if __name__ == "__main__":
    sys.exit(main())
