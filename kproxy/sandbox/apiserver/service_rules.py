"""Which Services are refused, and in which words.

Judges a defaulted Service (`service_defaults`), and an update against what is stored. Returns every cause at once,
as the API server does, so that a user mends a manifest in one go. Only rules that a proxy or its user can meet are
here; what the API server knows of, say, traffic distribution's feature gates is not.

Source: Kubernetes API reference, ServiceSpec; "Virtual IPs and Service Proxies".
"""

from __future__ import annotations

from collections.abc import Iterator

from kproxy.sandbox.apiserver import formats
from kproxy.sandbox.apiserver.service_defaults import (
    is_externally_accessible,
    is_headless,
    may_have_node_ports,
    needs_cluster_ip,
    needs_health_check_port,
)
from kproxy.sandbox.apiserver.status import (
    Cause,
    Json,
    duplicate,
    forbidden,
    immutable,
    invalid_value,
    required,
    unsupported,
)

_TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
PROTOCOLS = ("SCTP", "TCP", "UDP")
_POLICIES = ("Cluster", "Local")
_DISTRIBUTIONS = ("PreferClose", "PreferSameNode", "PreferSameZone")


def service_causes(service: Json) -> list[Cause]:
    """Return everything wrong with a Service as a create request would bring it."""
    spec = service.get("spec") or {}
    return [
        *_type_causes(spec),
        *_ports_causes(spec),
        *_cluster_ip_causes(spec),
        *_affinity_causes(spec),
        *_address_causes(spec),
        *_policy_causes(spec),
    ]


def update_causes(service: Json, old: Json) -> list[Cause]:
    """Return what an update may not change."""
    spec, before = service.get("spec") or {}, old.get("spec") or {}
    return [*_cluster_ip_change_causes(spec, before), *_other_change_causes(spec, before)]


def status_causes(service: Json) -> list[Cause]:
    """Return what is wrong with the addresses that a load balancer's controller reports."""
    causes = []
    balancer = (service.get("status") or {}).get("loadBalancer") or {}
    for index, ingress in enumerate(balancer.get("ingress") or ()):
        path = f"status.loadBalancer.ingress[{index}]"
        if ingress.get("ip"):
            causes += [invalid_value(f"{path}.ip", ingress["ip"], fault) for fault in formats.address(ingress["ip"])]
            if ingress.get("ipMode", "VIP") not in {"VIP", "Proxy"}:
                causes.append(unsupported(f"{path}.ipMode", ingress["ipMode"], ("Proxy", "VIP")))
        elif "ipMode" in ingress:
            causes.append(forbidden(f"{path}.ipMode", "may not be specified when `ip` is not set"))
    return causes


def _type_causes(spec: Json) -> Iterator[Cause]:
    if spec["type"] not in _TYPES:
        yield unsupported("spec.type", spec["type"], _TYPES)
    if spec["type"] == "ExternalName":
        name = spec.get("externalName", "")
        if not name:
            yield required("spec.externalName")
        for fault in formats.dns_1123_subdomain(name.removesuffix(".")) if name else ():
            yield invalid_value("spec.externalName", name, fault)
        for field in ("clusterIPs", "ipFamilies", "ipFamilyPolicy"):
            if spec.get(field):
                yield forbidden(f"spec.{field}", "may not be set for ExternalName services")
    for key, value in (spec.get("selector") or {}).items():
        for fault in formats.qualified_name(key):
            yield invalid_value("spec.selector", key, fault)
        for fault in formats.label_value(value):
            yield invalid_value("spec.selector", value, fault)


def _ports_causes(spec: Json) -> Iterator[Cause]:
    ports = spec.get("ports") or []
    if not ports and spec["type"] != "ExternalName" and not is_headless(spec):
        yield required("spec.ports")
    names: set[str] = set()
    numbers: set[tuple[str, int]] = set()
    node_ports: set[tuple[str, int]] = set()
    for index, port in enumerate(ports):
        path = f"spec.ports[{index}]"
        yield from _port_causes(port, path, spec, several=len(ports) > 1)
        if port.get("name"):
            if port["name"] in names:
                yield duplicate(f"{path}.name", port["name"])
            names.add(port["name"])
        identity = (port["protocol"], port.get("port", 0))
        if identity in numbers:
            yield duplicate(path, {"protocol": identity[0], "port": identity[1]})
        numbers.add(identity)
        identity = (port["protocol"], port.get("nodePort", 0))
        if identity[1] and identity in node_ports:
            yield duplicate(f"{path}.nodePort", identity[1])
        node_ports.add(identity)


def _port_causes(port: Json, path: str, spec: Json, *, several: bool) -> Iterator[Cause]:
    name = port.get("name", "")
    if several and not name:
        yield required(f"{path}.name")
    for fault in formats.dns_1123_label(name) if name else ():
        yield invalid_value(f"{path}.name", name, fault)
    for fault in formats.port_number(port.get("port", 0)):
        yield invalid_value(f"{path}.port", port.get("port", 0), fault)
    if port["protocol"] not in PROTOCOLS:
        yield unsupported(f"{path}.protocol", port["protocol"], PROTOCOLS)
    target = port["targetPort"]
    for fault in formats.port_number(target) if isinstance(target, int) else formats.port_name(target):
        yield invalid_value(f"{path}.targetPort", target, fault)
    if port.get("nodePort") and not may_have_node_ports(spec):
        yield forbidden(f"{path}.nodePort", f"may not be used when `type` is '{spec['type']}'")


