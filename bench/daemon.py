"""kproxy as a process under observation: what it spends, how much it holds, when it says that it serves.

Processor time comes from /proc/PID/stat: the daemon's own, and that of its children that have ended, which are the
iptables programs. The kernel counts in hundredths of a second, so short costs are measured over many repetitions.
Memory is looked at every few milliseconds; a child that lives shorter than that is not seen, and is small.
"""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
import urllib.request
from dataclasses import dataclass
from pathlib import Path

from cluster import CLUSTER_CIDR, NODE
from host import Host
from programs import LOOK, high_water_mb

_TICK = os.sysconf("SC_CLK_TCK")
_SERVES = '"The first sync is done, this node serves" family="IPv4"'
_METRICS = "http://127.0.0.1:10249/metrics"


@dataclass(frozen=True, slots=True)
class Spent:
    """Processor seconds since the process began."""

    own: float
    children: float

    @property
    def both(self) -> float:
        return self.own + self.children

    def __sub__(self, before: Spent) -> Spent:
        return Spent(self.own - before.own, self.children - before.children)


class Daemon:
    """``kproxy run`` in a host, against an API server."""

    def __init__(self, host: Host, variant: str, kubeconfig: Path) -> None:
        self._host = host
        self._said = tempfile.NamedTemporaryFile("w+", prefix="kproxy-bench-", suffix=".log")  # noqa: SIM115 -- closed by close
        self.began = time.monotonic()
        self.process = host.start(
            (
                sys.executable,
                "-m",
                "kproxy",
                "run",
                f"--kubeconfig={kubeconfig}",
                f"--hostname-override={NODE}",
                f"--cluster-cidr={CLUSTER_CIDR}",
                f"--iptables-backend={variant}",
                "--conntrack-max-per-core=0",  # belongs to the whole machine
                "--conntrack-min=0",
                "--oom-score-adj=0",
            ),
            said=self._said,
        )
        self.pid = self.process.pid
        self._memory = _Memory(self.pid)

    def wait_until_it_serves(self, deadline: float) -> None:
        """Until the log says that the first sync is done; RuntimeError if it ends or takes too long."""
        limit = time.monotonic() + deadline
        while _SERVES not in self.log():
            if self.process.poll() is not None:
                raise RuntimeError(f"kproxy ended with status {self.process.returncode}:\n{self.log()[-2000:]}")
            if time.monotonic() > limit:
                raise RuntimeError(f"kproxy does not serve after {deadline:g} s:\n{self.log()[-2000:]}")
            time.sleep(0.02)

    def log(self) -> str:
        return Path(self._said.name).read_text(encoding="utf-8")

    def spent(self) -> Spent:
        fields = Path(f"/proc/{self.pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
        user, system, child_user, child_system = (int(fields[place]) / _TICK for place in (11, 12, 13, 14))
        return Spent(user + system, child_user + child_system)

    @property
    def rss_mb(self) -> float:
        return high_water_mb(self.pid, "VmRSS")

    @property
    def peak_mb(self) -> float:
        return high_water_mb(self.pid)

    @property
    def children_peak_mb(self) -> float:
        """The largest child that was seen."""
        return self._memory.highest

    def metric(self, name: str) -> float:
        """The largest value of a metric over its labels; LookupError if there is none."""
        with self._host.inside():
            answer = urllib.request.urlopen(_METRICS, timeout=30)
        with answer:
            lines = answer.read().decode().splitlines()
        values = [float(line.rpartition(" ")[2]) for line in lines if line.startswith((f"{name} ", f"{name}{{"))]
        if not values:
            raise LookupError(f"/metrics has no {name}")
        return max(values)

    def close(self) -> None:
        """SIGTERM; the rules stay."""
        self._memory.end()
        self._host.stop(self.process)
        self._said.close()


class _Memory(threading.Thread):
    """Looks at the children of a process until it ends."""

    def __init__(self, pid: int) -> None:
        super().__init__(daemon=True)
        self._tasks = Path(f"/proc/{pid}/task")
        self._ended = threading.Event()
        self.highest = 0.0
        self.start()

    def end(self) -> None:
        self._ended.set()
        self.join()

    def run(self) -> None:
        while not self._ended.wait(LOOK):
            for child in self._children():
                self.highest = max(self.highest, high_water_mb(child, named="tables"))

    def _children(self) -> list[int]:
        try:
            return [int(pid) for task in self._tasks.iterdir() for pid in (task / "children").read_text().split()]
        except OSError:
            return []
