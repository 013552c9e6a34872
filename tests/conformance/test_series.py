"""Values of series and the comparison with the list of kube-proxy's metrics."""

import pytest

from tests.conformance.series import Page

TEXT = """# TYPE kubeproxy_syncs_total counter
kubeproxy_syncs_total{ip_family="IPv4"} 3
kubeproxy_syncs_total{ip_family="IPv6"} 4
# TYPE kubeproxy_seconds histogram
kubeproxy_seconds_bucket{le="0.001"} 1
kubeproxy_seconds_bucket{le="1"} 1
kubeproxy_seconds_bucket{le="+Inf"} 1
kubeproxy_seconds_count 1
kubeproxy_seconds_sum 0.0005
# TYPE kubeproxy_rules_total gauge
kubeproxy_rules_total{table="nat"} 7
"""
LIST = {
    "kubeproxy_syncs_total": {"type": "counter", "labels": ["ip_family"]},
    "kubeproxy_seconds": {"type": "histogram", "buckets": [0.001, 1]},
    "kubeproxy_rules_total": {"type": "gauge", "labels": ["table"]},
}


@pytest.mark.parametrize(
    ("series", "value"),
    [
        ('kubeproxy_syncs_total{ip_family="IPv4"}', 3),
        ("kubeproxy_syncs_total", 7),
        ("kubeproxy_seconds_count", 1),
        ('kubeproxy_syncs_total{ip_family="none"}', None),
    ],
)
def test_labels_that_are_left_out_are_summed_over(series: str, value: float | None) -> None:
    assert Page(TEXT).value(series) == value


def test_growth_counts_from_nothing_where_there_was_nothing() -> None:
    assert Page(TEXT).value("kubeproxy_syncs_total", Page("")) == 7


def test_a_page_that_has_all_and_no_more_is_like_the_list() -> None:
    assert Page(TEXT).compare(LIST) == {"missing": [], "different": {}, "unknown": []}


def test_what_is_missing_different_or_unknown_is_named() -> None:
    listed = {
        "kubeproxy_syncs_total": {"type": "gauge", "labels": ["ip_family"]},
        "kubeproxy_seconds": {"type": "histogram", "buckets": [0.001, 2]},
        "kubeproxy_other": {"type": "gauge"},
        "kubeproxy_late_total": {"type": "counter", "late": True},
    }
    got = Page(TEXT).compare(listed)
    assert got["missing"] == ["kubeproxy_other"]
    assert got["unknown"] == ["kubeproxy_rules_total"]
    assert set(got["different"]) == {"kubeproxy_syncs_total", "kubeproxy_seconds"}
