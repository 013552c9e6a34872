"""What ``/metrics`` shows: kube-proxy's names, labels and buckets for iptables mode, so that dashboards keep working.

Names, types and buckets are those of runtime.md 14, and a unit test pins the whole list; a name that ends in
``_total`` and is a gauge is kube-proxy's doing. Ours begin with ``kproxy_`` and are few. How they are written, and the
generic series, is ``exposition.py``'s.

A Service that changes counts once for each family, for kube-proxy has a tracker for each; what is pending is the number
of Services that differ from what the last round took, so one that is changed and changed back is not among them.
kube-proxy also counts the resyncs of its caches every quarter of an hour: there are none here, and none is invented.

Rejected: labels that name a Service. Children of a metric are never forgotten, so churn would grow them for ever.
Who wants them asks for them, and gets a collector that forgets and has a cap (``service_metrics.py``).
"""

from __future__ import annotations

from collections import Counter as Tally
from collections.abc import Awaitable, Callable, Iterable, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kproxy.backend.base import SyncReport
from kproxy.daemon.exposition import Features, Registered, Requests, expose, make_registry
from kproxy.daemon.status import Answer
from kproxy.model.enums import IPFamily
from kproxy.model.keys import ObjectKey
from kproxy.plan.plan import Plan
from kproxy.source.traffic import Traffic

SYNC_BUCKETS = tuple(0.001 * 2**k for k in range(15))
LATENCY_BUCKETS = (0.25, 0.5, *range(1, 60), *range(60, 116, 5), *range(120, 301, 30))

# Filled by nfacct objects that the rules name; kube-proxy's name of the metric by the object's name.
NFACCT = {
    "ct_state_invalid_dropped_pkts": "kubeproxy_iptables_ct_state_invalid_dropped_packets",
    "localhost_nps_accepted_pkts": "kubeproxy_iptables_localhost_nodeports_accepted_packets",
}


