"""On which of this node's addresses node ports listen.

A family for which nothing is configured listens everywhere, as does a list with a zero CIDR: kube-proxy does, and a
node that is reachable under an address must not fall silent because the other family was narrowed. ``primary`` is the
address that the node registered; where it has none of the family, or only a loopback address, it restricts nothing.
Loopback is served on IPv4 alone and only on request, because it needs route_localnet; ``primary`` never includes it.

A CIDR list is answered by addresses that the node has now, which the caller reads from the kernel: an address that
appears later takes part from the next round on.

Source: spec: runtime.md 5, iptables.md 7.6 and 15.
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


def node_ports(config: Config, node: Node | None, family: IPFamily, addresses: Collection[str]) -> NodePorts:
    """Where they listen; ``addresses``: those of this node's interfaces, canonical text, any family."""
    primary = PRIMARY in config.nodeport_addresses
    cidrs = _primary(config, node, family) if primary else of_family(config.nodeport_addresses, family)
    everywhere = not cidrs or any(cidr.endswith("/0") for cidr in cidrs)
    localhost = (
        family is IPFamily.IPV4
        and config.iptables_localhost_nodeports
        and not primary
        and (everywhere or any(_reaches_loopback(cidr) for cidr in cidrs))
    )
    if everywhere:
        return NodePorts(addresses=None, localhost=localhost)
    networks = [ip_network(cidr, strict=False) for cidr in cidrs]
    here = {ip_address(text) for text in of_family(addresses, family)}
    chosen = [ip for ip in here if (localhost or not ip.is_loopback) and any(ip in network for network in networks)]
    return NodePorts(addresses=tuple(str(ip) for ip in sorted(chosen, key=int)), localhost=localhost)


def _primary(config: Config, node: Node | None, family: IPFamily) -> tuple[str, ...]:
    ip = node_ip(config, node, family)
    return () if ip_address(ip).is_loopback else (f"{ip}/{family.bits}",)


def _reaches_loopback(cidr: str) -> bool:
    """Whether a CIDR shares an address with 127.0.0.0/8."""
    return ip_network(cidr, strict=False).overlaps(ip_network("127.0.0.0/8"))


def listens_on(where: NodePorts, ip: str, addresses: Collection[str]) -> bool:
    """Whether node ports listen on ``ip``; ``addresses``: all of this node's."""
    if where.addresses is not None:
        return ip in where.addresses
    if ip_address(ip).is_loopback:
        return where.localhost  # all of 127.0.0.0/8 is local, whatever the interfaces say
    return ip in addresses
