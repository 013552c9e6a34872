"""Names, labels and buckets, as dashboards know them."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from kproxy.backend.base import SyncReport
from kproxy.daemon.metrics import LATENCY_BUCKETS, SYNC_BUCKETS, Metrics
from kproxy.model.enums import IPFamily
from kproxy.plan.plan import NodePorts, Plan

V4 = IPFamily.IPV4
REPORT = SyncReport(full=False, rules_total={"nat": 5, "filter": 2}, rules_written={"nat": 1}, refused=1)
PLAN = Plan(V4, {}, NodePorts())


def fed() -> Metrics:
    metrics = Metrics()
    metrics.queued(V4, 1.0)
    metrics.endpoint_changed()
    metrics.service_changed(2)
    metrics.attempted(V4, 0.1)
    metrics.synced(V4, REPORT, PLAN, seconds=0.1, wall=2.0)
    metrics.programmed(V4, 0.7)
    metrics.cleaned(V4, seconds=0.01, deleted=3)
    metrics.answered_healthz(503)
    metrics.answered_livez(200)
    metrics.observe_pending([V4], lambda _: 1.5)
    metrics.observe_nfacct(lambda: {"ct_state_invalid_dropped_pkts": 7, "somebody_elses": 1})
    metrics.observe_requests(lambda: "https://api:6443", lambda: {("200", "GET"): 4, ("<error>", "GET"): 1})
    return metrics


def test_every_series_has_kube_proxys_name_type_and_labels() -> None:
    families = {family.name: family for family in text_string_to_metric_families(fed().render().decode())}
    shape = {
        name: (family.type, sorted({key for sample in family.samples for key in sample.labels} - {"le"}))
        for name, family in families.items()
        if name.startswith("k")
    }
    per_family = ["ip_family"]
    assert shape == {
        "kubeproxy_sync_proxy_rules_duration_seconds": ("histogram", per_family),
        "kubeproxy_sync_full_proxy_rules_duration_seconds": ("histogram", []),
        "kubeproxy_sync_partial_proxy_rules_duration_seconds": ("histogram", per_family),
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds": ("gauge", per_family),
        "kubeproxy_sync_proxy_rules_last_queued_timestamp_seconds": ("gauge", per_family),
        "kubeproxy_network_programming_duration_seconds": ("histogram", per_family),
        "kubeproxy_sync_proxy_rules_endpoint_changes_pending": ("gauge", []),
        "kubeproxy_sync_proxy_rules_endpoint_changes": ("counter", []),
        "kubeproxy_sync_proxy_rules_service_changes_pending": ("gauge", []),
        "kubeproxy_sync_proxy_rules_service_changes": ("counter", []),
        "kubeproxy_sync_proxy_rules_no_local_endpoints_total": ("gauge", ["ip_family", "traffic_policy"]),
        "kubeproxy_proxy_healthz": ("counter", ["code"]),
        "kubeproxy_proxy_livez": ("counter", ["code"]),
        "kubeproxy_conntrack_reconciler_sync_duration_seconds": ("histogram", per_family),
        "kubeproxy_conntrack_reconciler_deleted_entries": ("counter", per_family),
        "kubeproxy_sync_proxy_rules_iptables_restore_failures": ("counter", per_family),
        "kubeproxy_sync_proxy_rules_iptables_partial_restore_failures": ("counter", per_family),
        "kubeproxy_sync_proxy_rules_iptables_total": ("gauge", ["ip_family", "table"]),
        "kubeproxy_sync_proxy_rules_iptables_last": ("gauge", ["ip_family", "table"]),
        "kubeproxy_iptables_ct_state_invalid_dropped_packets": ("counter", []),
        "kubernetes_build_info": ("gauge", ["compiler", "git_version", "major", "minor", "platform"]),
        "kproxy_quarantined_services": ("gauge", per_family),
        "kproxy_oldest_pending_change_seconds": ("gauge", per_family),
    }


def test_buckets_are_kube_proxys() -> None:
    assert (SYNC_BUCKETS[0], SYNC_BUCKETS[-1], len(SYNC_BUCKETS)) == (0.001, 16.384, 15)
    assert LATENCY_BUCKETS[:3] == (0.25, 0.5, 1)
    assert LATENCY_BUCKETS[60:63] == (59, 60, 65)
    assert LATENCY_BUCKETS[-1] == 300


def test_values() -> None:
    text = fed().render().decode()
    assert 'kubeproxy_sync_proxy_rules_iptables_total{ip_family="IPv4",table="nat"} 5.0' in text
    assert "kubeproxy_iptables_ct_state_invalid_dropped_packets_total 7.0" in text
    assert "kubeproxy_sync_proxy_rules_service_changes_pending 2.0" in text
    assert 'kubeproxy_sync_proxy_rules_iptables_partial_restore_failures_total{ip_family="IPv4"} 1.0' in text
    assert 'rest_client_requests_total{code="200",host="api:6443",method="GET"} 4.0' in text
    assert 'rest_client_requests_total{code="<error>",host="api:6443",method="GET"} 1.0' in text
    assert "_created" not in text


def test_a_round_takes_what_is_pending() -> None:
    metrics = fed()
    metrics.taken()
    assert b"kubeproxy_sync_proxy_rules_endpoint_changes_pending 0.0" in metrics.render()


def test_two_daemons_in_one_process_do_not_share_anything() -> None:
    fed()
    assert b'code="503"' not in Metrics().render()
