"""EndpointSlices (and legacy Endpoints in the same shape), reduced to what a proxy reads (spec: model.md 3)."""

from __future__ import annotations

from msgspec import Struct

from kproxy.model.enums import IPFamily, Protocol
from kproxy.model.keys import ObjectKey


class Endpoint(Struct, frozen=True, gc=False):
    """One address of a slice. A cluster has 100,000 of these: keep it small and intern what repeats."""

    ip: str  # canonical text
    node: str | None = None
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    zone_hints: frozenset[str] | None = None
    node_hints: frozenset[str] | None = None


class SlicePort(Struct, frozen=True, gc=False):
    name: str  # may be empty; links to ServicePort.name together with the protocol
    protocol: Protocol
    port: int


class EndpointSlice(Struct, frozen=True, gc=False):
    key: ObjectKey
    service: ObjectKey
    family: IPFamily
    ports: tuple[SlicePort, ...] = ()
    endpoints: tuple[Endpoint, ...] = ()
    triggered: float = 0.0  # annotation last-change-trigger-time, seconds since the epoch; 0: absent


class Endpoints(Struct, frozen=True, gc=False):
    """A legacy Endpoints object, already told apart by family and subset into slices of its own."""

    key: ObjectKey  # of the Endpoints object, which is also that of its Service
    slices: tuple[EndpointSlice, ...] = ()
