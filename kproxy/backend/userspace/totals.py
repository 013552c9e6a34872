"""What all workers counted together, of each service port; it only grows, though workers end.

A worker tells what was added since it told last. Of one that has ended the counters stay and its flows go, as they did.
A service port that nobody serves any more, and that has no flows, is forgotten a while after (``sweep``), so that
whoever reads figures at intervals sees its last ones.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType

from kproxy.backend.userspace.counts import BUCKETS, REASONS, Tally, merge
from kproxy.backend.userspace.messages import BadMessage
from kproxy.model.keys import ServicePortKey


class Totals:
    """``tallies`` is a view."""

    def __init__(self) -> None:
        self._tallies: dict[ServicePortKey, Tally] = {}
        self._states: dict[int, dict[ServicePortKey, tuple[int, int]]] = {}  # by seat: active, ejected
        self._idle: set[ServicePortKey] = set()  # since the latest sweep
        self.tallies: Mapping[ServicePortKey, Tally] = MappingProxyType(self._tallies)

    def add(self, seat: int, added: Iterable[tuple[ServicePortKey, Tally]]) -> None:
        """Raises BadMessage; then nothing was added of the one that is wrong, and those after it."""
        states = self._states.setdefault(seat, {})
        for key, more in added:
            if len(more.connects) != len(BUCKETS) + 1 or not more.refused.keys() <= set(REASONS):
                raise BadMessage(f"a tally of {key} that cannot be one")
            have = self._tallies.get(key)
            self._tallies[key] = more if have is None else merge(have, more)
            active, ejected = states.get(key, (0, 0))
            states[key] = (active + more.active, ejected + more.ejected)

    def leave(self, seat: int) -> None:
        """Its worker has ended."""
        for key, (active, ejected) in self._states.pop(seat, {}).items():
            if tally := self._tallies.get(key):
                tally.active -= active
                tally.ejected -= ejected

    def sweep(self, served: Collection[ServicePortKey]) -> None:
        """Forget what has been idle and not ``served`` since the last time."""
        idle = {key for key, tally in self._tallies.items() if not tally.active and key not in served}
        old = idle & self._idle
        for key in old:
            del self._tallies[key]
            for states in self._states.values():
                states.pop(key, None)
        self._idle = idle - old
