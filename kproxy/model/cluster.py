"""The one mutable store: changes in, frozen snapshots out.

It holds the newest known version of every object and answers whether we know enough to act: nothing is programmed
before both Services and their endpoints were listed (spec: model.md 1), for a half-known cluster looks like one whose
services were deleted.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import cast

from msgspec import Struct

from kproxy.model.change import Change, Listed, Put, Rejected, Removed, Resource
from kproxy.model.endpoint import Endpoints, EndpointSlice
from kproxy.model.enums import Kind
from kproxy.model.keys import ObjectKey
from kproxy.model.node import Node, ServiceCIDR
from kproxy.model.service import Service


class Snapshot(Struct, frozen=True):
    """The cluster at one moment. A part that did not change is the same object as in the snapshot before."""

    services: Mapping[ObjectKey, Service]
    slices: Mapping[ObjectKey, tuple[EndpointSlice, ...]]  # by the Service's key, in the order of their names
    node: Node | None = None
    service_cidrs: tuple[str, ...] = ()


class Cluster:
    """Apply changes, take snapshots. ``node_name``: the only Node that is kept."""

    def __init__(self, node_name: str) -> None:
        self._node_name = node_name
        self._objects: dict[Kind, dict[ObjectKey, Resource]] = {kind: {} for kind in Kind}
        self._listed: set[Kind] = set()
        self._slices: dict[ObjectKey, tuple[EndpointSlice, ...]] = {}
        self._node: Node | None = None

    @property
    def complete(self) -> bool:
        """Services and endpoints have both been listed at least once."""
        return Kind.SERVICE in self._listed and bool({Kind.ENDPOINT_SLICE, Kind.ENDPOINTS} & self._listed)

    @property
    def node(self) -> Node | None:
        """The last known version of our Node; kept when the Node is deleted (spec: model.md 6)."""
        return self._node

    def get(self, kind: Kind, key: ObjectKey) -> Resource | None:
        return self._objects[kind].get(key)

    def keys(self, kind: Kind) -> frozenset[ObjectKey]:
        return frozenset(self._objects[kind])

    def apply(self, change: Change) -> bool:
        """Take one change in; say whether anything that we hold differs after it."""
        match change:
            case Listed():
                return self._replace(change)
            case Put():
                return self._put(change.kind, change.object.key, change.object)
            case Removed():
                return self._put(change.kind, change.key, None)
            case Rejected():
                return False

    def snapshot(self) -> Snapshot:
        services = cast("dict[ObjectKey, Service]", self._objects[Kind.SERVICE])
        cidrs = cast("dict[ObjectKey, ServiceCIDR]", self._objects[Kind.SERVICE_CIDR])
        return Snapshot(
            services=MappingProxyType(dict(services)),
            slices=MappingProxyType(dict(self._slices)),
            node=self._node,
            service_cidrs=tuple(sorted({cidr for each in cidrs.values() for cidr in each.cidrs})),
        )

    def _replace(self, change: Listed) -> bool:
        first = change.kind not in self._listed
        self._listed.add(change.kind)
        keep = {rejection.key for rejection in change.rejected}
        wanted = {resource.key: resource for resource in change.objects}
        gone = self._objects[change.kind].keys() - wanted.keys() - keep
        changed = [self._put(change.kind, key, None) for key in gone]
        changed += [self._put(change.kind, key, resource) for key, resource in wanted.items()]
        return first or any(changed)

    def _put(self, kind: Kind, key: ObjectKey, resource: Resource | None) -> bool:
        objects = self._objects[kind]
        old = objects.get(key)
        if old == resource:
            return False
        if resource is None:
            del objects[key]
        else:
            objects[key] = resource
        if kind in {Kind.ENDPOINT_SLICE, Kind.ENDPOINTS}:
            self._regroup(old, resource)
        elif isinstance(resource, Node) and resource.name == self._node_name:
            self._node = resource
        return True

    def _regroup(self, old: Resource | None, new: Resource | None) -> None:
        """Keep slices by Service. A slice whose service-name label was edited leaves its old Service too."""
        outgoing, incoming = _slices_of(old), _slices_of(new)
        for service in {each.service for each in (*outgoing, *incoming)}:
            kept = [each for each in self._slices.get(service, ()) if each not in outgoing]
            kept += [each for each in incoming if each.service == service]
            if kept:
                self._slices[service] = tuple(sorted(kept, key=lambda each: (each.key, each.family)))
            else:
                self._slices.pop(service, None)


def _slices_of(resource: Resource | None) -> tuple[EndpointSlice, ...]:
    match resource:
        case EndpointSlice():
            return (resource,)
        case Endpoints():
            return resource.slices
        case _:
            return ()
