"""Synthetic clusters: the same API objects for everyone who is compared.

A cluster is n services of one TCP port with m endpoints each, as a busy real one looks to a proxy: cluster IPs are
spread over a /12 as the allocator spreads them, every tenth service has a node port, nodes carry a hundred pods each,
and a service's endpoints are on different nodes. So about a hundred endpoints are on the node that is measured,
whatever the size, and the rest are remote. Deterministic: a size names a cluster.

Rejected: services with consecutive addresses (a prefix tree likes them too well), and objects with only the fields
that kproxy reads (a reader is paid for skipping the rest, so the bulk of a real object is there: labels, annotations,
managedFields).
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address
from typing import Any

Json = dict[str, Any]

SERVICE_CIDR = "10.96.0.0/12"
CLUSTER_CIDR = "10.128.0.0/9"  # holds the pods, and the client of packets.py
POD_CIDR = "10.192.0.0/10"
NODE = "node-0"  # the node that is measured
SIZES = ("100x2", "1000x5", "5000x10", "10000x10")

_FIRST_CLUSTER_IP = int(IPv4Address("10.96.0.0"))
_FIRST_POD = int(IPv4Address("10.192.0.0"))
_CLUSTER_IPS = 1 << 20
_FIRST_NODE_PORT, _NODE_PORTS = 30000, 2768
_PODS_PER_NODE = 100
_SPARE_SLOTS = 100  # of the 254 addresses of a node, above its pods: what `moved` hands out
_SLICE_SIZE = 100  # kube-controller-manager's --max-endpoints-per-slice
_EVERY = 10  # each tenth service has a node port


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One ready pod; ``node`` is its number."""

    ip: str
    node: int


@dataclass(frozen=True, slots=True)
class Service:
    """One service with one TCP port. ``node_port`` 0: none."""

    number: int
    cluster_ip: str
    node_port: int
    endpoints: tuple[Endpoint, ...]

    port = 80
    target_port = 8080
    port_name = "http"

    @property
    def namespace(self) -> str:
        return f"team-{self.number % 50}"

    @property
    def name(self) -> str:
        return f"service-{self.number}"

    @property
    def key(self) -> str:
        """``namespace/name:port``, as kube-proxy prints it."""
        return f"{self.namespace}/{self.name}:{self.port_name}"

    def without_last(self) -> Service:
        """A pod less: the service as it is in the middle of a rolling update."""
        return replace(self, endpoints=self.endpoints[:-1])


@dataclass(frozen=True, slots=True)
class Cluster:
    """All services in the order of their creation."""

    services: tuple[Service, ...]

    @property
    def endpoints(self) -> int:
        return sum(len(service.endpoints) for service in self.services)

    def documents(self) -> Iterator[Json]:
        """Every API object: nodes, services, slices."""
        yield node_document(NODE)
        for service in self.services:
            yield service_document(service)
            yield from slice_documents(service)


def parse_size(text: str) -> tuple[int, int]:
    """``1000x5`` → (1000, 5); ValueError says what is accepted."""
    found = re.fullmatch(r"([1-9][0-9]*)x([1-9][0-9]*)", text)
    if found is None:
        raise ValueError(f"{text}: a size is SERVICESxENDPOINTS, such as {SIZES[0]}")
    return int(found[1]), int(found[2])


