"""What Kubernetes' own network tests (test/e2e/network) ask of a service proxy, on three nodes, with packets.

Each case names the upstream test and does what it does: which way somebody asks, what changes meanwhile, and who must
answer in the end. Conformance shows more of each part; here the sequences are upstream's.
"""

from __future__ import annotations

import asyncio
import json
import signal
import socket
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from kproxy.sandbox import probe
from kproxy.sandbox.cluster import Cluster
from kproxy.sandbox.host import Host
from tests.e2e.upstream_cluster import (
    DEADLINE,
    FAMILIES,
    HOST_PORT,
    OTHER_PORT,
    PORTS,
    Caller,
    Served,
    answered,
    calling,
    ends,
    eventually,
    every,
    status_line,
    upstream_cluster,
)

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def cluster(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Cluster]:
    async with upstream_cluster(tmp_path_factory.mktemp("upstream")) as made:
        yield made


# --- conntrack.go, loadbalancer.go ----------------------------------------------------------------------------


async def test_udp_clients_that_keep_their_port_follow_the_endpoints(cluster: Cluster) -> None:
    """Conntrack: preserve UDP traffic when server pod cycles for a NodePort service, for a ClusterIP service, and …

    … client is hostNetwork, when initial unready endpoints get ready; cleanup conntrack entries when UDP service target
    port changes for a NodePort service. LoadBalancers: preserve UDP traffic … for a LoadBalancer service.
    """
    world = cluster.world
    served = await Served.create(cluster, "udp", type="LoadBalancer")
    node_port, vips = served.node_ports["UDP"], await served.vips()
    callers = [
        Caller(host, address, port, 12345 + number)
        for number, family in enumerate(FAMILIES)
        for host, address, port in (
            (world.host("c1"), served.ips[family], 80),
            (world.host("c2"), world.node("node-1").ip(family), node_port),
            (world.node("node-2"), served.ips[family], 80),
            (world.host("client"), world.node("node-3").ip(family), node_port),
        )
    ]
    callers += [Caller(world.host("client"), vips[family], 80, 12350 + family) for family in FAMILIES]
    async with calling(callers):
        for endpoints, answer in (
            ([], ""),
            (["a1 NS"], ""),
            (["a1"], "a1"),
            (["a1", "b1"], "a1"),
            (["b1"], "b1"),
            ([], ""),
            (["a2"], "a2"),
        ):
            await served.put(*endpoints)
            await every(each.hears(answer) for each in callers)
        await served.put("a2", port=OTHER_PORT)
        await every(each.hears("a2", OTHER_PORT) for each in callers)


async def test_udp_clients_of_a_local_policy_follow_the_endpoints_of_their_node(cluster: Cluster) -> None:
    """Conntrack: preserve UDP traffic … for a ClusterIP service with InternalTrafficPolicy set to Local."""
    served = await Served.create(cluster, "local", internalTrafficPolicy="Local")
    callers = [Caller(cluster.world.host(name), served.ips[4], 80, 12345) for name in ("c1", "node-1")]
    async with calling(callers):
        for endpoints, answer in ((["a1"], "a1"), (["a1", "b1"], "a1"), (["b1"], ""), (["a2", "b1"], "a2")):
            await served.put(*endpoints)
            await every(each.hears(answer) for each in callers)


# --- service.go -----------------------------------------------------------------------------------------------


async def test_node_ports_and_their_health_checks_follow_the_external_policy(cluster: Cluster) -> None:
    """Services: should implement NodePort and HealthCheckNodePort correctly when ExternalTrafficPolicy changes."""
    world = cluster.world
    served = await Served.create(cluster, "policy", type="LoadBalancer", externalTrafficPolicy="Local")
    await served.put("a1")
    port, health, asker = served.node_ports["TCP"], served.health_check_port, world.node("node-2")
    local = {"node-1": "HTTP/1.1 200 OK", "node-2": (no := "HTTP/1.1 503 Service Unavailable"), "node-3": no}
    for policy, lines in (("Local", local), ("Cluster", dict.fromkeys(local, "")), ("Local", local)):
        await served.change(externalTrafficPolicy=policy, healthCheckNodePort=health if policy == "Local" else None)
        await every(_health_says(asker, world.node(name).ip(), health, line) for name, line in lines.items())
        await ends(probe.tcp, asker, world.node("node-3").ip(), port, "timeout" if policy == "Local" else "ok")
        for name in ("node-1", "node-2"):
            answers = await answered(probe.tcp, asker, world.node(name).ip(), port, "a1")
            assert policy == "Cluster" or {each.peer_ip for each in answers} == {asker.ip()}


