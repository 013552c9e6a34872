"""The hosts and the wires of a small cluster, as network namespaces: what lies where, and who routes what to whom.

::

    client ──┐                                        ┌─ pods of node-1   10.244.1.0/24   fd00:10:244:1::/64
             ├── lan ──── node-1 ── cni0 (a bridge) ──┘
    cp ──────┤
             └────────── node-2 ── cni0 ──────────────┬─ pods of node-2   10.244.2.0/24   fd00:10:244:2::/64
                                                      └─ ...
    lan 192.168.100.0/24, fd00:100::/64: .1 router, .5 cp, .11 node-1, .12 node-2, .101 client

Every host knows the pods of each node by a route through that node. Client, cp and router know the cluster IPs and
load-balancer addresses by a route through the first node. All else goes to the router, which answers "unreachable",
so that a mistake is seen at once and not after a timeout.

A pod has its address alone on its link (/32, /128) and reaches even its neighbours through the node. On a bridge
with /24 addresses two neighbours would talk past the node's IP layer, and the answer to a connection that was
translated there would come back untranslated, unless br_netfilter is loaded, which an ordinary user cannot do.

No interface waits for duplicate address detection: nobody here can have the same address, and it takes seconds.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from kproxy.sandbox import namespace
from kproxy.sandbox.host import Host

SERVICES = {4: "10.96.0.0/16", 6: "fd00:10:96::/108"}
LOAD_BALANCERS = {4: "203.0.113.0/24", 6: "2001:db8:113::/64"}
CLUSTER = {4: "10.244.0.0/16", 6: "fd00:10:244::/48"}

_ROUTER, _CONTROL_PLANE, _FIRST_NODE, _FIRST_CLIENT = 1, 5, 11, 101
_FIRST_POD = 2  # the bridge itself is number 1
_QUIET = {
    "net/ipv4/conf/all/rp_filter": "0",  # answers may take another way than questions, as in most clusters
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv4/conf/all/send_redirects": "0",  # neighbours that are told to talk directly would lose translation
    "net/ipv4/conf/default/send_redirects": "0",
    "net/ipv6/conf/all/accept_redirects": "0",
    "net/ipv6/conf/default/accept_redirects": "0",
    "net/ipv6/conf/default/accept_dad": "0",
    "net/ipv6/conf/default/accept_ra": "0",
}
_ROUTING = {"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1"}


class Node(Host):
    """A host that carries pods: its number decides the pod ranges, ``routes`` names them by family."""

    def __init__(self, name: str, ips: Sequence[str], number: int) -> None:
        super().__init__(name, ips)
        self.pod_cidrs = {4: f"10.244.{number}.0/24", 6: f"fd00:10:244:{number:x}::/64"}
        self._gateways = {4: f"10.244.{number}.1", 6: f"fd00:10:244:{number:x}::1"}
        self._free = itertools.count(_FIRST_POD)

    def gateway(self, family: int) -> str:
        """The bridge's address, which pods of this node use as their router."""
        return self._gateways[family]

    def next_pod(self) -> tuple[str, dict[int, str]]:
        """A link name and addresses that no pod of this node has had; addresses are not used twice."""
        number = next(self._free)
        if number > 254:
            raise LookupError(f"{self.name} has had 253 pods; its range {self.pod_cidrs[4]} has no further address")
        return f"veth{number}", {4: f"{self._gateways[4][:-1]}{number}", 6: f"{self._gateways[6][:-1]}{number:x}"}


class Pod(Host):
    """A network namespace behind a node's bridge."""

    def __init__(self, name: str, node: Node, link: str, ips: Sequence[str], labels: Mapping[str, str]) -> None:
        super().__init__(name, ips)
        self.node = node
        self.link = link  # the node's end of the wire
        self.labels = dict(labels)


