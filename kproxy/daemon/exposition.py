"""How metrics are written, and the generic series that every Kubernetes component has beside its own.

The text is Go's, not Python's: ``le="1"`` and not ``le="1.0"``, because Prometheus 2 takes those for different series
and dashboards were made with Go's; a metric without a sample is not mentioned, as client_golang does not (spec:
runtime.md 10 and 14). OpenMetrics, which prescribes ``1.0``, is for who takes nothing else: kube-proxy does not speak
it, and a Prometheus, which prefers it and takes the text as well, would store other series than before.

``process_*`` is what client_golang says of a process. Of ``go_*`` only two have a meaning here: ``go_goroutines``,
which dashboards draw (kubernetes-mixin), counts asyncio's tasks, for they are what goroutines are there, and
``go_threads`` threads. Rejected: the rest of ``go_*``, which would be invented numbers; the names that describe
client-go's inside (transport caches, exec plugins, its rate limiter); the library's default registry, which would add
series of whatever else was imported and could not exist twice in one process (a test).
"""

from __future__ import annotations

import asyncio
import platform
import re
import threading
from collections.abc import Callable, Iterable, Mapping
from itertools import accumulate
from pathlib import Path

import prometheus_client
from prometheus_client import CollectorRegistry, ProcessCollector, exposition
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from kproxy.config import KUBERNETES, RELEASE
from kproxy.daemon.status import Answer
from kproxy.gates import effective
from kproxy.source.client import go_platform
from kproxy.source.traffic import Distributions, Traffic

# Go writes a whole number without a fraction: as a bound, and as a value at a line's end
_BOUND = re.compile(rb'([{,]le="\d+)\.0"')
_VALUE = re.compile(rb"^([^#\n].* \d+)\.0$", re.MULTILINE)
_NETSTAT = Path("/proc/self/net/netstat")
_LIMITS = Path("/proc/self/limits")
# No commit, date and tree are known to a program that is not built; Prometheus takes an empty label for none.
BUILD = {
    "build_date": "",
    "compiler": platform.python_implementation().lower(),
    "git_commit": "",
    "git_tree_state": "",
    "git_version": RELEASE,
    "go_version": f"python{platform.python_version()}",
    "major": KUBERNETES.split(".", maxsplit=1)[0],
    "minor": KUBERNETES.split(".")[1],
    "platform": go_platform(),
}


def make_registry() -> CollectorRegistry:
    """With the series of any process; without the library's ``_created`` ones, which kube-proxy has none of."""
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]
    registry = CollectorRegistry(auto_describe=False)
    ProcessCollector(registry=registry)
    registry.register(Process())
    registry.register(Build())
    return registry


def expose(registry: Collector, accept: str = "") -> Answer:
    """Everything in ``registry``: as text where the ``Accept`` header has it or is empty, else as OpenMetrics."""
    takes_text = any(each in accept for each in ("text/plain", "text/*", "*/*"))
    render, kind = exposition.choose_encoder("" if takes_text else accept)
    text = render(_Sampled(registry))
    if not kind.startswith("application/openmetrics-text"):
        text = _VALUE.sub(rb"\1", _BOUND.sub(rb'\1"', text))
    return Answer(200, text, {"Content-Type": kind})


class _Sampled(Collector):
    """Leaves out what has no sample."""

    def __init__(self, registry: Collector) -> None:
        self._registry = registry

    def collect(self) -> Iterable[Metric]:
        return (metric for metric in self._registry.collect() if metric.samples)


# --- the process ----------------------------------------------------------------------------------------------


class Process(Collector):
    """What the library's ProcessCollector lacks of client_golang's, and tasks and threads."""

    def collect(self) -> Iterable[Metric]:
        try:
            tasks = len(asyncio.all_tasks())
        except RuntimeError:  # no loop runs in this thread: a test
            tasks = 0
        yield GaugeMetricFamily("go_goroutines", "Number of asyncio tasks, which are goroutines' counterpart", tasks)
        yield GaugeMetricFamily("go_threads", "Number of OS threads", threading.active_count())
        yield from _limit()
        yield from _octets()