async def _health_says(host: Host, address: str, port: int, line: str) -> None:
    async def check() -> bool:
        return await status_line(host, address, port) == line

    await eventually(check, f"{address}:{port} says {line!r}")


async def test_what_drains_serves_and_its_health_check_fails(cluster: Cluster) -> None:
    """Services: should fail health check node port if there are only terminating endpoints; fallback to (local) …

    … terminating endpoints with internal and external policy Local; connect to terminating and unready endpoints if
    PublishNotReadyAddresses is true (ready, then) and not if it is false.
    """
    world = cluster.world
    spec = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "internalTrafficPolicy": "Local"}
    served = await Served.create(cluster, "drains", **spec)
    pods, nodes = [world.host(name) for name in ("c1", "c2")], [world.node(name) for name in ("node-1", "node-2")]
    port = served.node_ports["TCP"]
    for state, line in (("a1", "HTTP/1.1 200 OK"), ("a1 RT", None), ("a1 ST", "HTTP/1.1 503 Service Unavailable")):
        await served.put(state)
        if line:
            await _health_says(nodes[0], nodes[0].ip(), served.health_check_port, line)
        await every(
            [
                answered(probe.tcp, pods[0], served.ips[4], 80, "a1"),
                ends(probe.tcp, pods[1], served.ips[4], 80, "timeout"),
                answered(probe.tcp, pods[0], nodes[0].ip(), port, "a1"),
                answered(probe.tcp, pods[1], nodes[0].ip(), port, "a1"),
                ends(probe.tcp, pods[0], nodes[1].ip(), port, "timeout"),
            ]
        )
    await served.put("a1 NS")
    ways = [(pod, *to) for pod in pods for to in ((served.ips[4], 80), (nodes[0].ip(), port))]
    await every(ends(probe.tcp, *way, "refused") for way in ways)


async def test_affinity_is_switched_for_cluster_ip_node_port_and_load_balancer(cluster: Cluster) -> None:
    """Services: should be able to switch session affinity for service with type clusterIP, for NodePort service.

    And LoadBalancers: the same with Cluster and Local traffic policy.
    """
    world = cluster.world
    served = await Served.create(cluster, "affine", type="LoadBalancer", sessionAffinity="ClientIP")
    await served.put("a1", "a2", "b1")
    vips, node_port = await served.vips(), served.node_ports["TCP"]
    ways = [
        (world.host("c1"), served.ips[4], 80),
        (world.host("c2"), world.node("node-1").ip(6), node_port),
        (world.host("client"), vips[4], 80),
    ]
    for affinity, kept in (("ClientIP", True), ("None", False), ("ClientIP", True)):
        await served.change(sessionAffinity=affinity)
        await every(_keeps(*way, kept=kept) for way in ways)
    await served.change(externalTrafficPolicy="Local")
    await _keeps(*ways[2], kept=True)


async def _keeps(host: Host, address: str, port: int, *, kept: bool) -> None:
    async def check() -> bool:
        answers = [await probe.tcp(host, address, port) for _ in range(15)]
        return all(each.name for each in answers) and (len({each.name for each in answers}) == 1) is kept

    await eventually(check, f"{host.name} to {address} {port} {'keeps' if kept else 'changes'} its endpoint")


