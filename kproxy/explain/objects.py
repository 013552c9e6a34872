"""What the API knows and rules do not: names behind hashes, pods behind addresses, what ought to be there.

Reads what ``kubectl get svc,endpointslices,endpoints,nodes,pods -A -o json`` prints, or YAML, in one file or several.
Objects go the way that a daemon's go (``source``), so a name or an address means the same here and there; what a daemon
does not keep because it would cost its memory, pods and the endpoints' references to them, is read besides. One object
that cannot be used is told and left out.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePath
from typing import NamedTuple

import msgspec
from msgspec import Raw, Struct, field

from kproxy.backend.iptables import names
from kproxy.errors import InvalidConfig, InvalidObject
from kproxy.model.change import Rejection
from kproxy.model.cluster import Snapshot
from kproxy.model.endpoint import Endpoint, Endpoints, EndpointSlice
from kproxy.model.enums import Kind, Protocol
from kproxy.model.keys import ObjectKey, ServicePortKey
from kproxy.model.node import Node, ServiceCIDR
from kproxy.model.service import Service, ServicePort
from kproxy.source.address import parse_ip
from kproxy.source.convert import Converter, NotOurs, Usable
from kproxy.source.manifest import Manifest, parse
from kproxy.source.wire import UNREADABLE

_HOW = "give what `kubectl get services,endpointslices,endpoints,nodes,pods -A -o json` prints"
_LARGEST = 1 << 30  # bytes of one file


class Backing(NamedTuple):
    """What stands behind an endpoint's address; empty where nothing says it."""

    pod: str = ""  # namespace/name
    node: str = ""
    state: str = ""  # "ready", "terminating", "not ready", "gone"


class Objects(Struct, frozen=True):
    services: Mapping[ObjectKey, Service] = {}
    slices: Mapping[ObjectKey, tuple[EndpointSlice, ...]] = {}  # by the Service's key
    nodes: Mapping[str, Node] = {}
    service_cidrs: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()  # of objects that were left out, in a sentence each
    hashes: Mapping[str, ServicePortKey] = {}  # of chains' names
    frontends: Mapping[tuple[str, int, str], ServicePortKey] = {}  # (address, port, protocol), node ports without one
    references: Mapping[tuple[ObjectKey, str], Backing] = {}  # (Service, address): the pod that a slice names
    pods: Mapping[str, Backing] = {}  # by address
    index: dict[ObjectKey, dict[tuple[str, str, int], Endpoint]] = {}  # made of ``slices`` when it is asked for

    @property
    def known(self) -> bool:
        """Whether any object was given."""
        return bool(self.services or self.slices or self.nodes or self.pods)

    def addresses(self, node: str) -> tuple[str, ...]:
        """Of a node, by its name; nothing where it is not known."""
        found = self.nodes.get(node)
        return found.addresses if found else ()

    def ports(self) -> Iterator[tuple[ServicePortKey, Service, ServicePort]]:
        """Every service port that a proxy serves."""
        for service in self.services.values():
            if service.cluster_ips:
                for port in service.ports:
                    yield ServicePortKey(*service.key, port.name, port.protocol), service, port

    def targets(self, key: ServicePortKey) -> Iterator[tuple[str, int]]:
        """Every (ip, port) that slices give a service port, of any condition and family."""
        for each in self.slices.get(key.service, ()):
            for port in each.ports:
                if (port.name, port.protocol) == (key.port, key.protocol):
                    yield from ((endpoint.ip, port.port) for endpoint in each.endpoints)

    def backing(self, service: str, port: str, ip: str, number: int) -> Backing:
        """Of an endpoint ``ip:number`` of port ``port`` of Service ``service`` (namespace/name)."""
        key = ObjectKey(*service.split("/", 1)) if "/" in service else ObjectKey("", "")
        pod = self.references.get((key, ip)) or self.pods.get(ip) or Backing()
        found = self._endpoint(key, port, ip, number)
        if found is not None:
            return Backing(pod.pod, found.node or pod.node, _state(found))
        gone = key in self.services and bool(self.slices)
        return Backing(pod.pod, pod.node, "gone" if gone else pod.state)

    def snapshot(self, node: str) -> Snapshot:
        """All of it as a daemon on that node would see it, to plan what ought to be there."""
        return Snapshot(self.services, self.slices, self.nodes.get(node), self.service_cidrs)

    def _endpoint(self, key: ObjectKey, port: str, ip: str, number: int) -> Endpoint | None:
        """The best of those that say the same address."""
        known = self.index.get(key)
        if known is None:
            known = self.index[key] = {}
            for each in self.slices.get(key, ()):
                for given in each.ports:
                    for endpoint in each.endpoints:
                        at = (given.name, endpoint.ip, given.port)
                        before = known.get(at)
                        if before is None or (endpoint.ready, endpoint.serving) > (before.ready, before.serving):
                            known[at] = endpoint
        return known.get((port, ip, number))


NOTHING = Objects()


def _state(endpoint: Endpoint) -> str:
    if endpoint.terminating:
        return "terminating"
    return "ready" if endpoint.ready else "not ready"


# --- reading --------------------------------------------------------------------------------------------------


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


def read_objects(paths: Sequence[str]) -> Objects:
    """Files, or - for standard input. Raises InvalidConfig, which names a file that is unreadable as a whole."""
    reader = _Reader()
    for path in paths:
        reader.read(path, _content(path))
    return reader.objects()


def objects_of(content: bytes, name: str = "") -> Objects:
    """The same from what one file holds."""
    reader = _Reader()
    reader.read(name or "the objects", content)
    return reader.objects()


def _content(path: str) -> bytes:
    try:
        if path == "-":
            return sys.stdin.buffer.read(_LARGEST + 1)
        with Path(path).open("rb") as file:
            return file.read(_LARGEST + 1)
    except OSError as error:
        raise InvalidConfig(f"{path} cannot be read: {error.strerror}; {_HOW}") from error


class _Reader:
    """Collects objects from file after file; the first of two with the same name is kept."""

    def __init__(self) -> None:
        self._converter = Converter(manifests=True)
        self._kept: dict[tuple[Kind, ObjectKey], object] = {}
        self._references: dict[tuple[ObjectKey, str], Backing] = {}
        self._pods: dict[str, Backing] = {}
        self._problems: list[str] = []

    def read(self, path: str, content: bytes) -> None:
        name = "standard input" if path == "-" else path
        if len(content) > _LARGEST:
            raise InvalidConfig(f"{name} is larger than {_LARGEST >> 30} GB; split it")
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
        raise InvalidConfig(f"{name} {why}; {_HOW}") from error
    for number, item in enumerate(listed.items, 1):
        try:
            yield from parse(PurePath("item.json"), bytes(item))
        except InvalidObject as error:
            problems.append(f"{name}, item {number}: {error.why}, and is left out")


def _by_service(kept: object) -> dict[ObjectKey, tuple[EndpointSlice, ...]]:
    """Slices by Service; Endpoints only of those that have no slices, for slices mirror them."""
    found: dict[ObjectKey, list[EndpointSlice]] = {}
    legacy: list[Endpoints] = []
    for each in kept:  # type: ignore[attr-defined]
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
