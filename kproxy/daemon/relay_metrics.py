"""What the relay counts, for ``/metrics``: one series for each relayed service port.

Read at each scrape from the sums that this process keeps (backend/userspace/crew.py); workers tell it what they add.
prometheus_client's way for several processes, files that they share, knows no collectors of one's own and no process
that ends. Nothing is shown of a service port that is not relayed, nor of one that is gone.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from itertools import accumulate
from typing import Protocol

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from kproxy.backend.userspace.counts import BUCKETS, Tally
from kproxy.model import enums
from kproxy.model.keys import ServicePortKey

_LABELS = ("namespace", "service", "port", "protocol")
_PREFIX = "kproxy_userspace_"
_BOUNDS = (*(f"{bound}" for bound in BUCKETS), "+Inf")


class Figures(Protocol):
    """What a crew tells of itself; ``tallies`` since the start, of all workers together."""

    replaced: int

    @property
    def open_listeners(self) -> Collection[object]: ...

    @property
    def serving(self) -> Collection[object]: ...

    @property
    def tallies(self) -> Mapping[ServicePortKey, Tally]: ...


class RelayCollector(Collector):
    def __init__(self, crew: Figures) -> None:
        self._crew = crew

    def collect(self) -> Iterable[Metric]:
        return (*self._workers(), *self._services()) if self._crew.open_listeners or self._crew.tallies else ()

    def _workers(self) -> Iterable[Metric]:
        yield GaugeMetricFamily(f"{_PREFIX}workers", "Workers of the relay that serve", value=len(self._crew.serving))
        text = "Workers of the relay that ended without having been told to"
        yield CounterMetricFamily(f"{_PREFIX}worker_restarts", text, value=self._crew.replaced)

    def _services(self) -> Iterable[Metric]:
        flows = _counter("connections", "Connections (UDP: sessions) that reached an endpoint")
        active = _gauge("connections_active", "Connections (UDP: sessions) at present")
        bytes_ = _counter("bytes", "Bytes passed on, in from clients and out to them", "direction")
        retries = _counter("connect_retries", "Attempts to reach an endpoint after a connection's first")
        ejections = _counter("ejections", "Endpoints that were left out for a while because they could not be reached")
        ejected = _gauge("ejected_endpoints", "Endpoints that are left out at present; each worker counts its own")
        refused = _counter("refused", "Connections that no endpoint got", "reason")
        evicted = _counter("sessions_evicted", "UDP sessions that ended because there were too many")
        hidden = _counter("hidden", "Connections whose endpoint was to see the client, and sees this node")
        dropped = _counter("datagrams_dropped", "Datagrams that found a queue full")
        seconds = HistogramMetricFamily(
            f"{_PREFIX}connect_duration_seconds",
            "From a client's coming to an endpoint's answer, retries included",
            labels=_LABELS,
        )
        for key, tally in sorted(self._crew.tallies.items()):
            labels = (key.namespace, key.name, key.port, key.protocol.value)
            flows.add_metric(labels, tally.flows)
            active.add_metric(labels, tally.active)
            bytes_.add_metric((*labels, "in"), tally.received)
            bytes_.add_metric((*labels, "out"), tally.sent)
            retries.add_metric(labels, tally.retries)
            ejections.add_metric(labels, tally.ejections)
            ejected.add_metric(labels, tally.ejected)
            hidden.add_metric(labels, tally.hidden)
            for reason, times in sorted(tally.refused.items()):
                refused.add_metric((*labels, reason), times)
            if key.protocol is enums.Protocol.TCP:
                buckets = list(zip(_BOUNDS, accumulate(tally.connects), strict=True))
                seconds.add_metric(labels, buckets, sum_value=tally.connect_seconds)
            else:
                evicted.add_metric(labels, tally.evicted)
                dropped.add_metric(labels, tally.dropped)
        return (flows, active, bytes_, retries, ejections, ejected, refused, hidden, evicted, dropped, seconds)


def _counter(name: str, text: str, *more: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"{_PREFIX}{name}", text, labels=(*_LABELS, *more))


def _gauge(name: str, text: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"{_PREFIX}{name}", text, labels=_LABELS)
