"""Where we stand: everything about this node and this configuration that changes what a Service means here.

It exists so that reuse is safe to decide: two rounds with equal viewpoints give the same Service the same plan, so a
Service whose objects did not change is not looked at again; a changed zone label changes the viewpoint, and with it
everything is decided anew, as does a new API server. Comparing whole Nodes was rejected: a kubelet touches its Node
every few seconds.

The node's address follows spec: runtime.md 3; it is used for source ranges and ``primary`` alone, never to bind.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from kproxy.config import Config, ProxyMode
from kproxy.model.enums import IPFamily
from kproxy.model.node import Node
from kproxy.model.relay import Relay
from kproxy.plan.masquerade import detector
from kproxy.plan.relay import default_relay

UNSPECIFIED = frozenset({"", "0.0.0.0", "::"})  # noqa: S104 -- compared with, never bound
LOOPBACK = {IPFamily.IPV4: "127.0.0.1", IPFamily.IPV6: "::1"}


class Viewpoint(Struct, frozen=True, gc=False):
    family: IPFamily
    node: str = ""  # our name, as slices spell it; empty: no endpoint is local
    zone: str | None = None
    ip: str = ""  # the node's own address of this family; a loopback address where none is known
    detected: bool = False  # pods of this node can be told from other senders
    masquerade_all: bool = False
    external_ips: bool = True  # spec.externalIPs are served
    mode: ProxyMode = ProxyMode.IPTABLES  # of Services that do not ask for another
    relay: Relay = default_relay(Config())  # for those that our relay carries
    relay_ip: str = ""  # where its sockets are
    api_servers: frozenset[tuple[str, int]] = frozenset()  # addresses and ports of the API servers


def viewpoint(
    config: Config, node: Node | None, family: IPFamily, api_servers: frozenset[tuple[str, int]] = frozenset()
) -> Viewpoint:
    return Viewpoint(
        family=family,
        node=config.hostname or (node.name if node else ""),
        zone=node.zone if node else None,
        ip=node_ip(config, node, family),
        detected=detector(config, node, family) is not None,
        masquerade_all=config.masquerade_all,
        external_ips=config.allow_external_ips,
        mode=config.proxy_mode,
        relay=default_relay(config),
        relay_ip=next(iter(of_family(config.relay_address, family)), ""),
        api_servers=api_servers,
    )


def node_ip(config: Config, node: Node | None, family: IPFamily) -> str:
    """The bind address if it is a specific one, else the Node's first of the family, else loopback."""
    bind = () if config.bind_address in UNSPECIFIED else (config.bind_address,)
    known = of_family((*bind, *(node.addresses if node else ())), family)
    return known[0] if known else LOOPBACK[family]


def of_family(texts: Iterable[str], family: IPFamily) -> tuple[str, ...]:
    """Those of the addresses or CIDRs that belong to ``family``, in order."""
    ipv6 = family is IPFamily.IPV6
    return tuple(text for text in texts if (":" in text) is ipv6)
