"""Healthy or not: what ``/healthz``, ``/livez``, ``/readyz`` and the health-check node ports answer. Pure.

Health is the age of the oldest change that is not yet in the kernel, for each IP family: while it is younger than
twice the sync period, retries still have a chance; beyond, the node serves yesterday's cluster and says so (spec:
runtime.md 8). kube-proxy counts from the last request and forgets it when any sync succeeds; here a change counts
until the round that read it has succeeded, so a change that arrives during a round is not forgotten with it.

``/readyz`` is ours: the first full sync of every family is done. Bodies are kube-proxy's, byte for byte.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, Iterable
from datetime import UTC, datetime
from typing import NamedTuple

from msgspec import Struct

from kproxy.model.enums import IPFamily
from kproxy.model.node import Node
from kproxy.plan.plan import HealthCheck

_AUTOSCALER_TAINT = "ToBeDeletedByClusterAutoscaler"
_NANOSECONDS = 1_000_000_000


class Instant(NamedTuple):
    """One moment on both clocks: one to measure ages with, one to print."""

    monotonic: float  # seconds
    wall_ns: int  # nanoseconds since the epoch


class Answer(Struct, frozen=True):
    """What an HTTP client is told."""

    status: int
    body: bytes
    headers: dict[str, str]
    pieces: AsyncIterable[bytes] | None = None  # instead of the body, where it is large

    @property
    def ok(self) -> bool:
        return self.status == 200


class _Family(Struct):
    updated_ns: int
    waiting: float | None = None  # when the oldest change was queued that no round has read
    in_flight: float | None = None  # the same for what the round that runs now has read
    ready: bool = False

    @property
    def oldest(self) -> float | None:
        pending = [each for each in (self.waiting, self.in_flight) if each is not None]
        return min(pending, default=None)


class Health:
    """What is pending for each family. ``sync_period``: seconds; all ages are compared with twice that."""

    def __init__(self, families: Iterable[IPFamily] = (), *, sync_period: float) -> None:
        self._families = tuple(families)
        self._limit = 2 * sync_period
        self._states: dict[IPFamily, _Family] = {}

    def expect(self, families: Iterable[IPFamily]) -> None:
        """Which families this node has; nobody is ready before that is known."""
        self._families = tuple(families)

    def started(self, family: IPFamily, at: Instant) -> None:
        """The family's loop runs: from now on it is reported, and healthy."""
        self._states[family] = _Family(at.wall_ns)

    def queued(self, family: IPFamily, at: Instant) -> None:
        """A change wants to be in the kernel; only the oldest matters."""
        state = self._states.setdefault(family, _Family(at.wall_ns))
        if state.waiting is None:
            state.waiting = at.monotonic

    def taken(self, family: IPFamily) -> None:
        """A round has read everything that is queued."""
        state = self._states[family]
        state.in_flight, state.waiting = state.oldest, None

    def synced(self, family: IPFamily, at: Instant) -> None:
        """What that round had read is in the kernel."""
        state = self._states[family]
        state.in_flight = None
        state.updated_ns = at.wall_ns
        state.ready = True

    def failed(self, family: IPFamily) -> None:
        """What that round had read is not in the kernel: it waits on, as old as it is."""
        state = self._states[family]
        state.waiting, state.in_flight = state.oldest, None

    def pending_seconds(self, family: IPFamily, at: Instant) -> float:
        """Age of the oldest change not yet in the kernel; 0: none."""
        state = self._states.get(family)
        oldest = state.oldest if state else None
        return 0.0 if oldest is None else max(0.0, at.monotonic - oldest)

    @property
    def ready(self) -> bool:
        states = [self._states.get(family) for family in self._families]
        return bool(states) and all(state is not None and state.ready for state in states)

    def healthy(self, at: Instant) -> bool:
        return all(self._family_healthy(family, at) for family in self._states)

    def healthz(self, node: Node | None, at: Instant) -> Answer:
        """For load balancers: 200 when healthy and the node is here to stay."""
        eligible = is_eligible(node)
        return self._answer(at, {"nodeEligible": eligible}, ok=eligible and self.healthy(at))

    def livez(self, at: Instant) -> Answer:
        """For the liveness probe: 200 when rules follow the cluster. A draining node is no reason to restart us."""
        return self._answer(at, {}, ok=self.healthy(at))

    def readyz(self) -> Answer:
        return Answer(200 if self.ready else 503, b"ok" if self.ready else b"the first sync is not done", TEXT)

    def health_check(self, check: HealthCheck, at: Instant) -> Answer:
        """What a Service's health-check node port answers (spec: runtime.md 9)."""
        healthy = self.healthy(at)
        body = {
            "service": {"namespace": check.service.namespace, "name": check.service.name},
            "localEndpoints": check.local_ready,
            "serviceProxyHealthy": healthy,
        }
        headers = JSON | {"X-Load-Balancing-Endpoint-Weight": str(check.local_ready)}
        ok = healthy and check.local_ready > 0
        return Answer(200 if ok else 503, json.dumps(body, indent="\t").encode(), headers)

    def _family_healthy(self, family: IPFamily, at: Instant) -> bool:
        oldest = self._states[family].oldest
        return oldest is None or at.monotonic - oldest < self._limit

    def _answer(self, at: Instant, eligibility: dict[str, object], *, ok: bool) -> Answer:
        now = rfc3339(at.wall_ns)
        newest = max((state.updated_ns for state in self._states.values()), default=None)
        body: dict[str, object] = {
            "lastUpdated": now if ok else rfc3339(newest),
            "currentTime": now,
            **eligibility,
            "healthy": self.healthy(at),
        }
        if self._states:
            body["status"] = {
                family.value: {
                    "lastUpdated": rfc3339(self._states[family].updated_ns),
                    "healthy": self._family_healthy(family, at),
                }
                for family in sorted(self._states)
            }
        return Answer(200 if ok else 503, json.dumps(body, separators=(",", ":")).encode(), JSON)


def is_eligible(node: Node | None) -> bool:
    """Should a load balancer send new connections to this node?"""
    return node is not None and not node.deleting and _AUTOSCALER_TAINT not in node.taints


def rfc3339(ns: int | None) -> str:
    """UTC with as many decimals as are needed, as Go prints a time; its zero time where there is none."""
    if ns is None:
        return "0001-01-01T00:00:00Z"
    seconds, fraction = divmod(ns, _NANOSECONDS)
    decimals = f".{fraction:09d}".rstrip("0").rstrip(".")
    return f"{datetime.fromtimestamp(seconds, tz=UTC):%Y-%m-%dT%H:%M:%S}{decimals}Z"


TEXT = {"Content-Type": "text/plain; charset=utf-8", "X-Content-Type-Options": "nosniff"}
JSON = {"Content-Type": "application/json", "X-Content-Type-Options": "nosniff"}
