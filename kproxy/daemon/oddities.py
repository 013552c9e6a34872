"""What in a configuration looks like a mistake on this node: sentences for the log, or a reason not to start. Pure.

kube-proxy's checks (spec: runtime.md 3, last paragraph), asked when the families of this node are known and again when
its Node object is. A cluster CIDR that is of the other family alone, on a node with one family, is fatal where pods are
told by it, as for kube-proxy: no traffic would ever be recognised as a pod's. podCIDRs of the other family are not,
although they are for kube-proxy: they may be corrected while we run, and the node is planned anew when they are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from urllib.parse import urlsplit

from kproxy.config import Config, DetectLocalMode
from kproxy.errors import InvalidConfig
from kproxy.model.enums import IPFamily
from kproxy.model.node import Node
from kproxy.model.service import Service
from kproxy.plan.node_ports import LOCALHOST, PRIMARY
from kproxy.plan.viewpoint import LOOPBACK, UNSPECIFIED, node_ip, of_family


def primary_family(config: Config, node: Node | None) -> IPFamily:
    """The bind address's, if it is a specific one, else that of the Node's first address (spec: runtime.md 3)."""
    known = (*([] if config.bind_address in UNSPECIFIED else [config.bind_address]), *(node.addresses if node else ()))
    return IPFamily.IPV6 if known and ":" in known[0] else IPFamily.IPV4


def show_node_ips(config: Config, node: Node | None) -> str:
    """The primary one first; loopback, which stands for an address that nobody knows, is none."""
    first = primary_family(config, node)
    found = {family: node_ip(config, node, family) for family in sorted(IPFamily, key=lambda each: each is not first)}
    return ", ".join(f"none ({family.value})" if ip == LOOPBACK[family] else ip for family, ip in found.items())


def refuse(config: Config, families: Collection[IPFamily]) -> None:
    """Raises InvalidConfig where pods could never be told from other senders."""
    if config.detect_local_mode is DetectLocalMode.CLUSTER_CIDR and _is_foreign(config.cluster_cidr, families):
        raise InvalidConfig(_foreign("--cluster-cidr", config.cluster_cidr, families))


def oddities(config: Config, families: Collection[IPFamily], node: Node | None) -> Iterator[str]:
    """A sentence each; ``families``: those that are served here."""
    yield from _node_ports(config, node)
    for flag, address in (
        ("--healthz-bind-address", config.healthz_bind_address),
        ("--metrics-bind-address", config.metrics_bind_address),
    ):
        host = address.rpartition(":")[0].strip("[]")
        if host and host not in UNSPECIFIED and _is_foreign((host,), families):
            yield _foreign(flag, (address,), families)
    if _is_foreign(config.cluster_cidr, families):
        yield _foreign("--cluster-cidr", config.cluster_cidr, families)
    if node and _is_foreign(node.pod_cidrs, families):
        yield _foreign("the Node's podCIDRs", node.pod_cidrs, families)


def circle(server: str, kubernetes: Service | None) -> Iterator[str]:
    """A sentence if ``server``, the API server's address, is its Service's: other rules than ours serve that still."""
    host = urlsplit(server).hostname
    if kubernetes and host in kubernetes.cluster_ips:
        yield (
            f"the API server is asked at {host}, the Service kubernetes, which kproxy itself provides: after a restart "
            "of this node nothing leads there; give kproxy.master or the kubeconfig the server's own address"
        )


def _node_ports(config: Config, node: Node | None) -> Iterator[str]:
    words = {PRIMARY, LOCALHOST}
    cidrs = [each for each in config.nodeport_addresses if each not in words]
    if not config.nodeport_addresses:
        yield "--nodeport-addresses is not set: node ports answer on all local addresses; primary would limit them"
    elif cidrs and PRIMARY not in config.nodeport_addresses:
        dual = any(len(_families(each)) > 1 for each in (config.cluster_cidr, node.pod_cidrs if node else ()))
        for family in set(IPFamily) - _families(cidrs) if dual else ():
            yield (
                f"--nodeport-addresses={','.join(config.nodeport_addresses)} says nothing of {family.value}: "
                f"node ports answer on all local {family.value} addresses"
            )


def _families(texts: Sequence[str]) -> set[IPFamily]:
    return {family for family in IPFamily if of_family(texts, family)}


def _is_foreign(texts: Sequence[str], families: Collection[IPFamily]) -> bool:
    """Something is given, and none of it is of a family that is served."""
    return bool(texts) and not _families(texts) & set(families)


def _foreign(what: str, texts: Sequence[str], families: Collection[IPFamily]) -> str:
    served = " and ".join(family.value for family in sorted(families))
    return f"{what} {','.join(texts)}: this node serves {served} alone; give one of that family"
