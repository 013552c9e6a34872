"""Start a program, feed it, wait for it: the only place in kproxy that does.

Every program gets a deadline, a process group of its own that is killed as a whole on deadline or cancellation, the
C locale (its messages are parsed) and a small clean environment. Standard input may be many megabytes: it is written
in chunks as they are produced, with back-pressure, and never joined; standard output may be taken in pieces, too.

Children are reaped here with wait4, which tells what they cost (CPU, peak memory). Rejected: asyncio's own subprocess,
which reaps with waitpid and throws the cost away; preexec_fn and fork, because plain Popen uses vfork and so costs the
same from a large daemon as from a small one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
import signal
import subprocess
import time
from collections.abc import AsyncIterable, Callable, Mapping, Sequence

from kproxy.errors import KernelError, NotPermitted, ProgramFailed, ProgramMissing, ProgramTimeout
from kproxy.kernel.doors import Chunks, Completed, Sink

STDERR_LIMIT = 16 * 1024  # bytes kept; the first message is the one that explains
PIECE = 256 * 1024

# Where administrators' tools live on Debian, even where an ordinary user's PATH leaves them out
_ADMIN_PATHS = ("/usr/local/sbin", "/usr/sbin", "/sbin", "/usr/bin", "/bin")
_PACKAGES = {"ip": "iproute2", "ss": "iproute2", "nft": "nftables", "conntrack": "conntrack", "ipset": "ipset"}


async def run(
    argv: Sequence[str],
    *,
    stdin: Chunks = b"",
    deadline: float,
    sink: Sink | None = None,
    check: bool = True,
    on_start: Callable[[int], object] | None = None,
    environment: Mapping[str, str] | None = None,
) -> Completed:
    """Run ``argv`` to its end, at most ``deadline`` seconds.

    ``sink`` receives standard output in pieces as it comes. ``on_start`` hears the process id before anything else
    happens. ``environment`` adds to the clean one. With ``check``, a status other than 0 raises ProgramFailed. Also
    raises ProgramMissing, ProgramTimeout, NotPermitted, and KernelError where the machine can start no program now.
    """
    command = tuple(argv)
    began = time.monotonic()
    child = _Child(_start(command, _environment() | dict(environment or {})))
    kept = bytearray()
    try:
        if on_start is not None:
            on_start(child.pid)
        async with asyncio.timeout(deadline), asyncio.TaskGroup() as group:
            group.create_task(child.feed(stdin))
            errors = group.create_task(child.read_errors())
            await child.read_output(kept.extend if sink is None else sink)
        # Output has ended, so the program has, or is about to: the rest of the deadline is for that.
        async with asyncio.timeout(max(deadline - (time.monotonic() - began), 0.1)):
            status, usage = await child.reaped()
    except BaseExceptionGroup as group:  # what feeds or takes the text failed: its own error is the story
        raise group.exceptions[0] from None
    except TimeoutError:
        message = f"{command[0]} did not end within {deadline:g} s and was killed; is the machine overloaded?"
        raise ProgramTimeout(message) from None
    finally:
        await child.end()
    done = Completed(
        status=status,
        stdout=bytes(kept),
        stderr=errors.result(),
        pid=child.pid,
        seconds=time.monotonic() - began,
        cpu_seconds=usage.ru_utime + usage.ru_stime,
        peak_rss=usage.ru_maxrss * 1024,
    )
    if check and status != 0:
        raise ProgramFailed(command, status, done.stderr)
    return done


def find_program(name: str) -> str | None:
    """The path of a program, or None."""
    for folder in _search_path().split(os.pathsep):
        path = os.path.join(folder, name)  # noqa: PTH118 -- execvp's own search, on strings
        if os.access(path, os.X_OK):
            return path
    return None


def package_of(program: str) -> str:
    """The Debian package that brings the program."""
    name = program.rpartition("/")[2]
    return "iptables" if name.startswith(("iptables", "ip6tables")) else _PACKAGES.get(name, name)


def _search_path() -> str:
    inherited = os.environ.get("PATH", "")
    have = inherited.split(os.pathsep) if inherited else []
    return os.pathsep.join([*have, *(path for path in _ADMIN_PATHS if path not in have)])


def _environment() -> dict[str, str]:
    environment = {"PATH": _search_path(), "LC_ALL": "C"}
    for name in ("XTABLES_LOCKFILE", "XTABLES_LIBDIR"):  # iptables' own variables, for unusual installations
        if name in os.environ:
            environment[name] = os.environ[name]
    return environment


def _start(command: tuple[str, ...], environment: dict[str, str]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            start_new_session=True,
        )
    except FileNotFoundError:
        package = package_of(command[0])
        raise ProgramMissing(
            f"{command[0]} is not installed; install the Debian package {package} (searched {environment['PATH']})"
        ) from None
    except PermissionError as error:
        raise NotPermitted(f"{command[0]} may not be executed ({error.strerror}); check its mode bits") from None
    except OSError as error:  # no memory, processes or descriptors left; or no program for this machine
        raise KernelError(
            f"{command[0]} cannot be started ({error.strerror}); free memory, processes or open files, "
            f"or install the package {package_of(command[0])} again"
        ) from None


class _Child:
    """The three pipes of a running program, and its end."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self._process = process
        self._reaper: asyncio.Future[tuple[int, int, resource.struct_rusage]] | None = None
        self._transports: list[asyncio.BaseTransport] = []

    @property
    def pid(self) -> int:
        return self._process.pid

    async def feed(self, chunks: Chunks) -> None:
        """Write standard input and close it. A program that stops listening tells why by its status, not here."""
        loop = asyncio.get_running_loop()
        protocol = asyncio.streams.FlowControlMixin(loop)
        transport, _ = await loop.connect_write_pipe(lambda: protocol, self._process.stdin)
        self._transports.append(transport)
        writer = asyncio.StreamWriter(transport, protocol, None, loop)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            if isinstance(chunks, bytes):
                writer.write(chunks)
            elif isinstance(chunks, AsyncIterable):
                async for chunk in chunks:
                    writer.write(chunk)
                    await writer.drain()
            else:
                for chunk in chunks:
                    writer.write(chunk)
                    await writer.drain()
            transport.set_write_buffer_limits(high=0)  # the last drain waits for the last byte, on any loop
            await writer.drain()
        transport.close()

    async def read_output(self, sink: Sink) -> None:
        reader = await self._reader(self._process.stdout)
        while piece := await reader.read(PIECE):
            sink(piece)

    async def read_errors(self) -> str:
        reader = await self._reader(self._process.stderr)
        kept = bytearray()
        while piece := await reader.read(PIECE):
            if len(kept) < STDERR_LIMIT:
                kept += piece[: STDERR_LIMIT - len(kept)]
        return kept.decode(errors="replace")

    async def _reader(self, pipe: object) -> asyncio.StreamReader:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(PIECE, loop)
        transport, _ = await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader, loop=loop), pipe)
        self._transports.append(transport)
        return reader

    async def reaped(self) -> tuple[int, resource.struct_rusage]:
        """The exit status (128 + number for a signal, as shells say it) and the cost."""
        if self._reaper is None:
            self._reaper = asyncio.get_running_loop().run_in_executor(None, os.wait4, self.pid, 0)
        # shielded: a thread cannot be cancelled, and whoever asks again must get its answer
        _, status, usage = await asyncio.shield(self._reaper)
        code = os.waitstatus_to_exitcode(status)
        # Popen must not look for a child that is gone
        self._process.returncode = code
        return (code if code >= 0 else 128 - code), usage

    async def end(self) -> None:
        """Leave nothing behind: kill the process group unless the program has ended, reap it, close the pipes."""
        if self._process.returncode is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, signal.SIGKILL)
            await self.reaped()
        for transport in self._transports:
            if transport.is_closing():
                continue
            if isinstance(transport, asyncio.WriteTransport):
                transport.abort()  # close would wait for a program that reads no more
            else:
                transport.close()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()
        await asyncio.sleep(0)  # transports close one turn later; nobody should find them open
