"""On which of this node's addresses node ports listen.

A family for which nothing is configured listens everywhere, as does a list with a zero CIDR: kube-proxy does, and a
node that is reachable under an address must not fall silent because the other family was narrowed. ``primary`` is the
address that the node registered; where it has none of the family, or only a loopback address, it restricts nothing.
``primary`` never includes loopback.

Loopback has two ways. kube-proxy's is a rule, on IPv4 alone, and needs route_localnet, which lets neighbours reach
what listens on 127.0.0.1 unless other rules forbid it (CVE-2020-8558). Ours is the word ``localhost``: sockets of our
own on 127.0.0.1 and ::1 (backend/userspace), and no rule, no sysctl. The word excludes the rule, whatever
--iptables-localhost-nodeports says: two ways to one port would hide the faults of each. As in KEP-6032 it counts as
something configured for both families, so alone, or beside the other family's CIDRs, it means loopback and nothing
else; beside ``primary`` it only adds.

A CIDR list is answered by addresses that the node has now, which the caller reads from the kernel: an address that
appears later takes part from the next round on.

Source: spec: runtime.md 5, iptables.md 7.6 and 15; KEP-6032.
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import ip_address, ip_network

from kproxy.config import Config
from kproxy.model.enums import IPFamily
from kproxy.model.node import Node
from kproxy.plan.plan import NodePorts
from kproxy.plan.viewpoint import node_ip, of_family

PRIMARY = "primary"
LOCALHOST = "localhost"


def node_ports(config: Config, node: Node | None, family: IPFamily, addresses: Collection[str]) -> NodePorts:
    """Where they listen; ``addresses``: those of this node's interfaces, canonical text, any family."""
    primary, listeners = PRIMARY in config.nodeport_addresses, LOCALHOST in config.nodeport_addresses
    cidrs = of_family((each for each in config.nodeport_addresses if each not in {PRIMARY, LOCALHOST}), family)
    if primary:
        cidrs += _primary(config, node, family)
    everywhere = any(cidr.endswith("/0") for cidr in cidrs) or (not cidrs and (primary or not listeners))
    localhost = (
        family is IPFamily.IPV4
        and config.iptables_localhost_nodeports
        and not listeners
        and ((everywhere and not primary) or any(_reaches_loopback(cidr) for cidr in cidrs))
    )
    if everywhere:
        return NodePorts(addresses=None, localhost=localhost, listeners=listeners)
    networks = [ip_network(cidr, strict=False) for cidr in cidrs]
    here = {ip_address(text) for text in of_family(addresses, family)}
    chosen = [ip for ip in here if (localhost or not ip.is_loopback) and any(ip in network for network in networks)]
    return NodePorts(tuple(str(ip) for ip in sorted(chosen, key=int)), localhost, listeners)


def _primary(config: Config, node: Node | None, family: IPFamily) -> tuple[str, ...]:
    ip = node_ip(config, node, family)
    return () if ip_address(ip).is_loopback else (f"{ip}/{family.bits}",)


def _reaches_loopback(cidr: str) -> bool:
    """Whether a CIDR shares an address with 127.0.0.0/8."""
    return ip_network(cidr, strict=False).overlaps(ip_network("127.0.0.0/8"))


def listens_on(where: NodePorts, ip: str, addresses: Collection[str]) -> bool:
    """Whether node ports listen on ``ip``; ``addresses``: all of this node's."""
    if where.listeners and ip_address(ip).is_loopback:
        return True  # also what a rule of before translated there
    if where.addresses is not None:
        return ip in where.addresses
    if ip_address(ip).is_loopback:
        return where.localhost  # all of 127.0.0.0/8 is local, whatever the interfaces say
    return ip in addresses
