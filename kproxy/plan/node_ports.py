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

What restricts nothing, or leaves no address at all, is obeyed and noted: nobody means it, and nothing else shows it.

Source: spec: runtime.md 5, iptables.md 7.6 and 15; KEP-6032.
"""

from __future__ import annotations

from collections.abc import Collection
from ipaddress import ip_address, ip_network

from kproxy.config import Config
from kproxy.errors import InvalidObject
from kproxy.model.enums import IPFamily
from kproxy.model.node import Node
from kproxy.plan.plan import NodePorts, Note
from kproxy.plan.viewpoint import UNSPECIFIED, node_ip, of_family

PRIMARY = "primary"
LOCALHOST = "localhost"
EVERYWHERE = "NodePortsEverywhere"
NOWHERE = "NodePortsNowhere"
_NAMED = 4  # addresses


def node_ports(config: Config, node: Node | None, family: IPFamily, addresses: Collection[str]) -> NodePorts:
    """Where they listen; ``addresses``: those of this node's interfaces, canonical text, any family."""
    primary, listeners = PRIMARY in config.nodeport_addresses, LOCALHOST in config.nodeport_addresses
    cidrs = _cidrs(config, node, family)
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


def doubt(
    config: Config, node: Node | None, family: IPFamily, addresses: Collection[str], where: NodePorts
) -> Note | None:
    """What is probably not meant with ``where``, which is ``node_ports``'; of interest where there are node ports.

    Nothing is said of a family of which this node has no address that others reach; none at all: they are not known.
    """
    if where.addresses or not config.nodeport_addresses:
        return None
    known = sorted(map(ip_address, of_family(addresses, family)), key=int)
    here = [str(ip) for ip in known if not (ip.is_loopback or ip.is_link_local)]
    if addresses and not here:
        return None
    cidrs = _cidrs(config, node, family)
    if where.addresses is None and PRIMARY in config.nodeport_addresses and not cidrs:
        return _everywhere(config, node, family)
    if where.addresses == () and cidrs and here:
        return _nowhere(config, node, family, here)
    return None


def _everywhere(config: Config, node: Node | None, family: IPFamily) -> Note:
    if node is None:
        why, where = "are unknown for want of that Node", "all local addresses"
        remedy = "add the Node with status.addresses (--hostname-override says its name), or give CIDRs"
    else:
        why, where = f"hold no {family.value} address that others reach", f"all local {family.value} addresses"
        remedy = f"have the kubelet register one (--node-ip), or give CIDRs of {family.value}, too"
    why += f", so nodePortAddresses primary restricts nothing and node ports answer on {where}"
    return _note(EVERYWHERE, config, node, "status.addresses", why, remedy)


def _nowhere(config: Config, node: Node | None, family: IPFamily, here: list[str]) -> Note:
    primary = PRIMARY in config.nodeport_addresses
    given = ", ".join(config.nodeport_addresses) + (f" ({node_ip(config, node, family)})" if primary else "")
    has = ", ".join(here[:_NAMED]) + (f" and {len(here) - _NAMED} more" if len(here) > _NAMED else "")
    served = "on loopback alone" if LOCALHOST in config.nodeport_addresses else "nowhere"
    why = f"{given} matches none of this node's {family.value} addresses ({has}), so node ports are served {served}"
    if not primary:
        remedy = "give CIDRs that hold one of them, or primary; localhost is for loopback"
    elif config.bind_address in UNSPECIFIED:
        remedy = "correct the Node's InternalIP (the kubelet's --node-ip), or give CIDRs that hold one of them"
    else:
        remedy = "correct --bind-address, or give CIDRs that hold one of them"
    return _note(NOWHERE, config, node, "nodePortAddresses", why, remedy)


def _note(reason: str, config: Config, node: Node | None, field: str, why: str, remedy: str) -> Note:
    name = config.hostname or (node.name if node else "")
    return Note(reason, InvalidObject("Node", name, field=field, why=why, remedy=remedy), node.uid if node else "")


def _cidrs(config: Config, node: Node | None, family: IPFamily) -> tuple[str, ...]:
    """Where they are to listen, of this family; empty: nothing was said of it, or nothing that is known."""
    words = {PRIMARY, LOCALHOST}
    cidrs = of_family((each for each in config.nodeport_addresses if each not in words), family)
    return cidrs + (_primary(config, node, family) if PRIMARY in config.nodeport_addresses else ())


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
