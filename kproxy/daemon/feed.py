"""From the source's changes to requests for rounds.

Every change goes into the cluster at once; whether a round follows is decided here. None before Services and their
endpoints are both listed, for a half-known cluster looks like one whose Services were deleted. The Node is waited for,
too, but not for ever: it decides on zones, source ranges and the pods' range, yet a node whose Node object cannot be
read should serve rather than be silent (spec: model.md 8).

A change of a slice concerns the family of its addresses alone, everything else both. What is the same as before asks
for nothing, with one exception of kube-proxy's: a slice of which only metadata was edited (spec: model.md 6). A Node
asks where its zone, addresses or pod ranges changed; its taints are for ``/healthz``, which looks for itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from typing import NamedTuple, Protocol

from msgspec.structs import replace

from kproxy.daemon.complaints import Complaints
from kproxy.daemon.log import Log
from kproxy.daemon.metrics import Metrics
from kproxy.model.change import Change, Listed, Put, Rejected, Removed, Resource
from kproxy.model.cluster import Cluster
from kproxy.model.endpoint import EndpointSlice
from kproxy.model.enums import IPFamily, Kind
from kproxy.model.keys import ObjectKey
from kproxy.model.node import Node

_log = Log(__name__)
_ENDPOINTS = {Kind.ENDPOINT_SLICE, Kind.ENDPOINTS}


class Listener(Protocol):
    """One family, as the feed sees it."""

    def note(self, change: Change) -> None: ...

    def request(self) -> None: ...


class Event(NamedTuple):
    """What was heard of one object, as an informer would tell it; None: it is not there."""

    key: ObjectKey
    before: Resource | None
    after: Resource | None


class Feed:
    """``node_wait``: seconds that the first round waits for our Node and its addresses; 0: it does not.

    ``pod_cidr_wait``: seconds that it then waits for the range of the node's pods; 0: nothing depends on that.
    """

    def __init__(
        self,
        cluster: Cluster,
        listeners: Mapping[IPFamily, Listener],
        *,
        metrics: Metrics,
        complaints: Complaints,
        node_wait: float,
        pod_cidr_wait: float = 0.0,
    ) -> None:
        self._cluster = cluster
        self._listeners = listeners
        self._metrics = metrics
        self._complaints = complaints
        self._node_wait = node_wait
        self._pod_cidr_wait = pod_cidr_wait
        self._complete = asyncio.Event()
        self._node_heard = asyncio.Event()
        self._open = False

    async def follow(self, changes: AsyncIterator[Change]) -> None:
        async for change in changes:
            self.take(change)

    def take(self, change: Change) -> None:
        self._complaints.hear(change)
        events = list(self._events(change))
        changed = self._cluster.apply(change)
        if changed and change.kind is Kind.NODE:
            _tell(events)
        self._count(change, events)
        if changed:
            for family in concerned(change, self._listeners):
                self._listeners[family].note(change)
        if self._open and (_is_slice(change) or (changed and _matters(events))):
            for family in concerned(change, self._listeners):
                self._listeners[family].request()
        if self._cluster.complete:
            self._complete.set()
        if self._cluster.node is not None:
            self._node_heard.set()

    async def open(self, node_name: str) -> None:
        """Ask for the first round as soon as enough is known; afterwards every change asks."""
        await self._complete.wait()
        if self._node_wait and not await self._wait_for_node(self._node_wait, lambda node: node.addresses):
            _log.warning(
                "Our Node is not known, or without addresses; going on without",
                node=node_name,
                remedy="give --hostname-override the name that `kubectl get nodes` shows, and allow to read Nodes",
            )
        if self._pod_cidr_wait and not await self._wait_for_node(self._pod_cidr_wait, lambda node: node.pod_cidrs):
            _log.warning(
                "Our Node has no podCIDRs; going on without telling this node's pods from other senders",
                node=node_name,
                remedy="have the controller manager allocate node CIDRs, or choose another --detect-local-mode",
            )
        _log.info("The cluster is known, the first sync begins")
        self._open = True
        self.request_all()

    async def _wait_for_node(self, seconds: float, has: Callable[[Node], object]) -> bool:
        """Until our Node has what is asked for; False: not in time."""
        try:
            async with asyncio.timeout(seconds):
                while not ((node := self._cluster.node) and has(node)):
                    self._node_heard.clear()
                    await self._node_heard.wait()
        except TimeoutError:
            return False
        return True

    def request_all(self) -> None:
        """Something besides the cluster changed that a plan depends on."""
        if self._open:
            for listener in self._listeners.values():
                listener.request()

    def _events(self, change: Change) -> Iterable[Event]:
        """What an informer would have told of this change, before it is applied."""
        cluster = self._cluster
        match change:
            case Listed(kind=kind, objects=objects, rejected=rejected):
                gone = cluster.keys(kind) - {each.key for each in (*objects, *rejected)}
                events = [Event(each.key, cluster.get(kind, each.key), each) for each in objects]
                events += [Event(key, cluster.get(kind, key), None) for key in gone]
                return [event for event in events if event.before != event.after]
            case Put(kind=kind, object=resource):
                return [Event(resource.key, cluster.get(kind, resource.key), resource)]
            case Removed(kind=kind, key=key):
                before = cluster.get(kind, key)
                return [] if before is None else [Event(key, before, None)]
            case Rejected():
                return []

    def _count(self, change: Change, events: list[Event]) -> None:
        if isinstance(change, Rejected):
            return
        if change.kind in _ENDPOINTS and concerned(change, self._listeners):
            changed = sum(event.before != event.after for event in events)
            self._metrics.endpoints_seen(len(events), changed=changed)
        elif change.kind is Kind.SERVICE:
            self._metrics.services_seen(len(events) * len(self._listeners))
            for event in events:
                self._metrics.service_changed(*event)


def _tell(events: Iterable[Event]) -> None:
    for _, before, after in events:
        if isinstance(before, Node) and isinstance(after, Node) and _of_a_plan(before) != _of_a_plan(after):
            _log.info(
                "Our Node changed, planning anew", addresses=after.addresses, podCIDRs=after.pod_cidrs, zone=after.zone
            )


def _is_slice(change: Change) -> bool:
    return isinstance(change, Put) and change.kind is Kind.ENDPOINT_SLICE


def _matters(events: Iterable[Event]) -> bool:
    """Whether a plan can differ; an empty list can have been the first of its kind."""
    return not events or any(_of_a_plan(event.before) != _of_a_plan(event.after) for event in events)


def _of_a_plan(resource: Resource | None) -> Resource | None:
    if isinstance(resource, Node):
        return replace(resource, uid="", taints=frozenset(), deleting=False)
    return resource


def concerned(change: Change, families: Iterable[IPFamily]) -> list[IPFamily]:
    match change:
        case Put(object=EndpointSlice(family=family)):
            return [each for each in families if each is family]
        case _:
            return list(families)
