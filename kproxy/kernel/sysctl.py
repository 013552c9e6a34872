"""Kernel settings under /proc/sys: written only where they differ, and never a reason to stop.

In a container /proc/sys is often read-only, and some settings belong to the host alone; kube-proxy dies there, which
is a well-known nuisance. Here each wish becomes an outcome with its reason, which the daemon logs; whether one of them
is fatal (route_localnet, spec: iptables.md 15) is decided by who asked. Timeouts have a second way, for which
CAP_NET_ADMIN is enough (timeouts.py); it is taken where the first is barred, not where the kernel refuses the number.
The size of the conntrack table is only raised: an administrator's larger number stays. Timeouts are set to what the
configuration says, because kube-proxy's day for established flows is below the kernel's five.
Source: spec runtime.md 6.
"""

from __future__ import annotations

import errno
from pathlib import Path

from msgspec.structs import replace

from kproxy.config import Config
from kproxy.errors import KernelError
from kproxy.kernel.doors import SysctlDoor, SysctlOutcome, TimeoutDoor
from kproxy.kernel.timeouts import TCP_CLOSE_WAIT, TCP_ESTABLISHED, UDP, UDP_STREAM

CONNTRACK_MAX = "net/netfilter/nf_conntrack_max"
CONNTRACK_COUNT = "net/netfilter/nf_conntrack_count"
CONNTRACK_BUCKETS = "/sys/module/nf_conntrack/parameters/hashsize"
ROUTE_LOCALNET = "net/ipv4/conf/all/route_localnet"
TCP_BE_LIBERAL = "net/netfilter/nf_conntrack_tcp_be_liberal"
CONNTRACK_ACCOUNTING = "net/netfilter/nf_conntrack_acct"
CONNTRACK_EVENTS = "net/netfilter/nf_conntrack_events"
CONNTRACK_CEILING = 1_048_576

_BARRED = {errno.ENOENT, errno.EACCES, errno.EPERM, errno.EROFS}
_WHY = {
    errno.ENOENT: "this kernel has no such setting here (a module is not loaded, or it belongs to the host)",
    errno.EACCES: "not permitted: kproxy needs root for it, or it is the whole machine's",
    errno.EPERM: "not permitted: kproxy needs root for it",
    errno.EROFS: "/proc/sys is read-only: run the container privileged, or set it on the host",
    errno.EINVAL: "the kernel does not accept this number",
}


class Sysctl:
    """The real door."""

    def __init__(self, root: Path = Path("/proc/sys")) -> None:
        self._root = root

    def read(self, name: str) -> int | None:
        try:
            return int((self._root / name).read_text(encoding="ascii").split()[0])
        except (OSError, ValueError, IndexError):
            return None

    def set_to(self, name: str, value: int) -> SysctlOutcome:
        before = self.read(name)
        if before == value:
            return SysctlOutcome(name, before, value, before)
        return self._write(name, before, value)

    def raise_to(self, name: str, value: int) -> SysctlOutcome:
        before = self.read(name)
        if before is not None and before >= value:
            return SysctlOutcome(name, before, value, before)
        return self._write(name, before, value)

    def _write(self, name: str, before: int | None, value: int) -> SysctlOutcome:
        try:
            (self._root / name).write_text(f"{value}\n", encoding="ascii")
        except OSError as error:
            why = _WHY.get(error.errno or 0, error.strerror or "failed")
            return SysctlOutcome(name, before, value, self.read(name), why, error.errno in _BARRED)
        return SysctlOutcome(name, before, value, self.read(name))


def conntrack_limit(per_core: int, minimum: int, cores: int) -> int:
    """How many entries the conntrack table should hold; 0: leave it alone.

    The ceiling is for what the number of cores makes of it. A minimum above it was written by somebody who means it;
    kube-proxy 1.36 passes that over on nodes with many cores, and there alone (spec: runtime.md 6).
    """
    if per_core <= 0:
        return 0
    return max(min(per_core * cores, CONNTRACK_CEILING), minimum)


def tune_conntrack(sysctl: SysctlDoor, timeouts: TimeoutDoor, config: Config, cores: int) -> tuple[SysctlOutcome, ...]:
    """Apply the configuration's conntrack settings; one outcome for each that was asked for."""
    outcomes: list[SysctlOutcome] = []
    if limit := conntrack_limit(config.conntrack_max_per_core, config.conntrack_min, cores):
        outcomes.append(sysctl.raise_to(CONNTRACK_MAX, limit))
        outcomes.append(sysctl.raise_to(CONNTRACK_BUCKETS, limit // 4))
    wanted = {
        TCP_ESTABLISHED: config.conntrack_tcp_timeout_established,
        TCP_CLOSE_WAIT: config.conntrack_tcp_timeout_close_wait,
        UDP: config.conntrack_udp_timeout,
        UDP_STREAM: config.conntrack_udp_timeout_stream,
    }
    outcomes += [_set_timeout(sysctl, timeouts, name, int(value)) for name, value in wanted.items() if value > 0]
    if config.conntrack_tcp_be_liberal:
        outcomes.append(sysctl.set_to(TCP_BE_LIBERAL, 1))
    if config.service_metrics:
        outcomes += tune_accounting(sysctl)
    return tuple(outcomes)


def _set_timeout(sysctl: SysctlDoor, timeouts: TimeoutDoor, name: str, seconds: int) -> SysctlOutcome:
    outcome = sysctl.set_to(name, seconds)
    if not outcome.refused:
        return outcome
    try:
        timeouts.set_to(name, seconds)
    except KernelError as error:
        return replace(outcome, why=f"{outcome.why}; by netlink: {error}")
    after = sysctl.read(name)
    if after not in {None, seconds}:
        return replace(outcome, after=after, why=f"{outcome.why}; by netlink: the kernel said yes, to no effect")
    return SysctlOutcome(name, outcome.before, seconds, seconds, by_netlink=True)


def tune_accounting(sysctl: SysctlDoor) -> tuple[SysctlOutcome, ...]:
    """Let the kernel count the bytes of new flows, and tell their ends to who listens."""
    return sysctl.raise_to(CONNTRACK_ACCOUNTING, 1), sysctl.raise_to(CONNTRACK_EVENTS, 1)
