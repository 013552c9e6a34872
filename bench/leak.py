"""What is left in the relay's processes after a million short connections: files, pipes, memory, flows.

    ./run bench leak                              1,000,000 connections, five minutes or six
    ./run bench leak --connections 200000         a look, a minute and a half

Real workers with the daemon's parent around them, and the load of relay.py: connect, 100 bytes, 1 KiB back, the server
closes. One endpoint of three is dead, and never ejected here, so that one connection in three also takes the way by a
second attempt; each few seconds connections are cut where they are, some of them in the middle of a download through
pipes. The first 100,000 connections warm up: the interpreter's memory and the pool of pipes reach their size. What is
compared is the quiet after them and the quiet in the end.

Exit status 1 when a process has another number of sockets or other files than before, or more pipes than are kept for
the next ones, when a flow is left, when a connection failed, or when a process has grown by more than 2 MiB, which is
two bytes for each connection.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import report
from msgspec import structs
from programs import high_water_mb
from relay_field import ANSWER, DOWNLOAD, ENDPOINTS, PROXY, Field, compile_load
from rich.console import Console

from kproxy.backend.userspace.counts import Tally, merge
from kproxy.backend.userspace.crew import Crew
from kproxy.backend.userspace.rules import Rule
from kproxy.backend.userspace.seat import Ended, Event
from kproxy.config import Config
from kproxy.errors import KproxyError
from kproxy.model.enums import Protocol
from kproxy.model.keys import ServicePortKey
from kproxy.plan.plan import Target
from kproxy.plan.relay import default_relay
from kproxy.sandbox import isolate

_WARM = 100_000  # connections
_GROWTH = 2.0  # MiB that a process may grow
_FLIGHT, _STREAMS = 32, 16  # connections at once; downloads at once
_SLICE, _CUT = 3.0, 0.3  # seconds of connections, then of downloads; then all of them are cut
_QUIET = 20.0  # seconds in which flows must have ended
_DEAD = 9  # a port that nobody serves
_POOL = 64  # files of the pipes that a worker keeps, empty, for the next ones (pipes.py)
_KINDS = ("sockets", "pipes", "other files")
_NAMED = re.compile(r"(socket|pipe):")


def main() -> int:
    """Behind the walls: load, look, print, save."""
    arguments = _arguments()
    if isolate.OUTER_PID not in os.environ:
        return isolate.run((sys.executable, *sys.argv))
    console = report.new_console()
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kproxy-bench-")))
        site = Field(stack, compile_load(folder))
        stack.enter_context(site.proxy.inside())  # the workers are started by this thread
        return asyncio.run(_until_told(_Bench(arguments, console, site)))


async def _until_told(bench: _Bench) -> int:
    """Its exit status; that of a program that was interrupted, if it is. Workers end with it in order."""
    task, is_told = asyncio.create_task(bench.run()), asyncio.Event()

    def stop() -> None:
        if not is_told.is_set():  # a terminal tells all of a group, and the walls pass it on
            is_told.set()
            task.cancel()

    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, stop)
    try:
        return await task
    except asyncio.CancelledError:
        return 130


@dataclass
class Held:
    """What one process has: files by kind, and MiB in memory."""

    name: str
    files: dict[str, int]
    rss: float


@dataclass
class Look:
    """One moment of quiet."""

    processes: list[Held]
    tally: Tally = field(default_factory=Tally)


class _Bench:
    def __init__(self, arguments: argparse.Namespace, console: Console, site: Field) -> None:
        self._arguments = arguments
        self._console = console
        self._site = site
        self._ended: list[Ended] = []
        self._crew = Crew(Config(), workers=arguments.workers, told=self._note)
        self._errors = self._downloaded = 0

    async def run(self) -> int:
        circumstances, began = report.circumstances(), time.monotonic()
        running = asyncio.create_task(self._crew.run())
        try:
            await self._open()
            with report.new_progress(self._console, still=True) as progress:
                bar = progress.add_task("", total=self._arguments.warm + self._arguments.connections)

                def advance(what: str, connections: int) -> None:
                    progress.update(bar, description=what, advance=connections)
                    progress.refresh()

                await self._load("warming up", self._arguments.warm, advance)
                before = await self._look()
                await self._load("connections", self._arguments.connections, advance)
                after = await self._look()
        finally:
            await self._crew.stop(0)
            await running
        seconds = time.monotonic() - began
        complaints = self._compare(before, after)
        self._show(before, after, seconds, complaints)
        report.save(
            self._arguments.output,
            {
                "before": circumstances,
                "after": report.circumstances(),
                "connections": after.tally.flows - before.tally.flows,
                "seconds": round(seconds, 1),
                "downloaded": self._downloaded,
                "warm": asdict(before) | {"tally": structs.asdict(before.tally)},
                "end": asdict(after) | {"tally": structs.asdict(after.tally)},
                "complaints": complaints,
            },
        )
        return 1 if complaints else 0

    async def _open(self) -> None:
        how = structs.replace(default_relay(Config()), eject_after=0)
        rules = []
        for port, dead in ((ANSWER, True), (DOWNLOAD, False)):
            listener = self._crew.open(PROXY, Protocol.TCP, port)
            targets = [Target(ip, port, local=False) for ip in ENDPOINTS]
            targets += [Target(ENDPOINTS[0], _DEAD, local=False)] if dead else []
            key = ServicePortKey("bench", f"port-{port}", "", Protocol.TCP)
            rules.append(Rule(listener, key, tuple(targets), how))
        if failures := await self._crew.push(rules):
            raise RuntimeError(f"{failures[0].rule.listener}: {failures[0].error}")

    async def _load(self, what: str, connections: int, advance: Callable[[str, int], None]) -> None:
        """At least so many."""
        advance(what, 0)
        while connections > 0:
            found = await asyncio.to_thread(self._site.load, "connect", PROXY, ANSWER, _FLIGHT, 0, _SLICE)
            bulk = await asyncio.to_thread(self._site.load, "bulk", PROXY, DOWNLOAD, _STREAMS, 0, _CUT)
            self._errors += found["errors"] + bulk["errors"]
            self._downloaded += bulk["all"]
            advance(what, min(found["all"], connections))
            connections -= found["all"]
            if not found["all"] or self._ended:
                raise RuntimeError("; ".join(each.why for each in self._ended) or "nothing comes through")

    async def _look(self) -> Look:
        """Once nobody is there any more."""
        limit = time.monotonic() + _QUIET
        while True:
            await self._crew.refresh(_QUIET)
            tally = Tally()
            for each in self._crew.tallies.values():
                tally = merge(tally, each)
            if not tally.active or time.monotonic() > limit:
                break
            await asyncio.sleep(0.1)
        pids = {"parent": os.getpid()} | {f"worker {each.seat + 1}": each.pid for each in self._crew.serving}
        return Look([Held(name, _files(pid), high_water_mb(pid, "VmRSS")) for name, pid in pids.items()], tally)

    def _compare(self, before: Look, after: Look) -> list[str]:
        complaints = []
        for had, has in zip(before.processes, after.processes, strict=True):
            more = {kind: has.files[kind] - had.files[kind] for kind in _KINDS}
            if has.files["pipes"] <= _POOL:
                more["pipes"] = 0
            complaints += [f"{has.name}: {count:+} {kind}" for kind, count in more.items() if count]
            if has.rss - had.rss > _GROWTH:
                complaints.append(f"{has.name}: {has.rss - had.rss:+.1f} MiB, more than {_GROWTH:g}")
        tally = after.tally
        if tally.active:
            complaints.append(f"{tally.active} flows left")
        if self._errors or tally.refused:
            complaints.append(f"{self._errors} connections failed, refused: {tally.refused}")
        return complaints

    def _show(self, before: Look, after: Look, seconds: float, complaints: list[str]) -> None:
        table = report.new_table("left in each process: before → after", ["process", *_KINDS, "memory", "grown"])
        for had, has in zip(before.processes, after.processes, strict=True):
            files = [f"{had.files[kind]} → {has.files[kind]}" for kind in _KINDS]
            memory = f"{had.rss:.1f} → {has.rss:.1f} MiB"
            table.add_row(has.name, *files, memory, f"{(has.rss - had.rss) * 1024:+.0f} KiB")
        self._console.print(table)
        tally = after.tally
        warm, counted = before.tally.flows, tally.flows - before.tally.flows
        said = (
            f"{counted:,} connections after {warm:,} to warm up, in {seconds:.0f} s",
            f"{tally.retries:,} of all at the second attempt; {self._downloaded / 1e9:.1f} GB by cut downloads",
        )
        self._console.print("\n".join(said), style="dim", highlight=False)
        verdict = f"[red]leaks:[/] {'; '.join(complaints)}" if complaints else "[green]nothing leaks"
        self._console.print(verdict, highlight=False)

    def _note(self, event: Event) -> None:
        if isinstance(event, Ended):
            self._ended.append(event)


def _files(pid: int) -> dict[str, int]:
    """Open ones by kind."""
    kinds: Counter[str] = Counter()
    for each in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # that of this very directory
            found = _NAMED.match(os.readlink(each))  # noqa: PTH115 -- it is not a path
            kinds[f"{found[1]}s" if found else "other files"] += 1
    return {kind: kinds[kind] for kind in _KINDS}


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench/leak.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--connections", type=int, default=1_000_000, metavar="N", help="after the warm-up")
    parser.add_argument("--warm", type=int, default=_WARM, metavar="N", help="connections before that")
    parser.add_argument("--workers", type=int, default=2, metavar="N")
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON")
    arguments: Any = parser.parse_args()
    whole = arguments.connections >= parser.get_default("connections")
    arguments.output = arguments.output or report.RESULTS / ("leak.json" if whole else "leak.local.json")
    if os.geteuid() != 0:
        parser.error("network namespaces need root")
    return arguments


if __name__ == "__main__":
    try:
        sys.exit(main())
    except (KproxyError, RuntimeError, subprocess.CalledProcessError) as error:
        sys.exit(f"bench/leak.py: {error}")
