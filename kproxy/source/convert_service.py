"""A Service as the API prints it to a Service as a proxy reads it (spec: model.md 2)."""

from __future__ import annotations

import re
from collections.abc import Iterable
from itertools import zip_longest

from kproxy.model.enums import IPFamily, Protocol, ServiceType, TrafficPolicy, family_of
from kproxy.model.keys import ObjectKey
from kproxy.model.service import Service, ServicePort
from kproxy.source import wire
from kproxy.source.address import is_reserved, parse_cidr, parse_ip
from kproxy.source.convert_relay import convert_wish, note_unrelayed
from kproxy.source.review import Review, Unusable, optional_port, port_name, port_number, protocol, show, show_number

_DEFAULT_AFFINITY_SECONDS = 10800  # what the API server fills in
_LONGEST_AFFINITY_SECONDS = 86400
_MOST_ADDRESSES = 1 << 18  # addresses and ports of one Service, each of which is a rule or more
_TYPES = {None: ServiceType.CLUSTER_IP, "": ServiceType.CLUSTER_IP} | {each.value: each for each in ServiceType}
_POLICIES = {None: TrafficPolicy.CLUSTER, "": TrafficPolicy.CLUSTER} | {each.value: each for each in TrafficPolicy}
_RFC3339 = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?(Z|[+-]\d\d:\d\d)", re.ASCII)


def convert_service(key: ObjectKey, metadata: wire.ServiceMetadata, given: wire.Service, review: Review) -> Service:
    """Raises ``Unusable`` where a guess would be needed; notes what was dropped in ``review``."""
    spec = given.spec or wire.ServiceSpec()
    created = metadata.creation_timestamp or ""
    cluster_ips = _cluster_ips(spec, review)
    external_ips = _addresses(spec.external_ips or [], "spec.externalIPs", review)
    _note_strangers(external_ips, cluster_ips, review)
    ports = _ports(spec.ports or [])
    vips = _vips(given.status, review)
    source_ranges = _source_ranges(spec.load_balancer_source_ranges or [], review)
    _check_size(len(ports), len(cluster_ips) + len(external_ips) + len(vips) * (1 + len(source_ranges)))
    wish = convert_wish(metadata.annotations, review)
    if cluster_ips:
        note_unrelayed(wish, ports, review)
    return Service(
        key=key,
        type=_service_type(spec.type),
        cluster_ips=cluster_ips,
        ports=ports,
        external_ips=external_ips,
        load_balancer_vips=vips,
        source_ranges=source_ranges,
        internal_policy=_policy(spec.internal_traffic_policy, "spec.internalTrafficPolicy"),
        external_policy=_policy(spec.external_traffic_policy, "spec.externalTrafficPolicy"),
        affinity_seconds=_affinity_seconds(spec),
        health_check_node_port=optional_port(spec.health_check_node_port, "spec.healthCheckNodePort"),
        wish=wish,
        created=created if _RFC3339.fullmatch(created) else "",
        uid=metadata.uid or "",
    )


def _check_size(ports: int, addresses: int) -> None:
    """Ports and addresses multiply: 50 kB of an object could make a million rules, 500 kB fill a node's memory.

    ``addresses``: those at which each port is served; for each VIP there is also what may send to it.
    """
    if ports * addresses > _MOST_ADDRESSES:
        why = f"are {ports}, each at {addresses} addresses and source ranges: more than {_MOST_ADDRESSES} in all"
        raise Unusable("spec.ports", why, "make several Services of it, with fewer ports or addresses each")


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


def _cluster_ips(spec: wire.ServiceSpec, review: Review) -> tuple[str, ...]:
    """At most one address of each family, in the order of the object; none for headless and ExternalName.

    An API server always fills in clusterIPs and ipFamilies. A manifest may leave either out, and then means what the
    API server would have made of it; where the two fields for addresses disagree nobody knows what was meant.
    """
    if spec.type == ServiceType.EXTERNAL_NAME:
        return ()
    texts = spec.cluster_ips or [spec.cluster_ip or ""]
    field = "spec.clusterIPs" if spec.cluster_ips else "spec.clusterIP"
    if spec.cluster_ip and _canonical(texts[0]) != _canonical(spec.cluster_ip):
        why = f"begins with {show(texts[0])} where spec.clusterIP is {show(spec.cluster_ip)}"
        raise Unusable(field, why, "make the two agree")
    if texts in ([""], ["None"]):
        return ()
    found: dict[IPFamily, str] = {}
    families: list[str | None] = [*spec.ip_families] if spec.ip_families else [None] * len(texts)
    for index, (family, text) in enumerate(zip_longest(families, texts, fillvalue=None)):
        if text is None:
            break
        ip = parse_ip(text)
        if ip is None:
            raise Unusable(field, f"holds {show(text)}, which is no IP address", "delete and create the Service again")
        if family is not None and family_of(ip) != family:
            raise Unusable(field, f"holds {ip} where spec.ipFamilies says {show(family)}", "make the two agree")
        if index >= len(families) or found.setdefault(family_of(ip), ip) != ip:
            why = f"is {ip}, beyond one address of each of the Service's families, and is left out"
            review.note(f"{field}[{index}]", why, "give one address for each of spec.ipFamilies")
    return tuple(found.values())


def _canonical(text: str) -> str:
    return parse_ip(text) or text


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
        if ip is None:
            if text:
                why = f"is {show(text)}, no IP address, and is left out"
                review.note(f"{field}[{index}]", why, "write an IP address")
        elif is_reserved(ip):
            why = f"is {ip}, which means something else on every node, and is left out"
            review.note(f"{field}[{index}]", why, "give an address that can be routed to")
        else:
            found[ip] = None
    return tuple(found)


def _note_strangers(external_ips: Iterable[str], cluster_ips: Iterable[str], review: Review) -> None:
    """Traffic never changes its family, so an external IP serves only beside a cluster IP of its own.

    Not said of VIPs: a load balancer may well answer to IPv6 in front of an IPv4 Service, and sends IPv4 itself.
    """
    families = {family_of(ip) for ip in cluster_ips}
    for ip in external_ips if families else ():
        if family_of(ip) not in families:
            why = f"holds {ip}, and the Service has no {family_of(ip)} cluster IP, so it is not served"
            review.note("spec.externalIPs", why, "make the Service dual-stack, or remove the address")


def _vips(status: wire.ServiceStatus | None, review: Review) -> tuple[str, ...]:
    """With ipMode Proxy the load balancer wants the traffic itself (KEP-1860); a host name is no address."""
    ingress = (status.load_balancer.ingress if status and status.load_balancer else None) or []
    for index, each in enumerate(ingress):
        if each.ip and each.ip_mode not in {None, "VIP", "Proxy"}:
            why = f"is {show(each.ip_mode or '')}, an unknown mode, and its address is left out"
            review.note(f"status.loadBalancer.ingress[{index}].ipMode", why, "use VIP or Proxy")
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
        raise Unusable(
            field, f"is {show_number(seconds)}, outside 1 to {_LONGEST_AFFINITY_SECONDS}", "give a number in that range"
        )
    return seconds
