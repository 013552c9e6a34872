"""UDP sessions, performed: one socket for each client, connected to its endpoint.

What comes from clients is taken from the listener many datagrams at a time, and so is what goes back to them
(mmsg.py); in between, each session has its own socket, which the kernel finds for us: no table is asked who an answer
is for. A connected socket also hears what the kernel hears of its endpoint: a refusal (ICMP port unreachable) ends
the session, and the client's next datagram begins one with another endpoint. The refusal itself cannot be passed on to
the client from here; rules would.

Nothing waits here. What cannot be sent at once is dropped, as a full queue in the kernel would do, and both are
counted; the kernel's queues are wide (``relay_udp_buffer``) so that a burst finds room while other flows have their
turn.

All sockets are watched by an epoll of our own, of which the loop sees one file: a wakeup serves up to ``SLOTS``
sockets, without a handle and a call for each. It is level-triggered, unlike what serves connections: one datagram is
read of each session that has any, so that each gets its turn and nothing is asked in vain. An edge wants reads until
one finds nothing, which is an exception; measured with 64 flows it costs a tenth more where each has one datagram
under way, and a tenth less where each has eight. Where few have answers for a second time, all of theirs are read.

A session that carries large datagrams, or datagrams that a sender left uncut (ancillary.py), gets them uncut in both
directions from then on; reading these costs a little more, so others do without.

Several processes may share a listener's port (SO_REUSEPORT), each with sessions of its own. The kernel picks the
process by a hash over the sockets of the port, so one socket more or less moves most clients to processes that know
nothing of their sessions, and thus perhaps to other endpoints. Hence whoever starts workers opens a fixed number of
sockets for each port, keeps them open itself, and gives a worker's successor the socket of its predecessor: then only
the sessions of the worker that ended begin anew, and what arrives meanwhile waits in the socket's queue.

A session takes a port of this host besides a file; by default there are 28,232 (net.ipv4.ip_local_port_range).
"""

from __future__ import annotations

import asyncio
import errno
import select
import socket
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from kproxy.backend.userspace import ancillary, mmsg
from kproxy.backend.userspace.counts import ENDPOINTS, SHORT_OF_FILES, Counts, reason
from kproxy.backend.userspace.door import Door, dial
from kproxy.backend.userspace.mmsg import SLOTS
from kproxy.backend.userspace.rules import Listener
from kproxy.backend.userspace.udp import Sessions
from kproxy.config import Config
from kproxy.plan.plan import Target

_ROUNDS = 8  # of up to SLOTS sockets each, before others of this process have their turn
_MORE = 8  # sockets that had something: then others will by now
_FEW = 4  # sockets with answers: reading all of each costs less than looking for them again
_LARGE, _MANY = 1000, 32  # so many datagrams of more bytes than that: the next ones may come uncut
_FULL = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM})
_UNFIT = frozenset({errno.EMSGSIZE, errno.EINVAL, errno.EIO})  # too large for the path, or not to be cut by the kernel
_WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104 -- recognised, not bound


class Entry:
    """An open door as datagrams see it."""

    __slots__ = ("door", "drops", "number", "socket", "watch", "width")

    def __init__(self, door: Door, number: int, watch: _Watch) -> None:
        self.door = door
        self.socket = door.socket
        self.watch = watch
        self.number = number  # part of keys: clients may have sessions at several doors
        self.width = mmsg.WIDTH[socket.AddressFamily(door.socket.family)]
        self.drops = 0  # that the kernel told of so far


class Session:
    """A client's socket towards its endpoint."""

    __slots__ = ("due", "entry", "is_bulk", "key", "large", "local", "peer", "receive", "send", "socket", "target")

    def __init__(self, entry: Entry, key: bytes, peer: bytes, local: bytes, target: Target) -> None:
        """Raises OSError."""
        self.entry = entry
        self.key = key
        self.peer = peer
        self.local = local  # what answers are sent with
        self.target = target
        self.due = 0.0  # when an answer is next noted
        self.is_bulk = False
        self.large = 0  # datagrams so far
        self.socket = dial(target.ip, socket.SOCK_DGRAM)
        try:
            self.socket.connect((target.ip, target.port))
        except BaseException:
            self.socket.close()
            raise
        self.receive = self.socket.recv_into
        self.send = self.socket.send