async def test_a_service_changes_its_type_and_its_ports(cluster: Cluster) -> None:
    """Services: change the type from ExternalName to ClusterIP, to NodePort, and back to ExternalName; update service …

    … type to NodePort listening on same port number but different protocols; serve endpoints on same port and
    different protocols; LoadBalancers: change the type and ports of a TCP and a UDP service, without NodePort.
    """
    world, tcp = cluster.world, PORTS[:1]
    node = world.node("node-2").ip()
    outside = {"type": "ExternalName", "externalName": "example.com", "clusterIP": None, "clusterIPs": None}
    families = {"ipFamilies": None, "ipFamilyPolicy": None}
    served = await Served.create(cluster, "types", ports=tcp)
    await served.put("a1")
    inside, client = world.host("c2"), world.host("client")
    old = served.ips[4]
    await answered(probe.tcp, inside, old, 80, "a1")
    await served.change(**outside, **families, ports=None)
    await ends(probe.tcp, inside, old, 80, "timeout")
    await served.change(type="NodePort", externalName=None, ports=tcp)
    port = served.node_ports["TCP"]
    await answered(probe.tcp, inside, served.ips[4], 80, "a1")
    await answered(probe.tcp, inside, node, port, "a1")
    both = [{**each, "nodePort": port} for each in PORTS]
    await served.change(ports=both)
    for ask in (probe.tcp, probe.udp):
        await answered(ask, inside, served.ips[4], 80, "a1")
        await answered(ask, client, node, port, "a1")
    await served.change(ports=both[1:])
    await answered(probe.udp, inside, served.ips[4], 80, "a1")
    await ends(probe.tcp, inside, served.ips[4], 80, "timeout")
    await served.change(type="LoadBalancer", ports=[{**each, "port": 81} for each in both])
    vip = (await served.vips())[4]
    await answered(probe.tcp, client, vip, 81, "a1")
    await answered(probe.udp, client, vip, 81, "a1")
    await served.change(
        allocateLoadBalancerNodePorts=False, ports=[{**each, "port": 81, "nodePort": 0} for each in PORTS]
    )
    await served.put()
    await every(ends(ask, client, vip, 81, "refused") for ask in (probe.tcp, probe.udp))
    await served.put("b1")
    await every(answered(ask, client, vip, 81, "b1") for ask in (probe.tcp, probe.udp))
    await served.change(type="ClusterIP", allocateLoadBalancerNodePorts=None)
    await ends(probe.tcp, client, node, port, "refused")


async def test_labels_hide_a_service_and_its_slices(cluster: Cluster) -> None:
    """Services: should implement service.kubernetes.io/service-proxy-name, service.kubernetes.io/headless (of 1.35)."""
    world, label = cluster.world, "service.kubernetes.io/service-proxy-name"
    served = await Served.create(cluster, "hidden")
    await served.put("a1", "b1")
    askers = [world.host("c1"), world.node("node-3")]
    for change, outcome in (({}, "ok"), ({label: "foo-bar"}, "timeout"), ({label: None}, "ok")):
        await cluster.client.patch("Service", "hidden", "default", {"metadata": {"labels": change}})
        await every(ends(probe.tcp, host, served.ips[4], 80, outcome) for host in askers)
    await served.put("a1", "b1", labels={"service.kubernetes.io/headless": ""})
    await every(ends(probe.tcp, host, served.ips[4], 80, "refused") for host in askers)


async def test_source_ranges_are_set_widened_and_cleared(cluster: Cluster) -> None:
    """LoadBalancers: should only allow access from service loadbalancer source ranges."""
    world = cluster.world
    served = await Served.create(cluster, "ranges", type="LoadBalancer", ipFamilyPolicy="SingleStack")
    await served.put("a1")
    vip = (await served.vips())[4]
    accept, drop, client = world.host("c1"), world.host("c2"), world.host("client")
    for ranges, allowed in (
        (None, {accept, drop, client}),
        ([f"{accept.ip()}/32", f"{world.node('node-1').ip()}/32"], {accept}),
        (["0.0.0.0/1", "128.0.0.0/1"], {accept, drop, client}),
        (["255.0.0.0/32"], set()),
        (None, {accept, drop, client}),
    ):
        await served.change(loadBalancerSourceRanges=ranges)
        await every(
            ends(probe.tcp, host, vip, 80, "ok" if host in allowed else "timeout") for host in (accept, drop, client)
        )


