"""Makes the open sockets agree with the rules; the only place here that opens and closes listeners.

Reconciled in one go, without an await: nobody meets a half of it. Flows outlive their listener's rule: a TCP
connection stays until it is closed, whatever becomes of its endpoint or Service, as with rules in the kernel; a UDP
session stays while its endpoint serves. A port that cannot be had is reported and tried again with the next call; it
keeps nobody else from being served.

Everything of one family is in one ``Listeners``; two of them share nothing.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from time import monotonic
from typing import NamedTuple

from kproxy.backend.userspace.balance import Balancer
from kproxy.backend.userspace.bounds import Bounds
from kproxy.backend.userspace.counts import Counts, Tally
from kproxy.backend.userspace.datagrams import Datagrams
from kproxy.backend.userspace.door import Door, open_on_loopback
from kproxy.backend.userspace.endpoints import Ejection, ServicePorts
from kproxy.backend.userspace.rules import Listener, Rule, Ruleset
from kproxy.backend.userspace.streams import Streams
from kproxy.config import Config
from kproxy.model.enums import Protocol
from kproxy.model.keys import ServicePortKey


class Failure(NamedTuple):
    """A listener that cannot be opened."""

    rule: Rule
    error: OSError


_BY_LOT = partial(random.getrandbits, 16)  # who gets a flow is no secret


def _nobody(_: ServicePortKey) -> int:
    return 0


class Listeners:
    """``chance``: integers, evenly over 16 bits or more: for where turns begin, and for what is drawn by lot.

    ``connections`` and ``sessions``: how many there may be. ``opened``: gives the socket of a listener, which is then
    ours to close; it may raise OSError. ``elsewhere``: how many flows of a service port other processes have, which
    share its cap with this one.
    """

    def __init__(
        self,
        config: Config,
        *,
        connections: int,
        sessions: int,
        chance: Callable[[], int] = _BY_LOT,
        opened: Callable[[Listener], socket.socket] = open_on_loopback,
        elsewhere: Callable[[ServicePortKey], int] = _nobody,
    ) -> None:
        self._config = config
        self._opened = opened
        self._chance = chance
        self._doors: dict[Listener, Door] = {}
        self._services = ServicePorts()
        self._streams = Streams(config, limit=connections, elsewhere=elsewhere)
        self._datagrams = Datagrams(config, limit=sessions, elsewhere=elsewhere)

    @property
    def counts(self) -> dict[Protocol, Counts]:
        return {Protocol.TCP: self._streams.counts, Protocol.UDP: self._datagrams.counts}

    @property
    def open(self) -> frozenset[Listener]:
        return frozenset(self._doors)

    @property
    def bounds(self) -> Bounds:
        """Of the bytes that connections can hold."""
        return self._streams.bounds

    def tallies(self) -> Mapping[ServicePortKey, Tally]:
        """Since the start; they go on counting. Bytes are added at intervals of ``relay_sweep``, and in the end."""
        return self._services.tallies(monotonic())

    def take_ejections(self) -> list[Ejection]:
        """Endpoints that were left out since the latest call."""
        return self._services.take_ejections()

    def release(self) -> frozenset[ServicePortKey]:
        """Forget the tallies of service ports that have neither a rule nor a flow any more, and say which.

        Whoever passes on what ``tallies`` gives calls this right afterwards, without an await in between.
        """
        return self._services.release()

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
        return self.change(wanted.rules.values(), self._doors.keys() - wanted.rules.keys())

    def change(self, rules: Iterable[Rule], gone: Iterable[Listener]) -> list[Failure]:
        """The same, told as a difference: what is in neither stays, and costs nothing."""
        now = monotonic()
        shut = [door for listener in gone if (door := self._doors.pop(listener, None))]
        for door in shut:
            self._kind(door.listener).shut(door)
        has_datagrams = any(door.listener.protocol is Protocol.UDP for door in shut)
        failures = []
        for rule in rules:
            has_datagrams = has_datagrams or rule.listener.protocol is Protocol.UDP
            if (known := self._doors.get(rule.listener)) is not None:
                self._follow(known, rule, now)
            elif failure := self._open(rule, now):
                failures.append(failure)
        for door in shut:  # now, lest an endpoint that another listener has got leaves in between
            door.balancer.leave(now)
        if has_datagrams:
            self._datagrams.keep(self._doors)
        return failures

    def close(self) -> None:
        """Stop listening. Flows are ended by whoever cancels ``run``."""
        for listener, door in self._doors.items():
            self._kind(listener).shut(door)
            door.balancer.leave(monotonic())
        self._doors.clear()

    def _follow(self, door: Door, rule: Rule, now: float) -> None:
        had, door.rule = door.rule, rule
        if had.key != rule.key:  # another Service has got this port
            had_by = door.balancer
            door.balancer = self._balancer(rule, now)
            had_by.leave(now)
        elif had != rule:
            door.balancer.follow(rule, now)

    def _open(self, rule: Rule, now: float) -> Failure | None:
        try:
            sock = self._opened(rule.listener)
        except OSError as error:
            return Failure(rule, error)
        door = Door(rule, self._balancer(rule, now), sock)
        try:
            self._kind(rule.listener).open(door)
        except OSError as error:
            door.balancer.leave(now)
            door.close()
            return Failure(rule, error)
        self._doors[rule.listener] = door
        return None

    def _balancer(self, rule: Rule, now: float) -> Balancer:
        service = self._services.get(rule.key, rule.relay)
        made = Balancer(service, chance=self._chance, clients=self._config.relay_affinity_clients)
        made.follow(rule, now)
        return made

    def _kind(self, listener: Listener) -> Streams | Datagrams:
        return self._streams if listener.protocol is Protocol.TCP else self._datagrams
