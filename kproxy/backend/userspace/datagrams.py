"""UDP sessions, performed: one socket for each client, connected to its endpoint.

What comes from clients is taken from the listener many datagrams at a time, and so is what goes back to them
(mmsg.py); in between, each session has its own socket, which the kernel finds for us: no table is asked who an answer
is for. A connected socket also hears what the kernel hears of its endpoint: a refusal (ICMP port unreachable) ends
the session, and the client's next datagram begins one with another endpoint. The refusal itself cannot be passed on to
the client from here; rules would.

Nothing waits here. What cannot be sent at once is dropped, as a full queue in the kernel would do, and both are
counted; the kernel's queues are wide (``relay_udp_buffer``) so that a burst finds room while other flows have their
turn. Where few sessions have answers for a second time, all of theirs are read (watch.py says how they are found).

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
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

from kproxy.backend.userspace import ancillary, mmsg
from kproxy.backend.userspace.counts import ENDPOINTS, SHORT_OF_FILES, Counts, reason
from kproxy.backend.userspace.door import Door
from kproxy.backend.userspace.endpoints import ServicePort
from kproxy.backend.userspace.mmsg import SLOTS
from kproxy.backend.userspace.rules import Listener
from kproxy.backend.userspace.session import Entry, Session
from kproxy.backend.userspace.transparent import Keeper
from kproxy.backend.userspace.udp import Sessions
from kproxy.backend.userspace.watch import Watch
from kproxy.config import Config
from kproxy.model.enums import Protocol
from kproxy.model.keys import ServicePortKey

_ROUNDS = 8  # of up to SLOTS sockets each, before others of this process have their turn
_MORE = 8  # sockets that had something: then others will by now
_FEW = 4  # sockets with answers: reading all of each costs less than looking for them again
_LARGE, _MANY = 1000, 32  # so many datagrams of more bytes than that: the next ones may come uncut
_FULL = frozenset({errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM})
_UNFIT = frozenset({errno.EMSGSIZE, errno.EINVAL, errno.EIO})  # too large for the path, or not to be cut by the kernel
_WILDCARDS = frozenset({"0.0.0.0", "::"})  # noqa: S104 -- recognised, not bound


class Datagrams:
    """All UDP sessions of one family, of all its listeners. ``limit``: how many there may be.

    ``elsewhere``: how many sessions of a service port other processes have; asked where there is a cap.
    """

    def __init__(
        self,
        config: Config,
        *,
        limit: int,
        elsewhere: Callable[[ServicePortKey], int],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.counts = Counts()
        self._config = config
        self._elsewhere = elsewhere
        self._clock = clock
        self._grain = config.relay_udp_idle / 100  # an answer so soon after another one is not noted in the table
        self._sessions: Sessions[bytes, Session] = Sessions(limit=limit, idle=config.relay_udp_idle)
        self._opened = 0
        self._entries: dict[int, Entry] = {}  # by file
        self._by_file: dict[int, Session] = {}
        self._watch: Watch | None = None  # while there are doors
        self._latest: Sequence[Session] = ()  # that had answers
        self._keeper = Keeper(Protocol.UDP)

    async def run(self) -> None:
        """End idle sessions, until cancelled; ends all in the end."""
        try:
            while True:
                await asyncio.sleep(self._config.relay_sweep)
                now = self._clock()
                idle = self._sessions.expire(now)
                for session in idle:  # nobody refused it in all its life, which must do where nobody answers
                    session.was_answered(now)
                self._close(idle)
                for entry in self._entries.values():
                    self._ask_drops(entry)
                self._keeper.renew()
        finally:
            self.keep({})
            self._keeper.close()

    def open(self, door: Door) -> None:
        """Raises OSError; then the door is the caller's to close."""
        ancillary.widen(door.socket, self._config.relay_udp_buffer)
        ancillary.accept_joined(door.socket)
        if door.listener.ip in _WILDCARDS:
            ancillary.ask_destination(door.socket)
        watch = self._watch or Watch(self._turn)
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
            if doors.get(door.listener) is not door or session.endpoint.service is not door.balancer.service:
                return True
            return not door.rule.serves(session.endpoint.target)

        self._close(self._sessions.drop(is_orphan))

    def _turn(self, watch: Watch) -> None:
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
            session.tally.received += length
            try:
                if segment:
                    session.be_bulk(self._config.relay_udp_buffer)
                    session.socket.sendmsg([data[:length]], [ancillary.cut_by(segment)])
                else:
                    session.send(data[:length])
            except OSError as error:
                self._not_sent(session, data[:length], segment or length or 1, error, now)

    def _from_endpoints(self, sessions: Sequence[Session], watch: Watch, now: float) -> None:
        """One datagram of each; where it is the same few again, all that they have."""
        touch, outbox, data = self._sessions.touch, watch.outbox, watch.outbox.data
        are_same = len(sessions) <= _FEW and sessions == self._latest
        self._latest = sessions
        entry, count = None, 0
        for session in sessions:
            if is_due := now >= session.due:
                touch(session.key, now)
                session.due = now + self._grain
            try:
                if are_same or session.is_bulk:
                    self._pass_on(session, watch)
                    if is_due:
                        session.was_answered(now)
                    continue
                if session.entry is not entry:
                    self._send(entry, outbox)
                    entry, count = session.entry, 0
                length = session.receive(data[count])
            except OSError as error:
                self._not_received(session, error)
                continue
            if is_due:
                session.was_answered(now)
            session.tally.sent += length
            outbox.put(length, session.peer, session.local)
            count += 1
            if length > _LARGE:
                self._saw_large(session)
        self._send(entry, outbox)

    def _pass_on(self, session: Session, watch: Watch) -> None:
        """Raises OSError."""
        entry = session.entry
        for _, _, length, more, control in watch.inbox.receive(session.socket, entry.width, entry.number):
            segment = ancillary.parse(control[:more].tobytes()).segment if more else 0
            session.tally.sent += length
            watch.through.put(length, session.peer, session.local, segment)
            if length > _LARGE and not session.is_bulk:
                self._saw_large(session)
        self._send(entry, watch.through)

    def _send(self, entry: Entry | None, outbox: mmsg.Outbox) -> None:
        if entry is not None and (drops := outbox.send(entry.socket)):
            self._drop(entry.door.balancer.service, drops)

    def _saw_large(self, session: Session) -> None:
        session.large += 1
        if session.large >= _MANY:
            session.be_bulk(self._config.relay_udp_buffer)

    def _begin(self, entry: Entry, key: bytes, peer: bytes, local: bytes, now: float) -> Session | None:
        balancer, ip = entry.door.balancer, str(mmsg.unpack(peer)[0])
        tally = balancer.service.tally
        self._make_room(balancer.service)
        why = ENDPOINTS
        for number, endpoint in enumerate(balancer.attempts(ip, now)):
            tally.retries += number > 0
            try:
                session = Session(entry, key, peer, local, endpoint, self._keeper, ip, self._config.relay_mark)
                self._add(session, now)
            except OSError as error:
                why = reason(error)
                if error.errno in SHORT_OF_FILES:
                    break
                if error.errno != errno.EADDRNOTAVAIL:  # there are no more ports here
                    balancer.failed(endpoint, now)
                continue
            balancer.begun(endpoint, ip, now)
            self.counts.flows += 1
            tally.flows += 1
            return session
        self._refuse(balancer.service, why)
        return None

    def _make_room(self, service: ServicePort) -> None:
        """Within the cap of one service port. A process that has none of its flows may begin one all the same."""
        cap = service.relay.connections
        if not cap:
            return
        for _ in range(min(service.tally.active, service.tally.active + self._elsewhere(service.key) + 1 - cap)):
            oldest = self._sessions.take_oldest(service, lambda session: session.endpoint.service is service)
            if oldest is not None:
                self._evict([oldest])

    def _add(self, session: Session, now: float) -> None:
        """Raises OSError."""
        try:
            session.entry.watch.add(session.socket)
        except BaseException:
            session.socket.close()
            raise
        self._by_file[session.socket.fileno()] = session
        service = session.endpoint.service
        session.endpoint.active += 1
        service.tally.active += 1
        self._evict(self._sessions.add(session.key, session, now, service))
        self.counts.active = len(self._sessions)

    def _evict(self, sessions: Sequence[Session]) -> None:
        for session in sessions:
            session.tally.evicted += 1
        self.counts.evicted += len(sessions)
        self._close(sessions)

    def _not_sent(self, session: Session, data: memoryview, segment: int, error: OSError, now: float) -> None:
        """The error is about this datagram, or the endpoint's answer to an earlier one; then this was not tried."""
        if error.errno in _FULL:
            self._drop(session.endpoint.service, -(-len(data) // segment) or 1)
        elif error.errno in _UNFIT:
            self._send_pieces(session, data, segment)
        else:
            self._refused(session, now)
            again = self._begin(session.entry, session.key, session.peer, session.local, now)
            if again is not None:
                self._send_pieces(again, data, segment)

    def _send_pieces(self, session: Session, data: memoryview, segment: int) -> None:
        for at in range(0, len(data) or 1, segment):
            try:
                session.send(data[at : at + segment])
            except OSError:
                self._drop(session.endpoint.service, 1)

    def _not_received(self, session: Session, error: OSError) -> None:
        # No longer there, nothing to read after all, or a smaller path MTU, which the kernel minds from now on.
        if session.socket.fileno() >= 0 and error.errno not in _FULL | _UNFIT:
            self._refused(session, self._clock())

    def _refused(self, session: Session, now: float) -> None:
        """The endpoint is not there."""
        balancer = session.entry.door.balancer
        self._refuse(session.endpoint.service, ENDPOINTS)
        balancer.failed(session.endpoint, now)
        balancer.forget(str(mmsg.unpack(session.peer)[0]))
        self._sessions.remove(session.key)
        self._close([session])

    def _close(self, sessions: Iterable[Session]) -> None:
        for session in sessions:
            self._drop(session.endpoint.service, ancillary.dropped(session.socket))
            session.endpoint.active -= 1
            session.tally.active -= 1
            del self._by_file[session.socket.fileno()]
            session.socket.close()  # which takes it out of the epoll
        self.counts.active = len(self._sessions)

    def _ask_drops(self, entry: Entry) -> None:
        drops = ancillary.dropped(entry.socket)
        self._drop(entry.door.balancer.service, drops - entry.drops)
        entry.drops = drops

    def _drop(self, service: ServicePort, datagrams: int) -> None:
        self.counts.dropped += datagrams
        service.tally.dropped += datagrams

    def _refuse(self, service: ServicePort, why: str) -> None:
        self.counts.refused[why] += 1
        service.tally.refuse(why)
