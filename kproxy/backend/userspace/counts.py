"""What the relay counts: of one protocol in one family, and of each service port.

Everything of a ``Tally`` adds up, its two states (``active``, ``ejected``) as well: several processes count their own
flows, and whoever shows the figures adds what each of them tells. Hence a process tells *differences*, from which a
state can be followed like a counter; of a process that has ended, the counters stay and the states go (totals.py).

The flows of a service port are counted one by one. Bytes are not: each connection counts its own anyway, so they are
added to the tally when it is looked after (``relay_sweep``) and when it ends, and no message pays for being counted.
"""

from __future__ import annotations

import errno
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping

from msgspec import Struct, field

from kproxy.model.keys import ServicePortKey

ENDPOINTS = "endpoints"  # none could be reached
LIMIT = "limit"  # there are as many flows as may be
SERVICE_LIMIT = "service limit"  # this service port has as many as it may have
FILES = "files"  # this process may open no more
REASONS = (ENDPOINTS, LIMIT, SERVICE_LIMIT, FILES)
SHORT_OF_FILES = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

# Seconds: upper ends of the buckets that ``Tally.connects`` counts; one more takes what is longer.
BUCKETS = (0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0)


def reason(error: OSError) -> str:
    """Why a flow that met this error on its way to an endpoint was refused."""
    return FILES if error.errno in SHORT_OF_FILES else ENDPOINTS


class Counts(Struct):
    """Since the start. ``refused`` by reason, of the four above."""

    flows: int = 0  # that reached an endpoint
    active: int = 0  # at present
    refused: Counter[str] = field(default_factory=Counter)
    evicted: int = 0  # sessions that ended because there were too many
    dropped: int = 0  # datagrams that found a queue full


def _no_connects() -> list[int]:
    return [0] * (len(BUCKETS) + 1)


class Tally(Struct, array_like=True):
    """Of one service port, since the start of this process, or between two moments. It goes on counting."""

    flows: int = 0  # that reached an endpoint; sessions, for UDP
    active: int = 0  # at present, with those that still look for an endpoint
    received: int = 0  # bytes from clients
    sent: int = 0  # bytes to clients
    connects: list[int] = field(default_factory=_no_connects)  # TCP: flows by bucket, each in one
    connect_seconds: float = 0.0  # of all these together: from the client's coming to the endpoint's answer
    retries: int = 0  # attempts at an endpoint after a flow's first one
    ejections: int = 0
    ejected: int = 0  # endpoints at present; several processes may each have ejected the same one
    refused: dict[str, int] = field(default_factory=dict)  # flows, by reason
    evicted: int = 0  # sessions that ended because there were too many
    dropped: int = 0  # datagrams that found a queue full
    hidden: int = 0  # attempts at an endpoint that was to see the client's address and did not

    def refuse(self, why: str) -> None:
        self.refused[why] = self.refused.get(why, 0) + 1

    def connect(self, seconds: float) -> None:
        """A connection reached its endpoint after ``seconds``."""
        self.flows += 1
        self.connects[bisect_left(BUCKETS, seconds)] += 1
        self.connect_seconds += seconds


def merge(one: Tally, other: Tally) -> Tally:
    """Both together; what two processes counted, or one process before and since."""
    return _combine(one, other, 1)


def difference(later: Tally, earlier: Tally) -> Tally:
    """What was added between two moments; less than nothing for states that have become fewer."""
    return _combine(later, earlier, -1)


def _combine(one: Tally, other: Tally, sign: int) -> Tally:
    refused = dict(one.refused)
    for why, times in other.refused.items():
        refused[why] = refused.get(why, 0) + sign * times
    return Tally(
        flows=one.flows + sign * other.flows,
        active=one.active + sign * other.active,
        received=one.received + sign * other.received,
        sent=one.sent + sign * other.sent,
        connects=[a + sign * b for a, b in zip(one.connects, other.connects, strict=True)],
        connect_seconds=one.connect_seconds + sign * other.connect_seconds,
        retries=one.retries + sign * other.retries,
        ejections=one.ejections + sign * other.ejections,
        ejected=one.ejected + sign * other.ejected,
        refused={why: times for why, times in refused.items() if times},
        evicted=one.evicted + sign * other.evicted,
        dropped=one.dropped + sign * other.dropped,
        hidden=one.hidden + sign * other.hidden,
    )


class Deltas:
    """What one process has yet to tell of its tallies."""

    def __init__(self) -> None:
        self._told: dict[ServicePortKey, Tally] = {}

    def take(self, tallies: Mapping[ServicePortKey, Tally]) -> dict[ServicePortKey, Tally]:
        """What was added since the latest call, of those to which anything was. A key that is gone is forgotten."""
        added = {}
        for key in self._told.keys() - tallies.keys():
            del self._told[key]
        for key, tally in tallies.items():
            told = self._told.get(key)
            if told is None or told != tally:
                now = merge(tally, Tally())  # which does not go on counting
                added[key] = now if told is None else difference(now, told)
                self._told[key] = now
        return added
