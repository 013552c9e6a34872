"""Which flow a datagram belongs to, without sockets: UDP has no beginning and no end, so we give it both.

A session is a client's address at one listener, with the endpoint that it was given. It ends when nothing came either
way for some time, when its endpoint no longer serves (the client's next datagram begins another), when its listener
closes, or when there are too many and it was idle longest: a flood of clients cannot take more than that.

Sessions are kept in the order of their latest datagrams, so what is to end is always in front.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

S = TypeVar("S")  # whatever the caller keeps of a session
K = TypeVar("K")


class Sessions(Generic[K, S]):
    """Seconds on the caller's clock. What a method returns is out of the table and is the caller's to close."""

    def __init__(self, *, limit: int, idle: float) -> None:
        self._limit = limit
        self._idle = idle
        self._kept: OrderedDict[K, tuple[S, float]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def touch(self, key: K, now: float) -> S | None:
        """The session of ``key``, which is used now."""
        kept = self._kept.get(key)
        if kept is None:
            return None
        self._kept[key] = kept[0], now
        self._kept.move_to_end(key)
        return kept[0]

    def add(self, key: K, session: S, now: float) -> list[S]:
        """Keep a session; those that must go for it. ``key`` has none yet."""
        gone = [self._kept.popitem(last=False)[1][0] for _ in range(len(self._kept) + 1 - self._limit)]
        self._kept[key] = session, now
        return gone

    def remove(self, key: K) -> S | None:
        kept = self._kept.pop(key, None)
        return None if kept is None else kept[0]

    def expire(self, now: float) -> list[S]:
        """Those that were idle for too long."""
        gone = []
        while self._kept:
            key, (session, used) = next(iter(self._kept.items()))
            if used + self._idle > now:
                break
            del self._kept[key]
            gone.append(session)
        return gone

    def drop(self, unwanted: Callable[[K, S], bool]) -> list[S]:
        """Those that the caller does not want."""
        keys = [key for key, (session, _) in self._kept.items() if unwanted(key, session)]
        return [self._kept.pop(key)[0] for key in keys]
