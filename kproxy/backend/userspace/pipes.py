"""Pipes through which the kernel moves pages from one connection to another, without copying them.

A pipe is taken for a burst and given back empty, so that idle flows own none. It is filled only when it is empty, and
never beyond its room in bytes: a pipe counts pages, of which each may be part of a large one, and 1 MiB of them was
seen to hold 36 MB for a client that does not read. How many there may be is bounded, too; who finds none copies.

1 MiB at once costs an eighth less processor time than 256 KiB, but that is what a client holds who stops reading. So
the first quarter of the pipes has room for all of it, and whoever comes when these are taken gets a quarter.

A pipe that is not empty when its flow ends is closed: what is left in it must not reach somebody else.
"""

from __future__ import annotations

import contextlib
import fcntl
import os

_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
_KEPT = 32  # empty ones, for whoever comes next
_PART = 4  # one in so many has all the room, the others such a part of it


class Pipe:
    """``held``: bytes that are in it; ``room``: how many there may be."""

    __slots__ = ("_read", "_write", "held", "room")

    def __init__(self, size: int) -> None:
        """Raises OSError."""
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self.room = size
        self.held = 0
        with contextlib.suppress(OSError):  # beyond the share of unprivileged users, pipes keep their usual size
            fcntl.fcntl(self._write, fcntl.F_SETPIPE_SZ, size)

    def fill(self, source: int) -> int:
        """Take what the socket has, up to the room; 0 at its end. Only when empty. Raises OSError."""
        self.held = os.splice(source, self._write, self.room, flags=_FLAGS)
        return self.held

    def pour(self, sink: int) -> bool:
        """Give the socket what it takes; whether that is all. Raises OSError."""
        try:
            while self.held:
                sent = os.splice(self._read, sink, self.held, flags=_FLAGS)
                if not sent:
                    raise BrokenPipeError  # never seen; it would be asked for ever
                self.held -= sent
        except BlockingIOError:
            return False
        return True

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


class Pipes:
    """``limit``: how many there may be, of two files each; ``size``: the most room of one, in bytes."""

    def __init__(self, *, limit: int, size: int) -> None:
        self._limit = limit
        self._roomy = roomy(limit)
        self._size = size
        self._empty: list[Pipe] = []
        self.taken = 0

    def take(self) -> Pipe | None:
        """One that is empty; none if there are too many, or cannot be more."""
        if self._empty:
            pipe = self._empty.pop()
        elif self.taken >= self._limit:
            return None
        else:
            try:
                pipe = Pipe(self._size)
            except OSError:  # we are short of files, which connections need more
                return None
        pipe.room = self._size if self.taken < self._roomy else self._size // _PART
        self.taken += 1
        return pipe

    def give(self, pipe: Pipe) -> None:
        """It is not needed any more."""
        self.taken -= 1
        if pipe.held or len(self._empty) >= _KEPT:
            pipe.close()
        else:
            self._empty.append(pipe)

    def close(self) -> None:
        """Those that nobody has."""
        while self._empty:
            self._empty.pop().close()


def roomy(limit: int) -> int:
    """How many of so many pipes have all the room."""
    return -(-limit // _PART)


def held_by_all(limit: int, size: int) -> int:
    """Bytes, if each of so many pipes is full: a pipe keeps the room that it was taken with."""
    return roomy(limit) * size + (limit - roomy(limit)) * (size // _PART)