# --- networking.go, hostport.go -------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES)
async def test_servers_on_nodes_are_reached_from_pods_and_nodes_with_large_requests(
    cluster: Cluster, family: int
) -> None:
    """Networking: should function for service endpoints using hostNetwork, be able to handle large requests: udp."""
    world = cluster.world
    served = await Served.create(cluster, f"hosts-{family}", type="NodePort")
    await served.put("h1", "h2", port=HOST_PORT)
    for host in (world.host("c1"), world.node("node-1"), world.node("node-3")):
        for kind, ask in (("TCP", probe.tcp), ("UDP", probe.udp)):
            await answered(ask, host, served.ips[family], 80, "h1", "h2")
            for node in ("node-1", "node-3"):
                await answered(ask, host, world.node(node).ip(family), served.node_ports[kind], "h1", "h2")
        assert await _says_back(host, served.ips[family]) in {"h1", "h2"}


async def _says_back(host: Host, address: str) -> str:
    """Who answers a datagram that is longer than a frame."""
    loop = asyncio.get_running_loop()
    with host.inside():
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
    with sock:
        sock.setblocking(False)
        sock.connect((address, 80))
        async with asyncio.timeout(DEADLINE):
            await loop.sock_sendall(sock, b"n" + b"o" * 1999)
            return str(json.loads(await loop.sock_recv(sock, 4096))["name"])


async def test_the_urls_that_everybody_asks(cluster: Cluster) -> None:
    """Networking: should check kube-proxy urls."""
    for node in cluster.world.nodes:
        for address in ("127.0.0.1", "::1", node.ip()):
            assert await status_line(node, address, 10256, "/healthz") == "HTTP/1.1 200 OK"
        assert (await probe.http(node, "127.0.0.1", 10249, path="/proxyMode")).status == 200


async def test_a_client_that_asked_while_the_rules_were_gone_is_served_when_they_are_back(cluster: Cluster) -> None:
    """Networking: should recreate its iptables rules if they are deleted, for UDP, which never asks anew."""
    node, proxy = cluster.world.node("node-1"), cluster.proxies["node-1"]
    served = await Served.create(cluster, "flushed")
    await served.put("b1")
    await answered(probe.udp, node, served.ips[4], 80, "b1")
    proxy.send_signal(signal.SIGSTOP)
    try:
        (await node.run(["iptables-nft", "-t", "nat", "-F"])).check()
        callers = [Caller(cluster.world.host("c1"), served.ips[4], 80, 12345)]
        async with calling(callers):
            await callers[0].hears("")
            proxy.send_signal(signal.SIGCONT)
            await callers[0].hears("b1")
    finally:
        proxy.send_signal(signal.SIGCONT)


async def test_host_ports_are_served_beside_node_ports(cluster: Cluster) -> None:
    """HostPort: no conflict between pods with same hostPort but different hostIP and protocol, as the CNI maps them."""
    node, client, number = cluster.world.node("node-1"), cluster.world.host("client"), 31543
    port = {**PORTS[0], "nodePort": number}
    served = await Served.create(cluster, "beside", type="NodePort", ports=[port])
    await served.put("b1")
    a1, a2 = (cluster.world.host(name).ip() for name in ("a1", "a2"))
    rules = [
        f"-d {node.ip()}/32 -p tcp --dport {HOST_PORT + 1} -j DNAT --to-destination {a1}:8080",
        f"-d {node.ip()}/32 -p udp --dport {HOST_PORT + 1} -j DNAT --to-destination {a2}:8080",
        f"-d {node.ip()}/32 -p udp --dport {number} -j DNAT --to-destination {a2}:8080",
    ]
    script = ["*nat", ":CNI-HOSTPORT-DNAT - [0:0]"]
    script += [f"-A {chain} -m addrtype --dst-type LOCAL -j CNI-HOSTPORT-DNAT" for chain in ("PREROUTING", "OUTPUT")]
    script += [*(f"-A CNI-HOSTPORT-DNAT {rule}" for rule in rules), "COMMIT", ""]
    (await node.run(["iptables-nft-restore", "--noflush"], stdin="\n".join(script))).check()
    for host in (client, node):
        await answered(probe.tcp, host, node.ip(), number, "b1")
        await answered(probe.udp, host, node.ip(), number, "a2")
        await answered(probe.tcp, host, node.ip(), HOST_PORT + 1, "a1")
        await answered(probe.udp, host, node.ip(), HOST_PORT + 1, "a2")
