"""Where commands are typed: a copy of the checkout, and hosts of a sandbox that was started from it.

A copy, because ``./run`` makes environments, results and locks beside itself. Its ``.venv`` leads to the packages of
the one that runs the tests and has the stamp of the copy's own lock, so that ``run`` has nothing to install there.
"""

from __future__ import annotations

import asyncio
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from tests.docs.answers import differs
from tests.docs.claims import Claim, Way, typed
from tests.docs.commands import CHECKOUT, Command

DEADLINE = 120.0  # seconds; only what is broken needs them
LINTERS = ("ruff", "mypy", "lint-imports")
_NOT_COPIED = (".git", ".venv", ".*_cache", ".hypothesis", ".coverage", "__pycache__", "dist", "results")
_APPLY = """
import asyncio, sys
from pathlib import Path
from kproxy.sandbox.client import Client
from kproxy.sandbox.cluster import read_manifests
async def apply():
    async with Client("http://192.168.100.5:6443") as client:
        for path in sys.argv[1:]:
            for each in read_manifests(Path(path)):
                await client.apply(each)
asyncio.run(apply())
"""
_WITHOUT_CAPABILITIES = ("setpriv", "--bounding-set=-all", "--inh-caps=-all")


@dataclass(frozen=True)
class Answer:
    status: int
    out: str
    err: str

    def __str__(self) -> str:
        return f"status {self.status}\n{self.out}\n{self.err}"


class Copy:
    """A copy of the checkout."""

    def __init__(self, path: Path) -> None:
        self.path = path
        shutil.copytree(CHECKOUT, path, symlinks=True, ignore=shutil.ignore_patterns(*_NOT_COPIED))
        self._lead_to_packages()
        stamp = re.search(r"(?m)^ +want=(\$\(.*\))$", (path / "run").read_text(encoding="utf-8"))
        assert stamp, "./run makes its stamp in another way now"
        script = f". ./run help >&2; choose_python; printf '%s\\n' \"{stamp[1]}\" > .venv/.stamp"
        subprocess.run(("sh", "-euc", script), cwd=path, check=True, timeout=DEADLINE, capture_output=True)

    def _lead_to_packages(self) -> None:
        packages, here = Path(sys.prefix), self.path / ".venv"
        (here / "bin").mkdir(parents=True)
        (here / "pyvenv.cfg").write_bytes((packages / "pyvenv.cfg").read_bytes())
        (here / "lib").symlink_to(packages / "lib")
        for program in (packages / "bin").iterdir():
            (here / "bin" / program.name).symlink_to(program)
        for name in LINTERS:
            (here / "bin" / name).unlink(missing_ok=True)
            (here / "bin" / name).symlink_to("/bin/true")

    async def type(self, command: Command, claim: Claim) -> Answer:
        under = _WITHOUT_CAPABILITIES if claim.anybody else ()
        path = f"{self.path / '.venv' / 'bin'}:{os.environ['PATH']}"
        process = await asyncio.create_subprocess_exec(
            *under, claim.typist, "-euc", f"{claim.before}\n{claim.typed(command)}",
            cwd=self.path, env={**os.environ, "PATH": path, "PYTHONPATH": str(self.path)},
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        return await answer_of(process)


async def failures(way: Way, do: Callable[[Command, Claim], Awaitable[Answer | None]]) -> str:
    """Type all of a way's commands, as many at a time as there are processors; what went otherwise than shown.

    One after the other, in tests of their own, took twice as long. ``do`` answers None where a program is missing.
    """
    turns = asyncio.Semaphore(os.cpu_count() or 1)

    async def one(command: Command, claim: Claim) -> str:
        async with turns:
            answer = await do(command, claim)
        if answer is None:
            return ""
        if answer.status != claim.status:
            return f"{command}\nended with {answer.status} instead of {claim.status}:\n{answer.out}{answer.err}"
        lacks = differs(command.printed, answer.out, claim.varies)
        return lacks and f"{command}\nprints\n{answer.out}{answer.err}and not\n{lacks}"

    commands = typed(way)
    found: list[str] = []
    for is_last in (False, True):
        found += await asyncio.gather(*(one(*each) for each in commands if each[1].is_last == is_last))
    return "\n".join(filter(None, found))


async def answer_of(process: asyncio.subprocess.Process) -> Answer:
    try:
        async with asyncio.timeout(DEADLINE):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        return Answer(-1, "", f"no end within {DEADLINE} s")
    assert process.returncode is not None
    return Answer(process.returncode, out.decode(), (err or b"").decode())


class Sandbox:
    """A running ``./run sandbox``, entered as it tells people to."""

    def __init__(self, checkout: Copy, process: asyncio.subprocess.Process, enter: list[str], said: str) -> None:
        self.checkout = checkout
        self.process = process
        self.said = said
        self._enter = enter

    @classmethod
    async def start(cls, checkout: Copy, command: str) -> Sandbox:
        # A shell starts what it puts in the background with SIGINT ignored, and that would be inherited down to here.
        # A test run that is killed ends nothing, and the sandbox would stay.
        process = await asyncio.create_subprocess_exec(
            *("env", "--default-signal=INT", "setpriv", "--pdeathsig", "TERM", "sh", "-euc", f"exec {command}"),
            cwd=checkout.path,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        assert process.stdout is not None
        said, enter = "", ""
        async with asyncio.timeout(DEADLINE):
            while not enter.endswith("sh"):  # the last hint: a shell
                line = (await process.stdout.readline()).decode()
                assert line, f"it ended early: {said}"
                said += line
                enter = line.strip() if line.strip().startswith("nsenter ") else enter
        return cls(checkout, process, enter.split()[:-2], said)

    async def end(self) -> Answer:
        """By Ctrl-C."""
        self.process.send_signal(signal.SIGINT)
        return await answer_of(self.process)

    async def start_typing(self, host: str, script: str, *, anybody: bool = False) -> asyncio.subprocess.Process:
        under = _WITHOUT_CAPABILITIES if anybody else ()
        # The conntrack table's size is the machine's: as in a container it can be read, and not written.
        look = f'mount -o remount,bind,ro /sys; cd {self.checkout.path}; exec "$@"'
        return await asyncio.create_subprocess_exec(
            *self._enter, host, "sh", "-euc", look, "sh",
            *under, "sh", "-euc", script, stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip

    async def apply(self, *files: str) -> None:
        """As kubectl would, which is not everywhere."""
        words = " ".join(("$(command -v python)", "-c", shlex.quote(_APPLY), *files))
        answer = await self.type("cp", f"PATH={self.checkout.path}/.venv/bin:$PATH\n{words}")
        assert answer.status == 0, answer

    async def type(self, host: str, script: str, *, anybody: bool = False) -> Answer:
        return await answer_of(await self.start_typing(host, script, anybody=anybody))

    async def everywhere(self, script: str) -> Answer:
        """On no host: what is mounted here all of them see, what a host mounts only its own command."""
        process = await asyncio.create_subprocess_exec(
            *self._enter[:-1], "sh", "-euc", f"cd {self.checkout.path}\n{script}",
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
        )  # fmt: skip
        return await answer_of(process)
