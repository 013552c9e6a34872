"""What an object asks for, read from its JSON by other code than the program's: served as written, or named.

Asked only about objects that the program has nothing to say about. It knows as little as possible: which addresses,
ports and endpoints stand in the object, and that each must be found again in the cluster or in a plan.
Fields of no consequence for a proxy are not looked at, and an object that the rules of the API hide from proxies
(headless, ExternalName, another proxy's) asks for nothing.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Mapping
from functools import cache

from kproxy.model.cluster import Cluster
from kproxy.model.enums import IPFamily, Kind, Protocol
from kproxy.model.keys import ObjectKey, ServicePortKey
from kproxy.model.node import ServiceCIDR
from kproxy.plan.plan import FrontendKind, Plan, ServicePlan
from tests.fuzz.objects import Json

Plans = Mapping[IPFamily, Plan]
_LABEL = re.compile(r"(?!-)[-a-z0-9]{1,63}(?<!-)", re.ASCII)
_SLOPPY = re.compile(r"0*(\d+)\.0*(\d+)\.0*(\d+)\.0*(\d+)", re.ASCII)


def missing(kind: Kind, written: Json, cluster: Cluster, plans: Plans) -> list[str]:
    """What the object asks for and nobody does; empty: it is served as written."""
    match kind:
        case Kind.SERVICE:
            return list(_service(written, plans))
        case Kind.ENDPOINT_SLICE:
            return list(_slice(written, cluster))
        case Kind.ENDPOINTS:
            return list(_endpoints(written, cluster))
        case Kind.NODE:
            return list(_node(written, cluster))
        case Kind.SERVICE_CIDR:
            return list(_service_cidr(written, cluster))


def key_of(written: Json, namespace: str = "") -> ObjectKey:
    metadata = written.get("metadata") or {}
    return ObjectKey(metadata.get("namespace") or namespace, metadata.get("name") or "")


def _labels(written: Json) -> Json:
    return (written.get("metadata") or {}).get("labels") or {}


@cache
def _canonical(text: str) -> str:
    """The address in one spelling; the text itself where it is none, which is then found nowhere."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        sloppy = _SLOPPY.fullmatch(text)
        return ".".join(sloppy.groups()) if sloppy else text
    mapped = getattr(address, "ipv4_mapped", None)
    return str(mapped or address)


def _network(text: str) -> str:
    ip, _, length = text.strip().partition("/")
    canonical = _canonical(ip)
    bits = int(length) - (96 if ":" in ip and ":" not in canonical else 0)
    return str(ipaddress.ip_network(f"{canonical}/{bits}", strict=False))


def _family(ip: str) -> IPFamily:
    return IPFamily.IPV6 if ":" in ip else IPFamily.IPV4


# --- Services -------------------------------------------------------------------------------------------------


def _service(written: Json, plans: Plans) -> Iterator[str]:
    spec = written.get("spec") or {}
    if (
        spec.get("type") == "ExternalName"
        or _labels(written).get("service.kubernetes.io/service-proxy-name") is not None
    ):
        return
    given = [ip for ip in (spec.get("clusterIP"), *(spec.get("clusterIPs") or [])) if ip]
    cluster_ips = {_canonical(ip) for ip in given if ip != "None"}
    if not cluster_ips:
        return
    if "None" in given:
        yield "an address beside None"
    yield from _names(written)
    served = {_family(ip) for ip in cluster_ips}
    outside = {_canonical(ip) for ip in spec.get("externalIPs") or [] if ip}
    vips = set(_vips(written))
    for port in spec.get("ports") or []:
        key = _port_key(written, port)
        number = port["port"]
        for ip in cluster_ips | outside | {vip for vip in vips if _family(vip) in served}:
            if number not in _found(plans, key, ip):
                yield f"{ip}:{number}/{key.protocol}"
        for family in served:
            if port.get("nodePort") and port["nodePort"] not in _found(plans, key, "", family):
                yield f"node port {port['nodePort']} ({family})"
            yield from _affinity(spec, plans[family].services.get(key))
    yield from _health_check(written, plans, served)


def _names(written: Json) -> Iterator[str]:
    """Rules carry these in comments, so none may pass that the API would not have let in."""
    ports = (port.get("name") or "unnamed" for port in (written.get("spec") or {}).get("ports") or [])
    for name in (*key_of(written), *ports):
        if not _LABEL.fullmatch(name):
            yield f"a name that no API server lets in: {name!r}"


def _vips(written: Json) -> Iterator[str]:
    balancer = (written.get("status") or {}).get("loadBalancer") or {}
    for each in balancer.get("ingress") or []:
        if each.get("ip") and each.get("ipMode") != "Proxy":
            yield _canonical(each["ip"])


def _port_key(written: Json, port: Json) -> ServicePortKey:
    return ServicePortKey(*key_of(written), port.get("name") or "", Protocol(port.get("protocol") or "TCP"))


