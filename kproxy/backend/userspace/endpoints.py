"""What all listeners of one service port share: its endpoints with what befell them, its counts, its newest settings.

A service port may have several listeners (one for each pool of its plan), and one endpoint may serve several of them:
it is one endpoint all the same, with one number of flows and one row of failures. It is known while a listener's rule
has it, and after that while it has flows. What is decided from all this is balance.py's.

A key is kept until its listeners are gone *and* its flows have ended, so that the last byte is counted under it; then
whoever has read the figures lets it go (``release``).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Mapping
from math import inf
from typing import NamedTuple

from kproxy.backend.userspace.counts import Tally
from kproxy.model.keys import ServicePortKey
from kproxy.model.relay import Relay
from kproxy.plan.plan import Target

ALWAYS = -inf  # since when the endpoints of a listener's first rule are there
_NEWS = 100  # ejections of one service port that are remembered for whoever wants to tell; the oldest go


class Ejection(NamedTuple):
    """An endpoint is left out for ``seconds``, after ``failures`` one after another."""

    key: ServicePortKey
    target: str
    failures: int
    seconds: float


class Endpoint:
    """One endpoint of a service port, in this process. Seconds on the caller's clock."""

    __slots__ = (
        "active",
        "address",
        "ejected_until",
        "ejections",
        "failures",
        "left",
        "rules",
        "service",
        "since",
        "target",
    )

    def __init__(self, service: ServicePort, target: Target, since: float) -> None:
        self.service = service
        self.target = target
        self.address = target.ip, target.port
        self.active = 0  # flows, and attempts to begin one
        self.rules = 0  # of open listeners, that have it
        self.left: float | None = None  # when the last of them lost it
        self.be_new(since)

    def be_new(self, since: float) -> None:
        """Whatever befell it before, it is a new one."""
        self.since = since  # when its share began to grow
        self.failures = 0  # since its latest success
        self.ejections = 0  # since its latest success
        self.ejected_until = -inf


class ServicePort:
    """``relay`` is that of the newest rule. ``changes``: who may be chosen has changed so often by ejections."""

    __slots__ = ("_endpoints", "_past", "changes", "ejected", "had", "key", "listeners", "news", "relay", "tally")

    def __init__(self, key: ServicePortKey, relay: Relay) -> None:
        self.key = key
        self.relay = relay
        self.tally = Tally()
        self.listeners = 0
        self.changes = 0
        self.ejected: set[Endpoint] = set()  # and those that have come back since the latest look
        # By client, in the order of their latest flows: the endpoint, and when that was
        self.had: OrderedDict[str, tuple[tuple[str, int], float]] = OrderedDict()
        self.news: deque[Ejection] = deque(maxlen=_NEWS)
        self._endpoints: dict[tuple[str, int], Endpoint] = {}
        self._past: dict[tuple[str, int], Endpoint] = {}  # in no rule, but with flows

    @property
    def is_over(self) -> bool:
        return not self.listeners and not self.tally.active

    def exchange(
        self, had: Mapping[tuple[str, int], Endpoint], targets: Iterable[Target], *, since: float, now: float
    ) -> dict[tuple[str, int], Endpoint]:
        """A listener's rule has these, instead of those that it ``had``; ``since``: when new ones begin."""
        has = {}
        for target in targets:
            address = target.ip, target.port
            endpoint = has[address] = self._endpoint(address, target, since)
            if address not in had:
                endpoint.rules += 1
        for address, endpoint in had.items():
            if address not in has:
                self._lose(endpoint, now)
        return has

    def eject(self, endpoint: Endpoint, now: float, seconds: float) -> None:
        endpoint.ejections += 1
        endpoint.ejected_until = endpoint.since = now + seconds
        self.ejected.add(endpoint)
        self.news.append(Ejection(self.key, str(endpoint.target), endpoint.failures, seconds))
        self.tally.ejections += 1
        self.changes += 1

    def succeeded(self, endpoint: Endpoint, now: float) -> None:
        """It has failed before, and answered now."""
        was_away = endpoint.ejected_until > now
        endpoint.failures = endpoint.ejections = 0
        if was_away:
            endpoint.ejected_until = endpoint.since = now
            self.changes += 1

    def count_ejected(self, now: float) -> None:
        if self.ejected:
            self.ejected = {each for each in self.ejected if each.rules and each.ejected_until > now}
        self.tally.ejected = len(self.ejected)

    def _endpoint(self, address: tuple[str, int], target: Target, since: float) -> Endpoint:
        endpoint = self._endpoints.get(address)
        if endpoint is None:
            endpoint = self._past.pop(address, None)
            if endpoint is None:
                endpoint = Endpoint(self, target, since)
            else:
                endpoint.left = None
                endpoint.be_new(since)
            self._endpoints[address] = endpoint
        endpoint.target = target
        return endpoint

    def _lose(self, endpoint: Endpoint, now: float) -> None:
        endpoint.rules -= 1
        if endpoint.rules:
            return
        endpoint.left = now
        del self._endpoints[endpoint.address]
        for address in [address for address, each in self._past.items() if not each.active]:
            del self._past[address]
        if endpoint.active:
            self._past[endpoint.address] = endpoint


class ServicePorts:
    """Those of one ``Listeners``."""

    def __init__(self) -> None:
        self._known: dict[ServicePortKey, ServicePort] = {}

    def get(self, key: ServicePortKey, relay: Relay) -> ServicePort:
        service = self._known.get(key)
        if service is None:
            service = self._known[key] = ServicePort(key, relay)
        return service

    def tallies(self, now: float) -> dict[ServicePortKey, Tally]:
        for service in self._known.values():
            service.count_ejected(now)
        return {key: service.tally for key, service in self._known.items()}

    def take_ejections(self) -> list[Ejection]:
        """Those since the latest call."""
        news: list[Ejection] = []
        for service in self._known.values():
            if service.news:
                news += service.news
                service.news.clear()
        return news

    def release(self) -> frozenset[ServicePortKey]:
        """Forget those that are over."""
        over = frozenset(key for key, service in self._known.items() if service.is_over)
        for key in over:
            del self._known[key]
        return over
