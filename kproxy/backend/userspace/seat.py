"""One worker's place: starts a process, tells it what to serve, and replaces it when it ends or no longer answers.

The process knows nothing that it was not told here, so a successor is told everything, and gets the sockets of its
predecessor. What is to be sent is not a queue but a difference, made anew whenever there is room: however slow a worker
is, what waits for it is bounded by the rules that there are, and it never gets a rule that is old already.

Whether it is there is asked with each beat, and it answers with what it counted. Beats are counted, not seconds: time
in which this process did not run proves nothing about another.

A process of its own group, so that a signal from the terminal ends it through the parent only; not of its own session,
for the kernel shares processors out by sessions. It has the control socket as standard input, our standard error, for
a traceback if it comes to that, no other file of ours, and of our environment what an interpreter may need.
"""

from __future__ import annotations

import asyncio
import math
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import kproxy
from kproxy.backend.userspace.channel import Channel
from kproxy.backend.userspace.endpoints import Ejection
from kproxy.backend.userspace.messages import (
    MOST_FILES,
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
    frame,
    report,
)
from kproxy.backend.userspace.rules import Listener, Rule
from kproxy.backend.userspace.share import Share
from kproxy.config import Config
from kproxy.model.keys import ServicePortKey

# -P: what lies in the folder that we were started in is no module of ours
COMMAND = (sys.executable, "-P", "-m", "kproxy.backend.userspace.worker")
_INHERITED = ("LD_LIBRARY_PATH", "PYTHONHOME", "PYTHONDONTWRITEBYTECODE", "TZ")
_MOST_TARGETS = 20_000  # of the rules in one message: about a megabyte


class Started(NamedTuple):
    """A worker serves. ``share``: what it may have."""

    seat: int
    pid: int
    share: Share


class Ended(NamedTuple):
    """A worker is gone, ``why`` as part of a sentence. Its successor is started after ``wait`` seconds."""

    seat: int
    pid: int  # 0: it could not be started
    why: str
    wait: float


class LeftOut(NamedTuple):
    """A worker leaves endpoints out for a while, because it cannot reach them."""

    seat: int
    ejections: tuple[Ejection, ...]


Event = Started | Ended | LeftOut


class Employer(Protocol):
    """What a seat wants of whoever has it."""

    @property
    def wanted(self) -> Mapping[Listener, Rule]: ...

    @property
    def board_file(self) -> int: ...

    def socket_of(self, listener: Listener, seat: int) -> socket.socket: ...

    def row_of(self, key: ServicePortKey) -> int | None:
        """On the board."""

    def counted(self, seat: int, message: Counted) -> None:
        """Raises BadMessage."""

    def left(self, seat: int) -> None:
        """A worker ended."""

    def changed(self) -> None:
        """Something is settled, or will not be."""

    def tell(self, event: Event) -> None: ...


