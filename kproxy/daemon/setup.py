"""What the node is told once at start: sysctls, and how little the kernel should like to kill us; and how full it is.

Everything here is best effort. In a container some of /proc/sys belongs to the host and cannot be written; kube-proxy
dies of that, and so does every cluster in containers that was not told to leave conntrack alone (kubernetes/
kubernetes#90083, kind). One log line, and one of ``/statusz``, says what became of all wishes, and which were fulfilled
by netlink. route_localnet is set only where node ports answer on 127.0.0.1, because it lets the network reach loopback
unless rules forbid it.

Source: spec: runtime.md 6, iptables.md 15.
"""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Mapping
from pathlib import Path

from kproxy.config import Config
from kproxy.daemon.localhost import warn_of_route_localnet
from kproxy.daemon.log import Log
from kproxy.kernel.doors import SysctlDoor, SysctlOutcome, TimeoutDoor
from kproxy.kernel.sysctl import CONNTRACK_COUNT, CONNTRACK_MAX, ROUTE_LOCALNET, tune_conntrack
from kproxy.model.enums import IPFamily
from kproxy.plan.node_ports import node_ports

_log = Log(__name__)
_FILES = 65536  # more than any node needs; some programs that we start would walk through a limit of a billion


def prepare(config: Config, sysctl: SysctlDoor, timeouts: TimeoutDoor) -> str:
    """Make the wishes, and say what became of them; the result says it for ``/statusz``."""
    outcomes = list(tune_conntrack(sysctl, timeouts, config, os.cpu_count() or 1))
    if node_ports(config, None, IPFamily.IPV4, ()).localhost:
        outcomes.append(sysctl.set_to(ROUTE_LOCALNET, 1))
    warn_of_route_localnet(config, sysctl)
    said = {outcome.name.rpartition("/")[2]: _say(outcome) for outcome in outcomes}
    if any(outcome.why for outcome in outcomes):
        _log.warning("Some kernel settings stay as they are", **said)
    elif said:
        _log.info("Kernel settings", **said)
    return "; ".join(f"{name} {became}" for name, became in said.items()) or "none asked for"


def show_flows(sysctl: SysctlDoor) -> Mapping[str, str]:
    """How full the conntrack table is, for ``/statusz``: a full one drops new connections, and nobody is told why."""
    count, limit = sysctl.read(CONNTRACK_COUNT), sysctl.read(CONNTRACK_MAX)
    return {} if count is None or limit is None else {"Conntrack": f"{count} of {limit} flows"}


def _say(outcome: SysctlOutcome) -> str:
    if outcome.why:
        now = "unknown" if outcome.after is None else outcome.after
        return f"stays {now}, wanted {outcome.wanted}: {outcome.why}"
    if not outcome.changed:
        return f"{outcome.after} already"
    before = "unknown" if outcome.before is None else outcome.before
    return f"{outcome.after}, was {before}{', by netlink' if outcome.by_netlink else ''}"


def become_unlikely_victim(adjustment: int, path: Path = Path("/proc/self/oom_score_adj")) -> None:
    """Tell the kernel's memory killer to look elsewhere first."""
    try:
        path.write_text(f"{adjustment}\n", encoding="ascii")
    except OSError as error:
        said: dict[str, object] = {"wanted": adjustment, "why": error.strerror}
        with contextlib.suppress(OSError):
            said["remedy"] = f"give oomScoreAdj {path.read_text(encoding='ascii').strip()} or more, or CAP_SYS_RESOURCE"
        _log.warning("The OOM score stays as it is", **said)


def allow_many_files() -> None:
    """A socket for each health-check node port and address can exceed the usual 1024 open files."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _FILES if hard == resource.RLIM_INFINITY else min(hard, _FILES)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
