"""The program under test on a node: started with kube-proxy's flags, killed, restarted, cleaned up after.

``Reference`` stands in for the real kube-proxy of a takeover: it writes the rules that kube-proxy had written in the
recorded run, as kube-proxy would, and does nothing more.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import kproxy
from kproxy.sandbox.host import Finished, Host

_CHECKOUT = str(Path(kproxy.__file__).parents[1])
_RECORDS = Path(__file__).parent / "data" / "records"
_FLAGS = (
    "--cluster-cidr=10.244.0.0/16,fd00:10:244::/56",
    "--healthz-bind-address=0.0.0.0:10256",
    "--metrics-bind-address=127.0.0.1:10249",
    "--conntrack-max-per-core=0",
    "--conntrack-tcp-timeout-established=0",
    "--conntrack-tcp-timeout-close-wait=0",
    "--iptables-min-sync-period=200ms",
    "--oom-score-adj=0",
    "-v=2",
)
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

    def __init__(self, host: Host, directory: Path, variant: str, kubeconfig: Path) -> None:
        self.host = host
        self.log = directory / f"{host.name}.log"
        self._variant, self._kubeconfig = variant, kubeconfig
        self._process: asyncio.subprocess.Process | None = None
        programs = directory / "programs"
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

    @property
    def is_running(self) -> bool:
        return self._process is not None and self._process.returncode is None

    @property
    def status(self) -> int | None:
        """The exit status; None while it runs or before it ran."""
        return self._process.returncode if self._process else None

    def flags(self, more: Sequence[str], dropped: Sequence[str] = ()) -> list[str]:
        """Every flag of a run; ``dropped`` names flags that a scenario does without."""
        own = [f"--kubeconfig={self._kubeconfig}", f"--hostname-override={self.host.name}", *_FLAGS]
        own.append(f"--iptables-backend={self._variant}")
        return [flag for flag in own if flag.partition("=")[0] not in dropped] + list(more)

    async def start(self, more: Sequence[str] = (), dropped: Sequence[str] = ()) -> None:
        command = (sys.executable, "-m", "kproxy", "run", *self.flags(more, dropped))
        with self.log.open("ab") as log:
            log.write(f"--- {' '.join(command)}\n".encode())
            log.flush()
            self._process = await self.host.popen(command, stdout=log, stderr=log, env=self.environment)

    async def end(self, number: signal.Signals = signal.SIGTERM) -> bool:
        """Send a signal; whether the proxy ended in time (it is killed otherwise)."""
        process, self._process = self._process, None
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

    async def shell(self, command: str) -> Finished:
        """Run a line of sh on the node, where iptables is the variant under test."""
        return await self.host.run(("sh", "-c", command), env=self.environment, deadline=60)

    async def wipe(self) -> None:
        """Make the node's netfilter bare."""
        await self.shell(_WIPE)

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
