"""Everything that works, wired: sources feed the cluster, lanes bring it into the kernel.

One TaskGroup holds all of it. What is built here is built once; what can change (the client's credentials, the node's
addresses, the counters) is asked for by a function each time.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import Mapping, Sequence

from kproxy.backend.iptables.compile import Ruleset
from kproxy.backend.userspace.crew import Crew
from kproxy.backend.userspace.seat import Ended, Event
from kproxy.config import Config, DetectLocalMode, IptablesVariant
from kproxy.daemon import events
from kproxy.daemon.addresses import LocalAddresses
from kproxy.daemon.choose import make_backend, make_counters
from kproxy.daemon.complaints import Complaints
from kproxy.daemon.contact import Contact
from kproxy.daemon.family import Shared, now
from kproxy.daemon.feed import Feed
from kproxy.daemon.front import Front
from kproxy.daemon.lane import Lane
from kproxy.daemon.leftovers import remove_leftovers
from kproxy.daemon.localhost import LocalhostCollector
from kproxy.daemon.log import Log
from kproxy.daemon.oddities import circle, oddities, primary_family, show_node_ips
from kproxy.daemon.relay import tell
from kproxy.daemon.relay_metrics import RelayCollector
from kproxy.daemon.rounds import show_problems
from kproxy.daemon.service_metrics import ServiceMetrics
from kproxy.errors import KernelError
from kproxy.kernel.accounting import Accounting
from kproxy.kernel.conntrack import Conntrack
from kproxy.kernel.doors import Capabilities, Flush, FlushDoor, NfacctDoor
from kproxy.kernel.iptables import Iptables
from kproxy.kernel.nfacct import Nfacct
from kproxy.kernel.sysctl import Sysctl
from kproxy.model.enums import IPFamily, Kind
from kproxy.model.keys import ObjectKey
from kproxy.model.service import Service
from kproxy.plan.node_ports import LOCALHOST
from kproxy.source.client import Client
from kproxy.source.files import watch_manifests
from kproxy.source.watch import resources, watch

_log = Log(__name__)
_MOST_WORKERS = 8  # unless more are asked for: each has a socket for each listener
Found = Mapping[IPFamily, tuple[Iptables, Capabilities]]


class Daemon:
    """``client`` None: the cluster is a directory of manifests."""

    def __init__(
        self, config: Config, front: Front, found: Found, addresses: LocalAddresses, client: Client | None
    ) -> None:
        self._config = config
        self._found = found
        self._front = front
        self._addresses = addresses
        self._client = client
        front.facts["IP families"] = ", ".join(sorted(found))
        self._cluster, self._metrics, self._health = front.cluster, front.metrics, front.health
        self._health.expect(found)
        if client is not None:
            self._metrics.observe_requests(client.traffic)
        self._recorder = events.Recorder(client, config.hostname)
        complaints = Complaints(self._recorder, self._uid)
        self._crew = Crew(
            config, workers=config.relay_workers or min(_MOST_WORKERS, len(os.sched_getaffinity(0))), told=self._hear
        )
        patience = config.service_metrics_patience
        self._metrics.observe(RelayCollector(self._crew), before=lambda: self._crew.refresh(patience))
        self._shared = Shared(
            config,
            self._cluster,
            health=self._health,
            metrics=self._metrics,
            recorder=self._recorder,
            complaints=complaints,
            addresses=lambda: addresses.known,
            claim=addresses.claim,
            crew=self._crew,
        )
        front.more.append(self._shared.rounds.show)
        front.names += [self._shared.rounds.name, lambda: show_problems(complaints.all)]
        self._service_metrics = self._count_services() if config.service_metrics else None
        self._lanes = self._make_lanes(found)
        front.names.append(self._troubles)
        front.is_relaying = lambda: any(lane.relay_ip for lane in self._lanes.values())
        self._feed = Feed(
            self._cluster,
            self._lanes,
            metrics=self._metrics,
            complaints=complaints,
            node_wait=config.node_wait if client else 0.0,
            pod_cidr_wait=config.pod_cidr_wait if config.detect_local_mode is DetectLocalMode.NODE_CIDR else 0.0,
        )

    async def run(self, monitor: FlushDoor) -> None:
        """Until cancelled; raises what ends a daemon, in an ExceptionGroup."""
        crew = asyncio.create_task(self._crew.run())
        try:
            await self._work(monitor, crew)
        finally:
            await self._retire()
            crew.cancel()
            await asyncio.gather(crew, return_exceptions=True)

    async def _retire(self) -> None:
        """The relay ends with us, so before that the kernel must carry what it carries."""
        deadline = self._config.retire_deadline
        for family, lane in self._lanes.items():
            try:
                async with asyncio.timeout(deadline):
                    await lane.retire()
            except (KernelError, TimeoutError) as error:
                why = str(error) or f"not done within {deadline:g} s"
                _log.error("Relayed Services are not served until kproxy runs again", family=family, err=why)
        self._front.is_relaying = lambda: False
        await self._crew.stop(self._config.relay_shutdown)
        for ip in (*self._config.relay_address, *self._config.relay_sources):
            with contextlib.suppress(KernelError):  # it does no harm, and a family may not be there
                await self._addresses.release(ip)

    async def _work(self, monitor: FlushDoor, crew: asyncio.Task[None]) -> None:
        config = self._config
        async with asyncio.TaskGroup() as group:
            group.create_task(_mind(crew))
            group.create_task(self._recorder.run())
            group.create_task(self._addresses.follow(self._look_at_addresses))
            for lane in self._lanes.values():
                group.create_task(lane.run())
                if LOCALHOST in config.nodeport_addresses:
                    group.create_task(lane.localhost.run())
            if self._service_metrics is not None:
                group.create_task(self._service_metrics.run())
            group.create_task(self._heal(monitor))
            for family, (door, _) in self._found.items():
                group.create_task(self._tidy(family, door.variant))
            self._follow_sources(group)
            group.create_task(self._open())
            self._recorder.record(events.starting(config.hostname))

    def _look_at_addresses(self) -> None:
        """They changed. Only listed ones restrict where node ports listen; without a list no plan depends on them."""
        if self._config.nodeport_addresses:
            self._feed.request_all()
        for lane in self._lanes.values():
            if lane.relay_ip and lane.relay_ip not in self._addresses.known:
                lane.request()

    async def _open(self) -> None:
        """Begin, and say how this node is seen."""
        config, families = self._config, sorted(self._lanes)
        await self._feed.open(config.hostname)
        _log.info(
            "How this node is seen",
            families=" ".join(families),
            primary=primary_family(config, self._cluster.node),
            nodeIPs=show_node_ips(config, self._cluster.node),
        )
        kubernetes = self._cluster.get(Kind.SERVICE, ObjectKey("default", "kubernetes"))
        asked = circle(self._client.server, kubernetes) if self._client and isinstance(kubernetes, Service) else ()
        for problem in (*oddities(config, families, self._cluster.node), *asked):
            _log.warning("The configuration may be incomplete or wrong", problem=problem)

    def _troubles(self) -> dict[str, str]:
        """A line for each family whose last round failed; what a program answered may name objects."""
        return {f"Sync {family} failed": lane.trouble for family, lane in self._lanes.items() if lane.trouble}

    def _hear(self, event: Event) -> None:
        """Of a worker: without any, the kernel must serve."""
        tell(event)
        self._front.facts["Relay"] = f"{len(self._crew.serving)} of {self._crew.size} workers serve"
        if isinstance(event, Ended) and not self._crew.serving:
            for lane in self._lanes.values():
                if lane.relay_ip:
                    lane.request()

    def _count_services(self) -> ServiceMetrics:
        counting = ServiceMetrics(self._config, Accounting(), Sysctl(), self._shared.addresses)
        self._shared.applied = counting.follow
        self._metrics.observe(counting, before=counting.refresh)
        return counting

    def _make_lanes(self, found: Found) -> dict[IPFamily, Lane[Ruleset]]:
        config, nfacct, sysctl = self._config, Nfacct(), Sysctl()
        lanes = {}
        counters: set[str] = set()
        for family, (door, capabilities) in found.items():
            made = make_counters(config, capabilities, nfacct)
            counters.update(made)
            watched = self._front.transactions.watch(door, door.restore_name)
            backend = make_backend(config, watched, capabilities, made, sysctl)
            lanes[family] = Lane(family, self._shared, backend, Conntrack(family))
        self._metrics.observe_pending(lanes, lambda family: self._health.pending_seconds(family, now()))
        if LOCALHOST in config.nodeport_addresses:
            self._metrics.observe(LocalhostCollector({family: lane.localhost for family, lane in lanes.items()}))
        self._metrics.observe_nfacct(lambda: _packets(nfacct, sorted(counters)))
        return lanes

    def _follow_sources(self, group: asyncio.TaskGroup) -> None:
        config = self._config
        if self._client is None:
            group.create_task(self._feed.follow(watch_manifests(config)))
            return
        contact = Contact()
        self._front.more.append(lambda: {"API server": contact.show()})
        for selection in resources(config):
            changes = watch(self._client, selection, config, report=contact.report, hear=contact.hear)
            group.create_task(self._feed.follow(changes))

    async def _tidy(self, family: IPFamily, variant: IptablesVariant) -> None:
        await self._lanes[family].synced.wait()
        await remove_leftovers(self._config, family, variant)

    async def _heal(self, monitor: FlushDoor) -> None:
        """Bring back what somebody else removes."""
        await self._first_sync()
        while True:
            try:
                async for flush in monitor.flushes():
                    await self._answer(flush)
            except KernelError as error:
                _log.warning("Flushes are not heard, listening again", err=error)
            await asyncio.sleep(self._config.bind_retry)
            for lane in self._lanes.values():
                lane.request(healing=True)  # nobody listened meanwhile

    async def _first_sync(self) -> None:
        synced = [asyncio.ensure_future(lane.synced.wait()) for lane in self._lanes.values()]
        try:
            await asyncio.wait(synced, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in synced:
                each.cancel()

    async def _answer(self, flush: Flush) -> None:
        """fail2ban or a container runtime deletes a rule of its own every few seconds: look before comparing all."""
        for family, lane in self._lanes.items():
            if flush.family not in {None, family}:
                continue
            if not flush.is_certain and await lane.is_entered(flush.table):
                _log.verbose(
                    1, "Another program changed rules beside ours", family=family, table=flush.table, what=flush.why
                )
                continue
            pause = lane.rival_pause
            if pause and flush.table and await lane.is_entered(flush.table):
                _log.verbose(1, "Another proxy wrote again, comparing later", family=family, seconds=round(pause, 1))
                lane.heal_later(pause)
                continue
            _log.info("Another program changed rules, comparing ours", family=family, table=flush.table, what=flush.why)
            lane.request(healing=True)

    def _uid(self, kind: Kind, key: ObjectKey) -> str:
        return getattr(self._cluster.get(kind, key), "uid", "")


async def _mind(crew: asyncio.Task[None]) -> None:
    """End as it does, if it fails: who runs us starts all of it anew. To be cancelled does not touch it."""
    await asyncio.wait({crew})
    crew.result()


def _packets(nfacct: NfacctDoor, counters: Sequence[str]) -> dict[str, int]:
    try:
        read = {name: nfacct.read(name) for name in counters}
    except KernelError:
        return {}
    return {name: found[0] for name, found in read.items() if found is not None}
