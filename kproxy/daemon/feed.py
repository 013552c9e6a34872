"""From the source's changes to requests for rounds.

Every change goes into the cluster at once; whether a round follows is decided here. None before Services and their
endpoints are both listed, for a half-known cluster looks like one whose Services were deleted. The Node is waited for,
too, but not for ever: it decides on zones, source ranges and the pods' range, yet a node whose Node object cannot be
read should serve rather than be silent (spec: model.md 8).

A change of a slice concerns the family of its addresses alone, everything else both.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Mapping
from typing import Protocol

from kproxy.daemon.complaints import Complaints
from kproxy.daemon.log import Log
from kproxy.daemon.metrics import Metrics
from kproxy.model.change import Change, Listed, Put, Rejected
from kproxy.model.cluster import Cluster
from kproxy.model.endpoint import EndpointSlice
from kproxy.model.enums import IPFamily, Kind

_log = Log(__name__)
_ENDPOINTS = {Kind.ENDPOINT_SLICE, Kind.ENDPOINTS}


class Listener(Protocol):
    """One family, as the feed sees it."""

    def note(self, change: Change) -> None: ...

    def request(self) -> None: ...


class Feed:
    """``node_wait``: seconds that the first round waits for our Node; 0: it does not."""

    def __init__(
        self,
        cluster: Cluster,
        listeners: Mapping[IPFamily, Listener],
        *,
        metrics: Metrics,
        complaints: Complaints,
        node_wait: float,
    ) -> None:
        self._cluster = cluster
        self._listeners = listeners
        self._metrics = metrics
        self._complaints = complaints
        self._node_wait = node_wait
        self._complete = asyncio.Event()
        self._node_known = asyncio.Event()
        self._open = False

    async def follow(self, changes: AsyncIterator[Change]) -> None:
        async for change in changes:
            self.take(change)

    def take(self, change: Change) -> None:
        self._complaints.hear(change)
        if not self._cluster.apply(change):
            return
        self._count(change)
        for family in concerned(change, self._listeners):
            self._listeners[family].note(change)
            if self._open:
                self._listeners[family].request()
        if self._cluster.complete:
            self._complete.set()
        if self._cluster.node is not None:
            self._node_known.set()

    async def open(self, node_name: str) -> None:
        """Ask for the first round as soon as enough is known; afterwards every change asks."""
        await self._complete.wait()
        try:
            async with asyncio.timeout(self._node_wait):
                await self._node_known.wait()
        except TimeoutError:
            if self._node_wait:
                _log.warning(
                    "Our Node is not known, going on without its zone and addresses",
                    node=node_name,
                    remedy="give --hostname-override the name that `kubectl get nodes` shows, and allow to read Nodes",
                )
        _log.info("The cluster is known, the first sync begins")
        self._open = True
        self.request_all()

    def request_all(self) -> None:
        """Something besides the cluster changed that a plan depends on."""
        if self._open:
            for listener in self._listeners.values():
                listener.request()

    def _count(self, change: Change) -> None:
        match change:
            case Rejected():
                return
            case Listed(kind=kind, objects=objects):
                changes = len(objects)
            case _:
                kind, changes = change.kind, 1
        if kind in _ENDPOINTS:
            self._metrics.endpoint_changed(changes)
        elif kind is Kind.SERVICE:
            self._metrics.service_changed(changes)


def concerned(change: Change, families: Iterable[IPFamily]) -> list[IPFamily]:
    match change:
        case Put(object=EndpointSlice(family=family)):
            return [each for each in families if each is family]
        case _:
            return list(families)
