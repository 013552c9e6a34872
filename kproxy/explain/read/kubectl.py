"""What kubectl prints: bytes to objects.

Objects go the way that a daemon's go (``source``), so a name or an address means the same here and there. What a daemon
does not keep because it would cost its memory, pods and the references of endpoints to them, is read besides. One
object that cannot be used is told and left out. Imported only where objects are given: YAML and the API's types cost
more time than a small dump.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import PurePath

import msgspec
from msgspec import Raw, Struct, field

from kproxy.backend.iptables import names
from kproxy.errors import InvalidConfig, InvalidObject
from kproxy.explain.read.objects import HOW, Backing, Objects
from kproxy.model.change import Rejection, Resource
from kproxy.model.endpoint import Endpoints, EndpointSlice
from kproxy.model.enums import Kind, Protocol
from kproxy.model.keys import ObjectKey, ServicePortKey
from kproxy.model.node import Node, ServiceCIDR
from kproxy.model.service import Service
from kproxy.source.address import parse_ip
from kproxy.source.convert import Converter, NotOurs, Usable
from kproxy.source.manifest import Manifest, parse
from kproxy.source.wire import UNREADABLE


class _Metadata(Struct):
    name: str = ""
    namespace: str = "default"
    labels: dict[str, str] | None = None


class _Reference(Struct):
    kind: str = ""
    name: str = ""
    namespace: str = ""


class _Referring(Struct, rename="camel"):
    """An endpoint of a slice, or an address of Endpoints."""

    addresses: list[str] | None = None
    ip: str = ""
    target_ref: _Reference | None = None
    node_name: str | None = None


class _Subset(Struct, rename="camel"):
    addresses: list[_Referring] | None = None
    not_ready_addresses: list[_Referring] | None = None


class _Slice(Struct):
    metadata: _Metadata = field(default_factory=_Metadata)
    endpoints: list[_Referring] | None = None
    subsets: list[_Subset] | None = None


class _PodIP(Struct):
    ip: str = ""


class _PodSpec(Struct, rename="camel"):
    node_name: str = ""
    host_network: bool = False


class _PodStatus(Struct, rename="camel"):
    pod_ip: str = field(default="", name="podIP")
    pod_ips: list[_PodIP] | None = field(default=None, name="podIPs")
    phase: str = ""


class _Pod(Struct):
    kind: str = ""
    metadata: _Metadata = field(default_factory=_Metadata)
    spec: _PodSpec = field(default_factory=_PodSpec)
    status: _PodStatus = field(default_factory=_PodStatus)


class _List(Struct):
    kind: str = ""
    items: list[Raw] | None = None


_decode_list = msgspec.json.Decoder(_List).decode
_decode_slice = msgspec.json.Decoder(_Slice).decode
_decode_pod = msgspec.json.Decoder(_Pod).decode


class Reader:
    """Collects objects from file after file; the first of two with the same name is kept."""

    def __init__(self) -> None:
        self._converter = Converter(manifests=True)
        self._kept: dict[tuple[Kind, ObjectKey], Resource] = {}
        self._references: dict[tuple[ObjectKey, str], Backing] = {}
        self._pods: dict[str, Backing] = {}
        self._problems: list[str] = []

    def read(self, path: str, content: bytes) -> None:
        name = "standard input" if path == "-" else path
        content = content.removeprefix(b"\xef\xbb\xbf")
        for manifest in _manifests(name, content, self._problems):
            if manifest.kind is None:
                self._pod(manifest.data)
            elif manifest.api_version is not None:
                self._problems.append(f"{name}: a {manifest.kind.value} of {manifest.api_version!r} is left out")
            else:
                self._take(manifest.kind, manifest.data)

    def _take(self, kind: Kind, data: Raw | bytes) -> None:
        outcome = self._converter.convert(kind, data)
        match outcome:
            case Usable(found, warnings):
                self._kept.setdefault((kind, found.key), found)
                self._problems += map(str, warnings)
                if isinstance(found, EndpointSlice):
                    self._refer(found.service, data)
                elif isinstance(found, Endpoints):
                    self._refer(found.key, data)
            case NotOurs():
                pass
            case Rejection(problem=problem):
                self._problems.append(str(problem))

    def _refer(self, service: ObjectKey, data: Raw | bytes) -> None:
        """Which pods a slice, or Endpoints, names."""
        try:
            given = _decode_slice(data)
        except UNREADABLE:
            return
        for each in _referring(given):
            ref = each.target_ref
            for text in each.addresses or [each.ip]:
                ip = parse_ip(text)
                if ref is not None and ref.kind == "Pod" and ref.name and ip is not None:
                    pod = f"{ref.namespace or service.namespace}/{ref.name}"
                    self._references[service, ip] = Backing(pod, each.node_name or "")

    def _pod(self, data: Raw | bytes) -> None:
        try:
            pod = _decode_pod(data)
        except UNREADABLE:
            return
        # A pod in the host's network shares its address with the node and with others.
        if pod.kind != "Pod" or pod.spec.host_network or pod.status.phase in {"Succeeded", "Failed"}:
            return
        backing = Backing(f"{pod.metadata.namespace}/{pod.metadata.name}", pod.spec.node_name)
        for text in {pod.status.pod_ip, *(each.ip for each in pod.status.pod_ips or [])}:
            ip = parse_ip(text)
            if ip is not None:
                self._pods[ip] = backing

    def objects(self) -> Objects:
        kept = self._kept.values()
        services = {each.key: each for each in kept if isinstance(each, Service)}
        cidrs = (cidr for each in kept if isinstance(each, ServiceCIDR) for cidr in each.cidrs)
        bare = Objects(
            services=services,
            slices=_by_service(kept),
            nodes={each.name: each for each in kept if isinstance(each, Node)},
            service_cidrs=tuple(sorted(set(cidrs))),
            problems=tuple(self._problems),
            references=self._references,
            pods=self._pods,
        )
        return msgspec.structs.replace(bare, hashes=_hashes(bare), frontends=_frontends(bare))


def _referring(given: _Slice) -> Iterator[_Referring]:
    yield from given.endpoints or ()
    for subset in given.subsets or ():
        yield from subset.addresses or ()
        yield from subset.not_ready_addresses or ()


def _manifests(name: str, content: bytes, problems: list[str]) -> Iterator[Manifest]:
    """Every object of one file; of a List in JSON one by one, for one that is broken must not cost the others."""
    try:
        if content.lstrip()[:1] != b"{":
            yield from parse(PurePath(f"{name}.yaml"), content)
            return
        listed = _decode_list(content)
        if listed.kind != "List" or listed.items is None:
            yield from parse(PurePath(f"{name}.json"), content)
            return
    except (*UNREADABLE, InvalidObject) as error:
        why = error.why if isinstance(error, InvalidObject) else f"is no JSON: {error}"
        raise InvalidConfig(f"{name} {why}; {HOW}") from error
    for number, item in enumerate(listed.items, 1):
        try:
            yield from parse(PurePath("item.json"), bytes(item))
        except InvalidObject as error:
            problems.append(f"{name}, item {number}: {error.why}, and is left out")


def _by_service(kept: Iterable[Resource]) -> dict[ObjectKey, tuple[EndpointSlice, ...]]:
    """Slices by Service; Endpoints only of those that have no slices, for slices mirror them."""
    found: dict[ObjectKey, list[EndpointSlice]] = {}
    legacy: list[Endpoints] = []
    for each in kept:
        if isinstance(each, EndpointSlice):
            found.setdefault(each.service, []).append(each)
        elif isinstance(each, Endpoints):
            legacy.append(each)
    for each in legacy:
        found.setdefault(each.key, list(each.slices))
    return {key: tuple(sorted(slices, key=lambda each: (each.key, each.family))) for key, slices in found.items()}


def _hashes(objects: Objects) -> dict[str, ServicePortKey]:
    found: dict[str, ServicePortKey] = {}
    for key, _, _ in objects.ports():
        found[names.service_hash(key)] = key
        if not key.port:  # kube-proxy up to 1.17 wrote a colon behind every name
            found[names.digest(f"{key}:{key.protocol.lower}")] = key
    return found


def _frontends(objects: Objects) -> dict[tuple[str, int, str], ServicePortKey]:
    found: dict[tuple[str, int, str], ServicePortKey] = {}
    for key, service, port in objects.ports():
        for ip in (*service.cluster_ips, *service.external_ips, *service.load_balancer_vips):
            found.setdefault((ip, port.port, port.protocol.value), key)
        if port.node_port:
            found.setdefault(("", port.node_port, port.protocol.value), key)
        if service.health_check_node_port:
            found.setdefault(("", service.health_check_node_port, Protocol.TCP.value), key)
    return found
