"""Which endpoint gets a flow, and which ones get none for a while.

**Choice.** By turns, by lot, or the one with fewer flows of two drawn by lot, as the rule's settings say. Turns are the
default: they spread few flows more evenly than chance does, and a node's listeners see few. Where they begin is chance;
otherwise the first flow of every node would go to the same endpoint. Drawing two keeps what least connections promises
without asking all endpoints, and without a herd: that one endpoint has fewest flows is old news by the time that
several processes act on it. A choice costs the same however many endpoints there are; only who meets one that fails has
a list made of the others, so that each attempt of a flow is at another endpoint.

**Ejection.** An endpoint that failed to be reached ``eject_after`` times in a row is passed over for a while, twice as
long each time that it fails again after its return; one success makes all that forgotten. The first failure after a
return is enough, for nothing has spoken for it since. A share of the endpoints (``eject_floor``), and at least one,
always stays: when most fail, the cause is rather on our side. Hence, should a new rule leave too few, those that were
to return soonest are back. Ejected endpoints are tried last, and not never.

**Slow start.** An endpoint that is new in a rule, or back, is passed over with a probability that falls from nine
tenths to none during ``slow_start``. One mechanism for all three ways of choosing: a lighter weight would not do for
least connections, where a newcomer has no flows and so would win each comparison, or, weighed, none at all. Who is
passed over loses one turn, which goes to the next one's next turn, so no neighbour gets more than others. The tenth is
there because a cache that nobody asks stays cold.

**Affinity** is that of the rules (xt_recent): a client is its address; it stays with its endpoint until the timeout has
passed since its latest *new* flow. An endpoint that no longer serves, cannot be reached or is ejected loses its clients
to whichever serves them then. The memory is bounded, and whoever was idle longest is forgotten first.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from math import ceil, inf

from kproxy.backend.userspace.endpoints import ALWAYS, Endpoint, ServicePort
from kproxy.backend.userspace.rules import Keeping, Rule
from kproxy.config import Balance

# By themselves: to look one up in its enum costs as much as the choice.
_BY_LOT, _BY_TURNS, _LIGHTER = Balance.RANDOM, Balance.ROUND_ROBIN, Balance.LEAST_CONNECTIONS
_LEAST = 0.1  # of a full share, for an endpoint that has just come
_GRAIN = 1 << 16  # of what is drawn by lot
_TRIES = 8  # at most so many are passed over for one flow; should all be new, it does not matter who is
_DOUBLINGS = 32  # then it is the longest for certain
_ROUNDING = 1e-9  # 0.55 of 100 endpoints are 55


class Balancer:
    """Of one listener. Seconds on the caller's clock; ``chance`` gives integers, evenly over 16 bits or more."""

    def __init__(self, service: ServicePort, *, chance: Callable[[], int], clients: int) -> None:
        """``clients``: how many may be remembered. ``follow`` comes before everything else."""
        self.service = service
        self.relay = service.relay
        self.keeping: Keeping | None = None
        self.endpoints: Sequence[Endpoint] = ()
        self._members: dict[tuple[str, int], Endpoint] = {}
        self._chance = chance
        self._turn = chance()
        self._clients = clients
        self._affinity = 0.0
        self._has_rule = False
        self._look(0)

    def follow(self, rule: Rule, now: float) -> None:
        """Serve by this rule; its endpoints are new, unless it is the first."""
        since = now
        if not self._has_rule:
            since, self._has_rule = ALWAYS, True
            self.service.listeners += 1
        self.service.relay = self.relay = rule.relay
        self.keeping = rule.keeping
        self._affinity = rule.affinity_seconds
        self._members = self.service.exchange(self._members, rule.targets, since=since, now=now)
        self.endpoints = tuple(self._members.values())
        self._look(now)

    def leave(self, now: float) -> None:
        """The listener is shut. Those on their way may still ask who else there is."""
        self.service.exchange(self._members, (), since=now, now=now)
        self.service.listeners -= 1
        self._members = {}
        self._has_rule = False

    def choose(self, client: str, now: float) -> Endpoint:
        """Whom to try first."""
        if now >= self._stale or self._seen != self.service.changes:
            self._look(now)
        if self._affinity:
            endpoint = self._remembered(client, now - self._affinity)
            if endpoint is not None and endpoint.ejected_until <= now:
                return endpoint
        is_even = now >= self._even
        if self.relay.balance is _LIGHTER:
            return self._lighter(now, is_even=is_even)
        return self._next() if is_even else self._admitted(now)

    def others(self, tried: Collection[Endpoint], now: float) -> list[Endpoint]:
        """Whom to try when these did not answer, the next one in front."""
        is_least = self.relay.balance is _LIGHTER
        start = (self._turn if self.relay.balance is _BY_TURNS else self._chance()) % len(self.endpoints)
        around = (*self.endpoints[start:], *self.endpoints[:start])
        rest = [each for each in around if each not in tried]
        rest.sort(key=lambda each: (each.ejected_until > now, is_least and each.active))
        return rest

    def attempts(self, client: str, now: float) -> Iterator[Endpoint]:
        """All endpoints, each once, in the order in which a new flow tries them."""
        first = self.choose(client, now)
        yield first
        yield from self.others((first,), now)

    def reached(self, endpoint: Endpoint, client: str, now: float) -> None:
        """A new flow of ``client`` is served by ``endpoint``."""
        if endpoint.failures:
            self.service.succeeded(endpoint, now)
        self.begun(endpoint, client, now)

    def begun(self, endpoint: Endpoint, client: str, now: float) -> None:
        """The same, but whether the endpoint is there is not known yet."""
        if self._affinity:
            self.service.had[client] = endpoint.address, now
            self.service.had.move_to_end(client)
            if len(self.service.had) > self._clients:
                self.service.had.popitem(last=False)

    def failed(self, endpoint: Endpoint, now: float) -> None:
        """It refused, or did not answer in time."""
        endpoint.failures += 1
        relay = self.relay
        if not relay.eject_after or endpoint.failures < relay.eject_after or endpoint.ejected_until > now:
            return
        if self._members.get(endpoint.address) is not endpoint:
            return
        if now >= self._stale or self._seen != self.service.changes:
            self._look(now)
        if len(self._ready) > self._floor:
            first, most = relay.eject_seconds
            self.service.eject(endpoint, now, min(most, first * 2 ** min(endpoint.ejections, _DOUBLINGS)))
            self._look(now)

    def forget(self, client: str) -> None:
        """Its endpoint did not answer."""
        self.service.had.pop(client, None)

    # --- choosing -------------------------------------------------------------------------------------------------

    def _next(self) -> Endpoint:
        ready = self._ready
        if self.relay.balance is _BY_LOT:
            return ready[self._chance() % len(ready)]
        turn = self._turn
        self._turn = turn + 1
        return ready[turn % len(ready)]

    def _admitted(self, now: float) -> Endpoint:
        for _ in range(_TRIES):
            endpoint = self._next()
            if self._admits(endpoint, now):
                break
        return endpoint

    def _lighter(self, now: float, *, is_even: bool) -> Endpoint:
        ready, count = self._ready, len(self._ready)
        if count == 1:
            return ready[0]
        for _ in range(_TRIES):
            at, other_at = self._chance() % count, self._chance() % (count - 1)
            one, other = ready[at], ready[other_at + (other_at >= at)]
            if is_even or self._admits(one, now):
                if other.active < one.active and (is_even or self._admits(other, now)):
                    return other
                return one
            if self._admits(other, now):
                return other
        return one

    def _admits(self, endpoint: Endpoint, now: float) -> bool:
        """Whether it is not passed over, though it be new."""
        age = now - endpoint.since
        slow = self.relay.slow_start
        return age >= slow or self._chance() % _GRAIN < max(_LEAST, age / slow) * _GRAIN

    def _look(self, now: float) -> None:
        """Who is ready, and when to look again."""
        count, slow = len(self.endpoints), self.relay.slow_start
        self._floor = max(1, ceil(count * self.relay.eject_floor - _ROUNDING))
        self._seen = self.service.changes
        self._ready, self._stale = self.endpoints, inf
        away = sorted((e for e in self.endpoints if e.ejected_until > now), key=lambda each: each.ejected_until)
        if away:
            gone = set(away[max(0, self._floor - (count - len(away))) :])
            self._ready = [each for each in self.endpoints if each not in gone]
            self._stale = away[0].ejected_until
        self._even = max((e.since + slow for e in self._ready), default=ALWAYS) if slow else ALWAYS

    def _remembered(self, client: str, since: float) -> Endpoint | None:
        while self.service.had:
            oldest = next(iter(self.service.had))
            if self.service.had[oldest][1] > since:
                break
            del self.service.had[oldest]
        had = self.service.had.get(client)
        return None if had is None else self._members.get(had[0])
