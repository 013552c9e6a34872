"""How the API server is used: requests by their answers, and how long and how large they were. Numbers only.

The names of these numbers, and what counts as a request, are client-go's (spec: runtime.md 14, ``rest_client_*``), for
dashboards draw them: every request and every attempt is counted by its code; durations and sizes are those of requests
that end, not of watches, which end when somebody hangs up. client-go's rate limiter has no counterpart here: kproxy
makes four watches and few Events, so there is nothing to limit and nothing to measure.

Rejected: to feed a Prometheus library from here, which would tie the source to what the daemon shows.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter

SECONDS = (0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0)
BYTES = (64.0, 256.0, 512.0, 1024.0, 4096.0, 16384.0, 65536.0, 262144.0, 1048576.0, 4194304.0, 16777216.0)


class Distribution:
    """Values by the bound that they do not exceed; the last count is of those beyond all bounds."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value


class Distributions(dict[tuple[str, str], Distribution]):
    """One for each host and method, made when it is first needed."""

    def __init__(self, bounds: tuple[float, ...]) -> None:
        super().__init__()
        self.bounds = bounds

    def __missing__(self, key: tuple[str, str]) -> Distribution:
        return self.setdefault(key, Distribution(self.bounds))


class Traffic:
    def __init__(self) -> None:
        self.requests = Counter[tuple[str, str, str]]()  # by code, host and method; "<error>": there was no answer
        self.seconds = Distributions(SECONDS)
        self.sent = Distributions(BYTES)  # bytes of the request's body
        self.received = Distributions(BYTES)  # bytes of the answer's body
