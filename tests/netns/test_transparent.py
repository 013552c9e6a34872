"""Endpoints that see the client's address: the relay on a node whose pods share a bridge, as with flannel.

    outside 192.0.2.2 ─ 192.0.2.1 node, cni0 10.77.1.1 ┬ pod 10.77.1.2, the endpoint
                                                       └ pod 10.77.1.3, a client

The same with fd77:9:: and fd77:1::. The rules are those of a whole plan. Who is kept by which line is
tests/unit/backend/userspace/test_compile.py's, draws and refusals are test_transparent.py's there.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Iterator
from typing import NamedTuple

import pytest

from kproxy.backend.iptables.compile import compile_plan
from kproxy.backend.iptables.dialect import Abilities
from kproxy.backend.userspace.apply import Listeners
from kproxy.backend.userspace.compile import relay_rules
from kproxy.backend.userspace.door import bind, unbound
from kproxy.backend.userspace.rules import Listener
from kproxy.cli.plan import render
from kproxy.config import Config, IptablesVariant, ProxyMode
from kproxy.kernel import netlink
from kproxy.kernel.address import Addresses
from kproxy.model.endpoint import SlicePort
from kproxy.model.enums import IPFamily, Protocol, ServiceType, TrafficPolicy
from kproxy.plan.build import build_plan
from kproxy.plan.plan import Plan
from kproxy.plan.steer import Line, lines, steer
from kproxy.plan.viewpoint import of_family
from kproxy.sandbox.host import Host
from tests.builders import NODE, port, service, slice_of, snapshot

pytestmark = pytest.mark.root

TCP, UDP = Protocol.TCP, Protocol.UDP
KINDS = {TCP: socket.SOCK_STREAM, UDP: socket.SOCK_DGRAM}
PODS = {IPFamily.IPV4: "10.77.1.", IPFamily.IPV6: "fd77:1::"}
LINK = {IPFamily.IPV4: "192.0.2.", IPFamily.IPV6: "fd77:9::"}
VIPS = {IPFamily.IPV4: ("10.96.0.1", "10.96.0.2"), IPFamily.IPV6: ("fd96::1", "fd96::2")}
PORT, NODE_PORT, HOSTED = 8080, 30080, 8081
CASES = [(variant, family) for variant in (IptablesVariant.NFT, IptablesVariant.LEGACY) for family in IPFamily]
SYSCTLS = (
    *("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/ipv4/conf/all/rp_filter"),
    *("net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"),
)


class Scene(NamedTuple):
    family: IPFamily
    node: Host
    pod: Host  # the endpoint
    client: Host
    outside: Host
    listeners: Listeners

    async def seen(self, host: Host, ip: str, number: int, protocol: Protocol) -> str:
        """As whom an endpoint sees a client on this host."""
        with asking(host, self.family, protocol) as sock:
            return await ask(sock, (ip, number))

    def hidden(self) -> int:
        return sum(tally.hidden for tally in self.listeners.tallies().values())


def domain(family: IPFamily) -> socket.AddressFamily:
    return socket.AF_INET if family is IPFamily.IPV4 else socket.AF_INET6


@contextlib.contextmanager
def asking(host: Host, family: IPFamily, protocol: Protocol) -> Iterator[socket.socket]:
    with host.inside():
        sock = socket.socket(domain(family), KINDS[protocol])
    with sock:
        sock.setblocking(False)
        yield sock


async def ask(sock: socket.socket, to: tuple[str, int]) -> str:
    """``to``: once is enough."""
    loop = asyncio.get_running_loop()
    async with asyncio.timeout(20):
        await loop.sock_connect(sock, to)
        if sock.type == socket.SOCK_DGRAM:
            await loop.sock_sendall(sock, b"?")
        return (await loop.sock_recv(sock, 99)).decode()


def answering(host: Host, ip: str, number: int, protocol: Protocol) -> socket.socket:
    """Says as whom it sees each client, until its reader is removed."""
    with host.inside():
        sock = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, KINDS[protocol])
    sock.setblocking(False)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((ip, number))
    if protocol is TCP:
        sock.listen()
    asyncio.get_running_loop().add_reader(sock, answer, sock, protocol)
    return sock


def answer(sock: socket.socket, protocol: Protocol) -> None:
    if protocol is TCP:
        talk, peer = sock.accept()
        with talk:
            talk.send(peer[0].encode())
    else:
        _, peer = sock.recvfrom(9)
        sock.sendto(peer[0].encode(), peer)


async def wire(node: Host, link: str, other: Host, prefix: str, gateway: str) -> None:
    await node.configure([f"link add {link} type veth peer name eth0 netns {other.path}"], giving=[other])
    await other.configure(["link set lo up", f"address add {prefix} dev eth0 nodad", "link set eth0 up"])
    await other.configure([f"route add default via {gateway}"])


async def build(family: IPFamily, node: Host, pod: Host, client: Host, outside: Host) -> None:
    pods, link, length = PODS[family], LINK[family], 24 if family is IPFamily.IPV4 else 64
    node.write_sysctls(dict.fromkeys(SYSCTLS, "1"))
    for host in (node, pod, client, outside):  # a link-local address that is still in doubt asks for no neighbour
        host.write_sysctls({"net/ipv6/conf/default/accept_dad": "0"})
    await node.configure(
        ["link set lo up", "link add cni0 type bridge", f"address add {pods}1/{length} dev cni0 nodad"]
    )
    for number, host in (2, pod), (3, client):
        await wire(node, f"pod{number}", host, f"{pods}{number}/{length}", f"{pods}1")
        await node.configure([f"link set pod{number} master cni0", f"link set pod{number} up"])
    await node.configure(["link set cni0 up"])
    await wire(node, "uplink", outside, f"{link}2/{length}", f"{link}1")
    await node.configure([f"address add {link}1/{length} dev uplink nodad", "link set uplink up"])
    await node.configure([f"route add default via {link}2"])
    for host, to in (
        (node, f"{pods}2"),
        (node, f"{link}2"),
        (pod, f"{pods}1"),
        (client, f"{pods}1"),
        (outside, f"{link}1"),
    ):
        await until_reached(host, family, to)


async def until_reached(host: Host, family: IPFamily, to: str) -> None:
    """IPv6 addresses are of use only some time after their link is."""
    while True:
        with asking(host, family, UDP) as sock, contextlib.suppress(OSError):
            sock.connect((to, 9))
            return
        await asyncio.sleep(0.01)


def plan_of(family: IPFamily, config: Config) -> Plan:
    ports = [port(80, "web", node_port=NODE_PORT), port(80, "dns", UDP, NODE_PORT)]
    web = service("web", VIPS[family][0], ports=ports, type=ServiceType.NODE_PORT, external_policy=TrafficPolicy.LOCAL)
    hosted = service("hosted", VIPS[family][1], ports=[port(80, "web"), port(80, "dns", UDP)])
    slices = [
        slice_of(name, f"{ip} @{NODE}", ports=[SlicePort("web", TCP, number), SlicePort("dns", UDP, number)])
        for name, ip, number in (("web", f"{PODS[family]}2", PORT), ("hosted", f"{LINK[family]}1", HOSTED))
    ]
    return build_plan(snapshot(web, hosted, *slices), config, family, (f"{LINK[family]}1",))


@pytest.fixture(params=CASES, ids="-".join)
async def scene(request: pytest.FixtureRequest) -> AsyncIterator[Scene]:
    variant, family = request.param
    config = Config(
        hostname=NODE,
        proxy_mode=ProxyMode.USERSPACE,
        userspace_transparent=True,
        cluster_cidr=(f"{PODS[family]}0/{24 if family is IPFamily.IPV4 else 64}",),
        relay_sweep=0.05,
    )
    (ip,), (sources,) = (of_family(texts, family) for texts in (config.relay_address, config.relay_sources))
    hosts = node, pod, client, outside = Host("node"), Host("pod"), Host("client"), Host("outside")
    await build(family, *hosts)
    servers: list[socket.socket] = []
    async with contextlib.AsyncExitStack() as stack:
        for host in hosts:
            stack.push_async_callback(host.close)
        stack.enter_context(node.inside())  # for the relay dials from where this thread is
        before = await routes(node)
        addresses = await stack.enter_async_context(Addresses())
        await addresses.claim(ip)
        for _ in range(2):
            await addresses.claim_network(sources)
        plan = plan_of(family, config)
        opened: dict[Listener, socket.socket] = {}
        at: dict[Line, Listener] = {}
        for line, _ in lines(plan):
            free = Listener(ip, 0, line.key.protocol)
            sock = bind(unbound(free), free)
            at[line] = Listener(ip, sock.getsockname()[1], line.key.protocol)
            opened[at[line]] = sock
        ports = {line: listener.port for line, listener in at.items()}
        rules = compile_plan(steer(plan, ip, ports, sources=sources).plan, config, Abilities())
        program = f"{'iptables' if family is IPFamily.IPV4 else 'ip6tables'}-{variant.value}"
        text = "\n".join((*render(rules), ""))
        (await node.run([f"{program}-restore"], stdin=text)).check()
        saved = (await node.run([f"{program}-save"])).check().stdout
        for line in text.splitlines():
            assert line.startswith((":", "#")) or line in saved.splitlines()
        listeners = Listeners(config, connections=100, sessions=100, chance=lambda: 0, opened=opened.__getitem__)
        running = asyncio.create_task(listeners.run())
        assert listeners.change(relay_rules(plan, at, sources), ()) == []
        for protocol in KINDS:
            servers.append(answering(pod, f"{PODS[family]}2", PORT, protocol))
            servers.append(answering(node, f"{LINK[family]}1", HOSTED, protocol))
        try:
            yield Scene(family, node, pod, client, outside, listeners)
        finally:
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
            for sock in servers:
                asyncio.get_running_loop().remove_reader(sock)
                sock.close()
        assert [await addresses.release_network(sources) for _ in range(2)] == [True, False]
        assert await addresses.release(ip)
        assert await routes(node) == before


async def routes(node: Host) -> list[str]:
    """To this node itself, and which tables of routes are asked when."""
    found = []
    for version in "-4", "-6":
        for what in ["rule"], ["route", "show", "table", "all", "dev", "lo"]:
            found += sorted((await node.run(["ip", version, *what])).check().stdout.splitlines())
    return found


async def test_an_endpoint_sees_whom_rules_would_not_masquerade_and_the_node_for_others(scene: Scene) -> None:
    pods, link = PODS[scene.family], LINK[scene.family]
    web, hosted = VIPS[scene.family]
    for protocol in KINDS:
        for _ in range(3):
            # From outside to this node's endpoints alone; from pod to pod on one bridge; to a process of this node.
            assert await scene.seen(scene.outside, f"{link}1", NODE_PORT, protocol) == f"{link}2"
            assert await scene.seen(scene.client, web, 80, protocol) == f"{pods}3"
            assert await scene.seen(scene.client, hosted, 80, protocol) == f"{pods}3"
        # An endpoint that is its own client, and a process of this node.
        assert await scene.seen(scene.pod, web, 80, protocol) == f"{pods}1"
        assert await scene.seen(scene.node, web, 80, protocol) == f"{pods}1"
    assert scene.hidden() == 0


async def test_whom_the_kernel_forgot_goes_on_as_this_node(scene: Scene) -> None:
    web, pods = VIPS[scene.family][0], PODS[scene.family]
    with asking(scene.client, scene.family, UDP) as sock:
        assert await ask(sock, (web, 80)) == f"{pods}3"
        with netlink.NetfilterSocket() as door:
            forget = 1 << 8 | 2  # IPCTNL_MSG_CT_DELETE of everything
            door.ask(forget, netlink.ACK, domain(scene.family), b"", "forget all flows")
        assert await ask(sock, (web, 80)) in {f"{pods}1", f"{pods}3"}  # the latter if it was remembered again before
    assert scene.hidden() == 0
