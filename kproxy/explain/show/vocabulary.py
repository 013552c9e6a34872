"""Which words are ours: those that kproxy's sentences, and rules as it knows them, are made of.

A redacted answer must hold nothing that comes from the cluster. What is not ours is taken for the cluster's, so a word
that is missing here is replaced without need, which is ugly; the other way round it would leak. The words are taken
from the string literals of the code that makes the sentences, because a list beside them would be out of date with
every sentence that somebody writes; docstrings are not among them, for they are full of examples.

Rejected: replacing only the names that objects and comments reveal. It lets through what nobody thought of, such as
the log prefix of a firewall, the name of an ipset, or a comment that says whose network this is.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

ATOM = re.compile(r"[^\W_](?:[\w.-]*[^\W_])?")  # a name, a word, a number; without what stands around it
_SOURCES = ("explain/**/*.py", "backend/iptables/*.py", "model/enums.py", "kernel/sysctl.py", "errors.py")
# Of comments that older kube-proxies, kubelets and network plugins write, and names that everybody has
_OTHERS = """
    kubernetes service services portals portal nodeport nodeports loadbalancer load balancer firewall postrouting rules
    forwarding conntrack pod rule destination traffic requiring SNAT NOTE this must be the last in chain for local
    clients only and masquerade route LOCAL external destinations source ranges Redirect pods trying to reach VIP
    clusterIP cluster IP externalIP has no endpoints healthcheck health check node port from dropping marked packets
    block incoming localnet connections handle hairpin associated related established sessions forward flanneld masq
    forwarded CNI portmap requiring masquerading ACCEPT mark drop
    DOCKER DOCKER-USER DOCKER-ISOLATION-STAGE-1 DOCKER-ISOLATION-STAGE-2 DOCKER-FORWARD DOCKER-BRIDGE DOCKER-CT
    FLANNEL-FWD FLANNEL-POSTRTG CNI-FORWARD CNI-ADMIN CNI-HOSTPORT-DNAT CNI-HOSTPORT-SETMARK CNI-HOSTPORT-MASQ
    CNI-DN WEAVE WEAVE-NPC KUBE-ROUTER-INPUT KUBE-ROUTER-FORWARD KUBE-ROUTER-OUTPUT KUBE-NWPLCY-DEFAULT
    KUBE-KUBELET-CANARY KUBE-MARK-DROP KUBE-HOSTPORTS KUBE-IPVS-FILTER KUBE-SOURCE-RANGES-FIREWALL
    cali-INPUT cali-OUTPUT cali-FORWARD cali-PREROUTING cali-POSTROUTING cali-nat-outgoing cali-fip-dnat cali-fip-snat
    kube-system kube-public kube-node-lease default kubernetes kube-dns coredns metrics-server kube-proxy kproxy
    http https dns dns-tcp metrics grpc tcp udp sctp tls web ssh api health healthz
    lo cni0 cbr0 docker0 flannel.1 kube-ipvs0 kube-bridge tunl0 vxlan.calico wireguard.cali cilium_host cilium_net any
"""
_NUMBER = re.compile(r"v?\d[\d.]*(?:[kKMG]?B|ms|s|m|h|d|st|nd|rd|th)?|0[xX][0-9a-fA-F]+|(?:\d+h)?(?:\d+m)?\d+s")
_FAMILIAR = re.compile(
    r"(?:eth|bond|br|ens|eno|enp\d+s|wlan|vxlan|wg|tun|tap)\d+|CILIUM_[A-Z_]+(?:nat|mangle|filter|raw)?"
)


def is_ours(word: str) -> bool:
    """Whether a word says nothing about a cluster."""
    if _NUMBER.fullmatch(word) or _FAMILIAR.fullmatch(word):
        return True
    known = words()
    return word in known or all(part in known or part.isdigit() for part in word.split("."))


@cache
def words() -> frozenset[str]:
    found = set(_OTHERS.split())
    root = Path(__file__).parents[2]
    for pattern in _SOURCES:
        for path in root.glob(pattern):
            for text in _literals(ast.parse(path.read_bytes())):
                found.update(ATOM.findall(text))
    return frozenset(found | {word.capitalize() for word in found if word.islower()})


def _literals(tree: ast.Module) -> Iterator[str]:
    """Strings that a program may say, which are all but docstrings."""
    waiting: list[ast.AST] = [tree]
    while waiting:
        node = waiting.pop()
        match node:
            case ast.Expr(value=ast.Constant(value=str())):
                continue
            case ast.Constant(value=str(text)):
                yield text
        waiting.extend(ast.iter_child_nodes(node))
