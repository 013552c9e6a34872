"""What the health server and the metrics server answer, by path (spec: runtime.md 8 and 10).

Paths and bodies are kube-proxy's; ``/readyz`` on the health server is ours. What each page says is decided elsewhere:
health in ``status.py``, metrics in ``metrics.py``, the configuration in ``configz.py``, ``/flagz`` and ``/statusz`` in
``zpages.py``, what a profiler asks in ``debug.py``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from kproxy.config import Config
from kproxy.daemon import debug, zpages
from kproxy.daemon.configz import describe
from kproxy.daemon.exposition import expose
from kproxy.daemon.metrics import Metrics
from kproxy.daemon.server import Page, Question
from kproxy.daemon.status import TEXT, Answer, Health, Instant
from kproxy.gates import is_enabled
from kproxy.model.node import Node


def health_pages(
    health: Health, metrics: Metrics, node: Callable[[], Node | None], now: Callable[[], Instant]
) -> dict[str, Page]:
    def healthz(_: Question) -> Answer:
        answer = health.healthz(node(), now())
        metrics.answered_healthz(answer.status)
        return answer

    def livez(_: Question) -> Answer:
        answer = health.livez(now())
        metrics.answered_livez(answer.status)
        return answer

    return {"/healthz": healthz, "/livez": livez, "/readyz": lambda _: health.readyz()}


def metrics_pages(metrics: Metrics, config: Config, facts: Callable[[bool], Mapping[str, str]]) -> dict[str, Page]:
    """``facts``: what ``/statusz`` shows beside what every component shows there.

    They name objects of the cluster, which metrics do not, only to whom they are told to: who asks from a loopback
    address. The metrics server may listen to the whole network.
    """
    configz = describe(config)
    checks = _Checks()

    def healthz(question: Question) -> Answer:
        checks.passed += 1
        return Answer(200, b"[+]ping ok\nhealthz check passed\n" if "verbose" in question.query else b"ok", TEXT)

    pages: dict[str, Page] = {
        "/healthz": healthz,
        "/healthz/ping": lambda _: Answer(200, b"ok", TEXT),
        "/metrics": lambda question: metrics.scrape(question.accept),
        "/metrics/slis": lambda question: expose(checks, question.accept),
        "/proxyMode": lambda _: Answer(200, config.proxy_mode.value.encode(), TEXT),
        "/configz": lambda _: Answer(200, configz, {"Content-Type": "application/json"}),
    }
    if is_enabled("ComponentFlagz", config.feature_gates):
        pages["/flagz"] = lambda question: zpages.flagz(config, question.accept)
    if is_enabled("ComponentStatusz", config.feature_gates):
        pages["/statusz"] = lambda question: zpages.statusz(sorted(pages), facts(question.is_local), question.accept)
    if config.profiling:
        pages |= debug.pages()
    return pages


class _Checks(Collector):
    """``/metrics/slis``: how the checks of ``/healthz`` went, of which there is one that cannot fail."""

    def __init__(self) -> None:
        self.passed = 0

    def collect(self) -> list[Metric]:
        result = GaugeMetricFamily(
            "kubernetes_healthcheck", "[STABLE] The latest result of a health check", labels=("name", "type")
        )
        results = CounterMetricFamily(
            "kubernetes_healthchecks", "[STABLE] The results of a health check", labels=("name", "status", "type")
        )
        if self.passed:
            result.add_metric(("ping", "healthz"), 1)
            results.add_metric(("ping", "success", "healthz"), self.passed)
        start = GaugeMetricFamily(
            "process_start_time_seconds",
            "[ALPHA] Start time of the process since unix epoch in seconds.",
            zpages.started(),
        )
        return [result, results, start]
