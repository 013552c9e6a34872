"""How metrics are written. Which there are is in test_metrics.py."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Gauge, Histogram
from prometheus_client.openmetrics.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

from kproxy.daemon import exposition
from kproxy.daemon.exposition import Features, Process, Registered, expose, make_registry
from kproxy.daemon.metrics import Metrics

PROMETHEUS = "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.1"


def text(*collectors: Collector, accept: str = "") -> str:
    registry = CollectorRegistry(auto_describe=False)
    for each in collectors:
        registry.register(each)
    return expose(registry, accept).body.decode()


@pytest.fixture(autouse=True)
def _without_created() -> None:
    make_registry()


@pytest.fixture
def spans() -> Histogram:
    histogram = Histogram("span", "s", buckets=(0.5, 1, 1048576), registry=None)
    histogram.observe(1)
    return histogram


def test_bounds_and_whole_numbers_are_written_as_go_writes_them(spans: Histogram) -> None:
    assert [line for line in text(spans).splitlines() if not line.startswith("#")] == [
        'span_bucket{le="0.5"} 0',
        'span_bucket{le="1"} 1',
        'span_bucket{le="1.048576e+06"} 1',
        'span_bucket{le="+Inf"} 1',
        "span_count 1",
        "span_sum 1",
    ]


def test_a_label_that_looks_like_a_number_stays() -> None:
    gauge = Gauge("g", "Version 1.0", ["release"], registry=None)
    gauge.labels('1.0" le="2.0').set(1.5)
    assert text(gauge).splitlines()[0] == "# HELP g Version 1.0"
    assert text(gauge).splitlines()[-1] == 'g{release="1.0\\" le=\\"2.0"} 1.5'


@pytest.mark.parametrize("accept", ["", "text/plain", "*/*", "application/json", PROMETHEUS])
def test_text_is_for_everybody_who_takes_it(spans: Histogram, accept: str) -> None:
    answer = expose(spans, accept)
    assert answer.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert b'le="1"' in answer.body


def test_open_metrics_are_for_who_takes_nothing_else(spans: Histogram) -> None:
    answer = expose(spans, "application/openmetrics-text;version=1.0.0")
    assert answer.headers["Content-Type"].startswith("application/openmetrics-text; version=1.0.0; charset=utf-8")
    assert b'le="1.0"' in answer.body
    whole = Metrics().answer("application/openmetrics-text").body.decode()
    assert len(list(text_string_to_metric_families(whole))) > 10  # its parser forgives nothing


def test_a_metric_without_a_sample_is_not_mentioned() -> None:
    assert text(Gauge("g", "G", ["a"], registry=None)) == ""


def test_metrics_are_counted_by_level() -> None:
    assert text(Registered(lambda: {"ALPHA": 3})).count("registered_metrics_total") == 3
    assert 'registered_metrics_total{deprecated_version="",stability_level="ALPHA"} 3' in text(
        Registered(lambda: {"ALPHA": 3})
    )


def test_gates_have_their_stage_and_state() -> None:
    said = text(Features([("ComponentFlagz", False)]))
    assert 'kubernetes_feature_enabled{name="ComponentFlagz",stage="BETA"} 0' in said
    assert 'kubernetes_feature_enabled{name="AllowServiceExternalIPs",stage=""} 1' in said


async def test_a_process_has_tasks_and_threads_and_without_proc_nothing_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _names(Process().collect()) == {
        "go_goroutines",
        "go_threads",
        "process_network_receive_bytes",
        "process_network_transmit_bytes",
        "process_virtual_memory_max_bytes",
    }
    assert "go_goroutines 1\n" in text(Process())
    monkeypatch.setattr(exposition, "_NETSTAT", tmp_path / "none")
    monkeypatch.setattr(exposition, "_LIMITS", tmp_path / "none")
    assert _names(Process().collect()) == {"go_goroutines", "go_threads"}


def test_a_limited_process_says_its_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = tmp_path / "limits"
    limits.write_text("Max address space         1000000              unlimited            bytes\n", encoding="ascii")
    monkeypatch.setattr(exposition, "_LIMITS", limits)
    assert "process_virtual_memory_max_bytes 1e+06\n" in text(Process())


def _names(metrics: Iterable[object]) -> set[str]:
    return {each.name for each in metrics}  # type: ignore[attr-defined]
