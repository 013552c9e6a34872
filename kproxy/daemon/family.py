"""One IP family of this node: the round from a snapshot to the kernel, and what depends on its success.

``sync`` is the whole program in one place: snapshot, plan, rules, kernel. What was read counts as pending until the
kernel has it; only then follow, in kube-proxy's order (spec: iptables.md 11), the latency samples, health, the
health-check node ports and the stale flows. None of these can fail a round: the rules are in the kernel.

Planning and compiling run in a thread, because the first round of a big cluster takes seconds and a health probe
must not wait for it; their input is frozen, and one round at a time runs for a family.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

from kproxy.backend.base import Backend, SyncReport
from kproxy.backend.userspace.crew import Crew
from kproxy.config import Config
from kproxy.daemon import events
from kproxy.daemon.affinity import AffinityLimit
from kproxy.daemon.complaints import Complaint, Complaints
from kproxy.daemon.healthcheck import HealthCheckPorts
from kproxy.daemon.latency import Triggers
from kproxy.daemon.localhost import LocalhostPorts
from kproxy.daemon.log import Log
from kproxy.daemon.metrics import Metrics
from kproxy.daemon.processes import find_proxies
from kproxy.daemon.relay import RelayLines
from kproxy.daemon.rivalry import Rivalry
from kproxy.daemon.rounds import Rounds
from kproxy.daemon.schedule import Omitted
from kproxy.daemon.status import Health, Instant
from kproxy.errors import InvalidObject, KernelError, RestoreRefused
from kproxy.kernel.doors import ConntrackDoor, FlowQuery
from kproxy.kernel.sysctl import Sysctl
from kproxy.model.change import Change
from kproxy.model.cluster import Cluster
from kproxy.model.enums import IPFamily, Kind
from kproxy.model.flow import Destination
from kproxy.model.keys import ObjectKey
from kproxy.plan.build import build_plan
from kproxy.plan.node_ports import EVERYWHERE, NOWHERE
from kproxy.plan.plan import Plan
from kproxy.plan.stale import Serving, stale_flows, suspects

_log = Log(__name__)
R = TypeVar("R")


def now() -> Instant:
    return Instant(time.monotonic(), time.time_ns())


class Shared:
    """What the families of one daemon have in common."""

    def __init__(
        self,
        config: Config,
        cluster: Cluster,
        *,
        health: Health,
        metrics: Metrics,
        recorder: events.Recorder,
        complaints: Complaints,
        addresses: Callable[[], tuple[str, ...]],
        claim: Callable[[str], Awaitable[bool]],
        crew: Crew,
    ) -> None:
        self.config = config
        self.claim = claim  # an address, for this node
        self.crew = crew
        self.cluster = cluster
        self.health = health
        self.metrics = metrics
        self.recorder = recorder
        self.complaints = complaints
        self.addresses = addresses  # of this node's interfaces, any family, canonical text
        self.affinity = AffinityLimit(Sysctl(), metrics)
        self.applied: Callable[[Plan], object] = lambda _plan: None  # hears of each plan that the kernel holds
        self.rounds = Rounds()

    def service_uid(self, key: ObjectKey) -> str:
        return getattr(self.cluster.get(Kind.SERVICE, key), "uid", "")


class Family(Generic[R]):
    def __init__(
        self,
        family: IPFamily,
        shared: Shared,
        backend: Backend[R],
        conntrack: ConntrackDoor,
        rivalry: Rivalry,
        again: Callable[[], None] = lambda: None,
    ) -> None:
        """``again``: asks for another round."""
        self.family = family
        self._shared = shared
        self._backend = backend
        self._conntrack = conntrack
        self._rivalry = rivalry
        self._plan: Plan | None = None
        self._led: Plan | None = None  # the same as the kernel is told it, with the relay in it
        self._rules: R | None = None
        self._suspects: dict[Destination, Serving] = {}
        self._triggers = Triggers(family, since=time.time())
        self._ports = HealthCheckPorts(family, shared.health, now)
        self.localhost = LocalhostPorts(family, shared.config, shared.service_uid)
        self._relay = RelayLines(family, shared.config, shared.crew, shared.claim, shared.service_uid, again)
        self._said = False
        self._unread: frozenset[str] = frozenset()  # tables, said already
        self.synced = asyncio.Event()  # set by the first success

    def note(self, change: Change) -> None:
        """A change that concerns this family was applied to the cluster."""
        self._triggers.note(change)

    async def sync(self, full: bool) -> Omitted:
        """One round; what it left out. Raises KernelError where the kernel could not be made to agree.

        Left out are service ports that the kernel refused, ports that are somebody else's, flows not yet forgotten.
        """
        began = time.monotonic()
        self._take()
        try:
            plan, led, rules = await self._decide()
            report = await self._backend.apply(rules, full=full)
        except BaseException as error:
            self._fail(error, began, full=full)
            raise
        self.synced.set()
        await asyncio.sleep(0)  # whoever watches for flushes begins before anybody is told that we are ready
        self._succeed(plan, led, report, began)
        if report.full and report.transactions:  # rules were missing, and datagrams went past them
            self._suspects = suspects(led, None, self._suspects)
        if report.orphans:
            self._suspects = suspects(led, led, {*self._suspects, *report.orphans})
        await self._open_ports(plan)
        self._shared.complaints.stand(f"{self.family} relay", await self._relay.settle())
        await self._forget_stale_flows(plan)
        omitted: set[object] = {each.key for each in report.quarantined}
        omitted |= self._ports.failed | self.localhost.failed | self._relay.failed
        return frozenset(omitted) | ({"flows"} if self._suspects else set())

    async def close(self) -> None:
        await self._ports.close()

    @property
    def relay_ip(self) -> str:
        """The relay's address, which this node must have; empty: none."""
        return self._relay.ip

    async def retire(self) -> None:
        """Before the end: have the kernel serve what the relay serves. Raises KernelError."""
        plan = self._plan
        if not self._relay.retire() or plan is None:
            return
        self._rules = await asyncio.to_thread(self._backend.compile, plan, self._rules)
        await self._backend.apply(self._rules)
        self._suspects = suspects(plan, self._led, self._suspects)
        await self._forget_stale_flows(plan)
        _log.info("The kernel serves what was relayed", family=self.family)

    def _take(self) -> None:
        """From here on, what changes is for the next round."""
        self._shared.health.taken(self.family)
        self._shared.metrics.taken()
        self._triggers.take()

    async def _decide(self) -> tuple[Plan, Plan, R]:
        shared = self._shared
        snapshot = shared.cluster.snapshot()
        previous = self._plan
        plan = await asyncio.to_thread(build_plan, snapshot, shared.config, self.family, shared.addresses(), previous)
        self._plan = plan
        led = await self._relay.lead(plan)
        self._suspects = suspects(led, self._led, self._suspects)
        self._led = led
        self._rules = await asyncio.to_thread(self._backend.compile, led, self._rules)
        return plan, led, self._rules

    def _fail(self, error: BaseException, began: float, *, full: bool) -> None:
        shared = self._shared
        shared.health.failed(self.family)
        shared.metrics.attempted(self.family, time.monotonic() - began, full=full)
        if isinstance(error, RestoreRefused):
            shared.metrics.refused(self.family, full=full)
        if full and self._led is not None:  # what it wrote may be there, and the next round finds nothing to write
            self._suspects = suspects(self._led, None, self._suspects)

    def _succeed(self, plan: Plan, led: Plan, report: SyncReport, began: float) -> None:
        shared = self._shared
        at = now()
        seconds = at.monotonic - began
        shared.metrics.attempted(self.family, seconds, full=report.full)
        wall = at.wall_ns / 1e9
        shared.metrics.synced(self.family, report, plan, wall=wall)
        for waited in self._triggers.arrived(wall):
            shared.metrics.programmed(self.family, waited)
        refused = _nobody_is_served(plan, report)
        if refused:
            shared.health.failed(self.family)
        else:
            shared.health.synced(self.family, at)
        shared.applied(plan)
        shared.rounds.note(plan, report)
        shared.complaints.stand(self.family, [*_notes(plan), *_quarantined(report)])
        shared.affinity.look(led)
        self._say_unread(report)
        if report.rewritten and self._rivalry.found(at.monotonic):
            self._say_rival()
        if not refused:
            self._log_round(plan, report, seconds)

    def _say_unread(self, report: SyncReport) -> None:
        for each in report.unread:
            if each.table not in self._unread:
                _log.warning(
                    "A table cannot be read, programming it all the same",
                    family=self.family,
                    table=each.table,
                    why=each.why,
                    remedy="move rules that are not iptables' own to another table, or install the extension they need",
                )
        self._unread = frozenset(each.table for each in report.unread)

    def _say_rival(self) -> None:
        seen = ", ".join(f"{name} (pid {number})" for number, name in find_proxies() if number != os.getpid())
        _log.warning(
            "Another proxy writes the same chains; ours are put back, but less and less often while that goes on",
            family=self.family,
            who=seen or "no service proxy among the processes that kproxy can see",
            remedy="run one service proxy on a node: end kube-proxy, or kproxy",
        )

    def _log_round(self, plan: Plan, report: SyncReport, seconds: float) -> None:
        fields: dict[str, object] = {
            "family": self.family,
            "seconds": round(seconds, 3),
            "full": report.full,
            "servicePorts": len(plan.services),
            "rules": sum(report.rules_total.values()),
            "written": sum(report.rules_written.values()),
            "transactions": report.transactions,
        }
        if not self._said:
            _log.info("The first sync is done, this node serves", **fields)
            self._said = True
        elif report.full and report.transactions and not (report.refused or report.unread):
            _log.info("The kernel did not hold what it should, repaired", **fields)
        elif report.transactions:
            _log.verbose(1, "Synced", **fields)
        else:
            _log.verbose(4, "Nothing to write", **fields)

    async def _open_ports(self, plan: Plan) -> None:
        for failure in await self._ports.reconcile(plan.health_checks, plan.node_ports):
            self._shared.recorder.record(events.unopened(*failure))
        self._shared.complaints.stand(f"{self.family} on loopback", await self.localhost.reconcile(plan))

    async def _forget_stale_flows(self, plan: Plan) -> None:
        """What cannot be done now is tried after the next round, with what that one adds."""
        if not self._suspects:
            return
        began = time.monotonic()
        queries = [FlowQuery(at.protocol, at.ip, at.port, keep=serving) for at, serving in self._suspects.items()]
        try:
            flows = await self._conntrack.dump(queries)
            stale = list(stale_flows(flows, self._suspects, plan.node_ports, self._shared.addresses()))
            deleted = await self._conntrack.delete(stale) if stale else 0
        except KernelError as error:
            _log.warning("Stale flows not cleaned, trying again after the next sync", family=self.family, err=error)
            return
        self._suspects = {}
        self._shared.metrics.cleaned(self.family, seconds=time.monotonic() - began, deleted=deleted)
        if deleted:
            _log.info("Deleted stale flows", family=self.family, flows=deleted)


def _nobody_is_served(plan: Plan, report: SyncReport) -> bool:
    """Whether all of several service ports with endpoints are refused: then it is not they that are wrong.

    One that is refused is no reason to call a node ill, for the others are served; here there are no others.
    """
    refused = {each.key for each in report.quarantined}
    return len(refused) > 1 and not any(
        (each.cluster or each.local) and key not in refused for key, each in plan.services.items()
    )


def _notes(plan: Plan) -> list[Complaint]:
    said = {EVERYWHERE: "Node ports are not restricted", NOWHERE: "Node ports are not served"}
    return [
        Complaint(said.get(note.reason, "A part of a Service is not served"), note.reason, note.problem, note.uid)
        for note in plan.notes
    ]


def _quarantined(report: SyncReport) -> list[Complaint]:
    return [
        Complaint(
            "The kernel refuses a service port, all others are programmed",
            "Quarantined",
            InvalidObject(
                "Service",
                str(each.key.service),
                field=f"spec.ports[{each.key.port or each.key.protocol}]",
                why=f"is refused by the kernel: {each.why}",
                remedy="change or delete the Service, or load the kernel module that it needs",
            ),
        )
        for each in report.quarantined
    ]
