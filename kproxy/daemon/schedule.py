"""When to sync: pure arithmetic on one clock, so that every rule of it can be tested without waiting.

The rules are kube-proxy's bounded-frequency runner (spec: runtime.md 7) with four differences that users asked for:

* a failure is tried again after an exponential wait that begins at the minimum period and never exceeds the sync
  period, so that a briefly held lock does not cost 30 seconds;
* a round after a failure, the idle round and the first round compare with the kernel instead of trusting memory;
* a round that succeeded but left something out, such as a service port that the kernel refused, is followed by one
  that compares everything: after the sync period, then twice that and so on up to the idle period, for what the
  kernel lacked in a bad moment it may have in the next; what is left out newly does not wait for what is left out
  for long;
* healing, which is a round because somebody else changed our rules, does not wait for a long minimum period: a
  firewall's reload must not silence a node (rancher/rke2#10469). It still keeps ``HEALING_GAP`` from the round before,
  so that a program which fights us cannot make us spin.

Rejected: a timer that restarts with each change (debouncing): under steady churn it never fires.
"""

from __future__ import annotations

HEALING_GAP = 0.5  # seconds
Omitted = frozenset[object]
_SHORTEST_RETRY = 0.5  # seconds; only met where the minimum period is shorter


class Schedule:
    """Seconds on the caller's clock. ``minimum`` counts from the end of the last round, whatever became of it."""

    def __init__(self, *, minimum: float, retry: float, idle: float) -> None:
        self._minimum = minimum
        self._retry = retry
        self._idle = idle
        self._ended: float | None = None
        self._failures = 0
        self._omitted: Omitted = frozenset()
        self._tries = 0  # to bring in what is left out; all in vain
        self._again: float | None = None  # when the next one is due
        self._trying = False  # the round that runs is one
        self._wanted = False
        self._healing = False

    def request(self, *, healing: bool = False) -> None:
        """Ask for a round; requests coalesce. ``healing``: soon, and compare with the kernel."""
        self._wanted = True
        self._healing = self._healing or healing

    def due(self) -> float | None:
        """When the next round may begin; None: when somebody asks. A time that has passed means at once."""
        if self._ended is None:
            return float("-inf") if self._wanted else None
        waits = [self._idle]
        if self._wanted:
            waits.append(self._minimum)
        if self._healing:
            waits.append(min(self._minimum, HEALING_GAP))
        if self._failures:
            waits.append(max(self._minimum, self._after_failure()))
        elif self._again is not None:  # a round after a failure tries that anyway, and keeps the failure's distance
            waits.append(max(self._minimum, self._again - self._ended))
        return self._ended + min(waits)

    def begin(self, now: float) -> bool:
        """A round begins at ``now``; requests from here on are for the next one. True: compare with the kernel."""
        full = self._healing or self._failures > 0 or self._ended is None or now >= self._ended + self._idle
        self._trying = self._again is not None and now >= self._again
        self._wanted = self._healing = False
        return full or self._trying

    def finish(self, now: float, *, succeeded: bool, omitted: Omitted = frozenset()) -> None:
        """``omitted``: what was left out; only asked where it succeeded."""
        self._ended = now
        self._failures = 0 if succeeded else self._failures + 1
        if not succeeded:
            return
        is_news = not omitted <= self._omitted
        self._omitted = omitted
        if not omitted:
            self._tries, self._again = 0, None
        elif is_news:
            soon = now + self._retry
            self._tries, self._again = 1, soon if self._again is None or self._trying else min(self._again, soon)
        elif self._trying:
            self._again = now + _doubled(self._retry, self._tries, at_most=self._idle)
            self._tries += 1

    def _after_failure(self) -> float:
        return _doubled(max(self._minimum, _SHORTEST_RETRY), self._failures - 1, at_most=self._retry)


def _doubled(first: float, times: int, *, at_most: float) -> float:
    return min(at_most, first * 2.0 ** min(times, 30))  # 2^30 is past any period, and 2^2000 is past a float
