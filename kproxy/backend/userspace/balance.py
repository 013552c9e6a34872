"""Which endpoint gets a flow: the next one in turn, or the one that this client had.

Taking turns spreads few flows more evenly than chance does, and a node's listeners see few. Where the turns begin is
chance, given by the caller: otherwise the first flow of every node would go to the same endpoint.

Affinity is that of the rules (xt_recent): a client is its address; it stays with its endpoint until the timeout has
passed since its latest *new* flow. An endpoint that no longer serves, or cannot be reached, loses its clients to
whichever serves them then. The memory is bounded, and whoever was idle longest is forgotten first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from kproxy.plan.plan import Target


class Balancer:
    """Of one listener. Seconds on the caller's clock."""

    def __init__(self, *, first: int, clients: int) -> None:
        """``first``: which turn is the first; ``clients``: how many may be remembered."""
        self._turn = first
        self._clients = clients
        self._had: OrderedDict[str, tuple[Target, float]] = OrderedDict()  # in the order of their latest flows

    def order(self, targets: Sequence[Target], *, affinity: float, client: str, now: float) -> tuple[Target, ...]:
        """All of ``targets``, the one to try first in front. ``affinity``: the timeout; 0: none."""
        first = self._remembered(client, now - affinity) if affinity else None
        if first is not None and first in targets:
            return (first, *(target for target in targets if target != first))
        start = self._turn % len(targets)
        self._turn += 1
        return (*targets[start:], *targets[:start])

    def served(self, client: str, target: Target, now: float) -> None:
        """A new flow of ``client`` went to ``target``; only asked to remember where there is affinity."""
        self._had[client] = target, now
        self._had.move_to_end(client)
        if len(self._had) > self._clients:
            self._had.popitem(last=False)

    def forget(self, client: str) -> None:
        """Its endpoint did not answer."""
        self._had.pop(client, None)

    def _remembered(self, client: str, since: float) -> Target | None:
        while self._had:
            oldest = next(iter(self._had))
            if self._had[oldest][1] > since:
                break
            del self._had[oldest]
        target, _ = self._had.get(client, (None, 0.0))
        return target
