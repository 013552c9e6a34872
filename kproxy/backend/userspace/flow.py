"""Two connections, and the bytes between them: what the machine of ``tcp`` says, done at once instead of said.

The machine is the specification, and what a test compares this with, event by event, over real connections; driving
it would cost two objects for each message. Its words are here: a side that has *ended*, one that is *broken* (its
peer is reset), one that is full (what it did not take is ``rest``, and its peer is not read meanwhile).

What a flow can hold for one direction is what was read at once: ``relay_buffer`` bytes, or one pipe's, ``relay_pipe``
at most (``bounds`` adds that up). All else that waits is in the kernel's buffers of two sockets, whose largest sizes
are the node's to choose (net.ipv4.tcp_rmem and tcp_wmem, the last of three figures), or still with its sender.

A flow begins as reads and writes of the shared buffer, which is cheapest for messages. Three large reads in a row
prove it to be bulk; then the kernel moves its pages through a pipe, at a quarter of the processor time, until eight
bursts in a row were small. A direction for which there is no pipe stays as it was.

Urgent bytes are bytes of the stream, where they stand: both sockets have SO_OOBINLINE before anything can arrive. A
read ends at such a byte, with more to be had; the event says so (EPOLLPRI), and then reading goes on.

Each flow is looked after from time to time (``relay_sweep``), by the newest settings of its service port; hence limits
are kept to within one such time. One that has been idle for too long is reset, earlier if nothing was ever said
(``silence``), and so is one whose endpoint has left the rules too long ago (``drain``). Whether a request is whole, a
relay of bytes cannot see: who says one letter in a minute is in conversation. Against that only numbers help, of one
service port's connections (``connections``), of which each costs us little while it waits; and an endpoint's own
deadlines, which see the same slow client that they would see without us.

Every abnormal end is a reset of both sides, so nobody takes a cut stream for a whole one. That holds for the death of
this process, too, for whatever is bulk or has seen one sweep: from then on its sockets linger for no time
(SO_LINGER 0). Doing so for each connection at once would cost one in thirty more processor time. A side that resets
after its end of stream is noticed by the fault that epoll reports, though it is no longer read.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable
from math import inf

from kproxy.backend.userspace.endpoints import Endpoint
from kproxy.backend.userspace.pipes import Pipe, Pipes
from kproxy.backend.userspace.reactor import (
    FAULT,
    IN,
    INPUT,
    INPUT_AND_OUTPUT,
    OUT,
    READS,
    Handler,
    Reactor,
    Socket,
)
from kproxy.config import Config

_READS = 8  # of one flow before others have their turn
_BULK = 3  # large reads in a row that prove it
_BURSTS = 8  # small ones in a row that disprove it
_SMALL = 8192  # bytes of such a burst
_PROBES = 4  # unanswered keepalives before a connection is gone
_RESET = struct.pack("ii", 1, 0)
_ORDERLY = struct.pack("ii", 0, 0)


def reset_when_closed(sock: Socket) -> None:
    with contextlib.suppress(OSError):  # it is reset already
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)


class End(Handler):
    """One side of a flow, and what it says to its peer. Without a peer the flow is over."""

    __slots__ = ("_flows", "_hears_room", "_is_bulk", "_mark", "_run", "has_ended", "lingers", "peer", "rest")
    peer: End | None

    def __init__(self, flows: Flows, sock: Socket, *, hears_room: bool) -> None:
        """``hears_room``: its registration includes output."""
        self._flows = flows
        self.sock = sock
        self.moved = 0
        self.peer = None
        self.rest: memoryview | Pipe | None = None  # what the peer did not take
        self.has_ended = False  # it will say no more, and the peer was told
        self.lingers = True  # what was sent is delivered after it was closed
        self.is_plain = True
        self._hears_room = hears_room
        self._is_bulk = False
        self._run = 0  # reads that speak against what ``_is_bulk`` says
        self._mark = 0  # ``moved`` after the latest of them

    def handle(self, mask: int) -> None:
        peer = self.peer
        if peer is None:
            return
        if mask & OUT and peer.rest is not None:
            peer.flush()
        if mask & READS and self.peer is not None:
            self.read(mask)

    def read(self, mask: int) -> None:
        """Pass on what can be read, but not without end. ``mask``: what epoll says of this socket."""
        if self.rest is not None or self.has_ended:
            if mask & FAULT and self.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                self.fail()
            return
        view = self._flows.reactor.view
        for _ in range(_READS):
            if self._is_bulk:
                if not self._splice():
                    return
                continue
            try:
                size = self.sock.recv_into(view)
            except BlockingIOError:
                return
            except OSError:
                self.fail()
                return
            self.carry(size, 0)
            if self.peer is None or self.rest is not None or self.has_ended:
                return
            if size < len(view) and not mask & ~(IN | OUT):  # what comes next is another event
                return
        self._flows.reactor.again(self)

    def carry(self, size: int, sent: int) -> None:
        if size == 0:
            self._end()
            return
        view = self._flows.reactor.view
        if size >= self._flows.reactor.big:
            self._run = self._run + 1 if self._mark == self.moved else 1
            self._mark = self.moved + size
            if self._run >= _BULK:
                self._be_bulk()
        self.moved += size
        if sent < size:
            try:
                sent += self.out.send(view[sent:size])
            except BlockingIOError:
                pass
            except OSError:
                self._lose_peer()
                return
        if sent < size:
            self._wait(memoryview(bytes(view[sent:size])))

    def expect_end(self) -> None:
        self.read(READS)
        if not self.has_ended and self.peer is not None:  # an event is a hint: what was held back goes out now
            self.out.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def flush(self) -> None:
        """Send the rest, as far as the peer takes it; then what has come meanwhile."""
        rest = self.rest
        try:
            if isinstance(rest, Pipe):
                if not rest.pour(self.out.fileno()):
                    return
                self._flows.pipes.give(rest)
            elif rest is not None:
                sent = self.out.send(rest)
                if sent < len(rest):
                    self.rest = rest[sent:]
                    return
        except BlockingIOError:
            return
        except OSError:
            self._lose_peer()
            return
        self.rest = None
        self._settle()
        self.read(READS)

    def fail(self) -> None:
        """This side is broken, or the flow is to end: reset both."""
        peer = self.peer
        if peer is not None:
            reset_when_closed(self.sock)
            reset_when_closed(peer.sock)
            self._flows.finish(self, peer)

    def _end(self) -> None:
        """This side says no more; its peer is told, and may go on."""
        peer = self.peer
        if peer is None:
            return
        self.has_ended = True
        self.is_plain = False
        if peer.has_ended:
            if not self.lingers:
                for each in (self, peer):
                    each.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ORDERLY)
            self._flows.finish(self, peer)
            return
        try:
            self.out.shutdown(socket.SHUT_WR)
        except OSError:
            self._lose_peer()

    def _wait(self, rest: memoryview | Pipe) -> None:
        """The peer is full."""
        self.rest = rest
        self._settle()
        peer = self.peer
        if peer is not None and not peer._hears_room:  # noqa: SLF001 -- of the same class
            peer._hears_room = True  # noqa: SLF001
            self._flows.reactor.modify(peer.sock, INPUT_AND_OUTPUT)

    def _settle(self) -> None:
        """Whether the shortest way is the right one, for both."""
        peer = self.peer
        if peer is not None:
            is_free = self.rest is None and peer.rest is None
            for each in (self, peer):
                each.is_plain = is_free and not (each._is_bulk or each.has_ended)  # noqa: SLF001 -- of the same class

    def _lose_peer(self) -> None:
        """The peer cannot be written to: it is broken. What it had said before is still for this side."""
        peer = self.peer
        if peer is not None and peer.rest is None and not peer.has_ended:
            view = self._flows.reactor.view
            with contextlib.suppress(OSError):
                for _ in range(_READS):
                    size = peer.sock.recv_into(view)
                    if not size or peer.out.send(view[:size]) < size:
                        break
        self.fail()

    def _be_bulk(self) -> None:
        self._is_bulk = True
        self.is_plain = False
        self._run = 0
        self.be_reset_by_death()

    def _splice(self) -> bool:
        """One burst through a pipe; whether there may be more to read."""
        pipes = self._flows.pipes
        pipe = pipes.take()
        if pipe is None:
            self._is_bulk, self._run = False, 0
            self._settle()
            return True
        try:
            size = pipe.fill(self.sock.fileno())
        except OSError as error:
            pipes.give(pipe)
            if not isinstance(error, BlockingIOError):
                self.fail()
            return False
        self.moved += size
        self._run = self._run + 1 if size < _SMALL else 0
        if self._run >= _BURSTS or not size:  # whether that is the end, the plain way tells for certain
            self._is_bulk, self._run = False, 0
            self._settle()
        try:
            is_empty = pipe.pour(self.out.fileno())
        except OSError:
            pipes.give(pipe)
            self._lose_peer()
            return False
        if is_empty:
            pipes.give(pipe)
        else:
            self._wait(pipe)
        return is_empty

    def be_reset_by_death(self) -> None:
        """If this process dies, the kernel resets both sides."""
        for each in (self, self.peer):
            if each is not None and each.lingers:
                each.lingers = False
                reset_when_closed(each.sock)


class Client(End):
    """The client's end, which speaks for the flow, to ``endpoint``."""

    __slots__ = ("_is_probed", "_received", "_seen", "_sent", "_since", "endpoint")

    def __init__(self, flows: Flows, sock: Socket, endpoint: Endpoint, now: float) -> None:
        super().__init__(flows, sock, hears_room=False)
        self.endpoint = endpoint
        self._received = self._sent = 0  # of both ends' bytes those that the tally has
        self._seen = 0  # what had happened when it was last looked at
        self._since = now  # when it was first seen
        self._is_probed = False

    def age(self, now: float, config: Config) -> None:
        """Look after the flow, from time to time; reset it when nothing has happened for too long."""
        peer = self.peer
        if peer is None:
            return
        self.count(peer)
        if self.lingers:
            self.be_reset_by_death()
        ends = self.has_ended + peer.has_ended
        seen = self.moved + peer.moved + ends
        if seen != self._seen:
            self._seen, self._since = seen, now
        elif self._since + self._patience(ends, is_silent=seen == ends, config=config) <= now:
            self.fail()
            return
        elif not self._is_probed:
            self._is_probed = True
            for each in (self, peer):
                _probe(each.sock, max(1, int(config.relay_keepalive)))
        left, drain = self.endpoint.left, self.endpoint.service.relay.drain
        if left is not None and drain and left + drain <= now:
            self.fail()

    def count(self, peer: End) -> None:
        """Add to the tally what has moved since the latest time."""
        tally = self.endpoint.service.tally
        tally.received += self.moved - self._received
        tally.sent += peer.moved - self._sent
        self._received, self._sent = self.moved, peer.moved

    def _patience(self, ends: int, *, is_silent: bool, config: Config) -> float:
        """For how long nothing may happen. 0 in the settings is for ever."""
        relay = self.endpoint.service.relay
        patience = config.relay_half_closed if ends else relay.idle or inf
        return min(patience, relay.silence) if is_silent and relay.silence else patience


