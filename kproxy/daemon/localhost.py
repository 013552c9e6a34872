"""Node ports on 127.0.0.1 and ::1 by listeners of our own: what is said and counted about them.

Reconciled after each successful sync, like health-check node ports: a listener must not refuse or serve what the
rules do otherwise. A port that a process of this host has is its Service's misfortune alone, told by an Event with
the remedy; a loopback address that the node does not have is the node's, told by one log line. Both are tried again
by later rounds, at growing distances (schedule.py).

route_localnet is never switched off, for another program may need it. While it is on, neighbours can send packets to
127.0.0.1, which our listeners do not hear (backend/userspace/door.py), but others' may: one log line says so. The rule
against such packets, once there, stays (backend/iptables/fixed.py).

When the daemon ends so do its connections, by resets; with kube-proxy's rules they would go on. That is the price of
a relay, and the reason why this is opt-in.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
from collections import Counter
from collections.abc import Callable, Iterable, Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kproxy.backend.userspace import mmsg
from kproxy.backend.userspace.apply import Failure, Listeners
from kproxy.backend.userspace.compile import localhost_rules
from kproxy.backend.userspace.counts import ENDPOINTS, FILES, LIMIT, SERVICE_LIMIT, Counts
from kproxy.backend.userspace.rules import NOTHING, Listener
from kproxy.config import Config
from kproxy.daemon.complaints import Complaint
from kproxy.daemon.log import Log
from kproxy.errors import InvalidObject
from kproxy.kernel.doors import SysctlDoor
from kproxy.kernel.sysctl import ROUTE_LOCALNET
from kproxy.model.enums import IPFamily, Protocol
from kproxy.model.keys import ObjectKey, ServicePortKey
from kproxy.plan.node_ports import LOCALHOST
from kproxy.plan.plan import Plan
from kproxy.plan.relay import default_relay
from kproxy.plan.viewpoint import LOOPBACK

_log = Log(__name__)
# What is not one Service's misfortune but the node's
_NODE_WIDE = {
    errno.EADDRNOTAVAIL: "the node has no such loopback address",
    errno.EAFNOSUPPORT: "the node has no such loopback address",
    errno.EMFILE: "this process may open no more files; raise its RLIMIT_NOFILE",
    errno.ENFILE: "the node may open no more files; raise fs.file-max",
}
# A relayed connection is two files, a session one; of eight connections one may have a pipe, which is two more. Both
# families together may use eleven sixteenths of the files that this process may open; the rest is for watches, probes
# and programs, without which nothing works.
_CONNECTIONS_SHARE, _SESSIONS_SHARE = 8, 16
_WHY = {
    ENDPOINTS: "no endpoint could be reached",
    LIMIT: "there are as many connections as may be",
    SERVICE_LIMIT: "there are as many connections to this Service as may be",
    FILES: "this process may open no more files; raise its RLIMIT_NOFILE",
}


class LocalhostPorts:
    """Those of one family; idle unless the plan asks for listeners."""

    def __init__(self, family: IPFamily, config: Config, uid_of: Callable[[ObjectKey], str]) -> None:
        self._family = family
        self._config = config
        self._uid_of = uid_of
        self._files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        self._connections = min(config.relay_connections, max(1, self._files // _CONNECTIONS_SHARE))
        self._sessions = min(config.relay_udp_sessions, max(1, self._files // _SESSIONS_SHARE))
        self._has_said_limits = False
        self._listeners = Listeners(
            config,
            connections=self._connections,
            sessions=self._sessions,
        )
        self._rules = NOTHING
        self._unserved: frozenset[ServicePortKey] = frozenset()
        self._failed: frozenset[Listener] = frozenset()
        self._said: frozenset[str] = frozenset()  # what stands in the way of the whole node
        self._told_of_batches = False

    @property
    def failed(self) -> frozenset[Listener]:
        """The listeners that could not be opened."""
        return self._failed

    @property
    def counts(self) -> dict[Protocol, Counts]:
        return self._listeners.counts

    @property
    def open(self) -> int:
        return len(self._listeners.open)

    @property
    def unserved(self) -> int:
        """Node ports that loopback is not served for: taken by others, or SCTP."""
        return len(self._failed) + len(self._unserved)

    async def reconcile(self, plan: Plan) -> list[Complaint]:
        """Listen where the plan wants it; what stands in the way."""
        # In a thread, as the kernel's rules are: ten thousand node ports take a while.
        wants = plan.node_ports.listeners
        self._rules = await asyncio.to_thread(localhost_rules, plan, default_relay(self._config)) if wants else NOTHING
        self._say_unserved(frozenset(self._rules.unserved))
        if self._rules.rules and not self._has_said_limits:
            self._has_said_limits = True
            self._say_limits()
        failures = self._listeners.reconcile(self._rules)
        self._say_without_batches()
        self._failed = frozenset(each.rule.listener for each in failures)
        return list(self._complaints(failures))

    async def run(self) -> None:
        """Serve, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._listeners.run())
            told: Counter[str] = Counter()
            while True:
                await asyncio.sleep(self._config.relay_sweep)
                told = self._tell_refusals(told)
                self._listeners.release()  # nobody asks for the counts of single service ports

    def _tell_refusals(self, told: Counter[str]) -> Counter[str]:
        """One line for all refusals since the last; they may be many."""
        now: Counter[str] = Counter()
        for each in self.counts.values():
            now += each.refused
        for reason, times in sorted((now - told).items()):
            _log.warning(
                "Connections to node ports on loopback were refused",
                family=self._family,
                times=times,
                why=_WHY[reason],
            )
        return now

    def _say_limits(self) -> None:
        said: dict[str, object] = {"connections": self._connections, "sessions": self._sessions, "files": self._files}
        if self._connections < self._config.relay_connections:
            said["remedy"] = f"for more, raise RLIMIT_NOFILE to {self._config.relay_connections * _CONNECTIONS_SHARE}"
        _log.info("Listeners on loopback serve so many at once", family=self._family, **said)

    def _say_unserved(self, unserved: frozenset[ServicePortKey]) -> None:
        for key in sorted(unserved - self._unserved):
            _log.info("An SCTP node port is not served on loopback", family=self._family, service=key)
        self._unserved = unserved

    def _say_without_batches(self) -> None:
        if self._told_of_batches or all(each.protocol is not Protocol.UDP for each in self._listeners.open):
            return
        self._told_of_batches = True
        if not mmsg.is_available():
            _log.info(
                "Datagrams are passed on one by one, which costs more: recvmmsg and sendmmsg are not to be had",
                family=self._family,
                remedy="allow them in the seccomp profile, on a 64-bit system",
            )

    def _complaints(self, failures: Iterable[Failure]) -> Iterator[Complaint]:
        node_wide = set()
        for rule, error in failures:
            if error.errno in _NODE_WIDE:
                node_wide.add(_NODE_WIDE[error.errno])
                continue
            yield Complaint(
                "A node port cannot be served on loopback, all others are",
                "FailedToListenLocalhostNodePort",
                _problem(rule.key, rule.listener, error),
                self._uid_of(rule.key.service),
            )
        for why in sorted(node_wide - self._said):
            _log.warning(
                "Node ports cannot be served on loopback",
                family=self._family,
                address=LOOPBACK[self._family],
                why=why,
            )
        self._said = frozenset(node_wide)


