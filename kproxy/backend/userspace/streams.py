"""TCP connections of one family: who is let in, how many there may be, and for how long.

A client is accepted at once, led to an endpoint (``approach``), and joined with it (``flow``); ``reactor`` says when.
Accepting is bounded for each turn, more where more are waiting. At a cap, of all or of its service port, a client is
reset, so that it learns of it; short of files it waits in the kernel's queue, and so do all others, for
``relay_accept_pause``. Where several processes share a service port they share its cap; each knows what the others had
a moment ago, so there may be more connections for a moment, by what comes to all of them within it.

``tcp`` is the specification of what happens to a flow; it is not driven here (see ``flow``).

What accepted connections are to have, the listener has: the kernel lets them inherit it, which saves a call for each.
TCP_DEFER_ACCEPT and TCP_FASTOPEN_CONNECT stay off, for both keep a server from speaking first; so does a sockmap,
which knows no backpressure.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from time import monotonic

from kproxy.backend.userspace.approach import Approach, Approaches
from kproxy.backend.userspace.bounds import Bounds
from kproxy.backend.userspace.counts import FILES, LIMIT, SERVICE_LIMIT, SHORT_OF_FILES, Counts, reason
from kproxy.backend.userspace.door import Door
from kproxy.backend.userspace.flow import Client, Flows, reset_when_closed
from kproxy.backend.userspace.pipes import Pipes
from kproxy.backend.userspace.reactor import IN, OUT, READS, Handler, Reactor, Socket
from kproxy.config import Config
from kproxy.model.keys import ServicePortKey

_STREAM = int(socket.SOCK_STREAM)
_AT_ONCE = 64  # connections accepted before others have their turn
_LOOKED_AFTER = 500  # flows looked after before others have their turn; new ones take ten system calls each
_PIPES_SHARE = 8  # of the connections that there may be, one in so many may have a pipe


class Streams:
    """All TCP flows of one family, of all its listeners. ``limit``: how many there may be.

    ``elsewhere``: how many flows of a service port other processes have; asked where there is a cap.
    """

    def __init__(self, config: Config, *, limit: int, elsewhere: Callable[[ServicePortKey], int]) -> None:
        self.counts = Counts()
        self._config = config
        self._limit = limit
        self._elsewhere = elsewhere
        self._is_running = False
        self._reactor = Reactor(config.relay_buffer)
        pipes = min(config.relay_pipes, max(1, limit // _PIPES_SHARE))
        self._pipes = Pipes(limit=pipes, size=config.relay_pipe)
        self.bounds = Bounds(buffer=config.relay_buffer, pipe=config.relay_pipe, flows=limit, pipes=pipes)
        self._flows = Flows(self._reactor, self._pipes, self._ended)
        self._approaches = Approaches(
            self._reactor, reached=self._reached, gave_up=self._gave_up, mark=config.relay_mark
        )
        self._pauses: dict[Door, asyncio.TimerHandle] = {}

    async def run(self) -> None:
        """Let connections in, until cancelled; resets all that there are in the end."""
        self._is_running = True
        try:
            while True:
                await asyncio.sleep(self._config.relay_sweep)
                await self._look_after_flows()
        finally:
            self._is_running = False
            for handler in list(self._reactor.handlers):
                if handler is not None:
                    handler.fail()
            self._approaches.stop()
            self._reactor.stop()
            self._pipes.close()

    async def _look_after_flows(self) -> None:
        """Some at a time: others have messages to be passed on."""
        flows = list(self._flows.live)
        for at in range(0, len(flows), _LOOKED_AFTER):
            now = monotonic()
            for client in flows[at : at + _LOOKED_AFTER]:
                client.age(now, self._config)
            await asyncio.sleep(0)

    def open(self, door: Door) -> None:
        """Raises OSError."""
        door.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        door.socket.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
        self._reactor.register(_Entrance(self, door), door.socket, IN)

    def shut(self, door: Door) -> None:
        if pause := self._pauses.pop(door, None):
            pause.cancel()
        else:
            self._reactor.unregister(door.socket)
        door.close()
        if not self._is_running and not any(self._reactor.handlers):
            self._reactor.stop()

    def admit(self, door: Door, family: int, fd: int, ip: str) -> None:
        """A client was accepted."""
        sock = Socket(family, _STREAM, 0, fd)
        counts, balancer = self.counts, door.balancer
        service = balancer.service
        if not self._is_running or counts.active >= self._limit:
            why = LIMIT
        elif (cap := service.relay.connections) and service.tally.active + self._elsewhere(service.key) >= cap:
            why = SERVICE_LIMIT
        else:
            sock.setblocking(False)
            counts.active += 1
            service.tally.active += 1
            Approach(self._approaches, sock, balancer, ip, monotonic()).begin()
            return
        counts.refused[why] += 1
        service.tally.refuse(why)
        reset_when_closed(sock)
        sock.close()

    def pause(self, door: Door) -> None:
        """Short of files: whoever knocks waits in the kernel's queue meanwhile."""
        self.counts.refused[FILES] += 1
        door.balancer.service.tally.refuse(FILES)
        self._reactor.unregister(door.socket)
        loop = asyncio.get_running_loop()
        self._pauses[door] = loop.call_later(self._config.relay_accept_pause, self._resume, door)

    def _resume(self, door: Door) -> None:
        del self._pauses[door]
        try:
            self.open(door)
        except OSError:
            self.pause(door)

    def _reached(self, approach: Approach, mask: int) -> None:
        now, endpoint = monotonic(), approach.endpoint
        approach.balancer.reached(endpoint, approach.ip, now)
        self.counts.flows += 1
        endpoint.service.tally.connect(now - approach.began)
        end = self._flows.join(approach.client, approach.sock, endpoint, now)
        if mask & READS:
            end.handle(mask & ~OUT)

    def _gave_up(self, approach: Approach, error: OSError) -> None:
        why, tally = reason(error), approach.balancer.service.tally
        self.counts.refused[why] += 1
        self.counts.active -= 1
        tally.refuse(why)
        tally.active -= 1
        reset_when_closed(approach.client)
        self._reactor.close(approach.client)

    def _ended(self, client: Client) -> None:
        self.counts.active -= 1
        client.endpoint.active -= 1
        client.endpoint.service.tally.active -= 1


class _Entrance(Handler):
    """A door, to the reactor."""

    __slots__ = ("_at_once", "_door", "_family", "_streams")

    def __init__(self, streams: Streams, door: Door) -> None:
        self._streams = streams
        self._door = door
        self._family = int(door.socket.family)
        self._at_once = 1
        self.is_plain = False

    def handle(self, mask: int) -> None:
        """Let some in. The rest is told again, this one socket being level-triggered."""
        del mask
        door, family, admit = self._door, self._family, self._streams.admit
        accept = door.socket._accept  # type: ignore[attr-defined] # noqa: SLF001 -- accept() makes a costlier socket
        for _ in range(self._at_once):
            try:
                fd, address = accept()
            except BlockingIOError:
                self._at_once = max(1, self._at_once // 2)
                return
            except OSError as error:
                if error.errno in SHORT_OF_FILES:
                    self._streams.pause(door)
                    return
                continue  # the client has left while it waited
            admit(door, family, fd, address[0])
        self._at_once = min(_AT_ONCE, self._at_once * 2)

    def fail(self) -> None:
        """Stay open."""
