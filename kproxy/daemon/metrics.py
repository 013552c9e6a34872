"""What ``/metrics`` shows: kube-proxy's names, labels and buckets for iptables mode, so that dashboards keep working.

Names, types and buckets are those of runtime.md 14; a name that ends in ``_total`` and is a gauge is kube-proxy's
doing. Ours begin with ``kproxy_`` and are few. Everything lives in a registry of our own: the library's default one
would add series of whatever else was imported, and a second daemon in one process (a test) could not exist. The
``_created`` series of the library are switched off, for kube-proxy has none.

Rejected: labels that name a Service. Children of a metric are never forgotten, so churn would grow them for ever.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterable, Mapping
from urllib.parse import urlsplit

import prometheus_client
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kproxy import __version__
from kproxy.backend.base import SyncReport
from kproxy.model.enums import IPFamily
from kproxy.plan.plan import Plan

CONTENT_TYPE = prometheus_client.CONTENT_TYPE_PLAIN_0_0_4

SYNC_BUCKETS = tuple(0.001 * 2**k for k in range(15))
LATENCY_BUCKETS = (0.25, 0.5, *range(1, 60), *range(60, 116, 5), *range(120, 301, 30))

# Filled by nfacct objects that the rules name; kube-proxy's name of the metric by the object's name.
NFACCT = {
    "ct_state_invalid_dropped_pkts": "kubeproxy_iptables_ct_state_invalid_dropped_packets",
    "localhost_nps_accepted_pkts": "kubeproxy_iptables_localhost_nodeports_accepted_packets",
}

# The release whose behaviour is reproduced, for alerts compare its minor with the API server's (KubeVersionMismatch);
# our own version stands behind the plus sign, where a semantic version keeps what is not compared.
BUILD = {
    "git_version": f"v1.36.2+kproxy-{__version__}",
    "major": "1",
    "minor": "36",
    "compiler": "cpython",
    "platform": f"linux/{platform.machine()}",
}


class Metrics:
    """Every series that we export. One instance a daemon."""

    def __init__(self) -> None:
        prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = CollectorRegistry(auto_describe=False)
        ProcessCollector(registry=self._registry)
        build = Gauge("kubernetes_build_info", "Whose behaviour this is", tuple(BUILD), registry=self._registry)
        build.labels(**BUILD).set(1)
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

    def render(self) -> bytes:
        """The text format 0.0.4."""
        return prometheus_client.generate_latest(self._registry)

    def observe_pending(self, families: Iterable[IPFamily], read: Callable[[IPFamily], float]) -> None:
        """Show the age of the oldest change not yet in the kernel, read at each scrape."""
        self._registry.register(_Pending(tuple(families), read))

    def observe_nfacct(self, read: Callable[[], Mapping[str, int]]) -> None:
        """Show kube-proxy's packet counters, read at each scrape: packets by the nfacct object's name."""
        self._registry.register(_Accounts(read))

    def observe_requests(self, server: Callable[[], str], read: Callable[[], Mapping[tuple[str, str], int]]) -> None:
        """Show client-go's counter of requests, read at each scrape: how many by code and method, and to which URL."""
        self._registry.register(_Requests(server, read))

    # --- fed by the source ------------------------------------------------------------------------------------

    def queued(self, family: IPFamily, wall: float) -> None:
        self._queued.labels(family).set(wall)

    def endpoint_changed(self, changes: int = 1) -> None:
        self._endpoint_pending.inc(changes)
        self._endpoint_total.inc(changes)

    def service_changed(self, changes: int = 1) -> None:
        self._service_pending.inc(changes)
        self._service_total.inc(changes)

    def taken(self) -> None:
        """A round has read all that was pending."""
        self._endpoint_pending.set(0)
        self._service_pending.set(0)

    # --- fed by the rounds ------------------------------------------------------------------------------------

    def attempted(self, family: IPFamily, seconds: float) -> None:
        self._durations.labels(family).observe(seconds)

    def synced(self, family: IPFamily, report: SyncReport, plan: Plan, *, seconds: float, wall: float) -> None:
        (self._full if report.full else self._partial).labels(family).observe(seconds)
        self._last.labels(family).set(wall)
        for table, rules in report.rules_total.items():
            self._rules.labels(table, family).set(rules)
        for table, rules in report.rules_written.items():
            self._written.labels(table, family).set(rules)
        if report.refused:
            self.refused(family, full=report.full, times=report.refused)
        self._quarantined.labels(family).set(len(report.quarantined))
        services = plan.services.values()
        self._no_local.labels("internal", family).set(sum(each.no_local_internal for each in services))
        self._no_local.labels("external", family).set(sum(each.no_local_external for each in services))

    def refused(self, family: IPFamily, *, full: bool, times: int = 1) -> None:
        self._restore_failures.labels(family).inc(times)
        if not full:
            self._partial_failures.labels(family).inc(times)

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
        return Histogram(f"kubeproxy_{name}", text, ("ip_family",), registry=self._registry, buckets=buckets)

    def _gauge(self, name: str, text: str, labels: tuple[str, ...] = ("ip_family",)) -> Gauge:
        return Gauge(f"kubeproxy_{name}", text, labels, registry=self._registry)

    def _counter(self, name: str, text: str, labels: tuple[str, ...] = ("ip_family",)) -> Counter:
        return Counter(f"kubeproxy_{name}", text, labels, registry=self._registry)


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


class _Requests(Collector):
    def __init__(self, server: Callable[[], str], read: Callable[[], Mapping[tuple[str, str], int]]) -> None:
        self._server = server
        self._read = read

    def collect(self) -> Iterable[Metric]:
        metric = CounterMetricFamily(
            "rest_client_requests", "Requests to the API server", labels=("code", "host", "method")
        )
        host = urlsplit(self._server()).netloc
        for (code, method), requests in sorted(self._read().items()):
            metric.add_metric((code, host, method), requests)
        yield metric


class _Accounts(Collector):
    def __init__(self, read: Callable[[], Mapping[str, int]]) -> None:
        self._read = read

    def collect(self) -> Iterable[Metric]:
        for account, packets in self._read().items():
            if account in NFACCT:
                yield CounterMetricFamily(NFACCT[account], "Packets counted by a rule of ours", value=packets)
