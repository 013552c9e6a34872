"""What another service proxy left on a node goes when kproxy serves, and nothing else does; connections go on."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from kproxy.kernel.netlink import ACK, CREATE, EXCL, NetfilterSocket, attribute, nested
from kproxy.kernel.remnants import list_ipsets
from tests.netns.handover import TO, TO_SERVED, Node, Traffic, handed_over
from tests.netns.kube_proxy import Flat

pytestmark = [pytest.mark.root, pytest.mark.slow]

CLUSTER_CIDR = "10.244.0.0/16"
OTHER = {"nft": "legacy", "legacy": "nft"}
REMOVED = "Removed what another service proxy had left on this node"
LOOKED = "Looked for what another service proxy left on this node"
NFTABLES = """
table ip kube-proxy {
  chain nat-prerouting {
    type nat hook prerouting priority dstnat;
    ip daddr 10.96.5.9 tcp dport 80 dnat to 10.244.2.10:8080
    fib daddr type local tcp dport 30509 meta mark set mark or 0x4000 dnat to 10.244.2.10:8080
  }
  chain nat-postrouting {
    type nat hook postrouting priority srcnat;
    meta mark & 0x4000 != 0 masquerade
  }
}
add table ip6 kube-proxy
add chain ip6 kube-proxy services
add table ip kube-router
add chain ip kube-router kube-proxy
"""
IPVS = """
set -e
iptables -t nat -N KUBE-LOAD-BALANCER
iptables -t nat -N KUBE-SERVICES
iptables -t nat -A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
iptables -t nat -A KUBE-SERVICES -m set --match-set KUBE-CLUSTER-IP dst -j KUBE-LOAD-BALANCER
iptables -N KUBE-IPVS-FILTER
iptables -A INPUT -m comment --comment "kubernetes ipvs access filter" -j KUBE-IPVS-FILTER
iptables -A KUBE-IPVS-FILTER -m set --match-set KUBE-CLUSTER-IP dst -j RETURN
iptables -A FORWARD -m set --match-set KUBE-SRC-ABC src -j ACCEPT
ip link add kube-ipvs0 type bridge
"""


@pytest.fixture(params=["nft", "legacy"])
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
async def node(variant: str, tmp_path: Path) -> AsyncIterator[Node]:
    async with handed_over(variant, tmp_path) as made:
        made.cluster.write(TO)
        yield made


async def end(node: Node) -> None:
    await node.until(lambda: node.said(LOOKED) == 2)
    assert await node.kproxy.end()


async def test_rules_in_the_other_variant_go_when_ours_stand(node: Node, variant: str) -> None:
    other = f"iptables-{OTHER[variant]}"
    foreign = "-A INPUT -s 192.0.2.1/32 -j DROP"
    await node.kube_proxy.first_sync(Flat.of([TO_SERVED], CLUSTER_CIDR), other)
    (await node.kproxy.shell(f"{other} {foreign}; {other} -t nat -N DOCKER")).check()
    async with Traffic(node) as traffic:
        await traffic.flows_on()
        await node.start_kproxy()
        await node.until(lambda: node.said(REMOVED) >= 3)
        await traffic.flows_on()
        left = (await node.saved(other)).splitlines()
        assert foreign in left
        assert [line for line in left if "KUBE" in line and "KUBE-FIREWALL" not in line] == []
        assert await node.kube_proxy.chains("nat", other) == {"DOCKER"}
        assert "KUBE-SEP-" in await node.saved(f"iptables-{variant}")
        await end(node)


async def test_looking_makes_no_table(node: Node, variant: str) -> None:
    await node.start_kproxy()
    await end(node)
    (await node.kproxy.clean_up()).check()
    in_legacy = "cat /proc/net/ip_tables_names /proc/net/ip6_tables_names"
    command = in_legacy if variant == "nft" else "nft list ruleset"
    assert (await node.kproxy.shell(command)).check().stdout == ""


async def test_a_connection_of_the_nftables_mode_goes_on_without_its_tables(node: Node) -> None:
    (await node.kproxy.host.run(("nft", "-f", "-"), stdin=NFTABLES)).check()
    async with Traffic(node) as traffic:
        await node.start_kproxy()
        await node.until(lambda: node.said(REMOVED) == 2)
        tables = (await node.kproxy.shell("nft list tables")).stdout.splitlines()
        assert [table for table in tables if "kube" in table] == ["table ip kube-router"]
        await traffic.flows_on()
    await end(node)


def make_ipset(name: str) -> None:
    """hash:ip with its defaults; the program ipset is seldom installed."""
    body = attribute(1, b"\6") + attribute(2, name.encode() + b"\0") + attribute(3, b"hash:ip\0")
    body += attribute(4, b"\0") + attribute(5, bytes([socket.AF_INET])) + nested(7)
    with NetfilterSocket() as door:
        door.ask(6 << 8 | 2, CREATE | EXCL | ACK, socket.AF_INET, body, f"make {name}")


@pytest.mark.parametrize("how", ["run", "cleanup"])
async def test_what_ipvs_mode_had_goes_and_what_is_named_alike_stays(node: Node, how: str) -> None:
    with node.kproxy.host.inside():
        for name in ("KUBE-CLUSTER-IP", "KUBE-6-CLUSTER-IP", "KUBE-SRC-ABC"):
            make_ipset(name)
    (await node.kproxy.shell(IPVS)).check()
    if how == "run":
        await node.start_kproxy()
        await node.until(lambda: node.said(REMOVED) >= 2)
        await end(node)
    else:
        said = (await node.kproxy.clean_up()).check().stdout
        assert "kube-ipvs0: deleted" in said
        assert "destroyed KUBE-6-CLUSTER-IP, KUBE-CLUSTER-IP" in said
    with node.kproxy.host.inside():
        assert list_ipsets() == ["KUBE-SRC-ABC"]
    chains = await node.kube_proxy.chains("nat") | await node.kube_proxy.chains("filter")
    assert not chains & {"KUBE-LOAD-BALANCER", "KUBE-IPVS-FILTER"}
    assert "-A FORWARD -m set --match-set KUBE-SRC-ABC src -j ACCEPT" in await node.saved()
    assert (await node.kproxy.shell("ip link show kube-ipvs0")).status != 0
