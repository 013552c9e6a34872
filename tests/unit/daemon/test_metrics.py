"""Names, labels and buckets, as dashboards know them."""

from __future__ import annotations

import re

from msgspec.structs import replace

from kproxy.backend.base import SyncReport
from kproxy.daemon.metrics import LATENCY_BUCKETS, NFACCT, SYNC_BUCKETS, Metrics
from kproxy.model.enums import IPFamily
from kproxy.model.keys import ObjectKey
from kproxy.plan.plan import NodePorts, Plan
from kproxy.source.traffic import Traffic

V4 = IPFamily.IPV4
REPORT = SyncReport(
    full=False, rules_total={"nat": 5, "filter": 2}, rules_written={"nat": 1}, refused=1, became_full=True
)
PLAN = Plan(V4, {}, NodePorts())


def fed() -> Metrics:
    """A daemon in which everything has happened once."""
    metrics = Metrics([("ComponentFlagz", False)])
    metrics.queued(V4, 1.0)
    metrics.endpoints_seen(1, changed=1)
    metrics.services_seen(4)
    metrics.service_changed(ObjectKey("a", "b"), None, 1)
    metrics.attempted(V4, 0.1, full=True)
    metrics.attempted(V4, 0.1, full=False)
    metrics.synced(V4, REPORT, PLAN, wall=2.0)
    metrics.refused(V4, full=False)
    metrics.programmed(V4, 0.7)
    metrics.cleaned(V4, seconds=0.01, deleted=3)
    metrics.remembers(100)
    metrics.answered_healthz(503)
    metrics.answered_livez(200)
    metrics.observe_pending([V4], lambda _: 1.5)
    metrics.observe_nfacct(lambda: {**dict.fromkeys(NFACCT, 7), "somebody_elses": 1})
    traffic = Traffic()
    traffic.requests["200", "api:6443", "GET"] = 4
    for distributions in (traffic.seconds, traffic.sent, traffic.received):
        distributions["api:6443", "GET"].observe(1.0)
    metrics.observe_requests(traffic)
    return metrics


def page(metrics: Metrics, accept: str = "") -> str:
    return metrics.answer(accept).body.decode()


E15 = [0.001 * 2**power for power in range(15)]
NP = [0.25, 0.5, *range(1, 60), *range(60, 120, 5), *range(120, 301, 30)]
CLIENT = [0.005, 0.025, 0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60]
SIZES = [64, 256, 512, 1024, 4096, 16384, 65536, 262144, 1048576, 4194304, 16777216]
FAMILY = ["ip_family"]
HOST_VERB = ["host", "verb"]
BUILD = ["build_date", "compiler", "git_commit", "git_tree_state", "git_version", "go_version", "major", "minor"]

# name → type, labels, buckets: runtime.md 14 for iptables mode, then what else there is
EXPECTED: dict[str, tuple[str, list[str], list[float]]] = {
    "kubeproxy_sync_proxy_rules_duration_seconds": ("histogram", FAMILY, E15),
    "kubeproxy_sync_full_proxy_rules_duration_seconds": ("histogram", FAMILY, E15),
    "kubeproxy_sync_partial_proxy_rules_duration_seconds": ("histogram", FAMILY, E15),
    "kubeproxy_sync_proxy_rules_last_timestamp_seconds": ("gauge", FAMILY, []),
    "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds": ("gauge", FAMILY, []),
    "kubeproxy_network_programming_duration_seconds": ("histogram", FAMILY, NP),
    "kubeproxy_sync_proxy_rules_endpoint_changes_pending": ("gauge", [], []),
    "kubeproxy_sync_proxy_rules_endpoint_changes_total": ("counter", [], []),
    "kubeproxy_sync_proxy_rules_service_changes_pending": ("gauge", [], []),
    "kubeproxy_sync_proxy_rules_service_changes_total": ("counter", [], []),
    "kubeproxy_sync_proxy_rules_no_local_endpoints_total": ("gauge", ["ip_family", "traffic_policy"], []),
    "kubeproxy_proxy_healthz_total": ("counter", ["code"], []),
    "kubeproxy_proxy_livez_total": ("counter", ["code"], []),
    "kubeproxy_conntrack_reconciler_sync_duration_seconds": ("histogram", FAMILY, E15),
    "kubeproxy_conntrack_reconciler_deleted_entries_total": ("counter", FAMILY, []),
    "kubeproxy_sync_proxy_rules_iptables_restore_failures_total": ("counter", FAMILY, []),
    "kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total": ("counter", FAMILY, []),
    "kubeproxy_sync_proxy_rules_iptables_total": ("gauge", ["ip_family", "table"], []),
    "kubeproxy_sync_proxy_rules_iptables_last": ("gauge", ["ip_family", "table"], []),
    "kubeproxy_iptables_ct_state_invalid_dropped_packets_total": ("counter", [], []),
    "kubeproxy_iptables_localhost_nodeports_accepted_packets_total": ("counter", [], []),
    "rest_client_requests_total": ("counter", ["code", "host", "method"], []),
    "rest_client_request_duration_seconds": ("histogram", HOST_VERB, CLIENT),
    "rest_client_request_size_bytes": ("histogram", HOST_VERB, SIZES),
    "rest_client_response_size_bytes": ("histogram", HOST_VERB, SIZES),
    "kubernetes_build_info": ("gauge", [*BUILD, "platform"], []),
    "kubernetes_feature_enabled": ("gauge", ["name", "stage"], []),
    "registered_metrics_total": ("counter", ["deprecated_version", "stability_level"], []),
    "disabled_metrics_total": ("counter", [], []),
    "hidden_metrics_total": ("counter", [], []),
    "process_cpu_seconds_total": ("counter", [], []),
    "process_max_fds": ("gauge", [], []),
    "process_network_receive_bytes_total": ("counter", [], []),
    "process_network_transmit_bytes_total": ("counter", [], []),
    "process_open_fds": ("gauge", [], []),
    "process_resident_memory_bytes": ("gauge", [], []),
    "process_start_time_seconds": ("gauge", [], []),
    "process_virtual_memory_bytes": ("gauge", [], []),
    "process_virtual_memory_max_bytes": ("gauge", [], []),
    "go_goroutines": ("gauge", [], []),
    "go_threads": ("gauge", [], []),
    "kproxy_quarantined_services": ("gauge", FAMILY, []),
    "kproxy_oldest_pending_change_seconds": ("gauge", FAMILY, []),
    "kproxy_affinity_clients_limit": ("gauge", [], []),
}


