"""What the API knows and rules do not: names behind hashes, pods behind addresses, what ought to be there.

From what ``kubectl get svc,endpointslices,endpoints,nodes,pods -A -o json`` prints, or YAML, in one file or several;
how that is read is kubectl.py's.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from msgspec import Struct

from kproxy.errors import InvalidConfig, UnreadableDump
from kproxy.explain.read.intake import read_input
from kproxy.model.cluster import Snapshot
from kproxy.model.endpoint import Endpoint, EndpointSlice
from kproxy.model.keys import ObjectKey, ServicePortKey
from kproxy.model.node import Node
from kproxy.model.service import Service, ServicePort

LARGEST = 1 << 30  # bytes of one file; ten thousand pods take a tenth
HOW = "give what `kubectl get services,endpointslices,endpoints,nodes,pods -A -o json` prints"


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


def read_objects(paths: Sequence[str]) -> Objects:
    """Files, or - for standard input. Raises InvalidConfig, which names a file that is unreadable as a whole."""
    from kproxy.explain.read.kubectl import Reader

    reader = Reader()
    for path in paths:
        reader.read(path, _content(path))
    return reader.objects()


def objects_of(content: bytes, name: str = "") -> Objects:
    """The same from what one file holds."""
    from kproxy.explain.read.kubectl import Reader

    reader = Reader()
    reader.read(name or "the objects", content)
    return reader.objects()


def _content(path: str) -> bytes:
    try:
        return read_input(path, largest=LARGEST)
    except UnreadableDump as error:  # a file is a file, but its remedies are a dump's
        raise InvalidConfig(f"{error.why.partition(';')[0]}; {HOW}") from error