def _problem(key: ServicePortKey, listener: Listener, error: OSError) -> InvalidObject:
    match error.errno:
        case errno.EADDRINUSE:
            program = f"ss -{'t' if listener.protocol is Protocol.TCP else 'u'}lnp sport = :{listener.port}"
            remedy = f"end the program that has it (`{program}`), or give the Service another node port"
        case errno.EACCES | errno.EPERM:
            remedy = "give kproxy CAP_NET_BIND_SERVICE, or give the Service a node port above 1023"
        case _:
            remedy = "see the kernel's log"
    why = os.strerror(error.errno) if error.errno else str(error)
    return InvalidObject(
        "Service",
        str(key.service),
        field=f"spec.ports[{key.port or key.protocol}].nodePort",
        why=f"cannot be served at {listener}: {why}",
        remedy=remedy,
    )


def warn_of_route_localnet(config: Config, sysctl: SysctlDoor) -> None:
    """Say that loopback is open to neighbours, where somebody who asked for our listeners may think it is closed."""
    if LOCALHOST in config.nodeport_addresses and sysctl.read(ROUTE_LOCALNET) == 1:
        _log.warning(
            "route_localnet is on and stays so; neighbours may reach what listens on 127.0.0.1",
            remedy=f"unless another program needs it: sysctl -w {ROUTE_LOCALNET.replace('/', '.')}=0",
        )


class LocalhostCollector(Collector):
    """What ``/metrics`` shows of all families, read at each scrape; silent where nobody asked for listeners."""

    def __init__(self, ports: dict[IPFamily, LocalhostPorts]) -> None:
        self._ports = ports

    def collect(self) -> Iterable[Metric]:
        about, labels = "on loopback node ports", ("ip_family", "protocol")
        flows = CounterMetricFamily("kproxy_localhost_nodeport_connections", f"Connections {about}", labels=labels)
        active = GaugeMetricFamily(
            "kproxy_localhost_nodeport_connections_active", f"Connections {about} now", labels=labels
        )
        refused = CounterMetricFamily(
            "kproxy_localhost_nodeport_refused", f"Connections {about} refused", labels=(*labels, "reason")
        )
        dropped = CounterMetricFamily(
            "kproxy_localhost_nodeport_datagrams_dropped", "Datagrams that found a queue full", labels=("ip_family",)
        )
        listeners = GaugeMetricFamily(
            "kproxy_localhost_nodeport_listeners", "Open loopback node ports", labels=("ip_family",)
        )
        unserved = GaugeMetricFamily(
            "kproxy_localhost_nodeport_unserved", "Loopback node ports that cannot be served", labels=("ip_family",)
        )
        for family, ports in self._ports.items():
            for protocol, counts in ports.counts.items():
                flows.add_metric((family, protocol), counts.flows)
                active.add_metric((family, protocol), counts.active)
                for reason in _WHY:
                    refused.add_metric((family, protocol, reason), counts.refused[reason])
            dropped.add_metric((family,), ports.counts[Protocol.UDP].dropped)
            listeners.add_metric((family,), ports.open)
            unserved.add_metric((family,), ports.unserved)
        return (flows, active, refused, dropped, listeners, unserved)
