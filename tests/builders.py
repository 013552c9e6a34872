"""Objects for tests, said in a few words: what a test does not mention is ordinary.

An endpoint is written as a text, its address and then what is special about it: ``10.180.0.1 @n1 ST z=a,b n=n1``.
States: R ready (the default), ST serving and terminating, RT ready and terminating, NS not ready but serving,
N neither.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kproxy.model.change import Listed
from kproxy.model.cluster import Cluster, Snapshot
from kproxy.model.endpoint import Endpoint, EndpointSlice, SlicePort
from kproxy.model.enums import IPFamily, Kind, Protocol
from kproxy.model.keys import ObjectKey
from kproxy.model.node import Node
from kproxy.model.service import Service, ServicePort

NODE = "n1"
NODE_IP = "192.168.0.2"
_STATES = {
    "R": {},
    "ST": {"ready": False, "terminating": True},
    "RT": {"terminating": True},
    "NS": {"ready": False},
    "N": {"ready": False, "serving": False},
}


def port(number: int = 80, name: str = "", protocol: Protocol = Protocol.TCP, node_port: int = 0) -> ServicePort:
    return ServicePort(name=name, protocol=protocol, port=number, node_port=node_port)


def udp(number: int = 53, name: str = "", node_port: int = 0) -> ServicePort:
    return port(number, name, Protocol.UDP, node_port)


def service(name: str = "web", *cluster_ips: str, ports: Iterable[ServicePort] = (port(),), **rest: Any) -> Service:
    """Its key is default/<name>, or <name> itself where that holds a slash."""
    return Service(key=key(name), cluster_ips=cluster_ips or ("172.30.0.41",), ports=tuple(ports), **rest)


def endpoint(text: str) -> Endpoint:
    ip, *words = text.split()
    fields: dict[str, Any] = {}
    for word in words:
        if word.startswith("@"):
            fields["node"] = word[1:]
        elif word.startswith("z="):
            fields["zone_hints"] = frozenset(word[2:].split(","))
        elif word.startswith("n="):
            fields["node_hints"] = frozenset(word[2:].split(","))
        else:
            fields |= _STATES[word]
    return Endpoint(ip=ip, **fields)


def slice_of(
    name: str,
    *endpoints: str,
    port_name: str = "",
    protocol: Protocol = Protocol.TCP,
    number: int = 8080,
    suffix: str = "1",
    ports: Iterable[SlicePort] = (),
) -> EndpointSlice:
    """A slice of the Service ``name``; its family is that of its first endpoint, IPv4 if it has none."""
    owner = key(name)
    found = tuple(endpoint(text) for text in endpoints)
    return EndpointSlice(
        key=ObjectKey(owner.namespace, f"{owner.name}-{suffix}"),
        service=owner,
        family=IPFamily.IPV6 if found and ":" in found[0].ip else IPFamily.IPV4,
        ports=tuple(ports) or (SlicePort(port_name, protocol, number),),
        endpoints=found,
    )


def node(name: str = NODE, **rest: Any) -> Node:
    return Node(name=name, **{"addresses": (NODE_IP,), **rest})


def cluster(*objects: Service | EndpointSlice | Node, node_name: str = NODE) -> Cluster:
    """A store in which these objects, and no others, were listed."""
    store = Cluster(node_name)
    for kind, model in ((Kind.NODE, Node), (Kind.SERVICE, Service), (Kind.ENDPOINT_SLICE, EndpointSlice)):
        store.apply(Listed(kind, tuple(each for each in objects if isinstance(each, model))))
    return store


def snapshot(*objects: Service | EndpointSlice | Node) -> Snapshot:
    """What a store holds after these objects were listed; our own Node is there unless another is given."""
    given = any(isinstance(each, Node) for each in objects)
    return cluster(*objects, *(() if given else (node(),))).snapshot()


def key(name: str) -> ObjectKey:
    namespace, _, rest = name.rpartition("/")
    return ObjectKey(namespace or "default", rest)
