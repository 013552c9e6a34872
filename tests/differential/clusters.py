"""Random clusters, and the rules that kproxy makes of them: a seed names one.

The clusters are small and meet everything that rules are about: policies, source ranges, affinity, node ports, Services
without endpoints, endpoints of this node and of others; in the flat layout, which is kube-proxy's, and as trees.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random
from typing import Any, NamedTuple

from kproxy.backend.iptables.compile import Ruleset, compile_plan
from kproxy.backend.iptables.dialect import Abilities
from kproxy.config import Config, DetectLocalMode
from kproxy.model.endpoint import EndpointSlice
from kproxy.model.enums import IPFamily, Protocol, ServiceType, TrafficPolicy
from kproxy.model.packet import Packet
from kproxy.model.service import Service, ServicePort
from kproxy.plan.build import build_plan
from kproxy.plan.plan import FrontendKind
from tests.builders import NODE, node, service, slice_of, snapshot
from tests.differential.field import NODE_IPS

POD = {IPFamily.IPV4: "10.244.{}.{}", IPFamily.IPV6: "fd00:10:244:{:x}::{:x}"}
_CLUSTER_IP = {IPFamily.IPV4: "10.96.0.{}", IPFamily.IPV6: "fd00:10:96::{:x}"}
_OUTER_IP = {IPFamily.IPV4: "192.0.2.{}", IPFamily.IPV6: "2001:db8:2::{:x}"}
CLIENTS = {
    IPFamily.IPV4: ("203.0.113.7", "198.51.100.9", "192.168.7.7"),
    IPFamily.IPV6: ("2001:db8:f::7", "2001:db8:e::9", "fd00:192:7::7"),
}
RANGES = {
    IPFamily.IPV4: ("203.0.113.0/24", "192.168.0.0/16", "10.0.0.0/8", "198.51.100.9/32"),
    IPFamily.IPV6: ("2001:db8:f::/48", "fd00:192::/64", "fd00:10::/32", "2001:db8:e::9/128"),
}
_CLUSTER_CIDR = ("10.244.0.0/16", "fd00:10:244::/48")
_PORTS = [("", Protocol.TCP), ("u", Protocol.UDP), ("q", Protocol.TCP), ("s", Protocol.SCTP)]
PORTS = (53, 80, 81, 443, 8080, 9090, 30000, 30001, 30002, 30003)


class Example(NamedTuple):
    rules: Ruleset
    frontends: tuple[tuple[str, int, Protocol], ...]  # address (empty: any of the node), port
    endpoints: tuple[str, ...]


def make_example(random: Random, family: IPFamily) -> Example:
    services = list(_services(random, family))
    slices = [each for one in services for each in _slices(random, family, one)]
    config = _config(random)
    own = node(NODE, addresses=(NODE_IPS[family][0],), pod_cidrs=("10.244.1.0/24", "fd00:10:244:1::/64"))
    addresses = (*NODE_IPS[family], "127.0.0.1", "::1")
    plan = build_plan(snapshot(own, *services, *slices), config, family, addresses)
    rules = compile_plan(plan, config, Abilities(recent=random.random() < 0.9, drop_invalid=random.random() < 0.7))
    frontends = [
        (frontend.ip, frontend.port, each.key.protocol)
        for each in plan.services.values()
        for frontend in each.frontends
    ]
    assert all(ip or kind is FrontendKind.NODE_PORT for each in plan.services.values()
               for kind, ip in ((one.kind, one.ip) for one in each.frontends))  # fmt: skip
    endpoints = {each.ip for one in plan.services.values() for each in one.reachable}
    return Example(rules, tuple(frontends), tuple(sorted(endpoints)))


def _services(random: Random, family: IPFamily) -> Iterator[Service]:
    for number in range(1, random.randint(1, 6) + 1):
        kind = random.choice([ServiceType.CLUSTER_IP, ServiceType.NODE_PORT, ServiceType.LOAD_BALANCER])
        chosen = random.sample(_PORTS, random.randint(1, 2))
        ports = [
            ServicePort(
                name=name or "p",
                protocol=protocol,
                port=random.choice([53, 80, 443]) if not at else 90 + at,
                node_port=30000 + 10 * number + at if kind is not ServiceType.CLUSTER_IP else 0,
            )
            for at, (name, protocol) in enumerate(chosen)
        ]
        rest: dict[str, Any] = {}
        if random.random() < 0.4:
            rest["external_ips"] = (_OUTER_IP[family].format(random.randint(1, 4)),)
        if kind is ServiceType.LOAD_BALANCER:
            rest["load_balancer_vips"] = (_OUTER_IP[family].format(random.randint(5, 8)),)
            rest["source_ranges"] = tuple(random.sample(RANGES[family], random.randint(0, 2)))
        yield service(
            f"s{number}",
            _CLUSTER_IP[family].format(number),
            ports=ports,
            type=kind,
            internal_policy=_policy(random),
            external_policy=_policy(random),
            affinity_seconds=random.choice([0, 0, 0, 600]),
            **rest,
        )


def _policy(random: Random) -> TrafficPolicy:
    return random.choice([TrafficPolicy.CLUSTER, TrafficPolicy.CLUSTER, TrafficPolicy.LOCAL])


def _slices(random: Random, family: IPFamily, one: Service) -> Iterator[EndpointSlice]:
    for number, port in enumerate(one.ports):
        texts = []
        for _ in range(random.choice([0, 1, 2, 3, 5, 9])):
            here = random.random() < 0.5
            ip = POD[family].format(1 if here else 2, random.randint(2, 12))
            state = random.choice(["R", "R", "R", "R", "ST", "N"])
            texts.append(f"{ip} @{NODE if here else 'n2'} {state}")
        if random.random() < 0.1:  # a pod of the node's own network
            texts.append(f"{NODE_IPS[family][0]} @{NODE} R")
        if texts:
            target = random.choice([8080, 9090])
            yield slice_of(
                one.key.name,
                *texts,
                port_name=port.name,
                protocol=port.protocol,
                number=target,
                suffix=str(number),
            )


def _config(random: Random) -> Config:
    tree: dict[str, Any] = {"tree_threshold": 1, "endpoint_tree_threshold": 2} if random.random() < 0.4 else {}
    detect = random.choice(["cidr", "cidr", "none", "interface"])
    if detect == "interface":
        tree |= {"detect_local_mode": DetectLocalMode.INTERFACE_NAME_PREFIX, "pod_interface_name_prefix": "cni"}
    return Config(
        hostname=NODE,
        cluster_cidr=_CLUSTER_CIDR if detect == "cidr" else (),
        masquerade_all=random.random() < 0.1,
        nodeport_addresses=random.choice([(), (), ("primary",), ("192.168.0.0/16", "fd00:192::/64")]),
        large_cluster_endpoints=random.choice([1000, 1]),
        **tree,
    )


# --- packets --------------------------------------------------------------------------------------------------


def make_packet(
    random: Random, family: IPFamily, frontends: tuple[tuple[str, int, Protocol], ...], endpoints: tuple[str, ...]
) -> Packet:
    """``source_port`` is left for the field to choose."""
    ip, port, protocol = _destination(random, family, frontends, endpoints)
    kind = random.choice(["client", "client", "pod", "pod", "host"])
    source, interface = random.choice(CLIENTS[family]), "eth0"
    if kind == "pod":
        here = [each for each in endpoints if each not in NODE_IPS[family]]
        strangers = [POD[family].format(1, 99), POD[family].format(2, 99)]
        source, interface = random.choice(strangers + here), random.choice(["cni0", "cni0", "eth0"])
    if kind == "host":
        source = random.choice(NODE_IPS[family])
        if family is IPFamily.IPV4 and random.random() < 0.3:
            ip, source = "127.0.0.1", "127.0.0.1"
    mark = random.choice([0, 0, 0x1, 0x4000]) if kind == "host" else 0
    return Packet(source, ip, port, protocol, in_interface=interface, from_host=kind == "host", mark=mark)


def _destination(
    random: Random, family: IPFamily, frontends: tuple[tuple[str, int, Protocol], ...], endpoints: tuple[str, ...]
) -> tuple[str, int, Protocol]:
    protocol = random.choice([*Protocol])
    if frontends and random.random() < 0.85:
        ip, port, protocol = random.choice(frontends)
        if random.random() < 0.05:
            port = random.choice(PORTS)
        return ip or random.choice(NODE_IPS[family]), port, protocol
    others = (*endpoints, *NODE_IPS[family], *CLIENTS[family], _CLUSTER_IP[family].format(200))
    return random.choice(others), random.choice(PORTS), protocol
