"""The JSON that we read, as structs with only the fields that we read.

Unknown fields are skipped without being built, so a megabyte of annotations costs a scan and no memory. A page or a
watch event is decoded in two steps, first the envelope around raw items and then each item, so that one object of the
wrong shape cannot spoil its neighbours. Of a Service's annotations the names are read and the values stay raw: which
are ours can only be told by the names, and a value of the wrong shape must not cost a Service its traffic. Rejected:
the models of the ``kubernetes`` package (15 to 85 ms for one slice of 100 endpoints, and 35 MB in memory) and plain
``json`` (builds everything, checks nothing).

Every field may be null or missing here, for Go prints an empty list as null; ``convert`` decides what that means.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import msgspec
from msgspec import Raw, Struct, field

from kproxy.model.enums import Kind
from kproxy.source.pieces import Unscannable, elements, members

ZONE_LABEL = "topology.kubernetes.io/zone"
INITIAL_EVENTS_END = "k8s.io/initial-events-end"


class _Wire(Struct, rename="camel", gc=False):
    """JSON spells names in camelCase. Never in a reference cycle, so never the garbage collector's business."""


class Labels(_Wire):
    """The labels that mean something to a service proxy."""

    service_name: str | None = field(default=None, name="kubernetes.io/service-name")
    service_proxy_name: str | None = field(default=None, name="service.kubernetes.io/service-proxy-name")
    headless: str | None = field(default=None, name="service.kubernetes.io/headless")
    zone: str | None = field(default=None, name=ZONE_LABEL)


class Annotations(_Wire):
    triggered: str | None = field(default=None, name="endpoints.kubernetes.io/last-change-trigger-time")
    initial_events_end: str | None = field(default=None, name=INITIAL_EVENTS_END)


class BaseMetadata(_Wire):
    name: str | None = None
    namespace: str | None = None
    uid: str | None = None
    resource_version: str | None = None
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: Labels | None = None


class Metadata(BaseMetadata):
    annotations: Annotations | None = None


class ServiceMetadata(BaseMetadata):
    annotations: dict[str, Raw] | None = None


# --- Service --------------------------------------------------------------------------------------------------


class ServicePort(_Wire):
    name: str | None = None
    protocol: str | None = None
    port: int | None = None
    node_port: int | None = None


class ClientIPConfig(_Wire):
    timeout_seconds: int | None = None


class SessionAffinityConfig(_Wire):
    client_ip: ClientIPConfig | None = field(default=None, name="clientIP")


class ServiceSpec(_Wire):
    type: str | None = None
    cluster_ip: str | None = field(default=None, name="clusterIP")
    cluster_ips: list[str] | None = field(default=None, name="clusterIPs")
    ip_families: list[str] | None = None
    ports: list[ServicePort] | None = None
    external_ips: list[str] | None = field(default=None, name="externalIPs")
    load_balancer_source_ranges: list[str] | None = None
    internal_traffic_policy: str | None = None
    external_traffic_policy: str | None = None
    session_affinity: str | None = None
    session_affinity_config: SessionAffinityConfig | None = None
    health_check_node_port: int | None = None


class Ingress(_Wire):
    ip: str | None = None
    ip_mode: str | None = None


class LoadBalancer(_Wire):
    ingress: list[Ingress] | None = None


class ServiceStatus(_Wire):
    load_balancer: LoadBalancer | None = None


class Service(_Wire):
    metadata: ServiceMetadata | None = None
    spec: ServiceSpec | None = None
    status: ServiceStatus | None = None


# --- EndpointSlice, Endpoints ---------------------------------------------------------------------------------


class Conditions(_Wire):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class Hint(_Wire):
    name: str | None = None


class Hints(_Wire):
    for_zones: list[Hint] | None = None
    for_nodes: list[Hint] | None = None


class Endpoint(_Wire):
    addresses: list[str] | None = None
    conditions: Conditions | None = None
    hints: Hints | None = None
    node_name: str | None = None


class EndpointPort(_Wire):
    name: str | None = None
    protocol: str | None = None
    port: int | None = None


class EndpointSlice(_Wire):
    metadata: Metadata | None = None
    address_type: str | None = None
    endpoints: list[Endpoint] | None = None
    ports: list[EndpointPort] | None = None


class EndpointAddress(_Wire):
    ip: str | None = None
    node_name: str | None = None


class Subset(_Wire):
    addresses: list[EndpointAddress] | None = None
    not_ready_addresses: list[EndpointAddress] | None = None
    ports: list[EndpointPort] | None = None


class Endpoints(_Wire):
    metadata: Metadata | None = None
    subsets: list[Subset] | None = None


# --- Node, ServiceCIDR ----------------------------------------------------------------------------------------


class Taint(_Wire):
    key: str | None = None


class NodeSpec(_Wire):
    pod_cidr: str | None = field(default=None, name="podCIDR")
    pod_cidrs: list[str] | None = field(default=None, name="podCIDRs")
    taints: list[Taint] | None = None


class NodeAddress(_Wire):
    type: str | None = None
    address: str | None = None


class NodeStatus(_Wire):
    addresses: list[NodeAddress] | None = None


