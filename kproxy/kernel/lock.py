"""The lock that iptables-legacy takes, for those who speak to legacy tables without the iptables programs.

An flock on /run/xtables.lock, or on the file that XTABLES_LOCKFILE names, exactly as iptables 1.8 does. Rejected: the
abstract socket of iptables before 1.6.2, which no supported distribution has.
Source: spec iptables.md 14.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from kproxy.errors import KernelError, XtablesLocked

_POLL = 0.05  # seconds between two tries; flock itself knows no deadline


def lock_path() -> str:
    return os.environ.get("XTABLES_LOCKFILE", "/run/xtables.lock")


@contextmanager
def xtables_lock(deadline: float) -> Iterator[None]:
    """Hold the lock for the block. Blocks up to ``deadline`` seconds; raises XtablesLocked, KernelError."""
    path = lock_path()
    try:
        descriptor = os.open(path, os.O_CREAT | os.O_RDONLY | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise KernelError(f"{path} cannot be opened ({error.strerror}); mount the host's /run/xtables.lock") from error
    try:
        until = time.monotonic() + deadline
        while not _try_lock(descriptor):
            if time.monotonic() >= until:
                raise XtablesLocked(f"{path} was held by another program for {deadline:g} s; see `fuser -v {path}`")
            time.sleep(_POLL)
        yield
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