class World:
    """``async with World() as world``: the hosts above, wired and routed, gone at the end of the block.

    ``families`` (4, 6 or both) are those that get addresses. ``names`` is a directory, such as the /run/netns of a
    private /run, in which every host gets a file for ip-netns(8); without it the hosts are nameless. Needs
    CAP_SYS_ADMIN and CAP_NET_ADMIN in the present user namespace; changes nothing in the present network namespace.
    """

    def __init__(
        self,
        *,
        nodes: Sequence[str] = ("node-1", "node-2"),
        clients: Sequence[str] = ("client",),
        families: Sequence[int] = (4, 6),
        names: Path | None = None,
    ) -> None:
        self._names = names
        self.families = tuple(sorted(families))
        self._node_names, self._client_names = tuple(nodes), tuple(clients)
        self.hosts: dict[str, Host] = {}

    def host(self, name: str) -> Host:
        """The host or pod of that name; KeyError when there is none."""
        return self.hosts[name]

    def node(self, name: str) -> Node:
        """The node of that name; KeyError when there is none."""
        node = self.hosts[name]
        if not isinstance(node, Node):
            raise KeyError(f"{name} is not a node")
        return node

    def pod(self, name: str) -> Pod:
        """The pod of that name; KeyError when there is none."""
        pod = self.hosts[name]
        if not isinstance(pod, Pod):
            raise KeyError(f"{name} is not a pod")
        return pod

    @property
    def nodes(self) -> list[Node]:
        """The nodes in the order of their numbers."""
        return [host for host in self.hosts.values() if isinstance(host, Node)]

    @property
    def pods(self) -> list[Pod]:
        """The pods in the order in which they came."""
        return [host for host in self.hosts.values() if isinstance(host, Pod)]

    async def __aenter__(self) -> Self:
        try:
            await self._build()
        except BaseException:
            await self.close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Stop what runs in the hosts and let go of all of them."""
        hosts = [*self.hosts.values()]
        self.hosts.clear()
        await asyncio.gather(*(self._close(host) for host in reversed(hosts)))

    async def add_pod(self, name: str, node: str, labels: Mapping[str, str] | None = None) -> Pod:
        """Wire a new pod to a node; ready to send and receive when this returns."""
        home = self.node(node)
        link, addresses = home.next_pod()
        pod = Pod(name, home, link, [addresses[family] for family in self.families], labels or {})
        self._add(pod)
        pod.write_sysctls(_QUIET)
        await home.configure(
            [
                f"link add {link} type veth peer name eth0 netns {pod.path}",
                f"link set {link} master cni0 up",
                f"link set {link} type bridge_slave hairpin on",
            ],
            giving=(pod,),
        )
        lines = ["link set lo up", "link set eth0 up"]
        for family in self.families:
            gateway = home.gateway(family)
            lines += [
                f"address add {addresses[family]}/{_HOST_BITS[family]} dev eth0 {_NODAD[family]}",
                f"route add {gateway} dev eth0",
                f"route add {_ANYWHERE[family]} via {gateway}",
            ]
        await pod.configure(lines)
        return pod

    async def remove_pod(self, name: str) -> None:
        """End a pod: its programs, its wire, its namespace."""
        pod = self.pod(name)
        del self.hosts[name]
        await pod.node.configure([f"link delete {pod.link}"])
        await self._close(pod)

    async def _build(self) -> None:
        router = self._add(Host("lan", self._lan(_ROUTER)))
        for number, name in enumerate(self._node_names, 1):
            self._add(Node(name, self._lan(_FIRST_NODE - 1 + number), number))
        self._add(Host("cp", self._lan(_CONTROL_PLANE)))
        for number, name in enumerate(self._client_names):
            self._add(Host(name, self._lan(_FIRST_CLIENT + number)))
        attached = [host for host in self.hosts.values() if host is not router]
        for host in self.hosts.values():
            host.write_sysctls(_QUIET)
        for host in (router, *self.nodes):
            host.write_sysctls(_ROUTING)
        await self._wire(router, attached)
        await asyncio.gather(*(host.configure(self._links(host)) for host in attached))
        await router.configure(self._routes(router))

    def _add(self, host: Host) -> Host:
        if host.name in self.hosts:
            raise ValueError(f"there is already a host named {host.name}")
        self.hosts[host.name] = host
        if self._names is not None:
            namespace.bind(host.path, self._names / host.name)
        return host

    async def _close(self, host: Host) -> None:
        if self._names is not None:
            namespace.unbind(self._names / host.name)
        await host.close()

    def _lan(self, number: int) -> list[str]:
        addresses = {4: f"192.168.100.{number}", 6: f"fd00:100::{number:x}"}
        return [addresses[family] for family in self.families]

    async def _wire(self, router: Host, attached: Iterable[Host]) -> None:
        attached = tuple(attached)
        lines = ["link set lo up", "link add lan0 type bridge mcast_snooping 0", "link set lan0 up"]
        lines += self._on_lan(router, "lan0")
        for number, host in enumerate(attached):
            lines += [
                f"link add port{number} type veth peer name eth0 netns {host.path}",
                f"link set port{number} master lan0 up",
            ]
        await router.configure(lines, giving=attached)

    def _links(self, host: Host) -> list[str]:
        lines = ["link set lo up", "link set eth0 up", *self._on_lan(host, "eth0")]
        router = self.hosts["lan"]
        lines += [f"route add {_ANYWHERE[family]} via {router.ip(family)}" for family in self.families]
        if isinstance(host, Node):
            lines += ["link add cni0 type bridge mcast_snooping 0", "link set cni0 up"]
            for family in self.families:
                length = host.pod_cidrs[family].partition("/")[2]
                lines.append(f"address add {host.gateway(family)}/{length} dev cni0 {_NODAD[family]}")
        lines += self._routes(host)
        return lines

    def _on_lan(self, host: Host, link: str) -> list[str]:
        return [
            f"address add {host.ip(family)}/{_LAN_BITS[family]} dev {link} {_NODAD[family]}" for family in self.families
        ]

    def _routes(self, host: Host) -> list[str]:
        ways = [(node.pod_cidrs, node) for node in self.nodes if node is not host]
        if not isinstance(host, Node) and self.nodes:
            ways += [(SERVICES, self.nodes[0]), (LOAD_BALANCERS, self.nodes[0])]
        return [f"route add {ranges[family]} via {way.ip(family)}" for ranges, way in ways for family in self.families]


_LAN_BITS = {4: 24, 6: 64}
_HOST_BITS = {4: 32, 6: 128}
_NODAD = {4: "", 6: "nodad"}
_ANYWHERE = {4: "0.0.0.0/0", 6: "::/0"}