class Node(_Wire):
    metadata: Metadata | None = None
    spec: NodeSpec | None = None
    status: NodeStatus | None = None


class ServiceCIDRSpec(_Wire):
    cidrs: list[str] | None = None


class ServiceCIDR(_Wire):
    metadata: Metadata | None = None
    spec: ServiceCIDRSpec | None = None


WireObject = Service | EndpointSlice | Endpoints | Node | ServiceCIDR


# --- envelopes ------------------------------------------------------------------------------------------------


class ListMetadata(_Wire):
    resource_version: str | None = None
    continue_: str | None = field(default=None, name="continue")


class Page(_Wire):
    """One page of a list. The items point into the page's bytes; nothing is copied."""

    metadata: ListMetadata | None = None
    items: list[Raw] | None = None


class Event(_Wire):
    """One line of a watch."""

    type: str
    object: Raw


class Status(_Wire):
    """What the API server says when it says no."""

    code: int | None = None
    reason: str | None = None
    message: str | None = None


class Bare(_Wire):
    """Any object, by its metadata alone."""

    metadata: Metadata | None = None


_decode_page = msgspec.json.Decoder(Page).decode
_decode_event = msgspec.json.Decoder(Event).decode
_decode_list_metadata = msgspec.json.Decoder(ListMetadata | None).decode
_decode_bare = msgspec.json.Decoder(Bare).decode
_decode_text = msgspec.json.Decoder(str).decode
_decode_status = msgspec.json.Decoder(Status).decode
_OBJECTS: dict[Kind, msgspec.json.Decoder[WireObject]] = {
    Kind.SERVICE: msgspec.json.Decoder(Service),
    Kind.ENDPOINT_SLICE: msgspec.json.Decoder(EndpointSlice),
    Kind.ENDPOINTS: msgspec.json.Decoder(Endpoints),
    Kind.NODE: msgspec.json.Decoder(Node),
    Kind.SERVICE_CIDR: msgspec.json.Decoder(ServiceCIDR),
}

UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


def decode_page(body: bytes) -> Page:
    """One page of a list. Raises one of ``UNREADABLE`` if it is none; an item that is unreadable is still an item."""
    try:
        return _decode_page(body)
    except UNREADABLE as error:
        with contextlib.suppress(Unscannable, KeyError):
            parts = members(body)
            metadata = _decode_list_metadata(parts.get("metadata", b"null"))
            return Page(metadata=metadata, items=[Raw(item) for item in elements(parts["items"])])
        raise error from None


def decode_event(line: bytes) -> Event:
    """One line of a watch. Raises one of ``UNREADABLE`` if it is none, whatever its object is."""
    try:
        return _decode_event(line)
    except UNREADABLE as error:
        with contextlib.suppress(Unscannable, KeyError):
            parts = members(line)
            return Event(type=_decode_text(parts["type"]), object=Raw(parts["object"]))
        raise error from None


def decode_object(kind: Kind, data: Raw | bytes) -> WireObject:
    """One object. Raises one of ``UNREADABLE`` where a field that we read has another type than the API says."""
    return _OBJECTS[kind].decode(data)


def decode_without_annotations(kind: Kind, data: Raw | bytes) -> WireObject:
    """The same, where annotations may be what is wrong: those that cannot be read are null.

    Raises one of ``UNREADABLE``, ``Unscannable`` or KeyError where that is not all that is wrong.
    """
    parts = members(bytes(data))
    metadata = members(parts["metadata"])
    annotations = metadata["annotations"]
    try:
        readable = [(name, value if _is_readable(value) else b"null") for name, value in members(annotations).items()]
        metadata["annotations"] = _join(readable)
    except Unscannable:
        metadata["annotations"] = b"null"
    parts["metadata"] = _join(metadata.items())
    return decode_object(kind, _join(parts.items()))


def _is_readable(data: bytes) -> bool:
    try:
        msgspec.json.decode(data)
    except UNREADABLE:
        return False
    return True


def _join(parts: Iterable[tuple[str, bytes]]) -> bytes:
    return b"{%s}" % b",".join(b"%s:%s" % (msgspec.json.encode(name), value) for name, value in parts)


def decode_status(data: Raw | bytes) -> Status:
    """An error body, or an empty Status where it is none: a proxy in between may answer in HTML."""
    try:
        return _decode_status(data)
    except UNREADABLE:
        return Status()


def identify(data: Raw | bytes) -> Metadata:
    """The metadata, or whatever of it can be saved, so that a message can name the object. Never raises."""
    with contextlib.suppress(*UNREADABLE):
        return _decode_bare(data).metadata or Metadata()
    parts: dict[str, bytes] = {}
    with contextlib.suppress(Unscannable, KeyError):
        parts = members(members(bytes(data).decode(errors="replace").encode())["metadata"])
    name, namespace, uid, version = (_text(parts.get(each)) for each in ("name", "namespace", "uid", "resourceVersion"))
    return Metadata(name=name, namespace=namespace, uid=uid, resource_version=version)


def _text(data: bytes | None) -> str | None:
    with contextlib.suppress(*UNREADABLE):
        return _decode_text(data) if data else None
    return None
