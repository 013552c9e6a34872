"""Objects as an API server prints them, all of them right; small worlds in which they meet, clash and repeat.

Few names, few addresses and few ports, so that Services claim what is another's and slices hold the same endpoints
twice. Huge ones are made by counting, not by choosing: a thousand endpoints cost one choice.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from hypothesis import strategies as st

from kproxy.model.enums import Kind

Json = dict[str, Any]

NODE = "n1"
NAMESPACES = ("ns", "other")
NAMES = ("a", "b", "c", "web-0")
# Two Services whose printed names and hashes are nearly the same text: a/b:c beside a port called c of Service b.
TWINS = (("ns", "a"), ("ns", "a-b"), ("ns-a", "b"))
PORTS = (("", "TCP"), ("p", "TCP"), ("p", "UDP"), ("q", "SCTP"), ("http-8080", "TCP"))
PROTOCOLS = ("TCP", "UDP", "SCTP")
V4, V6 = "IPv4", "IPv6"
CLUSTER_IPS = {V4: ("10.96.0.{}", 9), V6: ("fd00:10:96::{:x}", 9)}
POD_IPS = {V4: ("10.244.{}.{}"), V6: "fd00:10:244:{:x}::{:x}"}
OUTER_IPS = {V4: ("192.0.2.1", "192.0.2.2", "10.96.0.3"), V6: ("2001:db8::1", "2001:db8::2", "fd00:10:96::3")}
NODE_IPS = {V4: "192.168.0.2", V6: "fd00:192::2"}
RANGES = (
    "203.0.113.0/24",
    "0.0.0.0/0",
    "192.168.0.0/16",
    "2001:db8:f::/48",
    "::/0",
    "fd00:192::/64",
    "198.51.100.7/32",
)
ZONES = ("za", "zb")
_WISHES = (
    {"kproxy.io/mode": "userspace", "kproxy.io/balance": "least-connections", "note": "a"},
    {"kproxy.io/mode": "iptables", "kproxy.io/connect-deadlines": "250ms,1s", "kproxy.io/transparent": "true"},
)
TIMES = ("2024-01-01T00:00:00Z", "2025-06-01T12:00:00Z", "2025-06-01T12:00:00.5+02:00")
_ENDPOINTS, _NUMBERS, _ADDRESSES, _SLICES = 1000, 500, 200, 100  # the huge ones


class Document(NamedTuple):
    """One object; ``good``: nothing was done to it."""

    kind: Kind
    json: Any
    good: bool = True


def mostly(usual: Any, *others: Any) -> st.SearchStrategy[Any]:
    return st.sampled_from([usual] * (2 * len(others)) + [*others])


def _metadata(namespace: str, name: str, **rest: Any) -> Json:
    return {"name": name, "namespace": namespace, "uid": f"uid-{namespace}-{name}", "resourceVersion": "7", **rest}


# --- Services -------------------------------------------------------------------------------------------------


@st.composite
def services(draw: st.DrawFn, namespace: str = "", name: str = "") -> Json:
    namespace = namespace or draw(st.sampled_from(NAMESPACES))
    name = name or draw(st.sampled_from(NAMES))
    families = draw(st.sampled_from([(V4,), (V4,), (V6,), (V4, V6), (V6, V4)]))
    ips = [_cluster_ip(family, draw(st.integers(1, 9))) for family in families]
    kind = draw(st.sampled_from(["ClusterIP", "ClusterIP", "NodePort", "LoadBalancer"]))
    spec: Json = {
        "type": kind,
        "clusterIP": ips[0],
        "clusterIPs": ips,
        "ipFamilies": list(families),
        "ipFamilyPolicy": "PreferDualStack",
        "ports": _service_ports(draw, kind),
        "sessionAffinity": "None",
        "internalTrafficPolicy": draw(mostly("Cluster", "Local")),
        "selector": {"app": name},
    }
    if draw(mostly(False, True)):
        seconds = draw(st.sampled_from([1, 10, 10800, 86400]))
        spec |= {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": seconds}}}
    status: Json = {"loadBalancer": {}}
    if draw(st.booleans()):
        spec |= _external(draw, kind, families)
        status = {"loadBalancer": {"ingress": _ingress(draw, families)}} if kind == "LoadBalancer" else status
    created, wish = draw(st.sampled_from(TIMES)), draw(mostly({}, *_WISHES))
    if any(port["protocol"] == "SCTP" for port in spec["ports"]):
        wish = {}  # which no relay grants, and that is told
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _metadata(namespace, name, creationTimestamp=created, labels={"app": name}, annotations=wish),
        "spec": spec,
        "status": status,
    }


def _cluster_ip(family: str, number: int) -> str:
    return CLUSTER_IPS[family][0].format(number)


def _service_ports(draw: st.DrawFn, kind: str) -> list[Json]:
    wanted = draw(st.lists(st.sampled_from(PORTS), max_size=3, unique=True))
    ports: list[Json] = []
    for name, protocol in wanted or [("", "TCP")]:
        port: Json = {
            "name": name,
            "protocol": protocol,
            "port": draw(st.sampled_from([53, 80, 443])),
            "targetPort": 8080,
        }
        if kind != "ClusterIP":
            port["nodePort"] = draw(st.integers(30000, 30003))
        ports.append(port)
    return ports


def _external(draw: st.DrawFn, kind: str, families: Sequence[str]) -> Json:
    ips = [ip for family in families for ip in OUTER_IPS[family]]
    policy = draw(st.sampled_from(["Cluster", "Local"]))
    spec: Json = {"externalIPs": draw(st.lists(st.sampled_from(ips), max_size=2)), "externalTrafficPolicy": policy}
    if kind == "LoadBalancer":
        spec["loadBalancerSourceRanges"] = draw(st.lists(st.sampled_from(RANGES), max_size=2))
        spec["allocateLoadBalancerNodePorts"] = True
        if policy == "Local":
            spec["healthCheckNodePort"] = draw(st.integers(30002, 30005))
    return spec


def _ingress(draw: st.DrawFn, families: Sequence[str]) -> list[Json]:
    ips = [ip for family in families for ip in OUTER_IPS[family]]
    return draw(
        st.lists(
            st.sampled_from([*({"ip": ip, "ipMode": "VIP"} for ip in ips), {"ip": ips[0]}, {"hostname": "lb.example"}]),
            max_size=2,
        )
    )


# --- endpoints ------------------------------------------------------------------------------------------------


@st.composite
def slices(draw: st.DrawFn, namespace: str = "", service: str = "", number: int = 0) -> Json:
    namespace = namespace or draw(st.sampled_from(NAMESPACES))
    service = service or draw(st.sampled_from(NAMES))
    family = draw(mostly(V4, V6))
    ports = draw(mostly(PORTS, PORTS[:2], PORTS[2:], ()))
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": _metadata(
            namespace,
            f"{service}-{family.lower()}-{number or draw(st.integers(1, 2))}",
            labels={"kubernetes.io/service-name": service, "endpointslice.kubernetes.io/managed-by": "controller"},
            annotations={"endpoints.kubernetes.io/last-change-trigger-time": draw(st.sampled_from(TIMES))},
        ),
        "addressType": family,
        "endpoints": [_endpoint(draw, family) for _ in range(draw(mostly(3, 0, 1, 2, 5)))],
        "ports": [
            {"name": name, "protocol": protocol, "port": draw(mostly(8080, 53, 9090))} for name, protocol in ports
        ],
    }


def _endpoint(draw: st.DrawFn, family: str) -> Json:
    number = draw(st.integers(1, 6))
    node = draw(st.sampled_from([NODE, "n2"]))
    made: Json = {
        "addresses": [POD_IPS[family].format(1, number)],
        "conditions": draw(
            mostly(
                {"ready": True, "serving": True, "terminating": False},
                {"ready": False, "serving": True, "terminating": True},
                {"ready": False, "serving": False},
                {},
            )
        ),
        "nodeName": node,
        "zone": draw(st.sampled_from(ZONES)),
        "targetRef": {"kind": "Pod", "name": f"pod-{number}"},
    }
    if draw(mostly(False, True)):
        made["hints"] = {"forZones": [{"name": made["zone"]}], "forNodes": [{"name": node}]}
    return made


@st.composite
def legacy_endpoints(draw: st.DrawFn, namespace: str = "", service: str = "") -> Json:
    namespace = namespace or draw(st.sampled_from(NAMESPACES))
    family = draw(mostly(V4, V6))
    addresses = [
        {"ip": POD_IPS[family].format(2, number), "nodeName": NODE, "targetRef": {"kind": "Pod", "name": "x"}}
        for number in range(1, draw(st.integers(1, 4)))
    ]
    ports = [{"port": 8080, "protocol": draw(st.sampled_from(PROTOCOLS))}, {"name": "p", "port": 53, "protocol": "UDP"}]
    subset = {"addresses": addresses, "notReadyAddresses": addresses[:1], "ports": ports}
    return {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": _metadata(namespace, service or draw(st.sampled_from(NAMES))),
        "subsets": [subset],
    }


# --- Node, ServiceCIDR ----------------------------------------------------------------------------------------


@st.composite
def nodes(draw: st.DrawFn) -> Json:
    metadata: Json = {
        "name": NODE,
        "uid": "uid-node",
        "labels": {"topology.kubernetes.io/zone": draw(st.sampled_from(ZONES)), "kubernetes.io/hostname": NODE},
    }
    if draw(mostly(False, True)):
        metadata["deletionTimestamp"] = TIMES[0]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": metadata,
        "spec": {
            "podCIDR": "10.244.1.0/24",
            "podCIDRs": ["10.244.1.0/24", "fd00:10:244:1::/64"],
            "taints": [{"key": "ToBeDeletedByClusterAutoscaler", "effect": "NoSchedule"}],
        },
        "status": {
            "addresses": [
                {"type": "Hostname", "address": NODE},
                {"type": "InternalIP", "address": NODE_IPS[V4]},
                {"type": "InternalIP", "address": NODE_IPS[V6]},
                {"type": "ExternalIP", "address": "203.0.113.9"},
            ]
        },
    }


@st.composite
def service_cidrs(draw: st.DrawFn) -> Json:
    cidrs = draw(st.lists(st.sampled_from(["10.96.0.0/16", "fd00:10:96::/108"]), max_size=2))
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "ServiceCIDR",
        "metadata": {"name": "kubernetes", "uid": "uid-cidr"},
        "spec": {"cidrs": cidrs},
    }


# --- huge -----------------------------------------------------------------------------------------------------


def _huge_slice(service: str, number: int, endpoints: int) -> Json:
    return {
        "kind": "EndpointSlice",
        "apiVersion": "discovery.k8s.io/v1",
        "metadata": _metadata("ns", f"{service}-{number}", labels={"kubernetes.io/service-name": service}),
        "addressType": V4,
        "endpoints": [
            {"addresses": [f"10.{100 + number}.{each // 250}.{each % 250}"], "nodeName": f"n{each % 3}"}
            for each in range(endpoints)
        ],
        "ports": [{"name": "", "protocol": "TCP", "port": 8080}],
    }


def _huge_service(name: str, *, ports: int = 1, addresses: int = 0, ip: str = "10.96.1.1") -> Json:
    return {
        "kind": "Service",
        "apiVersion": "v1",
        "metadata": _metadata("ns", name),
        "spec": {
            "type": "NodePort",
            "clusterIP": ip,
            "clusterIPs": [ip],
            "ipFamilies": [V4],
            "externalIPs": [f"192.0.{2 + each // 250}.{each % 250}" for each in range(addresses)],
            "ports": [
                {"name": f"p{each}" if ports > 1 else "", "port": 1 + each, "protocol": "TCP", "nodePort": 30000 + each}
                for each in range(ports)
            ],
        },
    }


HUGE: list[list[Document]] = [
    [
        Document(Kind.SERVICE, _huge_service("crowd")),
        Document(Kind.ENDPOINT_SLICE, _huge_slice("crowd", 1, _ENDPOINTS)),
    ],
    [Document(Kind.SERVICE, _huge_service("ports", ports=_NUMBERS))],
    [
        Document(Kind.SERVICE, _huge_service("outside", addresses=_ADDRESSES)),
        Document(Kind.ENDPOINT_SLICE, _huge_slice("outside", 1, 3)),
    ],
    [
        Document(Kind.SERVICE, _huge_service("pieces")),
        *(Document(Kind.ENDPOINT_SLICE, _huge_slice("pieces", number, 3)) for number in range(_SLICES)),
    ],
]

# --- worlds ---------------------------------------------------------------------------------------------------

OBJECTS: dict[Kind, Any] = {
    Kind.SERVICE: services,
    Kind.ENDPOINT_SLICE: slices,
    Kind.ENDPOINTS: legacy_endpoints,
    Kind.NODE: nodes,
    Kind.SERVICE_CIDR: service_cidrs,
}
KINDS = mostly(Kind.SERVICE, Kind.ENDPOINT_SLICE, Kind.ENDPOINT_SLICE, Kind.ENDPOINTS, Kind.NODE, Kind.SERVICE_CIDR)


@st.composite
def good_documents(draw: st.DrawFn, kind: Kind | None = None) -> Document:
    kind = kind or draw(KINDS)
    return Document(kind, draw(OBJECTS[kind]()))


@st.composite
def good_worlds(draw: st.DrawFn) -> list[Document]:
    """A few Services with endpoints, perhaps our Node; now and then something huge."""
    found: list[Document] = []
    for namespace, name in draw(
        st.lists(st.sampled_from([(s, n) for s in NAMESPACES for n in NAMES] + [*TWINS]), max_size=4, unique=True)
    ):
        found.append(Document(Kind.SERVICE, draw(services(namespace, name))))
        numbers = range(1, 1 + draw(mostly(1, 0, 2)))
        found += [Document(Kind.ENDPOINT_SLICE, draw(slices(namespace, name, number))) for number in numbers]
    if draw(st.booleans()):
        found.append(Document(Kind.NODE, draw(nodes())))
    if draw(st.integers(0, 200)) == 117:  # hypothesis likes the ends of a range more than chance does
        found += draw(st.sampled_from(HUGE))
    return found