class Metrics:
    """Every series that we export. One instance a daemon."""

    def __init__(self, gates: Iterable[tuple[str, bool]] = ()) -> None:
        """``gates``: feature gates as the user set them."""
        self._registry: CollectorRegistry = make_registry()
        self._levels = Tally({"ALPHA": 1, "BETA": 4})  # those of exposition.py: build; feature and the three on metrics
        self._registry.register(Features(gates))
        self._registry.register(Registered(lambda: self._levels))
        self._changed: dict[ObjectKey, object] = {}  # Services that differ; what the last round knew of them
        self._before: list[Callable[[], Awaitable[None]]] = []  # what must be awaited before collectors are asked
        self._define()

    def _define(self) -> None:
        self._durations = self._histogram("sync_proxy_rules_duration_seconds", "SyncProxyRules latency")
        self._full = self._histogram("sync_full_proxy_rules_duration_seconds", "SyncProxyRules latency, full syncs")
        self._partial = self._histogram(
            "sync_partial_proxy_rules_duration_seconds", "SyncProxyRules latency, partial syncs"
        )
        self._last = self._gauge("sync_proxy_rules_last_timestamp_seconds", "Time of the last successful sync")
        self._queued = self._gauge("sync_proxy_rules_last_queued_timestamp_seconds", "Time of the last sync request")
        self._latency = self._histogram(
            "network_programming_duration_seconds",
            "From a change of endpoints to the rule in the kernel",
            buckets=LATENCY_BUCKETS,
        )
        self._endpoint_pending = self._gauge(
            "sync_proxy_rules_endpoint_changes_pending", "Slice changes since the last sync", ()
        )
        self._endpoint_total = self._counter("sync_proxy_rules_endpoint_changes", "Slice changes", ())
        self._service_pending = self._gauge(
            "sync_proxy_rules_service_changes_pending", "Service changes since the last sync", ()
        )
        self._service_total = self._counter("sync_proxy_rules_service_changes", "Service changes", ())
        self._no_local = self._gauge(
            "sync_proxy_rules_no_local_endpoints_total",
            "Service ports with a Local traffic policy and no local endpoint",
            ("traffic_policy", "ip_family"),
        )
        self._healthz = self._counter("proxy_healthz", "Answers of /healthz", ("code",))
        self._livez = self._counter("proxy_livez", "Answers of /livez", ("code",))
        self._conntrack = self._histogram("conntrack_reconciler_sync_duration_seconds", "Cleaning of stale flows")
        self._deleted = self._counter("conntrack_reconciler_deleted_entries", "Stale flows deleted")
        self._restore_failures = self._counter("sync_proxy_rules_iptables_restore_failures", "Failed restores")
        self._partial_failures = self._counter(
            "sync_proxy_rules_iptables_partial_restore_failures", "Failed partial restores"
        )
        self._rules = self._gauge("sync_proxy_rules_iptables_total", "Rules of ours", ("table", "ip_family"))
        self._written = self._gauge("sync_proxy_rules_iptables_last", "Rules written", ("table", "ip_family"))
        self._quarantined = Gauge(
            "kproxy_quarantined_services",
            "Service ports that the kernel refuses; all others are programmed",
            ("ip_family",),
            registry=self._registry,
        )
        self._clients: Gauge | None = None  # not shown where no Service asks for affinity

    def answer(self, accept: str = "") -> Answer:
        """``/metrics``, in the format that the ``Accept`` header asks for."""
        return expose(self._registry, accept)

    async def scrape(self, accept: str = "") -> Answer:
        """As ``answer``, after those have looked who must wait for the kernel."""
        for refresh in self._before:
            await refresh()
        return self.answer(accept)

    def observe(self, collector: Collector, *, before: Callable[[], Awaitable[None]] | None = None) -> None:
        """Show what ``collector`` finds at each scrape; ``before`` is awaited first."""
        self._registry.register(collector)
        if before is not None:
            self._before.append(before)

    def observe_pending(self, families: Iterable[IPFamily], read: Callable[[IPFamily], float]) -> None:
        """Show the age of the oldest change not yet in the kernel, read at each scrape."""
        self.observe(_Pending(tuple(families), read))

    def observe_nfacct(self, read: Callable[[], Mapping[str, int]]) -> None:
        """Show kube-proxy's packet counters, read at each scrape: packets by the nfacct object's name."""
        self.observe(_Accounts(read))
        self._levels["ALPHA"] += len(NFACCT)

    def observe_requests(self, traffic: Traffic) -> None:
        """Show client-go's metrics of requests to the API server."""
        self.observe(Requests(traffic))
        self._levels["ALPHA"] += 4

    # --- fed by the source ------------------------------------------------------------------------------------

    def queued(self, family: IPFamily, wall: float) -> None:
        self._queued.labels(family).set(wall)

    def endpoints_seen(self, events: int, *, changed: int) -> None:
        """``events``: of slices; ``changed``: how many of them say something new."""
        self._endpoint_total.inc(events)
        self._endpoint_pending.inc(changed)

    def services_seen(self, events: int) -> None:
        """One for each event and each family that hears of it."""
        self._service_total.inc(events)

    def service_changed(self, key: ObjectKey, before: object, after: object) -> None:
        """What a Service was and is; None: it is not there."""
        if self._changed.setdefault(key, before) == after:
            del self._changed[key]
        self._service_pending.set(len(self._changed))

    def taken(self) -> None:
        """A round has read all that was pending."""
        self._changed = {}
        self._endpoint_pending.set(0)
        self._service_pending.set(0)

    # --- fed by the rounds ------------------------------------------------------------------------------------

    def attempted(self, family: IPFamily, seconds: float, *, full: bool) -> None:
        """A round ended, well or not."""
        self._durations.labels(family).observe(seconds)
        (self._full if full else self._partial).labels(family).observe(seconds)

    def synced(self, family: IPFamily, report: SyncReport, plan: Plan, *, wall: float) -> None:
        self._last.labels(family).set(wall)
        for table, rules in report.rules_total.items():
            self._rules.labels(table, family).set(rules)
            self._written.labels(table, family).set(report.rules_written.get(table, 0))
        if report.refused:
            self._restore_failures.labels(family).inc(report.refused)
        if report.became_full:
            self._partial_failures.labels(family).inc()
        self._quarantined.labels(family).set(len(report.quarantined))
        services = plan.services.values()
        self._no_local.labels("internal", family).set(sum(each.no_local_internal for each in services))
        self._no_local.labels("external", family).set(sum(each.no_local_external for each in services))

    def refused(self, family: IPFamily, *, full: bool) -> None:
        """A round ended so."""
        self._restore_failures.labels(family).inc()
        if not full:
            self._partial_failures.labels(family).inc()

    def remembers(self, clients: int) -> None:
        """Session affinity remembers so many clients for each endpoint."""
        if self._clients is None:
            text = "Clients that session affinity remembers for each endpoint: xt_recent's ip_list_tot"
            self._clients = Gauge("kproxy_affinity_clients_limit", text, registry=self._registry)
        self._clients.set(clients)

    def programmed(self, family: IPFamily, seconds: float) -> None:
        """One change of endpoints took ``seconds`` from its cause to the kernel."""
        self._latency.labels(family).observe(seconds)

    def cleaned(self, family: IPFamily, *, seconds: float, deleted: int) -> None:
        self._conntrack.labels(family).observe(seconds)
        self._deleted.labels(family).inc(deleted)

    # --- fed by the servers -----------------------------------------------------------------------------------

    def answered_healthz(self, code: int) -> None:
        self._healthz.labels(str(code)).inc()

    def answered_livez(self, code: int) -> None:
        self._livez.labels(str(code)).inc()

    # ----------------------------------------------------------------------------------------------------------

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...] = SYNC_BUCKETS) -> Histogram:
        self._levels["ALPHA"] += 1
        return Histogram(
            f"kubeproxy_{name}", f"[ALPHA] {text}", ("ip_family",), registry=self._registry, buckets=buckets
        )

    def _gauge(self, name: str, text: str, labels: tuple[str, ...] = ("ip_family",)) -> Gauge:
        self._levels["ALPHA"] += 1
        return Gauge(f"kubeproxy_{name}", f"[ALPHA] {text}", labels, registry=self._registry)

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = ("ip_family",)) -> Counter:
        self._levels["ALPHA"] += 1
        return Counter(f"kubeproxy_{name}", f"[ALPHA] {text}", labels, registry=self._registry)


class _Pending(Collector):
    def __init__(self, families: tuple[IPFamily, ...], read: Callable[[IPFamily], float]) -> None:
        self._families = families
        self._read = read

    def collect(self) -> Iterable[Metric]:
        metric = GaugeMetricFamily(
            "kproxy_oldest_pending_change_seconds",
            "Age of the oldest change that is not yet in the kernel",
            labels=("ip_family",),
        )
        for family in self._families:
            metric.add_metric((family,), self._read(family))
        yield metric


class _Accounts(Collector):
    def __init__(self, read: Callable[[], Mapping[str, int]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        for account, packets in self._read().items():
            if account in NFACCT:
                yield CounterMetricFamily(NFACCT[account], "[ALPHA] Packets counted by a rule of ours", value=packets)
