"""A Service as the API prints it to a Service as a proxy reads it (spec: model.md 2)."""

from __future__ import annotations

import re

from kproxy.model.enums import IPFamily, Protocol, ServiceType, TrafficPolicy
from kproxy.model.keys import ObjectKey
from kproxy.model.service import Service, ServicePort
from kproxy.source import wire
from kproxy.source.address import family_of, parse_cidr, parse_ip
from kproxy.source.review import Review, Unusable, optional_port, port_name, port_number, protocol, show

_DEFAULT_AFFINITY_SECONDS = 10800  # what the API server fills in
_LONGEST_AFFINITY_SECONDS = 86400
_TYPES = {None: ServiceType.CLUSTER_IP, "": ServiceType.CLUSTER_IP} | {each.value: each for each in ServiceType}
_POLICIES = {None: TrafficPolicy.CLUSTER, "": TrafficPolicy.CLUSTER} | {each.value: each for each in TrafficPolicy}
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)


def convert_service(key: ObjectKey, metadata: wire.Metadata, given: wire.Service, review: Review) -> Service:
    """Raises ``Unusable`` where a guess would be needed; notes what was dropped in ``review``."""
    spec = given.spec or wire.ServiceSpec()
    created = metadata.creation_timestamp or ""
    return Service(
        key=key,
        type=_service_type(spec.type),
        cluster_ips=_cluster_ips(spec),
        ports=_ports(spec.ports or []),
        external_ips=_addresses(spec.external_ips or [], "spec.externalIPs", review),
        load_balancer_vips=_vips(given.status, review),
        source_ranges=_source_ranges(spec.load_balancer_source_ranges or [], review),
        internal_policy=_policy(spec.internal_traffic_policy, "spec.internalTrafficPolicy"),
        external_policy=_policy(spec.external_traffic_policy, "spec.externalTrafficPolicy"),
        affinity_seconds=_affinity_seconds(spec),
        health_check_node_port=optional_port(spec.health_check_node_port, "spec.healthCheckNodePort"),
        created=created if _RFC3339.fullmatch(created) else "",
        uid=metadata.uid or "",
    )


def _service_type(value: str | None) -> ServiceType:
    known = _TYPES.get(value)
    if known is None:
        known_names = ", ".join(ServiceType)
        raise Unusable("spec.type", f"is {show(value or '')}, an unknown type", f"use one of {known_names}")
    return known


def _policy(value: str | None, field: str) -> TrafficPolicy:
    known = _POLICIES.get(value)
    if known is None:
        raise Unusable(field, f"is {show(value or '')}, an unknown policy", "use Cluster or Local")
    return known


def _cluster_ips(spec: wire.ServiceSpec) -> tuple[str, ...]:
    """At most one address of each family, in the order of the object; none for headless and ExternalName.

    An API server always fills in clusterIPs and ipFamilies. A manifest may leave either out, and then means what the
    API server would have made of it.
    """
    if spec.type == ServiceType.EXTERNAL_NAME or not _is_address(spec.cluster_ip or _first(spec.cluster_ips)):
        return ()
    texts = spec.cluster_ips or [spec.cluster_ip or ""]
    field = "spec.clusterIPs" if spec.cluster_ips else "spec.clusterIP"
    found: dict[IPFamily, str] = {}
    families: list[str | None] = [*spec.ip_families] if spec.ip_families else [None] * len(texts)
    for family, text in zip(families, texts, strict=False):
        ip = parse_ip(text)
        if ip is None:
            raise Unusable(field, f"holds {show(text)}, which is no IP address", "delete and create the Service again")
        if family is not None and family_of(ip) != family:
            raise Unusable(field, f"holds {ip} where spec.ipFamilies says {show(family)}", "make the two agree")
        found.setdefault(family_of(ip), ip)
    return tuple(found.values())


def _first(texts: list[str] | None) -> str:
    return texts[0] if texts else ""


def _is_address(cluster_ip: str) -> bool:
    return cluster_ip not in {"", "None"}


def _ports(given: list[wire.ServicePort]) -> tuple[ServicePort, ...]:
    ports: list[ServicePort] = []
    identities: set[tuple[str, Protocol]] = set()
    for index, each in enumerate(given):
        where = f"spec.ports[{index}]"
        port = ServicePort(
            name=port_name(each.name, f"{where}.name"),
            protocol=protocol(each.protocol, f"{where}.protocol"),
            port=port_number(each.port, f"{where}.port"),
            node_port=optional_port(each.node_port, f"{where}.nodePort"),
        )
        if (port.name, port.protocol) in identities:
            raise Unusable(f"{where}.name", f"repeats {show(port.name)} for {port.protocol}", "give every port a name")
        identities.add((port.name, port.protocol))
        ports.append(port)
    return tuple(ports)


def _addresses(texts: list[str], field: str, review: Review) -> tuple[str, ...]:
    """Every usable address once; an empty text is no address and no mistake."""
    found: dict[str, None] = {}
    for index, text in enumerate(texts):
        ip = parse_ip(text)
        if ip is not None:
            found[ip] = None
        elif text:
            review.note(f"{field}[{index}]", f"is {show(text)}, no IP address, and is left out", "write an IP address")
    return tuple(found)


def _vips(status: wire.ServiceStatus | None, review: Review) -> tuple[str, ...]:
    """With ipMode Proxy the load balancer wants the traffic itself (KEP-1860); a host name is no address."""
    ingress = (status.load_balancer.ingress if status and status.load_balancer else None) or []
    texts = [each.ip or "" if each.ip_mode in {None, "VIP"} else "" for each in ingress]
    return _addresses(texts, "status.loadBalancer.ingress", review)


def _source_ranges(texts: list[str], review: Review) -> tuple[str, ...]:
    """Unreadable ranges are left out, but never all of them: no range at all would let everybody in."""
    field = "spec.loadBalancerSourceRanges"
    found: dict[str, None] = {}
    given = [(index, text.strip()) for index, text in enumerate(texts) if text.strip()]
    for index, text in given:
        cidr = parse_cidr(text)
        if cidr is not None:
            found[cidr] = None
        else:
            review.note(f"{field}[{index}]", f"is {show(text)}, no CIDR, and is left out", "write it as 203.0.113.0/24")
    if given and not found:
        raise Unusable(
            field, "has no readable range, and without any everybody would be let in", "write it as 203.0.113.0/24"
        )
    return tuple(found)


def _affinity_seconds(spec: wire.ServiceSpec) -> int:
    if spec.session_affinity in {None, "", "None"}:
        return 0
    if spec.session_affinity != "ClientIP":
        raise Unusable("spec.sessionAffinity", f"is {show(spec.session_affinity or '')}", "use None or ClientIP")
    config = spec.session_affinity_config
    seconds = config.client_ip.timeout_seconds if config and config.client_ip else None
    if seconds is None:
        return _DEFAULT_AFFINITY_SECONDS
    if not 1 <= seconds <= _LONGEST_AFFINITY_SECONDS:
        field = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
        raise Unusable(field, f"is {seconds}, outside 1 to {_LONGEST_AFFINITY_SECONDS}", "give a number in that range")
    return seconds
