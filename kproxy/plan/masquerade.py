"""When the source address must change, and how a pod of this node is recognised.

Answers must come back through the node that did the DNAT, or the client sees a stranger's address. Pods of this node
are always routed back through it; anybody else is only if the source becomes ours. So:

* to a cluster IP: senders that are not our pods are masqueraded; if pods cannot be recognised nobody is, for the
  client's address is worth more than a guess (``masqueradeAll`` overrules);
* to an external address under policy Cluster: everybody, for the endpoint may be anywhere;
* to an external address under policy Local: nobody from outside, keeping that address is what the policy is for. Pods
  and the node itself are inside, so they get the Service as if by its cluster IP ("short-circuit"); the node's own
  traffic is masqueraded, for its source may be an address that the endpoint's node cannot answer.

A pod that reaches itself (hairpin) must be masqueraded too; that depends on the chosen endpoint, so the backends do it.

Source: spec: model.md 4.2, iptables.md 7.1 and 7.2, runtime.md 4.
"""

from __future__ import annotations

from functools import cache

from kproxy.config import Config, DetectLocalMode
from kproxy.model.enums import IPFamily
from kproxy.model.node import Node
from kproxy.plan.plan import Client, Detector, Forward, FromCIDR, FromInterface, Pool, Route


def detector(config: Config, node: Node | None, family: IPFamily) -> Detector:
    """How a packet from a pod of this node is recognised; None where the mode has nothing to go by."""
    match config.detect_local_mode:
        case DetectLocalMode.CLUSTER_CIDR:
            return _first(config.cluster_cidr, family)
        case DetectLocalMode.NODE_CIDR:
            return _first(node.pod_cidrs if node else (), family)
        case DetectLocalMode.BRIDGE_INTERFACE:
            return _interface(config.pod_bridge_interface, prefix=False)
        case DetectLocalMode.INTERFACE_NAME_PREFIX:  # pragma: no branch -- there is no fifth mode; mypy checks
            return _interface(config.pod_interface_name_prefix, prefix=True)


def _first(cidrs: tuple[str, ...], family: IPFamily) -> Detector:
    ipv6 = family is IPFamily.IPV6
    return next((FromCIDR(cidr) for cidr in cidrs if (":" in cidr) is ipv6), None)


def _interface(name: str, *, prefix: bool) -> Detector:
    return FromInterface(name, prefix) if name else None


# There are a dozen different answers and ten thousand Services: each answer is made once.


@cache
def internal(*, local: bool, masquerade_all: bool, detected: bool) -> Forward:
    """To a cluster IP; ``local``: only to endpoints of this node."""
    pool = Pool.LOCAL if local else Pool.CLUSTER
    if masquerade_all:
        return Forward((Route(Client.ANY, pool, masquerade=True),))
    if detected:
        return Forward((Route(Client.POD, pool), Route(Client.ANY, pool, masquerade=True)))
    return Forward((Route(Client.ANY, pool),))


@cache
def external(*, local: bool, served_here: bool, detected: bool) -> Forward:
    """To any other frontend; ``local``: the external traffic policy is; ``served_here``: an endpoint may serve here."""
    if not local:
        return Forward((Route(Client.ANY, Pool.CLUSTER, masquerade=True),))
    inside = (Route(Client.POD, Pool.CLUSTER),) if detected else ()
    outside = Route(Client.ANY, Pool.LOCAL if served_here else None)
    return Forward((*inside, Route(Client.HOST, Pool.CLUSTER, masquerade=True), outside))