class Seat:
    """``number`` counts from 0."""

    def __init__(self, config: Config, employer: Employer, number: int, workers: int) -> None:
        self._config = config
        self._employer = employer
        self._number = number
        self._workers = workers
        self._is_stopping = False
        self._process: subprocess.Popen[bytes] | None = None
        self._forget()
        self.has_failed = False  # its first worker did not come to serve, or ended

    def _forget(self) -> None:
        """Nobody here knows anything."""
        self._channel: Channel | None = None
        self._share: Share | None = None
        self._why = ""
        self._sent = self._served = self._asked = self._told = 0
        self._have: dict[Listener, Rule] = {}
        self._leaving: dict[Listener, int] = {}  # with the number of the message that said so
        self._dirty: dict[Listener, None] = {}  # of which it may not have been told; a set with an order
        self.failed: dict[Listener, int] = {}  # what it could not open, with the error's number

    @property
    def pid(self) -> int:
        """0: no process."""
        return self._process.pid if self._process is not None else 0

    @property
    def share(self) -> Share | None:
        """None: no worker serves here."""
        return self._share

    @property
    def is_settled(self) -> bool:
        """It serves, and by all rules that there are."""
        return self._share is not None and not self._dirty and self._served == self._sent

    @property
    def served(self) -> int:
        """How far it has got; it begins anew with each worker."""
        return self._served

    def holds(self, listener: Listener) -> bool:
        """Whether the socket may be there, or on its way."""
        return listener in self._have or listener in self._leaving

    def mark(self, listeners: Sequence[Listener]) -> None:
        """Their rules have changed."""
        if self._share is not None:
            self._dirty.update(dict.fromkeys(listeners))
            self._flush()

    def ask(self, *, urgent: bool = False) -> int:
        """The number of the question; 0 if there is nobody to be asked."""
        if self._share is None or self._channel is None:
            return 0
        self._asked += 1
        self._channel.send(frame(Ask(self._asked, urgent)))
        return self._asked

    def has_answered(self, number: int) -> bool:
        """Or it never will."""
        return self._share is None or self._told >= number

    def stop(self, linger: float, grace: float) -> None:
        """Its worker ends by itself, and has no successor."""
        self._is_stopping = True
        if self._channel is not None:
            self._channel.send(frame(Stop(linger, grace)))

    async def run(self) -> None:
        """Until cancelled, or stopped."""
        first, longest = self._config.relay_worker_backoff
        wait, loop = first, asyncio.get_running_loop()
        while True:
            began = loop.time()
            pid, why = await self._employ()
            if self._is_stopping:
                return
            if loop.time() - began > 2 * longest:
                wait = first
            self.has_failed = True
            self._employer.tell(Ended(self._number, pid, why, wait))
            self._employer.changed()
            await asyncio.sleep(wait)
            wait = min(2 * wait, longest)

    async def _employ(self) -> tuple[int, str]:
        """One worker from its beginning to its end; its process id, and why it ended."""
        lost = asyncio.get_running_loop().create_future()
        try:
            ours, theirs = socket.socketpair()
            with theirs:
                try:
                    process = self._process = _start(theirs)
                except BaseException:
                    ours.close()
                    raise
        except OSError as error:
            return 0, f"could not be started: {error.strerror}; free memory, processes or open files"
        try:
            self._channel = Channel(ours, received=self._received, lost=lost.set_result, room=self._flush)
            begin = Begin(self._config, self._number, self._workers)
            self._channel.send(frame(begin, files=1), [self._employer.board_file])
            why = await self._watch(lost)
        finally:
            why_it_said = self._why
            if self._channel is not None:
                self._channel.close()
            self._forget()
            self._employer.left(self._number)
            may_end = lost.done() and not lost.result()
            status = await _end(process, self._config.relay_patience if may_end else 0.0)
            self._process = None
        return process.pid, why or why_it_said or status

    async def _watch(self, lost: asyncio.Future[str]) -> str:
        """Until it is lost, or should be; why, if that is not for itself to say."""
        beat = self._config.relay_beat
        missed, patience = 0, math.ceil(self._config.relay_worker_start / beat)
        while True:
            await asyncio.wait((lost,), timeout=beat)
            if lost.done():
                return lost.result()
            if self._share is not None and self._told == self._asked:
                missed, patience = 0, self._config.relay_beats
                self.mark(tuple(self.failed))  # once more
                self.ask()
            elif (missed := missed + 1) >= patience:
                return f"did not answer for {patience * beat:g} s"

    def _flush(self) -> None:
        """Tell of what is dirty, as far as there is room."""
        while self._dirty and self._channel is not None and not self._channel.is_full:
            rules: list[Rule] = []
            fresh: list[int] = []
            gone: list[Listener] = []
            targets = 0
            while self._dirty and len(rules) < MOST_FILES and targets < _MOST_TARGETS:
                listener = next(iter(self._dirty))
                del self._dirty[listener]
                rule = self._employer.wanted.get(listener)
                if rule is None:
                    if self._have.pop(listener, None):
                        gone.append(listener)
                    self.failed.pop(listener, None)
                elif self._have.get(listener) is not rule:
                    if listener not in self._have:
                        fresh.append(len(rules))
                    self._have[listener] = rule
                    rules.append(rule)
                    targets += len(rule.targets) + len(rule.serving)
            if rules or gone:
                self._sent += 1
                self._leaving.update(dict.fromkeys(gone, self._sent))
                files = [self._employer.socket_of(rules[at].listener, self._number).fileno() for at in fresh]
                said = Serve(self._sent, tuple(rules), tuple(fresh), tuple(gone), self._rows(rules))
                self._channel.send(frame(said, len(files)), files)
        self._employer.changed()

    def _rows(self, rules: Sequence[Rule]) -> tuple[tuple[ServicePortKey, int], ...]:
        capped = {rule.key for rule in rules if rule.relay.connections}
        return tuple((key, row) for key in capped if (row := self._employer.row_of(key)) is not None)

    def _received(self, said: bytes, files: Sequence[int]) -> None:
        """Raises BadMessage."""
        for each in files:
            os.close(each)
        message = report(said)
        if isinstance(message, Failed):
            self._why = " ".join(message.why.split())[:400]
        elif isinstance(message, Ready):
            self._begin(message)
        elif self._share is None:
            raise BadMessage("something before it was ready")
        elif isinstance(message, Served):
            self._note(message)
        elif isinstance(message, Counted):
            self._employer.counted(self._number, message)
        elif isinstance(message, Ejected):
            self._employer.tell(LeftOut(self._number, message.ejections))
        elif self._told <= message.number <= self._asked:
            self._told = message.number
            self._employer.changed()
        else:
            raise BadMessage("an answer that nobody asked for")

    def _begin(self, ready: Ready) -> None:
        if self._share is not None:
            raise BadMessage("ready twice")
        self._share = ready.share
        self._employer.tell(Started(self._number, self.pid, ready.share))
        self.mark(tuple(self._employer.wanted))

    def _note(self, served: Served) -> None:
        if not self._served <= served.number <= self._sent:
            raise BadMessage("it serves what it was not told")
        self._served = served.number
        for listener in [each for each, number in self._leaving.items() if number <= served.number]:
            del self._leaving[listener]
        for listener, error in served.failed:
            if self._have.pop(listener, None):  # it has let go of its socket
                self.failed[listener] = error
        self._employer.changed()


def _start(control: socket.socket) -> subprocess.Popen[bytes]:
    """Raises OSError. Not from a thread: the worker hears of the end of whatever started it."""
    environment = {name: os.environ[name] for name in _INHERITED if name in os.environ}
    environment["PYTHONPATH"] = str(Path(kproxy.__file__).parent.parent)
    return subprocess.Popen(
        COMMAND, stdin=control.fileno(), stdout=subprocess.DEVNULL, env=environment, process_group=0
    )


async def _end(process: subprocess.Popen[bytes], patience: float) -> str:
    """Leave nothing of it, after ``patience`` seconds in which it may end itself; how it ended."""
    if not patience:
        process.kill()
    try:
        status = await asyncio.to_thread(process.wait, patience or None)
    except subprocess.TimeoutExpired:  # it closed its end, and stays
        process.kill()
        status = await asyncio.to_thread(process.wait)
    return f"ended with status {status}" if status >= 0 else f"was ended by {signal.Signals(-status).name}"