def _probe(sock: Socket, idle: int) -> None:
    """Have the kernel ask whether the other end is still there, once it was silent for ``idle`` seconds."""
    with contextlib.suppress(OSError):  # it is gone, which the next event says
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, idle)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, max(1, idle // _PROBES))
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, _PROBES)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


class Flows:
    """All that there are, with what they share. ``ended`` is called when a flow is over."""

    def __init__(self, reactor: Reactor, pipes: Pipes, ended: Callable[[Client], None]) -> None:
        self.reactor = reactor
        self.pipes = pipes
        self.live: set[Client] = set()
        self._ended = ended

    def join(self, client: Socket, sock: Socket, endpoint: Endpoint, now: float) -> End:
        """Begin a flow; the endpoint's end of it. ``sock`` is registered, for input and output, and nobody else."""
        first, second = Client(self, client, endpoint, now), End(self, sock, hears_room=True)
        first.peer, second.peer = second, first
        first.out, second.out = sock, client
        self.reactor.handlers[sock.fileno()] = second
        self.live.add(first)
        first.read(IN)  # what it said while it waited; nothing of that is left to be an event
        if first.peer is not None:
            try:
                self.reactor.register(first, client, INPUT)
            except OSError:
                first.fail()
        return second

    def finish(self, one: End, other: End) -> None:
        """Close both sockets, and free everything without waiting for the collector."""
        for each, peer in ((one, other), (other, one)):
            if isinstance(each, Client):
                each.count(peer)
                self.live.discard(each)
                self._ended(each)
            if each.rest is not None:
                if isinstance(each.rest, Pipe):
                    self.pipes.give(each.rest)
                each.rest = None
            each.peer = None
            each.is_plain = False
        self.reactor.close(one.sock, other.sock)
