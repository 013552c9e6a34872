"""Our own Node, and the ServiceCIDRs (spec: model.md 8 and 10)."""

from __future__ import annotations

from msgspec import Struct

from kproxy.model.keys import ObjectKey


class Node(Struct, frozen=True, gc=False):
    name: str
    uid: str = ""
    zone: str | None = None  # label topology.kubernetes.io/zone
    addresses: tuple[str, ...] = ()  # InternalIPs in order, then ExternalIPs; canonical text
    pod_cidrs: tuple[str, ...] = ()
    taints: frozenset[str] = frozenset()  # keys only
    deleting: bool = False

    @property
    def key(self) -> ObjectKey:
        return ObjectKey("", self.name)


class ServiceCIDR(Struct, frozen=True, gc=False):
    name: str
    cidrs: tuple[str, ...] = ()

    @property
    def key(self) -> ObjectKey:
        return ObjectKey("", self.name)
