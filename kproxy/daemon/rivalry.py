"""Another service proxy on the same node: found out by what it does, and then given way to, so that neither storms.

kube-proxy rewrites its fixed chains at each of its syncs and deletes those of ours that it does not know; kproxy heals
that at once. kube-proxy does not answer, for it does not look, so two proxies cost one comparison and one write of ours
for each sync of its, and packets are served all the while, by the rules of either. But where it syncs every second,
ours would be endless work for nothing.

A table that was flushed is no sign of a rival: nobody serves then, and healing must not wait. Nor are chains that were
emptied or deleted one by one. A rival leaves behind chains that are full of other rules and jumps that lead into them,
so only a comparison that found those counts here. After a few in a row it is told, once, and healing waits, twice as
long each time and at most ``longest``; after ``calm`` without one all is forgotten.

Rejected: looking for a process called kube-proxy; a proxy in a pod of its own has a pid namespace of its own, too. The
name helps the message where it can be seen. Rejected, too: leaving the node to the rival; nobody could tell which of
two proxies serves, and the one whose process ends would leave its rules to rot.
"""

from __future__ import annotations

_PATIENCE = 3  # comparisons in a row that may be chance: kube-proxy is just being replaced, an operator tries things
_FIRST = 1.0  # seconds


class Rivalry:
    """Seconds on the caller's clock."""

    def __init__(self, *, longest: float, calm: float) -> None:
        self._longest = longest
        self._calm = calm
        self._times = 0
        self._last = float("-inf")

    def found(self, now: float) -> bool:
        """A comparison found our chains rewritten. True: often enough now to be told, which is once."""
        if now - self._last > self._calm:
            self._times = 0
        self._times += 1
        self._last = now
        return self._times == _PATIENCE

    def wait(self, now: float) -> float:
        """How long healing should wait, if it is the rival's doing again."""
        if self._times < _PATIENCE or now - self._last > self._calm:
            return 0.0
        pause = min(self._longest, _FIRST * 2.0 ** min(self._times - _PATIENCE, 30))
        return max(0.0, self._last + pause - now)