def _limit() -> Iterable[Metric]:
    try:
        lines = _LIMITS.read_text(encoding="ascii").splitlines()
    except OSError:
        return
    for line in lines:
        if line.startswith("Max address space"):
            text = line.split()[3]
            # client_golang writes the kernel's RLIM_INFINITY as it is.
            bytes_ = 2.0**64 if text == "unlimited" else float(text)
            name, about = "process_virtual_memory_max_bytes", "Maximum amount of virtual memory available in bytes."
            yield GaugeMetricFamily(name, about, bytes_)


def _octets() -> Iterable[Metric]:
    """Of the process's network namespace, which is what client_golang reads, too."""
    try:
        lines = [line.split() for line in _NETSTAT.read_text(encoding="ascii").splitlines()]
    except OSError:
        return
    for names, values in zip(lines[::2], lines[1::2], strict=False):
        if names[:1] == ["IpExt:"]:
            counts = dict(zip(names, values, strict=False))
            for way, field in (("receive", "InOctets"), ("transmit", "OutOctets")):
                name, about = f"process_network_{way}_bytes_total", f"Number of bytes, {way}d over the network."
                yield CounterMetricFamily(name, about.replace("transmitd", "transmitted"), float(counts.get(field, 0)))


class Build(Collector):
    def collect(self) -> Iterable[Metric]:
        about = "[ALPHA] Whose behaviour this is, and which kproxy behaves so"
        metric = GaugeMetricFamily("kubernetes_build_info", about, labels=tuple(BUILD))
        metric.add_metric(tuple(BUILD.values()), 1)
        yield metric


# --- a Kubernetes component -----------------------------------------------------------------------------------


class Features(Collector):
    """``given``: the gates as the user set them."""

    def __init__(self, given: Iterable[tuple[str, bool]]) -> None:
        self._gates = effective(given)

    def collect(self) -> Iterable[Metric]:
        about = "[BETA] Which feature gates are on"
        metric = GaugeMetricFamily("kubernetes_feature_enabled", about, labels=("name", "stage"))
        for gate, enabled in self._gates:
            metric.add_metric((gate.name, gate.stage.value), enabled)
        yield metric


class Registered(Collector):
    """The metrics about metrics. ``count``: how many there are of a stability level; nothing is hidden or disabled."""

    def __init__(self, count: Callable[[], Mapping[str, int]]) -> None:
        self._count = count

    def collect(self) -> Iterable[Metric]:
        labels = ("deprecated_version", "stability_level")
        metric = CounterMetricFamily("registered_metrics", "[BETA] Metrics by stability level", labels=labels)
        for level, metrics in sorted(self._count().items()):
            metric.add_metric(("", level), metrics)
        yield metric
        yield CounterMetricFamily("disabled_metrics", "[BETA] Metrics that are switched off", 0)
        yield CounterMetricFamily("hidden_metrics", "[BETA] Deprecated metrics that are not shown", 0)


class Requests(Collector):
    """client-go's metrics of its requests to the API server."""

    def __init__(self, traffic: Traffic) -> None:
        self._traffic = traffic

    def collect(self) -> Iterable[Metric]:
        traffic = self._traffic
        labels = ("code", "host", "method")
        requests = CounterMetricFamily("rest_client_requests", "[ALPHA] Requests to the API server", labels=labels)
        for key, count in sorted(traffic.requests.items()):
            requests.add_metric(key, count)
        yield requests
        yield _histogram("request_duration_seconds", "Seconds that requests took", traffic.seconds)
        yield _histogram("request_size_bytes", "Bytes of requests", traffic.sent)
        yield _histogram("response_size_bytes", "Bytes of answers", traffic.received)


def _histogram(name: str, about: str, distributions: Distributions) -> Metric:
    metric = HistogramMetricFamily(f"rest_client_{name}", f"[ALPHA] {about}", labels=("host", "verb"))
    bounds = [*map(floatToGoString, distributions.bounds), "+Inf"]
    for key, each in sorted(distributions.items()):
        metric.add_metric(key, list(zip(bounds, map(float, accumulate(each.counts)), strict=True)), each.sum)
    return metric
