"""The way from an accepted client to an endpoint that answers, before any byte was passed on.

Endpoints are tried in the balancer's order, each once, and those that were only slow once more, after the others. An
attempt has a deadline; one that passes makes the next one longer (``relay_connect_deadlines``), and after the last
the client is reset. A refusal is an answer and costs no deadline: while an endpoint lives, no number of dead ones
keeps a client from it. Short of files, nobody else is tried, for that would fail alike.

The client is not read meanwhile, so nothing has to be kept for it, and its socket is not even registered.

Deadlines of one length pass in the order in which they began: a queue for each length and one timer for all do what
would else take a timer, or a task, for each connection.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import NamedTuple

from kproxy.backend.userspace.counts import SHORT_OF_FILES
from kproxy.backend.userspace.door import Door
from kproxy.backend.userspace.reactor import FAULT, INPUT_AND_OUTPUT, OUT, Handler, Reactor, Socket
from kproxy.plan.plan import Target

# As plain numbers: an enum costs a call for each connection.
_IPV4, _IPV6 = int(socket.AF_INET), int(socket.AF_INET6)
_STREAM = int(socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
_UNDER_WAY = frozenset({0, errno.EINPROGRESS, errno.EINTR})
_EARLY = 0.001  # seconds by which a loop's timer may be early; its clock is coarser than ours


class Approach(Handler):
    """One client that came in by ``door`` from ``ip``, on its way; ``target`` is whom it tries, or has reached."""

    __slots__ = ("_approaches", "_order", "_slow", "_stage", "_tried", "client", "door", "ip", "is_over", "target")

    def __init__(self, approaches: Approaches, client: Socket, door: Door, ip: str, order: Sequence[Target]) -> None:
        """``order``: at least one."""
        self._approaches = approaches
        self._order = order
        self._slow: list[Target] = []
        self._stage = self._tried = self.moved = 0
        self.client = client
        self.door = door
        self.ip = ip
        self.is_over = self.is_plain = False

    def handle(self, mask: int) -> None:
        if self.is_over:
            return
        if mask & FAULT and (code := self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
            self._approaches.reactor.close(self.sock)
            self.try_next(OSError(code, os.strerror(code)))
        elif mask & OUT:
            self.is_over = True
            self._approaches.reached(self, mask)

    def fail(self) -> None:
        """A mistake of ours, or the end."""
        if not self.is_over:
            self._approaches.reactor.close(self.sock)
            self._give_up(ConnectionAbortedError())

    def pass_deadline(self, attempt: Socket) -> None:
        """If it is still the one: no answer so far."""
        if not self.is_over and attempt is self.sock:
            self._approaches.reactor.close(attempt)
            self._stage += 1
            self._slow.append(self.target)
            self.try_next(TimeoutError())

    def try_next(self, error: OSError) -> None:
        """Begin an attempt; ``error``: how the latest one ended."""
        while self._stage < len(self._approaches.deadlines) and error.errno not in SHORT_OF_FILES:
            if self._tried < len(self._order):
                self.target = self._order[self._tried]
                self._tried += 1
            elif self._slow:
                self.target = self._slow.pop(0)
            else:
                break
            try:
                self.sock = self._dial()
            except OSError as failure:
                error = failure
            else:
                self._approaches.await_answer(self, self._stage)
                return
        self._give_up(error)

    def _dial(self) -> Socket:
        """Raises OSError."""
        ip, port = self.target.ip, self.target.port
        sock = Socket(_IPV6 if ":" in ip else _IPV4, _STREAM)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
            code = sock.connect_ex((ip, port))
            if code not in _UNDER_WAY:
                raise OSError(code, os.strerror(code))  # noqa: TRY301 -- what connect() raises costs twice as much
            self._approaches.reactor.register(self, sock, INPUT_AND_OUTPUT)
        except BaseException:
            sock.close()
            raise
        return sock

    def _give_up(self, error: OSError) -> None:
        self.is_over = True
        self._approaches.gave_up(self, error)


class Attempt(NamedTuple):
    deadline: float
    approach: Approach
    sock: Socket


class Approaches:
    """All that there are. ``deadlines``: seconds for each attempt. Of the two callbacks one is called for each.

    ``reached`` is given what epoll says of the endpoint's socket, which is then the callee's, as the client's is.
    """

    def __init__(
        self,
        reactor: Reactor,
        deadlines: Sequence[float],
        *,
        reached: Callable[[Approach, int], None],
        gave_up: Callable[[Approach, OSError], None],
    ) -> None:
        self.reactor = reactor
        self.deadlines = deadlines
        self.reached = reached
        self.gave_up = gave_up
        self._waiting: tuple[deque[Attempt], ...] = tuple(deque() for _ in deadlines)
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0  # when the timer is

    def await_answer(self, approach: Approach, stage: int) -> None:
        deadline = monotonic() + self.deadlines[stage]
        self._waiting[stage].append(Attempt(deadline, approach, approach.sock))
        if self._timer is None or deadline < self._due:
            self._set_timer(deadline)

    def stop(self) -> None:
        """Await nobody's answer any more."""
        for each in self._waiting:
            each.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _set_timer(self, due: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._due = due
        self._timer = asyncio.get_running_loop().call_later(max(_EARLY, due - monotonic()), self._pass_deadlines)

    def _pass_deadlines(self) -> None:
        self._timer = None
        now = monotonic() + _EARLY
        for each in self._waiting:
            while each and (each[0].deadline <= now or each[0].approach.is_over):
                _, approach, sock = each.popleft()
                approach.pass_deadline(sock)
        if due := [each[0].deadline for each in self._waiting if each]:
            self._set_timer(min(due))
