"""Private network namespaces for tests that need the real kernel.

A test that asks for ``netns`` gets one namespace with loopback up; ``inside`` also moves the test itself into it, so
that sockets, /proc/sys/net and every program it starts belong to the namespace. ``make_netns`` makes as many as wanted.
Each namespace has its own xtables lock file, so that no test waits for a program in the root namespace.
Rejected: moving a worker thread instead of the test; /proc/net always shows the namespace of the main thread.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

CLONE_NEWNET = 0x40000000
LOCK_VARIABLE = "XTABLES_LOCKFILE"

_numbers = itertools.count()
_libc = ctypes.CDLL(None, use_errno=True)


class Namespace:
    def __init__(self, name: str, lock: Path) -> None:
        self.name = name
        self.lock = lock  # what programs in here lock instead of /run/xtables.lock
        self._ip("netns", "add", name)
        self._ip("-n", name, "link", "set", "lo", "up")

    @staticmethod
    def _ip(*arguments: str) -> None:
        subprocess.run(("ip", *arguments), check=True, timeout=20)

    def remove(self) -> None:
        self._ip("netns", "del", self.name)

    def run(
        self,
        argv: Sequence[str],
        *,
        input: str = "",  # noqa: A002 -- subprocess.run's own name for it
        check: bool = True,
        deadline: float = 30.0,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in the namespace and wait for it; CalledProcessError carries what it wrote."""
        return subprocess.run(
            ("ip", "netns", "exec", self.name, *argv),
            input=input,
            check=check,
            capture_output=True,
            text=True,
            timeout=deadline,
            env={**os.environ, LOCK_VARIABLE: str(self.lock)},
        )

    @contextmanager
    def enter(self) -> Iterator[None]:
        """Move the calling thread, and what it starts, into the namespace until the block ends."""
        before_lock = os.environ.get(LOCK_VARIABLE)
        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            target = os.open(f"/run/netns/{self.name}", os.O_RDONLY | os.O_CLOEXEC)
            try:
                _setns(target)
            finally:
                os.close(target)
            os.environ[LOCK_VARIABLE] = str(self.lock)
            try:
                yield
            finally:
                _setns(home)
                if before_lock is None:
                    del os.environ[LOCK_VARIABLE]
                else:
                    os.environ[LOCK_VARIABLE] = before_lock
        finally:
            os.close(home)


def _setns(descriptor: int) -> None:
    # os.setns came with Python 3.12
    if _libc.setns(descriptor, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


@pytest.fixture
def make_netns(tmp_path: Path) -> Iterator[Callable[[], Namespace]]:
    if os.geteuid() != 0:
        pytest.skip("needs root: makes network namespaces")
    made: list[Namespace] = []

    def make() -> Namespace:
        number = next(_numbers)
        made.append(Namespace(f"kpt-{os.getpid()}-{number}", tmp_path / f"xtables-{number}.lock"))
        return made[-1]

    try:
        yield make
    finally:
        for namespace in made:
            namespace.remove()


@pytest.fixture
def netns(make_netns: Callable[[], Namespace]) -> Namespace:
    return make_netns()


@pytest.fixture
def inside(netns: Namespace) -> Iterator[Namespace]:
    """The test itself runs in the namespace."""
    with netns.enter():
        yield netns