def make_cluster(services: int, endpoints: int, *, first: int = 0) -> Cluster:
    """``services`` services of ``endpoints`` endpoints each. ``first`` above 0: others, with other frontends."""
    offsets = random.Random(7).sample(range(16, _CLUSTER_IPS), first + services)[first:]  # noqa: S311 -- repeatable
    nodes = max(2, -(-(first + services) * endpoints // _PODS_PER_NODE))
    made = []
    for place, offset in enumerate(offsets):
        number = first + place
        at = number * endpoints
        made.append(
            Service(
                number=number,
                cluster_ip=str(IPv4Address(_FIRST_CLUSTER_IP + offset)),
                node_port=_node_port(number),
                endpoints=tuple(_endpoint(at + nth, nodes) for nth in range(endpoints)),
            )
        )
    return Cluster(tuple(made))


def moved(service: Service, times: int) -> Service:
    """The service after its last pod was replaced for the ``times``-th time: same node, another address."""
    last = service.endpoints[-1]
    spare = 1 + _PODS_PER_NODE + times % _SPARE_SLOTS
    ip = str(IPv4Address(int(IPv4Address(last.ip)) & ~0xFF | spare))
    return replace(service, endpoints=(*service.endpoints[:-1], Endpoint(ip, last.node)))


def _endpoint(number: int, nodes: int) -> Endpoint:
    node, slot = number % nodes, number // nodes
    return Endpoint(str(IPv4Address(_FIRST_POD + (node << 8) + slot + 1)), node)


def _node_port(number: int) -> int:
    place, off = divmod(number, _EVERY)
    return 0 if off or place >= _NODE_PORTS else _FIRST_NODE_PORT + place


# --- API objects ----------------------------------------------------------------------------------------------


def node_document(name: str) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": "zone-a", "kubernetes.io/os": "linux"}},
        "spec": {"podCIDR": "10.192.0.0/24", "podCIDRs": ["10.192.0.0/24"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.168.50.1"}]},
    }


def service_document(service: Service) -> Json:
    port: Json = {
        "name": service.port_name,
        "protocol": "TCP",
        "port": service.port,
        "targetPort": service.target_port,
    }
    if service.node_port:
        port["nodePort"] = service.node_port
    spec: Json = {
        "type": "NodePort" if service.node_port else "ClusterIP",
        "clusterIP": service.cluster_ip,
        "clusterIPs": [service.cluster_ip],
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
        "internalTrafficPolicy": "Cluster",
        "sessionAffinity": "None",
        "selector": {"app": service.name},
        "ports": [port],
    }
    if service.node_port:
        spec["externalTrafficPolicy"] = "Cluster"
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(service, service.name, "f:spec", {"app": service.name}),
        "spec": spec,
        "status": {"loadBalancer": {}},
    }


def slice_documents(service: Service) -> Iterator[Json]:
    """A slice for every hundred endpoints; one, without any, for a service that has none."""
    for start in range(0, max(len(service.endpoints), 1), _SLICE_SIZE):
        labels = {
            "kubernetes.io/service-name": service.name,
            "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io",
            "app": service.name,
        }
        name = f"{service.name}-{start // _SLICE_SIZE}"
        yield {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": _metadata(service, name, "f:endpoints", labels),
            "addressType": "IPv4",
            "ports": [{"name": service.port_name, "protocol": "TCP", "port": service.target_port}],
            "endpoints": [
                _endpoint_document(service, start + nth, endpoint)
                for nth, endpoint in enumerate(service.endpoints[start : start + _SLICE_SIZE])
            ],
        }


def _endpoint_document(service: Service, number: int, endpoint: Endpoint) -> Json:
    return {
        "addresses": [endpoint.ip],
        "conditions": {"ready": True, "serving": True, "terminating": False},
        "nodeName": f"node-{endpoint.node}",
        "zone": "zone-a",
        "targetRef": {
            "kind": "Pod",
            "namespace": service.namespace,
            "name": f"{service.name}-{number:05x}",
            "uid": f"{service.number:08x}-{number:04x}-4000-8000-000000000000",
        },
    }


def _metadata(service: Service, name: str, field: str, labels: dict[str, str]) -> Json:
    stamp = "2026-01-01T00:00:00Z"
    return {
        "name": name,
        "namespace": service.namespace,
        "uid": f"{service.number:08x}-0000-4000-8000-{len(name):012x}",
        "creationTimestamp": stamp,
        "labels": {"app.kubernetes.io/part-of": service.namespace, **labels},
        "annotations": {"example.com/owner": f"{service.namespace}@example.com", "example.com/notes": "x" * 120},
        "managedFields": [
            {
                "manager": "kube-controller-manager",
                "operation": "Update",
                "apiVersion": "v1",
                "time": stamp,
                "fieldsType": "FieldsV1",
                "fieldsV1": {"f:metadata": {"f:labels": {".": {}, "f:app": {}}}, field: {}},
            }
        ],
    }