class Datagrams:
    """All UDP sessions of one family, of all its listeners. ``limit``: how many there may be."""

    def __init__(self, config: Config, *, limit: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.counts = Counts()
        self._config = config
        self._clock = clock
        self._grain = config.relay_udp_idle / 100  # an answer so soon after another one is not noted in the table
        self._sessions: Sessions[bytes, Session] = Sessions(limit=limit, idle=config.relay_udp_idle)
        self._opened = 0
        self._entries: dict[int, Entry] = {}  # by file
        self._by_file: dict[int, Session] = {}
        self._watch: _Watch | None = None  # while there are doors
        self._latest: Sequence[Session] = ()  # that had answers

    async def run(self) -> None:
        """End idle sessions, until cancelled; ends all in the end."""
        try:
            while True:
                await asyncio.sleep(self._config.relay_sweep)
                self._close(self._sessions.expire(self._clock()))
                for entry in self._entries.values():
                    self._ask_drops(entry)
        finally:
            self.keep({})

    def open(self, door: Door) -> None:
        """Raises OSError; then the door is the caller's to close."""
        ancillary.widen(door.socket, self._config.relay_udp_buffer)
        ancillary.accept_joined(door.socket)
        if door.listener.ip in _WILDCARDS:
            ancillary.ask_destination(door.socket)
        watch = self._watch or _Watch(self._turn)
        try:
            watch.add(door.socket)
        except BaseException:
            if self._watch is None:
                watch.close()
            raise
        self._watch = watch
        self._opened += 1
        self._entries[door.socket.fileno()] = Entry(door, self._opened, watch)

    def shut(self, door: Door) -> None:
        """``keep`` ends its sessions."""
        entry = self._entries.pop(door.socket.fileno())
        self._ask_drops(entry)
        entry.watch.remove(door.socket)
        if not self._entries:
            entry.watch.close()
            self._watch = None
        door.close()

    def keep(self, doors: Mapping[Listener, Door]) -> None:
        """End the sessions that have no door, or whose endpoint no longer serves."""

        def is_orphan(_: bytes, session: Session) -> bool:
            door = session.entry.door
            return doors.get(door.listener) is not door or not door.rule.serves(session.target)

        self._close(self._sessions.drop(is_orphan))

    def _turn(self, watch: _Watch) -> None:
        """Somebody has sent something."""
        for _ in range(_ROUNDS):
            ready = watch.epoll.poll(0, SLOTS)
            now = self._clock()
            asked: list[Entry] = []
            answered: list[Session] = []
            for file, _ in ready:
                if (session := self._by_file.get(file)) is not None:
                    answered.append(session)
                elif (entry := self._entries.get(file)) is not None:
                    asked.append(entry)
            # Answers first: a new client may cost the session that was idle longest, but not what it has to say.
            self._from_endpoints(answered, watch, now)
            for entry in asked:
                self._from_clients(entry, watch.inbox, now)
            if len(ready) < _MORE:
                return

    def _from_clients(self, entry: Entry, inbox: mmsg.Inbox, now: float) -> None:
        touch = self._sessions.touch
        try:
            received = inbox.receive(entry.socket, entry.width, entry.number)
        except OSError:  # nothing after all, or about an earlier answer, which nobody can be told
            return
        for peer, data, length, more, control in received:
            segment, local, key = 0, b"", peer.tobytes()
            if more:
                segment, local = ancillary.parse(control[:more].tobytes())
                key += local
            session = touch(key, now) or self._begin(entry, key, mmsg.padded(peer.tobytes()), local, now)
            if session is None:
                continue
            try:
                if segment:
                    _make_bulk(session, self._config.relay_udp_buffer)
                    session.socket.sendmsg([data[:length]], [ancillary.cut_by(segment)])
                else:
                    session.send(data[:length])
            except OSError as error:
                self._not_sent(session, data[:length], segment or length or 1, error, now)

    def _from_endpoints(self, sessions: Sequence[Session], watch: _Watch, now: float) -> None:
        """One datagram of each; where it is the same few again, all that they have."""
        touch, outbox, data = self._sessions.touch, watch.outbox, watch.outbox.data
        are_same = len(sessions) <= _FEW and sessions == self._latest
        self._latest = sessions
        entry, count = None, 0
        for session in sessions:
            if now >= session.due:
                touch(session.key, now)
                session.due = now + self._grain
            try:
                if are_same or session.is_bulk:
                    self._pass_on(session, watch)
                    continue
                if session.entry is not entry:
                    self._send(entry, outbox)
                    entry, count = session.entry, 0
                length = session.receive(data[count])
            except OSError as error:
                self._not_received(session, error)
                continue
            outbox.put(length, session.peer, session.local)
            count += 1
            if length > _LARGE:
                self._saw_large(session)
        self._send(entry, outbox)

    def _pass_on(self, session: Session, watch: _Watch) -> None:
        """Raises OSError."""
        entry = session.entry
        for _, _, length, more, control in watch.inbox.receive(session.socket, entry.width, entry.number):
            segment = ancillary.parse(control[:more].tobytes()).segment if more else 0
            watch.through.put(length, session.peer, session.local, segment)
            if length > _LARGE and not session.is_bulk:
                self._saw_large(session)
        self._send(entry, watch.through)

    def _send(self, entry: Entry | None, outbox: mmsg.Outbox) -> None:
        if entry is not None:
            self.counts.dropped += outbox.send(entry.socket)

    def _saw_large(self, session: Session) -> None:
        session.large += 1
        if session.large >= _MANY:
            _make_bulk(session, self._config.relay_udp_buffer)

    def _begin(self, entry: Entry, key: bytes, peer: bytes, local: bytes, now: float) -> Session | None:
        door, ip = entry.door, str(mmsg.unpack(peer)[0])
        affinity = door.rule.affinity_seconds
        why = ENDPOINTS
        for target in door.balancer.order(door.rule.targets, affinity=affinity, client=ip, now=now):
            try:
                session = Session(entry, key, peer, local, target)
                self._add(session, now)
            except OSError as error:
                why = reason(error)
                if error.errno in SHORT_OF_FILES:
                    break
                continue
            if affinity:
                door.balancer.served(ip, target, now)
            self.counts.flows += 1
            self.counts.active = len(self._sessions)
            return session
        self.counts.refused[why] += 1
        return None

    def _add(self, session: Session, now: float) -> None:
        """Raises OSError."""
        try:
            session.entry.watch.add(session.socket)
        except BaseException:
            session.socket.close()
            raise
        self._by_file[session.socket.fileno()] = session
        evicted = self._sessions.add(session.key, session, now)
        self.counts.evicted += len(evicted)
        self._close(evicted)

    def _not_sent(self, session: Session, data: memoryview, segment: int, error: OSError, now: float) -> None:
        """The error is about this datagram, or the endpoint's answer to an earlier one; then this was not tried."""
        if error.errno in _FULL:
            self.counts.dropped += -(-len(data) // segment) or 1
        elif error.errno in _UNFIT:
            self._send_pieces(session, data, segment)
        else:
            self._refused(session)
            again = self._begin(session.entry, session.key, session.peer, session.local, now)
            if again is not None:
                self._send_pieces(again, data, segment)

    def _send_pieces(self, session: Session, data: memoryview, segment: int) -> None:
        for at in range(0, len(data) or 1, segment):
            try:
                session.send(data[at : at + segment])
            except OSError:
                self.counts.dropped += 1

    def _not_received(self, session: Session, error: OSError) -> None:
        # No longer there, nothing to read after all, or a smaller path MTU, which the kernel minds from now on.
        if session.socket.fileno() >= 0 and error.errno not in _FULL | _UNFIT:
            self._refused(session)

    def _refused(self, session: Session) -> None:
        """The endpoint is not there."""
        self.counts.refused[ENDPOINTS] += 1
        session.entry.door.balancer.forget(str(mmsg.unpack(session.peer)[0]))
        self._sessions.remove(session.key)
        self._close([session])

    def _close(self, sessions: Iterable[Session]) -> None:
        for session in sessions:
            self.counts.dropped += ancillary.dropped(session.socket)
            del self._by_file[session.socket.fileno()]
            session.socket.close()  # which takes it out of the epoll
        self.counts.active = len(self._sessions)

    def _ask_drops(self, entry: Entry) -> None:
        drops = ancillary.dropped(entry.socket)
        self.counts.dropped += drops - entry.drops
        entry.drops = drops


def _make_bulk(session: Session, buffer: int) -> None:
    """From now on its datagrams may be uncut."""
    if not session.is_bulk:
        session.is_bulk = True
        ancillary.widen(session.socket, buffer)
        ancillary.accept_joined(session.socket)


class _Watch:
    """The sockets that may have something to read, of which the loop knows one file."""

    def __init__(self, turn: Callable[[_Watch], None]) -> None:
        """Raises OSError."""
        self.inbox = mmsg.inbox()
        self.outbox = mmsg.outbox()
        self.through = mmsg.outbox(self.inbox)
        self.epoll = select.epoll()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self.epoll.fileno(), turn, self)

    def add(self, sock: socket.socket) -> None:
        """Raises OSError."""
        self.epoll.register(sock.fileno(), select.EPOLLIN)

    def remove(self, sock: socket.socket) -> None:
        self.epoll.unregister(sock.fileno())

    def close(self) -> None:
        self._loop.remove_reader(self.epoll.fileno())
        self.epoll.close()
