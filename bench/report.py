"""What every benchmark shows and keeps: a table, a progress bar, a JSON file with the circumstances beside the figures.

A figure alone says little: machines differ, and this one may be busy. So every table has the ratio to the peer of the
same run, and every file the load before and after, the kernel, and the versions of the programs.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cluster import SIZES, parse_size
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

VARIANTS = ("legacy", "nft")
RESULTS = Path(__file__).parent / "results"
_PROGRAMS = (("iptables-legacy", "--version"), ("iptables-nft", "--version"), ("nft", "--version"))


def new_console() -> Console:
    """As wide as the terminal; wide enough for the tables where there is none."""
    console = Console()
    return console if console.is_terminal else Console(width=110)


def new_progress(console: Console, *, still: bool = False) -> Progress:
    """A bar that says what is being measured. ``still``: it is drawn only when told, so that no thread disturbs."""
    return Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:.0f}/{task.total:.0f}"),
        TimeElapsedColumn(),
        console=console,
        transient=True,
        auto_refresh=not still,
    )


def circumstances() -> dict[str, Any]:
    """What a reader must know to judge the figures; call it before and after."""
    return {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "load": [round(load, 2) for load in os.getloadavg()],
        "cpus": os.cpu_count(),
        "cpu": _cpu_model(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "programs": [_version(*command) for command in _PROGRAMS],
    }


def save(path: Path, document: Mapping[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def new_table(title: str, columns: Sequence[str]) -> Table:
    """The first column is text, all others are figures."""
    table = Table(title=title, title_justify="left", title_style="bold")
    for place, column in enumerate(columns):
        table.add_column(column, justify="right" if place else "left", no_wrap=True)
    return table


def seconds(value: float | None, *, more: bool = False) -> str:
    """``more``: a lower bound, for it was ended at the limit."""
    if value is None:
        return "-"
    sign = "> " if more else ""
    return f"{sign}{value:.1f} s" if value >= 10 else f"{sign}{value:.2f} s" if value >= 1 else f"{value * 1000:.1f} ms"


def megabytes(value: float | None) -> str:
    return "-" if value is None else f"{value:.0f} MiB"


def ratio(ours: float | None, theirs: float | None, *, more: bool = False) -> str:
    """How many times better than the peer we are; below 1 we are worse."""
    if not ours or not theirs:
        return "-"
    return f"{'> ' if more else ''}{theirs / ours:.1f}x"


def _version(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return f"{command[0]}: not here"
    return done.stdout.strip()


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def read_arguments(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """Add what every benchmark asks, which sizes and which variants, and read the command line."""
    parser.add_argument("--size", action="append", metavar="NxM", help=f"repeat; default: {' '.join(SIZES)}")
    arguments = read_variants(parser)
    arguments.size = arguments.size or list(SIZES)
    try:
        for size in arguments.size:
            parse_size(size)
    except ValueError as error:
        parser.error(str(error))
    return arguments


def read_variants(parser: argparse.ArgumentParser) -> argparse.Namespace:
    """The same for a benchmark that has no sizes."""
    parser.add_argument("--variant", action="append", choices=VARIANTS, help="repeat; default: both")
    arguments = parser.parse_args()
    arguments.variant = arguments.variant or list(VARIANTS)
    if os.geteuid() != 0:
        parser.error("network namespaces and iptables need root")
    return arguments
