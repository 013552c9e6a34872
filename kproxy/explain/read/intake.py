"""Bytes from where a user points: a file, a pipe, standard input; never more than memory can bear.

Rejected: reading as a stream. Every question asks about chains that stand anywhere, so all rules must be in memory,
and those of the largest input that is taken need about a gigabyte there. Nobody's rules are that large: 100,000 take
15 MB. A path that nothing writes to (a FIFO that was forgotten) ends with a sentence, too; standard input does not,
for whoever starts a pipe sees that it waits.
"""

from __future__ import annotations

import os
import select
import stat
import sys
from typing import BinaryIO

from kproxy.errors import UnreadableDump

LARGEST = 128 << 20  # bytes
_PATIENCE = 30.0  # seconds until somebody writes into a FIFO
_AGAIN = "give a file that can be read, or - for standard input"


def read_input(
    path: str, stdin: BinaryIO | None = None, *, largest: int = LARGEST, patience: float = _PATIENCE
) -> bytes:
    """What ``path`` holds; - is standard input. Raises UnreadableDump.

    ``largest`` in bytes; ``patience`` in seconds, until the first byte of a FIFO.
    """
    shown = "standard input" if path == "-" else path if path.isprintable() else ascii(path)
    try:
        if path == "-":
            return _all_of(stdin or _standard_input(), largest, shown)
        with _open(path, shown, patience) as file:
            if os.fstat(file.fileno()).st_size > largest:
                raise _too_large(shown, largest)
            return _all_of(file, largest, shown)
    except OSError as error:
        raise UnreadableDump(0, f"{shown} cannot be read: {error.strerror or error}", remedy=_AGAIN) from error
    except ValueError as error:  # a closed file, or a NUL in the path
        raise UnreadableDump(0, f"{shown} cannot be read: {error}", remedy=_AGAIN) from error


def _standard_input() -> BinaryIO:
    if sys.stdin is None:
        raise UnreadableDump(0, "standard input is closed", remedy="give a file, or pipe iptables-save into it")
    return sys.stdin.buffer


def _open(path: str, shown: str, patience: float) -> BinaryIO:
    """Opening a FIFO waits for its writer, for ever; unless it is told not to."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _check(shown, descriptor, patience)
        os.set_blocking(descriptor, True)
        return os.fdopen(descriptor, "rb")
    except BaseException:
        os.close(descriptor)
        raise


def _check(shown: str, descriptor: int, patience: float) -> None:
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISDIR(mode):
        raise UnreadableDump(0, f"{shown} is a directory", remedy="give a file in it")
    if stat.S_ISFIFO(mode) and not _wait(descriptor, patience):
        why = f"nothing was written into {shown} for {patience:g} s"
        raise UnreadableDump(0, why, remedy="start what writes into it, or give a file")


def _wait(descriptor: int, patience: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(patience * 1000))


def _all_of(file: BinaryIO, largest: int, shown: str) -> bytes:
    data = file.read(largest + 1)
    if len(data) > largest:
        raise _too_large(shown, largest)
    return data


def _too_large(shown: str, largest: int) -> UnreadableDump:
    why = f"{shown} has more than {largest >> 20} MiB; 100,000 rules take 15"
    return UnreadableDump(0, why, remedy="give the output of iptables-save alone, or of one table (-t nat)")
