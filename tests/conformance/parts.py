"""A run in parts: each part is a process behind walls with a world and an API server of its own.

A part prints a verdict as a line of JSON as soon as it has one, and at its end what the machine is and lacks. Those
scenarios that share a proxy stay together. A part dies with this process, and the kernel removes all that it made.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import tempfile
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from kproxy.errors import NotPermitted
from kproxy.sandbox import isolate
from tests.conformance.modes import IPTABLES
from tests.conformance.parity import Verdict
from tests.conformance.runner import Runner, chosen, needs_own_proxy, read_scenarios

Json = dict[str, Any]
_INSIDE = "--inside"
_COST = {True: 5, False: 2}  # seconds that a scenario takes, roughly: with a proxy of its own, and without
_LINE_LIMIT = 1 << 24  # bytes of one verdict


@dataclass(frozen=True, slots=True)
class Order:
    """How to run."""

    variant: str
    mode: str = IPTABLES
    crowd: int = 0
    dumps: Path | None = None
    log: Path | None = None


@dataclass(slots=True)
class Result:
    """What all parts found."""

    verdicts: list[Verdict] = field(default_factory=list)
    machine: dict[str, str] = field(default_factory=dict)
    lacking: dict[str, str] = field(default_factory=dict)


def deal(scenarios: Iterable[Json], jobs: int) -> list[list[str]]:
    """The names of the scenarios for each part; those that share a proxy are all in the first."""
    dealt: list[list[str]] = [[] for _ in range(jobs)]
    load = [0] * jobs
    for scenario in sorted(scenarios, key=needs_own_proxy):
        own = needs_own_proxy(scenario)
        part = load.index(min(load)) if own else 0
        dealt[part].append(scenario["name"])
        load[part] += _COST[own]
    return [part for part in dealt if part]


async def run(scenarios: Sequence[Json], order: Order, jobs: int, report: Callable[[Verdict], None]) -> Result:
    """Run all scenarios; ``report`` hears of each. One that a part did not come to has failed."""
    result = Result()

    def hear(verdict: Verdict) -> None:
        result.verdicts.append(verdict)
        report(verdict)

    with tempfile.TemporaryDirectory() as directory:
        logs = [Path(directory, str(number)) for number in range(jobs)]
        async with asyncio.TaskGroup() as group:
            for names, log in zip(deal(scenarios, jobs), logs, strict=False):
                group.create_task(_part(names, order, log, hear, result))
        if order.log:
            order.log.write_bytes(b"".join(log.read_bytes() for log in logs if log.exists()))
    return result


async def _part(names: Sequence[str], order: Order, log: Path, hear: Callable[[Verdict], None], result: Result) -> None:
    asked = json.dumps({**asdict(order), "dumps": str(order.dumps or ""), "log": str(log), "names": names})
    die_with_us = ("setpriv", "--pdeathsig", "KILL", "--")
    command = (*die_with_us, sys.executable, "-m", "tests.conformance.parts", asked)
    process = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE, limit=_LINE_LIMIT)
    left = list(names)
    try:
        if process.stdout is not None:
            async for line in process.stdout:
                told = json.loads(line)
                if "machine" in told:
                    result.machine, result.lacking = told["machine"], told["lacking"]
                else:
                    left.remove(told["name"])
                    hear(Verdict.of(told))
        status = await process.wait()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    for name in left:
        hear(Verdict(name, failed=f"its part of the run ended with status {status} before it"))


def _perform(asked: Json) -> int:
    """Inside the walls: run and print."""

    def tell(document: Json) -> None:
        sys.stdout.write(json.dumps(document) + "\n")
        sys.stdout.flush()

    with tempfile.TemporaryDirectory(dir="/run") as directory:
        dumps = Path(asked["dumps"]) if asked["dumps"] else None
        report: Callable[[Verdict], None] = lambda verdict: tell(verdict.document())  # noqa: E731 -- typed
        runner = Runner(
            Path(directory), asked["variant"], report, mode=asked["mode"], dumps=dumps, crowd=asked["crowd"]
        )
        asyncio.run(runner.run(chosen(read_scenarios(), asked["names"])))
        tell({"machine": runner.machine, "lacking": runner.lacking})
        log = Path(directory) / "n1.log"
        if log.exists():
            Path(asked["log"]).write_bytes(log.read_bytes())
    return 0


def main() -> int:
    """``python -m tests.conformance.parts JSON``: come back behind the walls, then run; returns the exit status."""
    asked, *inside = sys.argv[1:]
    if inside:
        return _perform(json.loads(asked))
    try:
        return isolate.run([sys.executable, "-m", "tests.conformance.parts", asked, _INSIDE])
    except NotPermitted as error:
        sys.stderr.write(f"conformance: {error}\n")
        return os.EX_NOPERM


if __name__ == "__main__":
    sys.exit(main())
