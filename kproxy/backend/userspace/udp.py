"""Which flow a datagram belongs to, without sockets: UDP has no beginning and no end, so we give it both.

A session is a client's address at one listener, with the endpoint that it was given. It ends when nothing came either
way for some time, when its endpoint no longer serves (the client's next datagram begins another), when its listener
closes, or when there are too many and it was idle longest: a flood of clients cannot take more than that.

Sessions are kept in the order of their latest datagrams, so what is to end is always in front. Each datagram asks the
table once, so using a session moves it and writes one number, and makes no object.

Where a part of them, a *group*, may have only so many, the order within that group is kept as well, from the first time
that somebody must go: then the whole order has it, and until then no datagram pays for it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

S = TypeVar("S")  # whatever the caller keeps of a session
K = TypeVar("K")


class Sessions(Generic[K, S]):
    """Seconds on the caller's clock. What a method returns is out of the table and is the caller's to close."""

    def __init__(self, *, limit: int, idle: float) -> None:
        self._limit = limit
        self._idle = idle
        self._kept: OrderedDict[K, S] = OrderedDict()
        self._used: dict[K, float] = {}
        self._groups: dict[Hashable, OrderedDict[K, None]] = {}  # those in which somebody had to go
        self._group_of: dict[K, Hashable] = {}

    def __len__(self) -> int:
        return len(self._kept)

    def touch(self, key: K, now: float) -> S | None:
        """The session of ``key``, which is used now."""
        session = self._kept.get(key)
        if session is not None:
            self._used[key] = now
            self._kept.move_to_end(key)
            if self._group_of and key in self._group_of:
                self._groups[self._group_of[key]].move_to_end(key)
        return session

    def add(self, key: K, session: S, now: float, group: Hashable = None) -> list[S]:
        """Keep a session; those that must go for it. ``key`` has none yet."""
        gone = [self._take(next(iter(self._kept))) for _ in range(len(self._kept) + 1 - self._limit)]
        self._kept[key] = session
        self._used[key] = now
        if group in self._groups:
            self._groups[group][key] = None
            self._group_of[key] = group
        return gone

    def take_oldest(self, group: Hashable, belongs: Callable[[S], bool]) -> S | None:
        """The one of a group that was idle longest; ``belongs`` says which are its."""
        if group not in self._groups:
            members = OrderedDict.fromkeys(key for key, session in self._kept.items() if belongs(session))
            self._groups[group] = members
            self._group_of.update(dict.fromkeys(members, group))
        members = self._groups[group]
        if not members:
            del self._groups[group]
            return None
        return self._take(next(iter(members)))

    def remove(self, key: K) -> S | None:
        return self._take(key) if key in self._kept else None

    def expire(self, now: float) -> list[S]:
        """Those that were idle for too long."""
        gone = []
        while self._kept:
            key = next(iter(self._kept))
            if self._used[key] + self._idle > now:
                break
            gone.append(self._take(key))
        return gone

    def drop(self, unwanted: Callable[[K, S], bool]) -> list[S]:
        """Those that the caller does not want."""
        return [self._take(key) for key in [key for key, session in self._kept.items() if unwanted(key, session)]]

    def _take(self, key: K) -> S:
        del self._used[key]
        if self._group_of and (group := self._group_of.pop(key, None)) is not None:
            members = self._groups[group]
            del members[key]
            if not members:
                del self._groups[group]
        return self._kept.pop(key)
