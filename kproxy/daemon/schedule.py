"""When to sync: pure arithmetic on one clock, so that every rule of it can be tested without waiting.

The rules are kube-proxy's bounded-frequency runner (spec: runtime.md 7) with four differences that users asked for:

* a failure is tried again after an exponential wait that begins at the minimum period and never exceeds the sync
  period, so that a briefly held lock does not cost 30 seconds;
* a round after a failure, the idle round and the first round compare with the kernel instead of trusting memory;
* a round that succeeded but left something out, such as a service port that the kernel refused, is followed by one
  that compares everything: after the sync period, then twice that and so on, for what the kernel lacked in a bad
  moment it may have in the next;
* healing, which is a round because somebody else changed our rules, does not wait for a long minimum period: a
  firewall's reload must not silence a node (rancher/rke2#10469). It still keeps ``HEALING_GAP`` from the round before, so
  that a program which fights us cannot make us spin.

Rejected: a timer that restarts with each change (debouncing): under steady churn it never fires.
"""

from __future__ import annotations

HEALING_GAP = 0.5  # seconds
_SHORTEST_RETRY = 0.5  # seconds; only met where the minimum period is shorter


class Schedule:
    """Seconds on the caller's clock. ``minimum`` counts from the end of the last round, whatever became of it."""

    def __init__(self, *, minimum: float, retry: float, idle: float) -> None:
        self._minimum = minimum
        self._retry = retry
        self._idle = idle
        self._ended: float | None = None
        self._failures = 0
        self._omissions = 0  # full rounds in a row that left something out
        self._again: float | None = None  # when what was left out is tried again
        self._wanted = False
        self._healing = False
        self._full = False  # the round that runs compares everything

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
        due = self._ended + min(waits)
        return due if self._again is None else min(due, max(self._again, self._ended + self._minimum))

    def begin(self, now: float) -> bool:
        """A round begins at ``now``; requests from here on are for the next one. True: compare with the kernel."""
        full = self._healing or self._failures > 0 or self._ended is None or now >= self._ended + self._idle
        full = full or (self._again is not None and now >= self._again)
        self._full = full
        self._wanted = self._healing = False
        return full

    def finish(self, now: float, *, succeeded: bool, complete: bool = True) -> None:
        """``complete``: nothing was left out; only asked where it succeeded."""
        self._ended = now
        self._failures = 0 if succeeded else self._failures + 1
        if not succeeded:
            return
        if complete:
            self._omissions, self._again = 0, None
        elif self._again is None or self._full:  # a round that trusted memory has not tried it
            self._again = now + _doubled(self._retry, self._omissions, at_most=self._idle)
            self._omissions += 1

    def _after_failure(self) -> float:
        return _doubled(max(self._minimum, _SHORTEST_RETRY), self._failures - 1, at_most=self._retry)


def _doubled(first: float, times: int, *, at_most: float) -> float:
    return min(at_most, first * 2.0 ** min(times, 30))  # 2^30 is past any period, and 2^2000 is past a float
