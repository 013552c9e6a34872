"""The program under test on a node: started with kube-proxy's flags, killed, restarted, cleaned up after.

``Reference`` stands in for the real kube-proxy of a takeover: it writes the rules that kube-proxy had written in the
recorded run, as kube-proxy would, and does nothing more.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import kproxy
from kproxy.sandbox.host import Finished, Host
from tests.conformance.launch import Launch
from tests.conformance.modes import IPTABLES

_CHECKOUT = str(Path(kproxy.__file__).parents[1])
_RECORDS = Path(__file__).parent / "data" / "records"
_PROGRAMS = tuple(f"{program}{suffix}" for program in ("iptables", "ip6tables") for suffix in ("", "-save", "-restore"))
_END_DEADLINE = 10.0  # seconds from SIGTERM
_WIPE = """
for i in iptables ip6tables; do for t in filter nat mangle raw; do
  $i -t $t -F; $i -t $t -X; for c in INPUT FORWARD OUTPUT; do [ $t = filter ] && $i -P $c ACCEPT; done; done; done
nft flush ruleset; conntrack -F; sysctl -qw net.ipv4.conf.all.route_localnet=0
true
"""


class Proxy:
    """kproxy on one node; ``variant`` is nft or legacy; files go to ``directory``."""

    def __init__(self, host: Host, directory: Path, variant: str, kubeconfig: Path, mode: str = IPTABLES) -> None:
        self.host = host
        self.log = directory / f"{host.name}.log"
        self._variant, self._kubeconfig, self.mode = variant, kubeconfig, mode
        self._process: asyncio.subprocess.Process | None = None
        self._said = 0  # where the log of the running process begins
        self._replaced: set[str] = set()
        self._programs = programs = directory / f"{host.name}.programs"
        programs.mkdir(exist_ok=True)
        for name in _PROGRAMS:  # scenarios say iptables and mean the variant under test
            link = programs / name
            if not link.is_symlink():
                link.symlink_to(f"/usr/sbin/xtables-{variant}-multi")
        self.environment = {
            **os.environ,
            "PATH": f"{programs}:{os.environ['PATH']}:/usr/sbin",
            "PYTHONPATH": _CHECKOUT,
            "XTABLES_LOCKFILE": str(directory / f"{host.name}.lock"),
        }

        self.scratch = directory / f"{host.name}.scratch"
        self.environment["SCRATCH"] = str(self.scratch)
        self.clear_scratch()

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def status(self) -> int | None:
        """The exit status, negative for a signal; None while it runs or before it ran."""
        return self._process.returncode if self._process else None

    def clear_scratch(self) -> None:
        """Empty the scenario's directory."""
        shutil.rmtree(self.scratch, ignore_errors=True)
        self.scratch.mkdir()

    def command(self, launch: Launch, arguments: Sequence[str] | None = None) -> tuple[str, ...]:
        """The whole command line; ``arguments`` in place of the launch's flags."""
        if arguments is None:
            flags = launch.arguments(self.host.name, self._variant, self._kubeconfig, self.scratch, self.mode)
            return (sys.executable, "-m", "kproxy", "run", *flags)
        return (sys.executable, "-m", "kproxy", *(each.replace("$SCRATCH", str(self.scratch)) for each in arguments))

    async def start(self, launch: Launch) -> None:
        command = self.command(launch)
        with self.log.open("ab") as log:
            log.write(f"--- {' '.join(command)}\n".encode())
            log.flush()
            self._said = log.tell()
            self._process = await self.host.popen(command, stdout=log, stderr=log, env=self.environment)

    async def run(self, launch: Launch, arguments: Sequence[str] | None, deadline: float) -> Finished:
        """The program beside the one that runs, until it ends; raises ProgramTimeout."""
        return await self.host.run(self.command(launch, arguments), env=self.environment, deadline=deadline)

    async def wait(self, deadline: float) -> bool:
        """Whether the proxy ends by itself in time."""
        if self._process is None:
            return False
        try:
            async with asyncio.timeout(deadline):
                await self._process.wait()
        except TimeoutError:
            return False
        return True

    async def end(self, number: signal.Signals = signal.SIGTERM) -> bool:
        """Send a signal; whether the proxy ended in time (it is killed otherwise)."""
        process = self._process
        if process is None or process.returncode is not None:
            return True
        process.send_signal(number)
        try:
            async with asyncio.timeout(_END_DEADLINE):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
            return False
        return True

    async def clean_up(self) -> Finished:
        """What ``kube-proxy --cleanup`` does."""
        command = (sys.executable, "-m", "kproxy", "cleanup")
        return await self.host.run(command, env=self.environment, deadline=60)

    def replace_program(self, name: str, script: str | None) -> None:
        """Put a script of sh in the place of iptables' program ``name``, whose real path is $REAL there; None: undo."""
        real = f"/usr/sbin/xtables-{self._variant}-multi"
        kind, dash, verb = name.partition("-")
        for each in (name, f"{kind}-{self._variant}{dash}{verb}"):
            path = self._programs / each
            path.unlink(missing_ok=True)
            if script is None:
                if each in _PROGRAMS:
                    path.symlink_to(real)
                continue
            text = f"#!/bin/sh\nREAL='{real} {name}' SCRATCH={self.scratch}\n{script}\n"
            path.write_text(text, encoding="utf-8")
            path.chmod(0o755)
            self._replaced.add(name)

    def restore_programs(self) -> None:
        """Undo every replacement."""
        while self._replaced:
            self.replace_program(self._replaced.pop(), None)

    async def shell(self, command: str, host: Host | None = None) -> Finished:
        """Run a line of sh on the node, or on another host; iptables is the variant under test."""
        return await (host or self.host).run(("sh", "-c", command), env=self.environment, deadline=60)

    async def wipe(self) -> None:
        """Make the node's netfilter bare."""
        await self.shell(_WIPE)

    def said(self) -> str:
        """All that the running process wrote."""
        with self.log.open("rb") as log:
            log.seek(self._said)
            return log.read().decode(errors="replace")

    def tail(self, lines: int = 15) -> str:
        """The last that the proxy wrote."""
        if not self.log.exists():
            return ""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


async def write_reference_rules(proxy: Proxy, scenario: str) -> None:
    """Restore what kube-proxy had written in the recorded run of ``scenario``, its own chains and their jumps."""
    for path in sorted(_RECORDS.glob(f"{scenario}.*.txt")):
        program, _, table = path.suffixes[-2].strip(".").partition("-")
        present = (await proxy.shell(f"{program}-save -t {table}")).stdout
        text = restorable(path.read_text(encoding="utf-8"), present)
        restore = (f"{program}-restore", "--noflush", "-w")
        (await proxy.host.run(restore, stdin=text, env=proxy.environment, deadline=30)).check()


def restorable(saved: str, present: str) -> str:
    """A dump without built-in chains' declarations, comments, nfacct, and jumps that are there already."""
    have = set(present.splitlines())
    kept = []
    for line in saved.splitlines():
        is_own = line.startswith((":KUBE-", "-A KUBE-", "*", "COMMIT"))
        if (is_own or (line.startswith("-A") and line not in have)) and "nfacct" not in line:
            kept.append(line)
    return "\n".join(kept) + "\n"
