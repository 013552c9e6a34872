"""Which objects are refused: metadata of every kind, and the kinds besides Service that reach a proxy.

`causes_of` is the one question the registry asks. An object that is refused here can never be seen by a proxy
behind a real API server, so tests that need malformed objects must use `Registry.load`, which stores unseen.

Source: Kubernetes API reference: ObjectMeta, Endpoints, EndpointSlice, ServiceCIDR, Event.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_network

from kproxy.sandbox.apiserver import formats
from kproxy.sandbox.apiserver.resources import Resource
from kproxy.sandbox.apiserver.service_rules import PROTOCOLS, service_causes, update_causes
from kproxy.sandbox.apiserver.status import (
    Cause,
    Json,
    duplicate,
    forbidden,
    immutable,
    invalid_value,
    required,
    too_many,
    unsupported,
)

ANNOTATIONS_LIMIT = 256 * 1024
_NAME_RULES: Mapping[str, Callable[[str], list[str]]] = {
    "Service": formats.dns_1035_label,
    "Namespace": formats.dns_1123_label,
}


def causes_of(resource: Resource, document: Json, old: Json | None) -> list[Cause]:
    """Return everything wrong with a defaulted document, as an update of `old` if there is one."""
    causes = [*_metadata_causes(resource, document["metadata"])]
    match resource.kind:
        case "Service":
            causes += service_causes(document)
            if old is not None:
                causes += update_causes(document, old)
        case "EndpointSlice":
            causes += _slice_causes(document)
            if old is not None and document.get("addressType") != old.get("addressType"):
                causes.append(immutable("addressType", document.get("addressType")))
        case "Endpoints":
            causes += _endpoints_causes(document)
        case "ServiceCIDR":
            causes += _service_cidr_causes(document, old)
        case "Event":
            causes += _event_causes(document)
        case _:
            pass
    return causes


def _metadata_causes(resource: Resource, metadata: Json) -> Iterator[Cause]:
    rule = _NAME_RULES.get(resource.kind, formats.dns_1123_subdomain)
    for fault in rule(metadata["name"]):
        yield invalid_value("metadata.name", metadata["name"], fault)
    for key, value in (metadata.get("labels") or {}).items():
        for fault in formats.qualified_name(key):
            yield invalid_value("metadata.labels", key, fault)
        for fault in formats.label_value(value):
            yield invalid_value("metadata.labels", value, fault)
    annotations = metadata.get("annotations") or {}
    for key in annotations:
        for fault in formats.qualified_name(key.lower()):
            yield invalid_value("metadata.annotations", key, fault)
    if sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items()) > ANNOTATIONS_LIMIT:
        detail = f"Too long: may not be more than {ANNOTATIONS_LIMIT} bytes"
        yield Cause("metadata.annotations", "FieldValueTooLong", detail)


def _endpoint_port_causes(port: Json, path: str) -> Iterator[Cause]:
    if port.get("name"):
        for fault in formats.dns_1123_label(port["name"]):
            yield invalid_value(f"{path}.name", port["name"], fault)
    if port["protocol"] not in PROTOCOLS:
        yield unsupported(f"{path}.protocol", port["protocol"], PROTOCOLS)


def _slice_causes(document: Json) -> Iterator[Cause]:
    kinds = ("FQDN", "IPv4", "IPv6")
    address_type = document.get("addressType")
    if not address_type:
        yield required("addressType")
        return
    if address_type not in kinds:
        yield unsupported("addressType", address_type, kinds)
        return
    if len(document["endpoints"]) > 1000:
        yield too_many("endpoints", len(document["endpoints"]), 1000)
    for index, endpoint in enumerate(document["endpoints"]):
        yield from _slice_endpoint_causes(endpoint, f"endpoints[{index}]", address_type)
    names: set[str] = set()
    for index, port in enumerate(document.get("ports") or ()):
        if port["name"] in names:
            yield duplicate(f"ports[{index}].name", port["name"])
        names.add(port["name"])
        yield from _endpoint_port_causes(port, f"ports[{index}]")
        if "port" in port:
            for fault in formats.port_number(port["port"]):
                yield invalid_value(f"ports[{index}].port", port["port"], fault)


def _slice_endpoint_causes(endpoint: Json, path: str, address_type: str) -> Iterator[Cause]:
    addresses = endpoint.get("addresses") or []
    if not addresses:
        yield required(f"{path}.addresses", "must contain at least 1 address")
    if len(addresses) > 100:
        yield too_many(f"{path}.addresses", len(addresses), 100)
    for index, address in enumerate(addresses):
        for fault in _slice_address_faults(address, address_type):
            yield invalid_value(f"{path}.addresses[{index}]", address, fault)
    for field in ("nodeName", "hostname"):
        if endpoint.get(field):
            for fault in formats.dns_1123_subdomain(endpoint[field]):
                yield invalid_value(f"{path}.{field}", endpoint[field], fault)
    if "topology.kubernetes.io/zone" in (endpoint.get("deprecatedTopology") or {}):
        yield forbidden(f"{path}.deprecatedTopology", "use `zone` instead")
    yield from _hints_causes(endpoint.get("hints") or {}, f"{path}.hints")


def _hints_causes(hints: Json, path: str) -> Iterator[Cause]:
    for field in ("forZones", "forNodes"):
        if len(hints.get(field) or ()) > 8:
            yield too_many(f"{path}.{field}", len(hints[field]), 8)


def _slice_address_faults(address: str, address_type: str) -> list[str]:
    if address_type == "FQDN":
        return formats.dns_1123_subdomain(address)
    if formats.family(address) != address_type:
        return [f"must be an {address_type} address"]
    return formats.routable(address)


def _endpoints_causes(document: Json) -> Iterator[Cause]:
    for index, subset in enumerate(document.get("subsets") or ()):
        path = f"subsets[{index}]"
        if not subset.get("addresses") and not subset.get("notReadyAddresses"):
            yield required(path, "must specify `addresses` or `notReadyAddresses`")
        for group in ("addresses", "notReadyAddresses"):
            for number, address in enumerate(subset.get(group) or ()):
                where = f"{path}.{group}[{number}].ip"
                for fault in formats.routable(address.get("ip", "")):
                    yield invalid_value(where, address.get("ip", ""), fault)
        ports = subset.get("ports") or ()
        for number, port in enumerate(ports):
            where = f"{path}.ports[{number}]"
            if len(ports) > 1 and not port.get("name"):
                yield required(f"{where}.name")
            for fault in formats.port_number(port.get("port", 0)):
                yield invalid_value(f"{where}.port", port.get("port", 0), fault)
            yield from _endpoint_port_causes(port, where)


def _service_cidr_causes(document: Json, old: Json | None) -> Iterator[Cause]:
    cidrs = (document.get("spec") or {}).get("cidrs") or []
    if old is not None and cidrs[:1] != ((old.get("spec") or {}).get("cidrs") or [])[:1]:
        yield immutable("spec.cidrs[0]", cidrs[:1])
    if not cidrs:
        yield required("spec.cidrs", "at least one CIDR required")
    if len(cidrs) > 2:
        yield too_many("spec.cidrs", len(cidrs), 2)
    for index, text in enumerate(cidrs):
        faults = formats.cidr(text)
        if not faults and str(ip_network(text, strict=False)) != text:
            faults = ["must be the network address in its canonical form"]
        for fault in faults:
            yield invalid_value(f"spec.cidrs[{index}]", text, fault)


def _event_causes(document: Json) -> Iterator[Cause]:
    involved = document.get("involvedObject") or {}
    namespace = document["metadata"].get("namespace")
    if involved.get("namespace"):
        agrees = involved["namespace"] == namespace
    else:
        agrees = namespace in {"default", "kube-system"}  # where events of nodes live
    if not agrees:
        detail = "does not match event.namespace"
        yield invalid_value("involvedObject.namespace", involved.get("namespace", ""), detail)
    if len(document.get("message") or "") > 1024:
        yield invalid_value("message", "", "can have at most 1024 characters")
    if document.get("eventTime"):
        for field in ("reportingComponent", "reportingInstance", "action", "reason"):
            if not document.get(field):
                yield required(field)
