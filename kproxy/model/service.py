"""A Service, reduced to what a proxy reads (spec: model.md 2)."""

from __future__ import annotations

from msgspec import Struct

from kproxy.model.enums import Protocol, ServiceType, TrafficPolicy
from kproxy.model.keys import ObjectKey
from kproxy.model.relay import NO_WISH, Wish


class ServicePort(Struct, frozen=True, gc=False):
    name: str  # may be empty
    protocol: Protocol
    port: int
    node_port: int = 0  # 0: none


class Service(Struct, frozen=True, gc=False):
    """All addresses are canonical text, of both families; which of them count is decided in ``plan/``.

    A Service that no proxy serves (headless, ExternalName) has no ``cluster_ips``.
    """

    key: ObjectKey
    type: ServiceType = ServiceType.CLUSTER_IP
    cluster_ips: tuple[str, ...] = ()  # at most one of each family
    ports: tuple[ServicePort, ...] = ()
    external_ips: tuple[str, ...] = ()
    load_balancer_vips: tuple[str, ...] = ()  # ipMode VIP or unset
    source_ranges: tuple[str, ...] = ()  # CIDRs masked to their network, in the order of the object
    internal_policy: TrafficPolicy = TrafficPolicy.CLUSTER
    external_policy: TrafficPolicy = TrafficPolicy.CLUSTER
    affinity_seconds: int = 0  # sessionAffinity ClientIP; 0: none
    health_check_node_port: int = 0  # as given; 0: none
    wish: Wish = NO_WISH
    created: str = ""  # RFC 3339; decides who wins a clash
    uid: str = ""  # for events
