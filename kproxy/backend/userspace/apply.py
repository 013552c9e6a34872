"""Makes the open sockets agree with the rules; the only place here that opens and closes listeners.

Reconciled in one go, without an await: nobody meets a half of it. Flows outlive their listener's rule: a TCP
connection stays until it is closed, whatever becomes of its endpoint or Service, as with rules in the kernel; a UDP
session stays while its endpoint serves. A port that cannot be had is reported and tried again with the next call; it
keeps nobody else from being served.

Everything of one family is in one ``Listeners``; two of them share nothing.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import NamedTuple

from kproxy.backend.userspace.balance import Balancer
from kproxy.backend.userspace.counts import Counts
from kproxy.backend.userspace.datagrams import Datagrams
from kproxy.backend.userspace.door import Door, open_on_loopback
from kproxy.backend.userspace.rules import Listener, Rule, Ruleset
from kproxy.backend.userspace.streams import Streams
from kproxy.config import Config
from kproxy.model.enums import Protocol


class Failure(NamedTuple):
    """A listener that cannot be opened."""

    rule: Rule
    error: OSError


class Listeners:
    """``chance``: any integer, for where the turns of a new listener begin. The caps are those of ``Config``.

    ``opened``: gives the socket of a listener, which is then ours to close; it may raise OSError.
    """

    def __init__(
        self,
        config: Config,
        *,
        connections: int,
        sessions: int,
        chance: Callable[[], int],
        opened: Callable[[Listener], socket.socket] = open_on_loopback,
    ) -> None:
        self._config = config
        self._opened = opened
        self._chance = chance
        self._doors: dict[Listener, Door] = {}
        self._streams = Streams(config, limit=connections)
        self._datagrams = Datagrams(config, limit=sessions)

    @property
    def counts(self) -> dict[Protocol, Counts]:
        return {Protocol.TCP: self._streams.counts, Protocol.UDP: self._datagrams.counts}

    @property
    def open(self) -> frozenset[Listener]:
        return frozenset(self._doors)

    async def run(self) -> None:
        """Serve, until cancelled; closes everything in the end. Connections before it has begun are reset."""
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._streams.run())
                group.create_task(self._datagrams.run())
        finally:
            self.close()

    def reconcile(self, wanted: Ruleset) -> list[Failure]:
        """Close what is not wanted, open what is missing, serve by the new rules."""
        for listener in self._doors.keys() - wanted.rules.keys():
            self._kind(listener).shut(self._doors.pop(listener))
        failures = []
        for listener, rule in wanted.rules.items():
            door = self._doors.get(listener)
            if door is not None:
                door.rule = rule
            elif failure := self._open(rule):
                failures.append(failure)
        self._datagrams.keep(self._doors)
        return failures

    def close(self) -> None:
        """Stop listening. Flows are ended by whoever cancels ``run``."""
        for listener, door in self._doors.items():
            self._kind(listener).shut(door)
        self._doors.clear()

    def _open(self, rule: Rule) -> Failure | None:
        balancer = Balancer(first=self._chance(), clients=self._config.relay_affinity_clients)
        try:
            door = Door(rule, balancer, self._opened(rule.listener))
        except OSError as error:
            return Failure(rule, error)
        try:
            self._kind(rule.listener).open(door)
        except OSError as error:
            door.close()
            return Failure(rule, error)
        self._doors[rule.listener] = door
        return None

    def _kind(self, listener: Listener) -> Streams | Datagrams:
        return self._streams if listener.protocol is Protocol.TCP else self._datagrams
