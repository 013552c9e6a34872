"""The way from an accepted client to an endpoint that answers, before any byte was passed on.

Endpoints are tried in the balancer's order, each once, and those that were only slow once more, after the others. An
attempt has a deadline; one that passes makes the next one longer (the rule's ``connect_deadlines``), and after the
last the client is reset. A refusal is an answer and costs no deadline: while an endpoint lives, no number of dead ones
keeps a client from it. Short of files, nobody else is tried, for that would fail alike. Who else there is, is asked
when it matters, and again when the rule has changed meanwhile: an endpoint that left is not tried any more.

The client is not read meanwhile, so nothing has to be kept for it, and its socket is not even registered. The kernel
acknowledges the endpoint's answer at once. To do that with the client's first bytes (TCP_QUICKACK off) would save one
packet and 4 % of the processor time, but an endpoint that stops listening meanwhile would reset the client.

Deadlines of one length pass in the order in which they began: a queue for each length and one timer for all do what
would else take a timer, or a task, for each connection. Services that ask for other deadlines make other queues.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic

from kproxy.backend.userspace.balance import Balancer
from kproxy.backend.userspace.counts import SHORT_OF_FILES
from kproxy.backend.userspace.door import mark
from kproxy.backend.userspace.endpoints import Endpoint
from kproxy.backend.userspace.reactor import FAULT, INPUT_AND_OUTPUT, OUT, Handler, Reactor, Socket
from kproxy.backend.userspace.transparent import Keeper
from kproxy.model.enums import Protocol

# As plain numbers: an enum costs a call for each connection.
_IPV4, _IPV6 = int(socket.AF_INET), int(socket.AF_INET6)
_STREAM = int(socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
_UNDER_WAY = frozenset({0, errno.EINPROGRESS, errno.EINTR})
_OURS = SHORT_OF_FILES | {errno.EADDRNOTAVAIL}  # no more files or ports here: no fault of an endpoint
_EARLY = 0.001  # seconds by which a loop's timer may be early; its clock is coarser than ours


class Approach(Handler):
    """One client from ``ip`` on its way, since ``began``; ``endpoint`` is whom it tries, or has reached."""

    __slots__ = (
        "_approaches",
        "_known",
        "_others",
        "_slow",
        "_stage",
        "_tried",
        "balancer",
        "began",
        "client",
        "endpoint",
        "ip",
        "is_over",
    )
    _others: list[Endpoint]  # with whom they were chosen from, ``_known``: the next one is the last

    def __init__(self, approaches: Approaches, client: Socket, balancer: Balancer, ip: str, began: float) -> None:
        self._approaches = approaches
        self._known: Sequence[Endpoint] = ()
        self._tried: set[Endpoint] | None = None
        self._slow: tuple[Endpoint, ...] = ()
        self._stage = self.moved = 0
        self.client = client
        self.balancer = balancer
        self.ip = ip
        self.began = began
        self.is_over = self.is_plain = False

    def begin(self) -> None:
        """Try whom the balancer chooses."""
        self.endpoint = self.balancer.choose(self.ip, self.began)
        self._try()

    def handle(self, mask: int) -> None:
        if self.is_over:
            return
        if mask & FAULT and (code := self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
            self._approaches.reactor.close(self.sock)
            if self._turn_to_another(OSError(code, os.strerror(code))):
                self._try()
        elif mask & OUT:
            self.is_over = True
            self._approaches.reached(self, mask)

    def fail(self) -> None:
        """A mistake of ours, or the end."""
        if not self.is_over:
            self._approaches.reactor.close(self.sock)
            self.endpoint.active -= 1
            self._give_up(ConnectionAbortedError())

    def pass_deadline(self, attempt: Socket) -> None:
        """If it is still the one: no answer so far."""
        if attempt is self.sock:
            self._approaches.reactor.close(attempt)
            self._stage += 1
            self._slow += (self.endpoint,)
            if self._turn_to_another(TimeoutError()):
                self._try()

    def _try(self) -> None:
        """Begin an attempt, and others while they fail at once."""
        while True:
            self.endpoint.active += 1
            try:
                self.sock = self._dial()
            except OSError as error:
                if not self._turn_to_another(error):
                    return
            else:
                self._approaches.await_answer(self, self.balancer.relay.connect_deadlines[self._stage])
                return

    def _turn_to_another(self, error: OSError) -> bool:
        """The attempt has ended; whether there is somebody else to try. If not, that was all."""
        self.endpoint.active -= 1
        if error.errno not in _OURS:
            self.balancer.failed(self.endpoint, monotonic())
        endpoint = None
        if error.errno not in SHORT_OF_FILES and self._stage < len(self.balancer.relay.connect_deadlines):
            endpoint = self._next()
        if endpoint is None:
            self._give_up(error)
            return False
        self.endpoint = endpoint
        self.balancer.service.tally.retries += 1
        return True

    def _next(self) -> Endpoint | None:
        """By the rule of now."""
        if self._tried is None:
            self._tried = set()
        self._tried.add(self.endpoint)
        known = self.balancer.endpoints
        if self._known is not known:
            self._known = known
            self._others = self.balancer.others(self._tried, monotonic())
            self._others.reverse()
        if self._others:
            return self._others.pop()
        while self._slow:
            endpoint, self._slow = self._slow[0], self._slow[1:]
            if endpoint in known:
                return endpoint
        return None

    def _dial(self) -> Socket:
        """Raises OSError."""
        ip, port = self.endpoint.address
        sock = Socket(_IPV6 if ":" in ip else _IPV4, _STREAM)
        try:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
            if self._approaches.mark and not mark(sock, self._approaches.mark):
                self._approaches.mark = 0
            if (keeping := self.balancer.keeping) is not None and not self._approaches.keeper.keep(
                sock, keeping, self.ip, self.endpoint.target
            ):
                self.balancer.service.tally.hidden += 1
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


Attempt = tuple[float, Approach, Socket]  # its deadline; a named tuple costs a call for each connection


class Approaches:
    """All that there are. Of the two callbacks one is called for each.

    ``reached`` is given what epoll says of the endpoint's socket, which is then the callee's, as the client's is.
    """

    def __init__(
        self,
        reactor: Reactor,
        *,
        reached: Callable[[Approach, int], None],
        gave_up: Callable[[Approach, OSError], None],
        mark: int = 0,
    ) -> None:
        self.reactor = reactor
        self.mark = mark  # of packets to endpoints; 0: none
        self.reached = reached
        self.gave_up = gave_up
        self.keeper = Keeper(Protocol.TCP)
        self._waiting: dict[float, deque[Attempt]] = {}  # by how long they wait
        self._timer: asyncio.TimerHandle | None = None
        self._due = 0.0  # when the timer is

    def await_answer(self, approach: Approach, seconds: float) -> None:
        """For so long."""
        deadline = monotonic() + seconds
        queue = self._waiting.get(seconds)
        if queue is None:
            queue = self._waiting[seconds] = deque()
        queue.append((deadline, approach, approach.sock))
        if self._timer is None or deadline < self._due:
            self._set_timer(deadline)

    def stop(self) -> None:
        """Await nobody's answer any more."""
        self.keeper.close()
        self._waiting.clear()
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
        for each in list(self._waiting.values()):  # whoever tries somebody else now may make another
            while each and (each[0][0] <= now or each[0][1].is_over):
                _, approach, sock = each.popleft()
                if not approach.is_over:
                    approach.pass_deadline(sock)
        for seconds in [seconds for seconds, each in self._waiting.items() if not each]:
            del self._waiting[seconds]
        if self._waiting:
            self._set_timer(min(each[0][0] for each in self._waiting.values()))