def _shape(text: str) -> dict[str, tuple[str, list[str], list[float]]]:
    shape = {}
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    for name, kind in types.items():
        samples = re.findall(rf"^{name}(?:_bucket|_sum|_count)?(?:{{(.*)}})? \S+$", text, re.MULTILINE)
        labels = [dict(re.findall(r'(\w+)="([^"]*)"', each)) for each in samples]
        names = sorted({label for each in labels for label in each} - {"le"})
        bounds = sorted({float(each["le"]) for each in labels if "le" in each} - {float("inf")})
        shape[name] = (kind, names, bounds)
    return shape


def test_every_metric_has_kube_proxys_name_type_labels_and_buckets() -> None:
    assert _shape(page(fed())) == EXPECTED


def test_what_has_not_happened_yet_is_not_mentioned() -> None:
    before = _shape(page(Metrics()))
    with_labels = {name for name, (_, labels, _) in EXPECTED.items() if labels}
    always = {"kubernetes_build_info", "kubernetes_feature_enabled", "registered_metrics_total"}
    assert with_labels & before.keys() == always
    assert "kproxy_affinity_clients_limit" not in before
    assert "kubeproxy_sync_proxy_rules_service_changes_total 0\n" in page(Metrics())


def test_the_number_of_registered_metrics_is_right() -> None:
    text = page(fed())
    for level in ("ALPHA", "BETA"):
        registered = re.search(rf'^registered_metrics_total{{.*stability_level="{level}"}} (\d+)$', text, re.MULTILINE)
        assert registered is not None
        assert int(registered[1]) == len(re.findall(rf"^# HELP \S+ \[{level}\]", text, re.MULTILINE))


def test_buckets_are_kube_proxys() -> None:
    assert (SYNC_BUCKETS[0], SYNC_BUCKETS[-1], len(SYNC_BUCKETS)) == (0.001, 16.384, 15)
    assert LATENCY_BUCKETS[:3] == (0.25, 0.5, 1)
    assert LATENCY_BUCKETS[60:63] == (59, 60, 65)
    assert LATENCY_BUCKETS[-1] == 300


def test_values() -> None:
    text = page(fed())
    assert 'kubeproxy_sync_proxy_rules_iptables_total{ip_family="IPv4",table="nat"} 5\n' in text
    assert "kubeproxy_iptables_ct_state_invalid_dropped_packets_total 7\n" in text
    assert 'kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total{ip_family="IPv4"} 2\n' in text
    assert 'rest_client_requests_total{code="200",host="api:6443",method="GET"} 4\n' in text
    assert "kproxy_affinity_clients_limit 100\n" in text
    assert 'git_version="v1.36.2+kproxy-' in text
    assert "_created" not in text


def pending(metrics: Metrics) -> str:
    (value,) = re.findall(r"^kubeproxy_sync_proxy_rules_service_changes_pending (\S+)$", page(metrics), re.MULTILINE)
    return str(value)


def test_services_that_differ_from_what_the_last_round_took_are_pending() -> None:
    metrics = Metrics()
    web, dns = ObjectKey("a", "web"), ObjectKey("a", "dns")
    metrics.service_changed(web, None, 1)
    metrics.service_changed(web, 1, 2)
    metrics.service_changed(dns, None, 1)
    assert pending(metrics) == "2"
    metrics.service_changed(dns, 1, None)
    assert pending(metrics) == "1"
    metrics.taken()
    assert pending(metrics) == "0"
    metrics.service_changed(web, 2, 2)  # metadata alone
    assert pending(metrics) == "0"


def test_a_round_takes_what_is_pending() -> None:
    metrics = fed()
    metrics.taken()
    assert "kubeproxy_sync_proxy_rules_endpoint_changes_pending 0\n" in page(metrics)


def test_a_round_that_failed_counts_as_what_it_was() -> None:
    metrics = Metrics()
    metrics.attempted(V4, 0.1, full=True)
    text = page(metrics)
    assert 'kubeproxy_sync_full_proxy_rules_duration_seconds_count{ip_family="IPv4"} 1' in text
    assert "partial" not in text


def test_a_round_that_wrote_nothing_says_so_and_only_tables_with_rules_of_ours_are_told() -> None:
    metrics = fed()
    metrics.synced(V4, replace(REPORT, rules_written={"mangle": 0}), PLAN, wall=3.0)
    last = re.findall(r'^kubeproxy_sync_proxy_rules_iptables_last{.*table="(.*)"} (\S+)$', page(metrics), re.MULTILINE)
    assert sorted(last) == [("filter", "0"), ("nat", "0")]


def test_two_daemons_in_one_process_do_not_share_anything() -> None:
    fed()
    assert 'code="503"' not in page(Metrics())