def _found(plans: Plans, key: ServicePortKey, ip: str, family: IPFamily | None = None) -> set[int]:
    plan = plans[family or _family(ip)].services.get(key)
    return {each.port for each in plan.frontends if each.ip == ip} if plan else set()


def _affinity(spec: Json, plan: ServicePlan | None) -> Iterator[str]:
    wanted = 0
    if spec.get("sessionAffinity") == "ClientIP":
        config = (spec.get("sessionAffinityConfig") or {}).get("clientIP") or {}
        seconds = config.get("timeoutSeconds")
        wanted = 10800 if seconds is None else seconds
    if plan is not None and plan.affinity_seconds != wanted:
        yield f"affinity of {wanted} seconds"


def _health_check(written: Json, plans: Plans, served: set[IPFamily]) -> Iterator[str]:
    spec = written["spec"]
    port = spec.get("healthCheckNodePort")
    if spec.get("type") == "LoadBalancer" and spec.get("externalTrafficPolicy") == "Local" and port:
        for family in served:
            if not any(each.service == key_of(written) and each.port == port for each in plans[family].health_checks):
                yield f"health-check node port {port} ({family})"


def unwritten(written: Json, plans: Plans) -> Iterator[str]:
    """The other way round: where a Service receives traffic and nothing in its JSON asks for it."""
    key, spec = key_of(written), written.get("spec") or {}
    given = (spec.get("clusterIP"), *(spec.get("clusterIPs") or []), *(spec.get("externalIPs") or []))
    asked = {_canonical(ip) for ip in given if ip} | {*_vips(written)}
    numbers = {port["port"] for port in spec.get("ports") or []}
    for plan in plans.values():
        for each in plan.services.values():
            for frontend in each.frontends if each.key.service == key else ():
                if frontend.kind is not FrontendKind.NODE_PORT and not (
                    frontend.ip in asked and frontend.port in numbers
                ):
                    yield f"{frontend.ip}:{frontend.port}"


# --- everything else ------------------------------------------------------------------------------------------


def _slice(written: Json, cluster: Cluster) -> Iterator[str]:
    labels = _labels(written)
    if labels.get("service.kubernetes.io/headless") is not None or written.get("addressType") == "FQDN":
        return
    service = ObjectKey(key_of(written).namespace, labels["kubernetes.io/service-name"])
    found = [each for each in cluster.snapshot().slices.get(service, ()) if each.key == key_of(written)]
    ips = {endpoint.ip for each in found for endpoint in each.endpoints}
    ports = {(port.name, port.protocol, port.port) for each in found for port in each.ports}
    for endpoint in written.get("endpoints") or []:
        addresses = endpoint.get("addresses") or [""]
        if _canonical(addresses[0]) not in ips:
            yield f"endpoint {addresses[0]}"
    for port in written.get("ports") or []:
        if (port.get("name"), port.get("protocol") or "TCP", port.get("port")) not in ports:
            yield f"port {port}"


def _endpoints(written: Json, cluster: Cluster) -> Iterator[str]:
    key = key_of(written)
    if "." in key.name or len(key.name) > 63 or _labels(written).get("service.kubernetes.io/headless") is not None:
        return
    found = [each for each in cluster.snapshot().slices.get(key, ()) if each.key.name.startswith(f"{key.name}/")]
    ips = {endpoint.ip for each in found for endpoint in each.endpoints}
    for subset in written.get("subsets") or []:
        for address in (*(subset.get("addresses") or []), *(subset.get("notReadyAddresses") or [])):
            if _canonical(address.get("ip") or "") not in ips:
                yield f"endpoint {address}"
        ports = {(port.name, port.protocol, port.port) for each in found for port in each.ports}
        for port in (subset.get("ports") or []) if found else []:
            if (port.get("name") or "", port.get("protocol") or "TCP", port.get("port")) not in ports:
                yield f"port {port}"


def _node(written: Json, cluster: Cluster) -> Iterator[str]:
    node = cluster.node
    if node is None or node.name != key_of(written).name:
        return
    for each in (written.get("status") or {}).get("addresses") or []:
        ip = each.get("address") if each.get("type") in {"InternalIP", "ExternalIP"} else ""
        if ip and _canonical(ip) not in node.addresses:
            yield f"address {ip}"
    for text in (written.get("spec") or {}).get("podCIDRs") or []:
        if text and _network(text) not in node.pod_cidrs:
            yield f"podCIDR {text}"


def _service_cidr(written: Json, cluster: Cluster) -> Iterator[str]:
    found = cluster.get(Kind.SERVICE_CIDR, ObjectKey("", key_of(written).name))
    for text in (written.get("spec") or {}).get("cidrs") or []:
        if text and not (isinstance(found, ServiceCIDR) and _network(text) in found.cidrs):
            yield f"CIDR {text}"
