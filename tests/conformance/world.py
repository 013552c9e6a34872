"""The machines of the recorded scenarios: who is where, what answers there, and how a source address is called.

::

    lan   192.168.100.0/24  fd00:100::/64    cp .5   n1 .11   n2 .12   ext .50 .51 .52   router .1
    lan2  192.168.101.0/24  fd00:101::/64            n1 .11   n2 .12   ext .50
    n1 cni0 10.244.1.1/24   p1a .10  p1b .11  p1c .12     n2 cni0 10.244.2.1/24   p2a .10  p2b .11  pbig .13

The router forwards nothing and says nothing: an address that nobody translates must look like silence. pbig owns all
of 10.244.3.0/24 and fd00:10:244:3::/64, so that a Service of hundreds of endpoints needs one pod. Pods have their
address alone on the link, as in `kproxy.sandbox.world`, so that neighbours meet the node's IP layer.

Rejected: `kproxy.sandbox.world.World`, whose hosts have other addresses, one network, and a router that answers.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from kproxy.sandbox.host import Host
from kproxy.sandbox.workload import Ports, Workload
from tests.conformance.sctp import SctpServer

Addresses = dict[int, str]  # by IP family


def _lan(number: int, lan: int = 0) -> Addresses:
    return {4: f"192.168.{100 + lan}.{number}", 6: f"fd00:{100 + lan}::{number}"}


def _pod(node: int, number: int) -> Addresses:
    return {4: f"10.244.{node}.{number}", 6: f"fd00:10:244:{node}::{number}"}


NODES = {"n1": 1, "n2": 2}
PODS = {"p1a": (1, 10), "p1b": (1, 11), "p1c": (1, 12), "p2a": (2, 10), "p2b": (2, 11), "pbig": (2, 13)}
ZONES = {"n1": "za", "n2": "zb"}
BIG = {4: "10.244.3.0/24", 6: "fd00:10:244:3::/64"}
# Names that probes use; a host's own name stands for its first address.
NAMES: dict[str, Addresses] = {
    "cp": _lan(5),
    "n1": _lan(11),
    "n2": _lan(12),
    "n1b": _lan(11, 1),
    "n2b": _lan(12, 1),
    "n1gw": _pod(1, 1),
    "n2gw": _pod(2, 1),
    "ext": _lan(50),
    "ext51": _lan(51),
    "ext52": _lan(52),
    "extb": _lan(50, 1),
    "lo": {4: "127.0.0.1", 6: "::1"},
    **{name: _pod(*place) for name, place in PODS.items()},
}
NODE_ADDRESSES = frozenset(
    ip for name in ("n1", "n2", "n1b", "n2b", "n1gw", "n2gw", "lo") for ip in NAMES[name].values()
)
_SERVICES = ("10.96.0.0/16", "fd00:10:96::/108")
_OUTSIDE = ("203.0.113.0/24", "198.51.100.0/24", "fd00:113::/64", "fd00:198::/64")
_SOURCES = {"n1": "n1-lan", "n2": "n2-lan", "n1b": "n1-lan2", "n2b": "n2-lan2", "n1gw": "n1-cni0", "n2gw": "n2-cni0"}
_TCP = (53, 80, 443, 6379, 7000, 8080, 8081, 8082, 8443, 9000, 9090, 9153)
_UDP = (53, 80, 7000, 8080, 8081, 9000, 9090, 9091)
_SCTP = (9000, 9001)
_NODE_PORTS = Ports(tcp=(18080, 18081), udp=(18080, 18081))
_QUIET = {
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv4/conf/all/send_redirects": "0",
    "net/ipv4/conf/default/send_redirects": "0",
    "net/ipv4/icmp_ratelimit": "0",  # every refusal must arrive, not only the first few
    "net/ipv6/icmp/ratelimit": "0",
    "net/ipv6/conf/default/accept_dad": "0",
    "net/ipv6/conf/default/accept_ra": "0",
}
_FORWARDING = {"net/ipv4/ip_forward": "1", "net/ipv6/conf/all/forwarding": "1"}
_BITS = {4: (24, 32), 6: (64, 128)}  # of a network and of a host
_NODAD = {4: "", 6: " nodad"}
_ANYWHERE = {4: "0.0.0.0/0", 6: "::/0"}


def source_name(ip: str) -> str:
    """How records call the address that a backend saw; the address itself where it has no name."""
    for name, addresses in NAMES.items():
        if ip in addresses.values():
            return _SOURCES.get(name, name)
    return ip


@dataclass
class World:
    """``async with World() as world``: everything above, wired and answering; ``hosts`` by name."""

    hosts: dict[str, Host] = field(default_factory=dict)
    _servers: contextlib.AsyncExitStack = field(default_factory=contextlib.AsyncExitStack)

    async def __aenter__(self) -> Self:
        try:
            await self._build()
            await self._serve()
        except BaseException:
            await self._close()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._close()

    async def _close(self) -> None:
        await self._servers.aclose()
        await asyncio.gather(*(host.close() for host in self.hosts.values()))
        self.hosts.clear()

    async def _build(self) -> None:
        for name in ("router", "cp", "n1", "n2", "ext", *PODS):
            extra = [NAMES[f"ext{n}"][family] for n in (51, 52) for family in (4, 6)] if name == "ext" else []
            second = NAMES.get(f"{name}b", {}) if name not in PODS else {}
            own = [*NAMES.get(name, _lan(1)).values(), *second.values(), *extra]
            self.hosts[name] = Host(name, own)
            self.hosts[name].write_sysctls(_QUIET)
        for name in NODES:
            self.hosts[name].write_sysctls(_FORWARDING)
        await self._wire_lans()
        for name in ("cp", "n1", "n2", "ext"):
            await self.hosts[name].configure(_lan_host(name))
        for name, (node, number) in PODS.items():
            await self._add_pod(name, f"n{node}", number)
        big = [f"route add local {BIG[family]} dev lo" for family in (4, 6)]
        await self.hosts["pbig"].configure(big)
        await self.hosts["n2"].configure([f"route add {BIG[f]} via {NAMES['pbig'][f]}" for f in (4, 6)])

    async def _wire_lans(self) -> None:
        router = self.hosts["router"]
        lines = ["link set lo up"]
        giving = []
        for lan, members in enumerate((("cp", "n1", "n2", "ext"), ("n1", "n2", "ext"))):
            lines += [f"link add lan{lan} type bridge mcast_snooping 0", f"link set lan{lan} up"]
            for number, name in enumerate(members):
                host = self.hosts[name]
                giving.append(host)
                lines.append(f"link add port{lan}{number} type veth peer name eth{lan} netns {host.path}")
                lines.append(f"link set port{lan}{number} master lan{lan} up")
        lines += _addresses("lan0", [_lan(1)])
        lines.append(f"route add blackhole {_ANYWHERE[6]}")  # IPv6 tells a sender that there is no route
        await router.configure(lines, giving=giving)

    async def _add_pod(self, name: str, node: str, number: int) -> None:
        home, pod = self.hosts[node], self.hosts[name]
        link = f"veth{number}"
        await home.configure(
            [
                f"link add {link} type veth peer name eth0 netns {pod.path}",
                f"link set {link} master cni0 up",
                f"link set {link} type bridge_slave hairpin on",
            ],
            giving=[pod],
        )
        lines = ["link set lo up", "link set eth0 up"]
        for family, gateway in NAMES[f"{node}gw"].items():
            lines += [
                f"address add {NAMES[name][family]}/{_BITS[family][1]} dev eth0{_NODAD[family]}",
                f"route add {gateway} dev eth0",
                f"route add {_ANYWHERE[family]} via {gateway}",
            ]
        await pod.configure(lines)

    async def _serve(self) -> None:
        # What is loaded for a probe of one port is loaded everywhere, as in the recorded world.
        for name in (*PODS, "ext"):
            host, ports = self.hosts[name], Ports(tcp=_TCP, udp=_UDP)
            if name == "pbig":  # one wildcard socket for two whole networks
                await self._servers.enter_async_context(Workload(name, _Wide(host), Ports(tcp=_TCP)))
                ports = Ports(udp=_UDP)
            await self._servers.enter_async_context(Workload(name, host, ports))
            self._servers.callback(SctpServer(name, host, _SCTP).start())
        for name, number in NODES.items():
            await self._servers.enter_async_context(Workload(f"h{number}", self.hosts[name], _NODE_PORTS))


class _Wide(Host):
    """The same host, whose servers listen on whatever address the packet was for."""

    def __init__(self, host: Host) -> None:
        self.name, self.ips, self.descriptor = host.name, ("::",), host.descriptor


def _addresses(link: str, all_of: Iterable[Mapping[int, str]]) -> list[str]:
    return [
        f"address add {ip}/{_BITS[family][0]} dev {link}{_NODAD[family]}"
        for addresses in all_of
        for family, ip in addresses.items()
    ]


def _lan_host(name: str) -> list[str]:
    """Lines of ip(8): the interfaces and routes of a host on the lan."""
    more = [NAMES["ext51"], NAMES["ext52"]] if name == "ext" else []
    lines = ["link set lo up", "link set eth0 up", *_addresses("eth0", [NAMES[name], *more])]
    if name != "cp":
        lines += ["link set eth1 up", *_addresses("eth1", [NAMES[f"{name}b"]])]
    lines += [f"route add {_ANYWHERE[family]} via {ip}" for family, ip in _lan(1).items()]
    if name in NODES:
        lines += ["link add cni0 type bridge mcast_snooping 0", "link set cni0 up"]
        lines += _addresses("cni0", [NAMES[f"{name}gw"]])
    for node, number in NODES.items():
        if node != name:
            via = NAMES[node]
            lines += [
                f"route add 10.244.{number}.0/24 via {via[4]}",
                f"route add fd00:10:244:{number}::/64 via {via[6]}",
            ]
    if name != "n2":
        lines += [f"route add {BIG[family]} via {NAMES['n2'][family]}" for family in (4, 6)]
    if name == "ext":
        for network in (*_SERVICES, *_OUTSIDE):
            lines.append(f"route add {network} via {NAMES['n1'][6 if ':' in network else 4]}")
    return lines