def _cluster_ip_causes(spec: Json) -> Iterator[Cause]:
    addresses = spec.get("clusterIPs") or []
    if not needs_cluster_ip(spec):
        return
    if addresses and spec.get("clusterIP") != addresses[0]:
        yield invalid_value("spec.clusterIPs", addresses, "first value must match `clusterIP`")
    if len(addresses) > 2:
        yield invalid_value("spec.clusterIPs", addresses, "may only hold up to 2 values")
    for index, address in enumerate(addresses):
        path = f"spec.clusterIPs[{index}]"
        if address == "None":
            if index or len(addresses) > 1:
                yield invalid_value(path, address, "'None' must be the first and only value")
            elif may_have_node_ports(spec):
                yield invalid_value(path, address, f"may not be set to 'None' for {spec['type']} services")
            continue
        for fault in formats.address(address):
            yield invalid_value(path, address, fault)
    if len(addresses) == 2 and formats.family(addresses[0]) == formats.family(addresses[1]):
        yield invalid_value("spec.clusterIPs", addresses, "may specify no more than one IP for each IP family")


def _affinity_causes(spec: Json) -> Iterator[Cause]:
    affinity = spec["sessionAffinity"]
    if affinity not in {"ClientIP", "None"}:
        yield unsupported("spec.sessionAffinity", affinity, ("ClientIP", "None"))
    if affinity == "None" and spec.get("sessionAffinityConfig"):
        yield forbidden("spec.sessionAffinityConfig", "must not be set when session affinity is None")
    if affinity == "ClientIP":
        seconds = spec["sessionAffinityConfig"]["clientIP"]["timeoutSeconds"]
        if not 0 < seconds <= 86400:
            path = "spec.sessionAffinityConfig.clientIP.timeoutSeconds"
            yield invalid_value(path, seconds, "must be greater than 0 and less than 86400")


def _address_causes(spec: Json) -> Iterator[Cause]:
    for index, address in enumerate(spec.get("externalIPs") or ()):
        for fault in formats.routable(address):
            yield invalid_value(f"spec.externalIPs[{index}]", address, fault)
    ranges = spec.get("loadBalancerSourceRanges") or ()
    if ranges and spec["type"] != "LoadBalancer":
        yield forbidden("spec.LoadBalancerSourceRanges", "may only be used when `type` is 'LoadBalancer'")
        return
    for index, text in enumerate(ranges):
        # Surrounding blanks have always been accepted in this field (spec: model.md 2.3).
        for fault in formats.cidr(text.strip()):
            yield invalid_value(f"spec.loadBalancerSourceRanges[{index}]", text, fault)


def _policy_causes(spec: Json) -> Iterator[Cause]:
    external = spec.get("externalTrafficPolicy")
    if external is not None and not is_externally_accessible(spec):
        detail = "may only be set for externally-accessible services"
        yield invalid_value("spec.externalTrafficPolicy", external, detail)
    elif external is not None and external not in _POLICIES:
        yield unsupported("spec.externalTrafficPolicy", external, _POLICIES)
    internal = spec.get("internalTrafficPolicy")
    if internal is not None and internal not in _POLICIES:
        yield unsupported("spec.internalTrafficPolicy", internal, _POLICIES)
    distribution = spec.get("trafficDistribution")
    if distribution is not None and distribution not in _DISTRIBUTIONS:
        yield unsupported("spec.trafficDistribution", distribution, _DISTRIBUTIONS)
    if spec.get("healthCheckNodePort") and not needs_health_check_port(spec):
        detail = "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"
        yield invalid_value("spec.healthCheckNodePort", spec["healthCheckNodePort"], detail)
    if spec["type"] != "LoadBalancer":
        for field in ("allocateLoadBalancerNodePorts", "loadBalancerClass"):
            if spec.get(field) is not None:
                yield forbidden(f"spec.{field}", "may only be used when `type` is 'LoadBalancer'")


def _cluster_ip_change_causes(spec: Json, before: Json) -> Iterator[Cause]:
    if not (needs_cluster_ip(spec) and needs_cluster_ip(before)):
        return
    had, has = before.get("clusterIPs") or [], spec.get("clusterIPs") or []
    if had and (not has or has[0] != had[0]):
        yield invalid_value("spec.clusterIPs[0]", has, "may not change once set")
    if len(had) == len(has) == 2 and had[1] != has[1]:
        yield invalid_value("spec.clusterIPs[1]", has, "may not change once set")
    elif len(has) < len(had) and spec.get("ipFamilyPolicy") != "SingleStack":
        detail = "must be 'SingleStack' to release the secondary cluster IP"
        yield invalid_value("spec.ipFamilyPolicy", spec.get("ipFamilyPolicy"), detail)
    old_families, families = before.get("ipFamilies") or [], spec.get("ipFamilies") or []
    if old_families and families and old_families[0] != families[0]:
        yield invalid_value("spec.ipFamilies[0]", families[0], "may not change once set")


def _other_change_causes(spec: Json, before: Json) -> Iterator[Cause]:
    if needs_health_check_port(spec) and needs_health_check_port(before):
        had, has = before.get("healthCheckNodePort"), spec.get("healthCheckNodePort")
        if had and has != had:
            yield immutable("spec.healthCheckNodePort", has)
    if spec["type"] == before.get("type") == "LoadBalancer":
        had, has = before.get("loadBalancerClass"), spec.get("loadBalancerClass")
        if had != has:
            yield invalid_value("spec.loadBalancerClass", has, "may not change once set")
