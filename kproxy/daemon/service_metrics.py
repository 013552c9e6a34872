"""Connections and bytes of each service port, for who asks for them (``--service-metrics N``).

``kproxy_service_connections_total``, ``kproxy_service_bytes_total`` and ``kproxy_service_active_connections`` count
flows that a rule of ours sent to an endpoint: TCP and SCTP connections, and what the kernel takes for one with UDP.
They come from conntrack's accounting (kernel/accounting.py), not from rules, so a sync cannot reset them and no packet
is slower; they begin anew with the process, which Prometheus expects of counters. What they say:

* bytes are those of IP packets, headers included, ``in`` from the clients and ``out`` to them; a connection through
  another node's node port is counted on both nodes;
* a flow that lived before the process counts with what it carries from then on, and not as a connection;
* active connections are entries in the conntrack table: a closed TCP connection stays there for two minutes;
* refused and dropped connections never become flows, and node ports on 127.0.0.1 that are relayed by listeners of our
  own are not rewritten by rules; neither is counted.

Ends of flows are read together, ten times a second at most. The table is read when somebody asks for the metrics, but
never more often than leaves ``service_metrics_share`` of a processor for it: with 1,000 flows each scrape is fresh,
with 100,000 the figures may be half a minute old. Without the option nothing listens and no setting is touched.
A flow costs 4 to 7 us of processor time when it ends and 5 to 9 in a reading, 20 where every other one is to another
of 10,000 services. Its first packet takes 0.4 us longer (4 %), later ones do not (``./run bench accounting``).

Rejected: labels by IP family, endpoint or node, which would multiply the series; reading the table in the background,
which costs the same where nobody asks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Never

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kproxy.config import Config
from kproxy.daemon.ledger import Ledger, Row
from kproxy.daemon.log import Log
from kproxy.errors import KernelError
from kproxy.kernel.doors import AccountingDoor, SysctlDoor
from kproxy.kernel.sysctl import CONNTRACK_ACCOUNTING, tune_accounting
from kproxy.model.flow import NO_TRAFFIC, Destination, Traffic
from kproxy.model.keys import ServicePortKey
from kproxy.plan.attribution import Attribution
from kproxy.plan.plan import Plan

_log = Log(__name__)
_SLICE = 500  # ends of flows read before others get their turn: some 3 ms
_SLICES = 200  # and then it is enough for now: in a flood there would be no end
_LABELS = ("namespace", "service", "port", "protocol")
_OTHERS = ("", "other", "", "")  # no Service is without a namespace


class ServiceMetrics(Collector):
    def __init__(
        self, config: Config, door: AccountingDoor, sysctl: SysctlDoor, addresses: Callable[[], tuple[str, ...]]
    ) -> None:
        """``addresses``: of this node's interfaces, any family, canonical text."""
        self._config = config
        self._door = door
        self._sysctl = sysctl
        self._addresses = addresses
        self._attribution = Attribution()
        self._ledger = Ledger(config.service_metrics)
        self._ended: dict[ServicePortKey, Traffic] = {}  # read, not yet in the ledger
        # What flows had carried when we came, as far as it is nobody's yet; None: not looked at.
        self._before: dict[Destination, Traffic] | None = None
        self._reading = asyncio.Lock()  # so that no end of a flow is booked in the middle of a reading
        self._question = asyncio.Event()  # somebody wants fresh figures
        self._asked: asyncio.Event | None = None  # set when that one has them
        self._due = 0.0  # by the monotonic clock; the table is not read earlier
        self._planned = asyncio.Event()
        self._listens = False
        self._counts_bytes = True
        self._problem = ""
        self._said_lost = 0

    def follow(self, plan: Plan) -> None:
        """This plan is in the kernel."""
        gone = self._attribution.follow(plan)
        self._ledger.forget(gone)
        for key in gone:
            self._ended.pop(key, None)
        self._planned.set()

    async def run(self) -> Never:
        """Count for ever; what goes wrong is logged and tried again."""
        await self._planned.wait()  # with the first rules the kernel has what accounting needs
        self._prepare()
        while True:
            try:
                self._door.open()
                if self._before is None:
                    self._before = await self._door.living()
                self._listens = True
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._listen())
                    group.create_task(self._read_when_asked())
            except* KernelError as failures:
                for error in failures.exceptions:
                    self._say(error)
            finally:
                self._listens = False
                self._door.close()
            await asyncio.sleep(self._config.bind_retry)

    async def refresh(self) -> None:
        """Bring the figures up to now, if that is due and does not take too long; else they stay as they are."""
        if not self._listens or time.monotonic() < self._due:
            return
        self._asked = self._asked or asyncio.Event()
        self._question.set()
        with suppress(TimeoutError):
            async with asyncio.timeout(self._config.service_metrics_patience):
                await self._asked.wait()

    def collect(self) -> Iterable[Metric]:
        rows = self._ledger.rows(self._attribution.service_ports(at_most=self._config.service_metrics))
        connections = CounterMetricFamily(
            "kproxy_service_connections", "Flows that rules sent to an endpoint of the service port", labels=_LABELS
        )
        active = GaugeMetricFamily(
            "kproxy_service_active_connections", "Entries of the conntrack table, closed ones included", labels=_LABELS
        )
        size = CounterMetricFamily(
            "kproxy_service_bytes",
            "Bytes of IP packets: in from the clients, out to them",
            labels=(*_LABELS, "direction"),
        )
        for row in rows:
            labels = _labels(row)
            connections.add_metric(labels, row.total.flows)
            active.add_metric(labels, row.active)
            size.add_metric((*labels, "in"), row.total.bytes_in)
            size.add_metric((*labels, "out"), row.total.bytes_out)
        yield connections
        yield active
        if self._counts_bytes:
            yield size
        yield CounterMetricFamily(
            "kproxy_flow_events_lost", "Flows whose end could not be told in time", value=self._door.lost
        )

    # ----------------------------------------------------------------------------------------------------------

    def _prepare(self) -> None:
        tune_accounting(self._sysctl)
        self._counts_bytes = self._sysctl.read(CONNTRACK_ACCOUNTING) == 1
        if not self._counts_bytes:
            _log.warning(
                "Connections of services are counted, bytes are not",
                why=f"{CONNTRACK_ACCOUNTING} is off and cannot be switched on here",
                remedy="set it to 1 on the host, or run the container privileged",
            )

    async def _listen(self) -> Never:
        while True:
            await self._door.wait()
            await asyncio.sleep(self._config.service_metrics_pause)  # ends come in crowds: read them together
            async with self._reading:
                await self._drain()
                self._book()

    async def _read_when_asked(self) -> Never:
        """In a task of its own: who asks may go away, and a table of a million flows must not hold up the metrics."""
        while True:
            await self._question.wait()
            self._question.clear()
            asked, self._asked = self._asked, None
            try:
                if time.monotonic() >= self._due:  # else somebody asked while it was read
                    await self._read_or_say()
            finally:
                if asked is not None:
                    asked.set()

    async def _read_or_say(self) -> None:
        async with self._reading:
            began = time.monotonic()
            try:
                await self._read()
            except KernelError as error:
                self._say(error)
            else:
                self._problem = ""
            ended = time.monotonic()
        self._due = ended + (ended - began) * (1 / self._config.service_metrics_share - 1)

    async def _read(self) -> None:
        await self._drain()
        self._book()
        found = await self._door.living()
        await self._drain()
        # From here on nothing is awaited, so no plan comes between.
        living = self._attribute(found)
        before = self._before or {}
        for destination, traffic in tuple(before.items()):
            if (owner := self._attribution.owner(destination, self._addresses())) is not None:
                del before[destination]
                self._ledger.discount(owner, traffic)
        self._ledger.settle(living, self._ended)
        self._book()

    async def _drain(self) -> None:
        """Read the ends of flows that are known by now."""
        for _ in range(_SLICES):
            read, ended = self._door.ended(_SLICE)
            for key, traffic in self._attribute(ended).items():
                self._ended[key] = self._ended.get(key, NO_TRAFFIC).plus(traffic)
            if read < _SLICE:
                break
            await asyncio.sleep(0)
        self._say_lost()

    def _book(self) -> None:
        self._ledger.end(self._ended)
        self._ended = {}

    def _attribute(self, found: Mapping[Destination, Traffic]) -> dict[ServicePortKey, Traffic]:
        addresses = self._addresses()
        sums: dict[ServicePortKey, Traffic] = {}
        for destination, traffic in found.items():
            owner = self._attribution.owner(destination, addresses)
            if owner is not None:
                sums[owner] = sums.get(owner, NO_TRAFFIC).plus(traffic)
        return sums

    def _say(self, error: Exception) -> None:
        if str(error) != self._problem:
            _log.warning("Traffic of services is not counted for now, trying again", err=error)
        self._problem = str(error)

    def _say_lost(self) -> None:
        lost = self._door.lost
        if lost and not self._said_lost:
            _log.warning(
                "Flows ended faster than they could be read; what services carried will be told too low",
                lost=lost,
                metric="kproxy_flow_events_lost_total",
            )
        self._said_lost = lost


def _labels(row: Row) -> tuple[str, ...]:
    key = row.key
    return _OTHERS if key is None else (key.namespace, key.name, key.port, key.protocol.value)
