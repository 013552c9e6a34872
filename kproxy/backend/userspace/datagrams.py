"""UDP sessions, performed: one socket for each client, connected to its endpoint.

A connected socket hears what the kernel hears of its endpoint: a refusal (ICMP port unreachable) ends the session and
the client's next datagram begins one with another endpoint. The refusal itself cannot be passed on to the client from
here; rules would. What cannot be sent at once is dropped, as a full queue in the kernel would do.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterable, Mapping
from typing import Any

from kproxy.backend.userspace.counts import ENDPOINTS, Counts, reason
from kproxy.backend.userspace.door import Door, dial
from kproxy.backend.userspace.rules import Listener
from kproxy.backend.userspace.udp import Sessions
from kproxy.config import Config
from kproxy.plan.plan import Target

_AT_ONCE = 64  # datagrams of one socket before others have their turn
_LARGEST = 65536
Address = tuple[Any, ...]  # what the socket module gives
Key = tuple[Listener, Address]


class Session:
    """A client's socket towards its endpoint."""

    __slots__ = ("socket", "target")

    def __init__(self, target: Target) -> None:
        """Raises OSError."""
        self.target = target
        self.socket = dial(target.ip, socket.SOCK_DGRAM)
        try:
            self.socket.connect((target.ip, target.port))
        except BaseException:
            self.socket.close()
            raise


class Datagrams:
    """All UDP sessions of one family, of all its listeners. ``limit``: how many there may be."""

    def __init__(self, config: Config, *, limit: int) -> None:
        self.counts = Counts()
        self._config = config
        self._sessions: Sessions[Key, Session] = Sessions(limit=limit, idle=config.relay_udp_idle)

    async def run(self) -> None:
        """End idle sessions, until cancelled; ends all in the end."""
        try:
            while True:
                await asyncio.sleep(self._config.relay_sweep)
                self._close(self._sessions.expire(asyncio.get_running_loop().time()))
        finally:
            self.keep({})

    def open(self, door: Door) -> None:
        asyncio.get_running_loop().add_reader(door.socket, self._from_client, door)

    def shut(self, door: Door) -> None:
        asyncio.get_running_loop().remove_reader(door.socket)
        door.close()

    def keep(self, doors: Mapping[Listener, Door]) -> None:
        """End the sessions that have no door, or whose endpoint no longer serves."""

        def is_orphan(key: Key, session: Session) -> bool:
            door = doors.get(key[0])
            return door is None or not door.rule.serves(session.target)

        self._close(self._sessions.drop(is_orphan))

    def _from_client(self, door: Door) -> None:
        now = asyncio.get_running_loop().time()
        for _ in range(_AT_ONCE):
            try:
                data, client = door.socket.recvfrom(_LARGEST)
            except OSError:  # nothing more, or an error of an earlier datagram that nobody can be told
                return
            key = door.listener, client
            session = self._sessions.touch(key, now) or self._begin(door, key, now)
            if session is None:
                continue
            try:
                session.socket.send(data)
            except BlockingIOError:
                continue
            except OSError:  # what became of an earlier datagram; this one was not sent
                self._refused(door, key)

    def _begin(self, door: Door, key: Key, now: float) -> Session | None:
        rule, ip = door.rule, str(key[1][0])
        affinity = rule.plan.affinity_seconds
        why = ENDPOINTS
        for target in door.balancer.order(rule.targets, affinity=affinity, client=ip, now=now):
            try:
                session = Session(target)
            except OSError as error:
                why = reason(error)
                continue
            if affinity:
                door.balancer.served(ip, target, now)
            self.counts.flows += 1
            evicted = self._sessions.add(key, session, now)
            self.counts.evicted += len(evicted)
            self._close(evicted)
            asyncio.get_running_loop().add_reader(session.socket, self._from_endpoint, door, key, session)
            self.counts.active = len(self._sessions)
            return session
        self.counts.refused[why] += 1
        return None

    def _from_endpoint(self, door: Door, key: Key, session: Session) -> None:
        self._sessions.touch(key, asyncio.get_running_loop().time())
        for _ in range(_AT_ONCE):
            try:
                data = session.socket.recv(_LARGEST)
            except BlockingIOError:
                return
            except OSError:
                self._refused(door, key)
                return
            try:
                door.socket.sendto(data, key[1])
            except OSError:
                continue

    def _refused(self, door: Door, key: Key) -> None:
        """The endpoint is not there."""
        self.counts.refused[ENDPOINTS] += 1
        door.balancer.forget(str(key[1][0]))
        session = self._sessions.remove(key)
        self._close([session] if session else [])

    def _close(self, sessions: Iterable[Session]) -> None:
        for session in sessions:
            asyncio.get_running_loop().remove_reader(session.socket)
            session.socket.close()
        self.counts.active = len(self._sessions)
