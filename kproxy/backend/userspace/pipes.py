"""Pipes through which the kernel moves pages from one connection to another, without copying them.

A pipe is taken for a burst and given back empty, so that idle flows own none. It is filled only when it is empty, and
never beyond its size: a pipe counts pages, of which each may be part of a large one, and 1 MiB of them was seen to
hold 36 MB for a client that does not read. How many there may be is bounded, too; who finds none copies.

A pipe that is not empty when its flow ends is closed: what is left in it must not reach somebody else.
"""

from __future__ import annotations

import contextlib
import fcntl
import os

_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
_KEPT = 32  # empty ones, for whoever comes next


class Pipe:
    """``held``: bytes that are in it."""

    __slots__ = ("_read", "_size", "_write", "held")

    def __init__(self, size: int) -> None:
        """Raises OSError."""
        self._read, self._write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._size = size
        self.held = 0
        with contextlib.suppress(OSError):  # beyond the share of unprivileged users, pipes keep their usual size
            fcntl.fcntl(self._write, fcntl.F_SETPIPE_SZ, size)

    def fill(self, source: int) -> int:
        """Take what the socket has, up to the size; 0 at its end. Only when empty. Raises OSError."""
        self.held = os.splice(source, self._write, self._size, flags=_FLAGS)
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
    """``limit``: how many there may be, of two files each; ``size``: of one, in bytes."""

    def __init__(self, *, limit: int, size: int) -> None:
        self._limit = limit
        self._size = size
        self._empty: list[Pipe] = []
        self.taken = 0

    def take(self) -> Pipe | None:
        """One that is empty; none if there are too many, or cannot be more."""
        if self._empty:
            self.taken += 1
            return self._empty.pop()
        if self.taken >= self._limit:
            return None
        try:
            pipe = Pipe(self._size)
        except OSError:  # we are short of files, which connections need more
            return None
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
