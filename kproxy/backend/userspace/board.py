"""How many flows of a capped service port each process has, where all of them can see it without asking.

A cap is the service port's, but several processes let its clients in, each for both families. What the others have must
be known at once when somebody knocks, so it stands in memory that all share: for each capped service port a row, for
each process and family a column, which nobody else writes. A number is eight aligned bytes, read or written as one.

Who wants to let a client in writes that down first and looks at the others then: of two that do so at the same time at
least one sees the other. So there may be refused one too many for a moment, and never be let in one too many.

Rows are given out by the parent. Where there are none left, each process keeps to the cap for itself.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Iterable

ROWS = 1 << 16
_SEALS = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL  # nobody can take it from under the others
_CELL = 8


def create_board(columns: int) -> int:
    """An open file, empty and not to be resized. Takes memory only for what is written. Raises OSError."""
    file = os.memfd_create("kproxy-flows", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(file, ROWS * columns * _CELL)
        fcntl.fcntl(file, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(file)
        raise
    return file


class Board:
    """``file`` stays the caller's."""

    def __init__(self, file: int) -> None:
        """Raises OSError."""
        self._map = mmap.mmap(file, 0)
        self._cells = memoryview(self._map).cast("q")
        self._columns = len(self._cells) // ROWS

    def write(self, row: int, column: int, flows: int) -> None:
        self._cells[row * self._columns + column] = flows

    def elsewhere(self, row: int, column: int) -> int:
        """What all other columns have."""
        first = row * self._columns
        return sum(self._cells[first : first + self._columns]) - self._cells[first + column]

    def wipe(self, rows: Iterable[int], columns: Iterable[int]) -> None:
        for row in rows:
            for column in columns:
                self.write(row, column, 0)

    def close(self) -> None:
        self._cells.release()
        self._map.close()
