"""One host of the sandbox: a network namespace held open by a descriptor, and ways to run things in it.

Three ways in, for three needs: ``run`` a program and wait for it, ``popen`` one that stays, and ``inside`` for a
socket of this very process, which stays in the host's network for ever although the process comes back. The last
makes servers and probes of a whole cluster possible in one process, in milliseconds.

The namespace has no name, so nobody else sees it and nobody has to remove it: it goes with the last process that
holds it. ``nsenter`` is told its descriptor; ``setpriv --pdeathsig`` ends the program when this process is killed.

Rejected: ``ip netns add`` (visible to the whole machine, outlives a crash), and preexec_fn with setns (forbids
vfork, and may deadlock in a process with threads).
"""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import IO

from kproxy.errors import KernelError, ProgramFailed, ProgramMissing, ProgramTimeout
from kproxy.sandbox import namespace

_DEADLINE = 20.0  # seconds for a program that should take milliseconds; reached only on a machine in trouble
_NOT_STARTED = {126, 127}  # what setpriv ends with when it cannot start its command
_GRACE = 3.0  # seconds between SIGTERM and SIGKILL


@dataclass(frozen=True, slots=True)
class Finished:
    """What a program left behind: exit status and everything it wrote."""

    command: tuple[str, ...]
    status: int
    stdout: str
    stderr: str

    def check(self) -> Finished:
        """Raise ProgramFailed unless the exit status is 0; returns itself."""
        if self.status != 0:
            raise ProgramFailed(self.command, self.status, self.stderr or self.stdout)
        return self


class Host:
    """A network namespace with a name for people and its addresses, IPv4 first."""

    def __init__(self, name: str, ips: Sequence[str] = ()) -> None:
        self.name = name
        self.ips = tuple(ips)
        self.descriptor = namespace.create_net()
        self._staying: list[asyncio.subprocess.Process] = []

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name} {' '.join(self.ips)}>"

    @property
    def path(self) -> str:
        """A file name for the namespace, good in this process and in children that were given the descriptor."""
        return f"/proc/self/fd/{self.descriptor}"

    def ip(self, family: int = 4) -> str:
        """The host's address of family 4 or 6; LookupError when it has none."""
        for address in self.ips:
            if ip_address(address).version == family:
                return address
        raise LookupError(f"{self.name} has no IPv{family} address")

    def inside(self) -> contextlib.AbstractContextManager[None]:
        """``with host.inside(): socket(...)``: make sockets in this host; hold no await inside."""
        return namespace.inside_net(self.descriptor)

    async def run(
        self,
        command: Sequence[str],
        *,
        stdin: str = "",
        env: Mapping[str, str] | None = None,
        deadline: float = _DEADLINE,
        descriptors: Sequence[int] = (),
    ) -> Finished:
        """Run a program in this host and wait for its end, at most ``deadline`` seconds.

        Raises ProgramTimeout (the program is killed) and ProgramMissing; a status other than 0 is for the caller.
        """
        pipe = subprocess.PIPE
        process = await self._start(command, stdin=pipe, stdout=pipe, stderr=pipe, env=env, descriptors=descriptors)
        try:
            async with asyncio.timeout(deadline):
                out, err = await process.communicate(stdin.encode())
        except TimeoutError:
            raise ProgramTimeout(f"{' '.join(command)} on {self.name} did not end within {deadline:g} s") from None
        finally:
            if process.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
                await process.wait()
        finished = Finished(
            tuple(command), process.returncode or 0, out.decode(errors="replace"), err.decode(errors="replace")
        )
        if finished.status in _NOT_STARTED and finished.stderr.startswith("setpriv: failed to execute"):
            raise ProgramMissing(f"{command[0]} is not installed: {finished.stderr.strip()}")
        return finished

    async def popen(
        self,
        command: Sequence[str],
        *,
        stdout: int | IO[bytes] = subprocess.DEVNULL,
        stderr: int | IO[bytes] | None = None,
        env: Mapping[str, str] | None = None,
    ) -> asyncio.subprocess.Process:
        """Start a program that stays; it is ended with the host, or earlier by ``stop``."""
        process = await self._start(command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, env=env)
        self._staying.append(process)
        return process

    async def stop(self, process: asyncio.subprocess.Process) -> int:
        """Ask a program of ``popen`` to end, insist after a while; returns its exit status."""
        if process in self._staying:
            self._staying.remove(process)
        if process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                process.terminate()
            try:
                async with asyncio.timeout(_GRACE):
                    await process.wait()
            except TimeoutError:
                with contextlib.suppress(ProcessLookupError):
                    process.kill()
        return await process.wait()

    async def close(self) -> None:
        """End the programs that stay and let go of the namespace."""
        await asyncio.gather(*(self.stop(process) for process in tuple(self._staying)))
        namespace.release(self.descriptor)

    def write_sysctls(self, settings: Mapping[str, str]) -> None:
        """Set sysctls of this host, named as below /proc/sys (``net/ipv4/ip_forward``)."""
        with self.inside():
            for name, value in settings.items():
                Path("/proc/sys", name).write_text(value, encoding="ascii")

    async def configure(self, lines: Sequence[str], *, giving: Sequence[Host] = ()) -> None:
        """Run lines of ip(8) without the word ip, all in one process; raises ProgramFailed.

        ``giving`` names the other hosts whose ``path`` stands in the lines.
        """
        descriptors = [host.descriptor for host in giving]
        finished = await self.run(("ip", "-batch", "-"), stdin="\n".join(lines) + "\n", descriptors=descriptors)
        finished.check()

    async def _start(
        self,
        command: Sequence[str],
        *,
        stdin: int,
        stdout: int | IO[bytes],
        stderr: int | IO[bytes] | None,
        env: Mapping[str, str] | None,
        descriptors: Sequence[int] = (),
    ) -> asyncio.subprocess.Process:
        into = ("nsenter", f"--net={self.path}", "--", "setpriv", "--pdeathsig", "KILL", "--")
        try:
            return await asyncio.create_subprocess_exec(
                *into,
                *command,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                env=env,
                pass_fds=(self.descriptor, *descriptors),
            )
        except FileNotFoundError as error:
            raise ProgramMissing(f"{error.filename} is not installed; it belongs to the package util-linux") from error
        except OSError as error:
            raise KernelError(f"cannot start {command[0]} on {self.name}: {error.strerror}") from error
