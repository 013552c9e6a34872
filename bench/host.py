"""A private network namespace, and programs in it. Everything the benchmarks load or send stays inside such ones.

The sandbox has hosts of its own, on asyncio; a measurement wants the plain thing: one thread that starts one program
and waits for it, with nothing else to run meanwhile.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from kproxy.sandbox import namespace

# Starts a program that the kernel kills when this process ends, however it ends.
_LEASH = ("setpriv", "--pdeathsig", "KILL", "--")


class Host:
    """A namespace that lives until the ``with`` ends; so do the programs started by ``start``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.descriptor = namespace.create_net()
        self._started: list[subprocess.Popen[str]] = []
        self.ip("link set lo up")

    @property
    def path(self) -> str:
        return f"/proc/{os.getpid()}/fd/{self.descriptor}"

    def inside(self) -> AbstractContextManager[None]:
        """Move this thread into the namespace for a while; programs that it starts meanwhile stay there."""
        return namespace.inside_net(self.descriptor)

    def ip(self, *lines: str) -> None:
        """Run the ip program once with these lines, which lack the word ip."""
        with self.inside():
            subprocess.run(("ip", "-batch", "-"), input="\n".join(lines), text=True, check=True, timeout=30)

    def set(self, settings: Mapping[str, str]) -> None:
        """Sysctls, named as below /proc/sys/net."""
        with self.inside():
            for name, value in settings.items():
                Path("/proc/sys/net", name).write_text(value, encoding="ascii")

    def read(self, *command: str) -> str:
        """What a program prints."""
        with self.inside():
            done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True, timeout=600)
        return done.stdout

    def start(self, command: Sequence[str], *, said: IO[str] | None = None) -> subprocess.Popen[str]:
        """Start a program that stays, with pipes to talk to; standard error goes to ``said``."""
        with self.inside():
            process = subprocess.Popen(
                (*_LEASH, *command), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True
            )
        self._started.append(process)
        return process

    def stop(self, process: subprocess.Popen[str], grace: float = 20.0) -> int:
        """SIGTERM, and SIGKILL if that does not help."""
        if process in self._started:
            self._started.remove(process)
        if process.poll() is None:
            process.terminate()
        try:
            process.communicate(timeout=grace)
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
        return process.returncode

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in tuple(self._started):
            self.stop(process)
        namespace.release(self.descriptor)


def wire(host: Host, link: str, other: Host, other_link: str) -> None:
    """A cable between two hosts, both ends up."""
    host.ip(f"link add {link} type veth peer name {other_link} netns {other.path}", f"link set {link} up")
    other.ip(f"link set {other_link} up")


def first_line(stream: IO[str] | None) -> str:
    """The next line of a program that was started with pipes; RuntimeError if it ended instead."""
    line = stream.readline() if stream else ""
    if not line:
        raise RuntimeError("a program that should have answered has ended; what it said is above")
    return line.strip()
