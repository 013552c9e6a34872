"""kproxy's userspace relay beside HAProxy, nginx, socat and the kernel: one command, one machine, the same wires.

    ./run bench relay                                     everything, 5 rounds, about 12 minutes
    ./run bench relay --quick                             a look, 1 round, about 2 minutes
    ./run bench relay --only kproxy haproxy connect       some peers and measures

In each round every measure is taken of every peer, one right after the other and in another order each time; each peer
is started for the measurement and ended after it. Rates, and ratios of them within a round, are medians over the
rounds with their range. Everything runs behind the sandbox's walls, so however this ends, nothing of it stays.

How to read the figures, and how far they carry: README.md.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import resource
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from shutil import which
from typing import Any

import relay_plot
import report
from relay_field import Field, compile_load
from relay_markdown import markdown
from relay_measures import MEASURES, Length, Measure
from relay_peers import NGINX_STREAM, PEERS, DoesNotServe, Peer, Running
from relay_results import Results, tables
from rich.console import Console
from rich.markup import escape

from kproxy.errors import KproxyError
from kproxy.sandbox import isolate

_WIDE = 130  # columns; as many where there is no terminal
_LENGTHS = {False: Length(0.3, 1.5), True: Length(0.2, 0.7)}
# A program or file of each Debian package that is wanted here beside what ./run installs.
_PACKAGES = {
    "haproxy": "haproxy",
    "nginx-light": "nginx",
    "libnginx-mod-stream": str(NGINX_STREAM),
    "socat": "socat",
    "nftables": "nft",
    "iproute2": "ip",
    "gcc": "gcc",
    "libc6-dev": "/usr/include/stdio.h",
    "linux-libc-dev": "/usr/include/linux/udp.h",
}
_VERSIONS = (("haproxy", "-v"), ("nginx", "-v"), ("socat", "-V"))


def main() -> int:
    """Install what is missing; then, behind the walls, measure, print, save."""
    arguments = _arguments()
    if isolate.OUTER_PID not in os.environ:
        if complaint := _install():
            sys.stderr.write(f"bench/relay.py: {complaint}\n")
            return 1
        return isolate.run((sys.executable, *sys.argv))
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as by Ctrl-C
    console = report.new_console()
    if not console.is_terminal:
        console = Console(width=_WIDE)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))  # what is started inherits it
    try:
        return Bench(arguments, console).run()
    except KeyboardInterrupt:
        console.print(f"interrupted; a complete round would be in {arguments.output}")
        return 130


class Bench:
    """One run of the program."""

    def __init__(self, arguments: argparse.Namespace, console: Console) -> None:
        self._arguments = arguments
        self._console = console
        self._results = Results()
        self._absent: dict[str, str] = {}  # peers that cannot be measured, and why
        self._before = report.circumstances()
        self._length: Length = arguments.length

    def run(self) -> int:
        peers = [PEERS[name] for name in self._arguments.peers]
        measures = [MEASURES[name] for name in self._arguments.measures]
        pairs = [(measure, [peer for peer in peers if measure.wants(peer)]) for measure in measures]
        order = random.Random(1)  # noqa: S311 -- repeatable
        steps = self._arguments.rounds * sum(len(wanted) for _, wanted in pairs)
        with ExitStack() as stack:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="kproxy-bench-")))
            site = Field(stack, compile_load(folder))
            progress = stack.enter_context(report.new_progress(self._console, still=True))
            bar = progress.add_task("", total=steps)
            for turn in range(self._arguments.rounds):
                for measure, wanted in pairs:
                    for peer in order.sample(wanted, len(wanted)):
                        text = f"round {turn + 1} of {self._arguments.rounds}: {measure.name}, {peer.name}"
                        progress.update(bar, description=text)
                        progress.refresh()
                        self._take(site, measure, peer, turn, folder)
                        progress.advance(bar)
                self._save(turn + 1)
        self._show()
        return 0

    def _take(self, site: Field, measure: Measure, peer: Peer, turn: int, folder: Path) -> None:
        if peer.name in self._absent:
            return
        try:
            with Running(peer, site, folder) as running:
                sample = measure.take(site, running, self._length)
        except DoesNotServe as error:
            self._absent[peer.name] = str(error)
        except subprocess.CalledProcessError:  # the load said on standard error what it met
            self._console.print(f"[red]{measure.name} of {peer.name} failed in round {turn + 1}")
        else:
            self._results.add(measure.name, peer.name, turn, sample)

    def _save(self, rounds: int) -> None:
        report.save(
            self._arguments.output,
            {
                "before": self._before,
                "after": report.circumstances(),
                "programs": [_version(*command) for command in _VERSIONS],
                "rounds": rounds,
                "length": asdict(self._length),
                "peers": {name: PEERS[name].what for name in self._arguments.peers},
                "absent": self._absent,
                **self._results.document(self._arguments.peers),
            },
        )

    def _show(self) -> None:
        wide = self._console.width >= _WIDE
        for table in tables(self._results, self._arguments.peers, wide=wide):
            self._console.print(table)
        for name, why in self._absent.items():
            self._console.print(f"[red]{name} was left out:[/] {escape(why)}", highlight=False)
        self._console.print("median (least-most) of the rounds; x: ratios within a round", style="dim")
        picture, text = (self._arguments.output.with_suffix(suffix) for suffix in (".png", ".md"))
        load = f"load {self._before['load'][0]} before, {os.getloadavg()[0]:.2f} after"
        caption = f"{self._arguments.rounds} rounds, {os.cpu_count()} processors ({self._before['cpu']}), {load}"
        relay_plot.draw(self._results, self._arguments.peers, picture, caption)
        every = tables(self._results, self._arguments.peers, wide=True)
        text.write_text(
            markdown(f"Medians (least-most) of {caption}; Python {platform.python_version()}.", every), encoding="utf-8"
        )
        self._console.print(f"saved: {self._arguments.output}, {picture.name}, {text.name}")


def _version(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=20)
    lines = (done.stdout + done.stderr).splitlines()
    return next((line for line in lines if "version" in line), command[0])


def _install() -> str:
    """Install the packages that are missing, in silence; what stands in the way."""
    missing = [package for package, what in _PACKAGES.items() if not (which(what) or Path(what).is_file())]
    if not missing:
        return ""
    if not which("apt-get"):
        return f"please install {' '.join(missing)}"
    sys.stderr.write(f"installing Debian packages: {' '.join(missing)}\n")
    # They are programs for namespaces; nothing may start as a service of this machine.
    settings: dict[str, Any] = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    install = ("apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing)
    for command in (("apt-get", "update", "-qq"), install):
        done = subprocess.run(command, env=settings, capture_output=True, text=True, check=False, timeout=600)
        if done.returncode:
            return f"{' '.join(command)} failed:\n{done.stderr}"
    return ""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench/relay.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    choices = [*PEERS, *MEASURES]
    parser.add_argument("--rounds", type=int, metavar="N", help="5; quick: 1")
    parser.add_argument("--quick", action="store_true", help="short loads, one round, kept as relay.local.json")
    parser.add_argument(
        "--only", nargs="+", choices=choices, default=[], metavar="NAME", help=f"of {', '.join(choices)}"
    )
    parser.add_argument("--seconds", type=float, metavar="S", help="of each load (1.5; quick: 0.7)")
    parser.add_argument("--output", type=Path, metavar="FILE", help="JSON; the picture lies beside it")
    arguments = parser.parse_args()
    arguments.peers = [name for name in PEERS if name in arguments.only] or [*PEERS]
    arguments.measures = [name for name in MEASURES if name in arguments.only] or [*MEASURES]
    arguments.rounds = arguments.rounds or (1 if arguments.quick else 5)
    usual = _LENGTHS[arguments.quick]
    arguments.length = Length(usual.warm, arguments.seconds or usual.counted)
    whole = not (arguments.quick or arguments.only)
    arguments.output = arguments.output or report.RESULTS / ("relay.json" if whole else "relay.local.json")
    if os.geteuid() != 0:
        parser.error("network namespaces and packages need root")
    return arguments


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KproxyError as error:
        sys.exit(f"bench/relay.py: {error}")
