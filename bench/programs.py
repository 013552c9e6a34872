"""Run a program and say what it cost: processor seconds, wall seconds, peak memory.

Processor time is what the kernel charged to the process when it ended (wait4), so the part of an iptables-restore that
is spent inside the kernel's commit is in it. Peak memory is read from /proc while the program runs: the figure that
wait4 gives is inherited across fork and exec, and would be this interpreter's. A program that ends between two looks
shows the last one seen, or 0.

The calling thread must already be in the namespace that is meant; its children inherit it.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

LOOK = 0.005  # seconds between two looks at a program's memory


class ProgramRefused(RuntimeError):
    """A program ended with a status other than 0, which no benchmark expects."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Costs of one program, or of several in a row."""

    cpu: float = 0.0  # user and system seconds
    wall: float = 0.0  # seconds
    peak_mb: float = 0.0
    finished: bool = True  # False: killed at its deadline, so cpu and wall are lower bounds

    def __add__(self, other: Cost) -> Cost:
        return Cost(
            self.cpu + other.cpu,
            self.wall + other.wall,
            max(self.peak_mb, other.peak_mb),
            self.finished and other.finished,
        )


def run(command: Sequence[str], stdin: Iterable[str] = (), *, deadline: float = 600.0, may_fail: bool = False) -> Cost:
    """Run to the end, or kill after ``deadline`` seconds; ``stdin`` in pieces. Raises ProgramRefused."""
    with tempfile.TemporaryFile("w+") as given, tempfile.TemporaryFile("w+") as said:
        given.writelines(stdin)
        given.seek(0)
        began = time.monotonic()
        with subprocess.Popen(command, stdin=given, stdout=subprocess.DEVNULL, stderr=said) as process:
            killed = threading.Event()
            timer = threading.Timer(deadline, lambda: (killed.set(), process.kill()))
            timer.start()
            peak = _Peak(process.pid)
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.monotonic() - began
            timer.cancel()
            process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode and not killed.is_set() and not may_fail:
            said.seek(0)
            raise ProgramRefused(f"{' '.join(command)}: status {process.returncode}: {said.read(400)}")
        return Cost(usage.ru_utime + usage.ru_stime, wall, peak.stop(), not killed.is_set())


class _Peak(threading.Thread):
    """Looks at a process until it is gone."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._pid = pid
        self._highest = 0.0
        self.start()

    def stop(self) -> float:
        self.join()
        return self._highest

    def run(self) -> None:
        while (now := high_water_mb(self._pid)) > 0:
            self._highest = now
            time.sleep(LOOK)


def high_water_mb(pid: int, field: str = "VmHWM", *, named: str = "") -> float:
    """Highest (or with VmRSS present) resident memory of a process, in MiB; 0 once it is gone.

    ``named``: 0, too, unless this is in its name: between fork and exec a child shows its parent's memory.
    """
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    name, _, rest = text.partition("\n")
    if named not in name:
        return 0.0
    return next((int(line.split()[1]) / 1024 for line in rest.splitlines() if line.startswith(field)), 0.0)
