"""A watch's chunks to lines, in time proportional to their length.

A line may exceed a megabyte (one object), a chunk may hold thousands of lines, and either may end in the middle of the
other. Rejected: aiohttp's ``readline`` (refuses long lines) and a growing buffer that is cut at each line (quadratic:
the ``kubernetes`` package needs 12 s for 32,000 lines in one segment).
"""

from __future__ import annotations

LONGEST = 64 * 1024 * 1024  # bytes; etcd takes objects of 1.5 MB, so this is no API server


class LineTooLong(Exception):
    """Somebody sends an endless line."""


class Splitter:
    """Feed chunks, get the lines that they complete, without their ends. Empty lines are left out."""

    def __init__(self, longest: int = LONGEST) -> None:
        self._longest = longest
        self._parts: list[bytes] = []
        self._held = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        head, *lines = chunk.split(b"\n")
        self._parts.append(head)
        self._held += len(head)
        if self._held > self._longest:
            raise LineTooLong
        if not lines:
            return []
        lines.insert(0, b"".join(self._parts))
        rest = lines.pop()
        self._parts, self._held = [rest], len(rest)
        return [line for line in lines if line.strip()]

    def rest(self) -> bytes:
        """What came after the last line's end: half an event, for an API server ends each with a newline."""
        return b"".join(self._parts)
