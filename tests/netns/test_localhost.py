"""Listeners on loopback and a neighbour who can reach 127.0.0.1, because route_localnet was left on.

What listeners serve is tests/unit/backend/userspace's; the daemon with them is tests/conformance's (92-localhost).
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator

import pytest

from kproxy.backend.userspace.balance import Balancer
from kproxy.backend.userspace.door import Door, open_on_loopback
from kproxy.backend.userspace.endpoints import ServicePort
from kproxy.backend.userspace.rules import Listener, Rule
from kproxy.config import Config
from kproxy.model.enums import Protocol
from kproxy.model.keys import ServicePortKey
from kproxy.plan.plan import Target
from kproxy.plan.relay import default_relay
from kproxy.sandbox.host import Host

pytestmark = pytest.mark.root
PORT, OPEN = 30080, 30081
KINDS = {Protocol.TCP: socket.SOCK_STREAM, Protocol.UDP: socket.SOCK_DGRAM}


@pytest.fixture
async def hosts() -> AsyncIterator[tuple[Host, Host]]:
    """A node, and a neighbour on its link who sends 127.0.0.1 to it."""
    node, neighbour = Host("node", ("192.0.2.1",)), Host("neighbour", ("192.0.2.2",))
    try:
        for host in (node, neighbour):
            host.write_sysctls({"net/ipv4/conf/all/route_localnet": "1", "net/ipv4/conf/all/rp_filter": "0"})
            host.write_sysctls({"net/ipv4/conf/default/rp_filter": "0"})
        wire = f"link add eth0 type veth peer name eth0 netns {neighbour.path}"
        await node.configure([wire, "link set lo up"], giving=[neighbour])
        for host in (node, neighbour):
            await host.configure([f"address add {host.ip()}/24 dev eth0", "link set eth0 up"])
        await neighbour.configure(["route add 127.0.0.1 via 192.0.2.1"])  # its own lo is down
        yield node, neighbour
    finally:
        await asyncio.gather(node.close(), neighbour.close())


def door(protocol: Protocol) -> Door:
    key = ServicePortKey("default", "web", "", protocol)
    listener = Listener("127.0.0.1", PORT, protocol)
    rule = Rule(listener, key, (Target("192.0.2.2", 80, local=False),), default_relay(Config()))
    balancer = Balancer(ServicePort(key, rule.relay), chance=lambda: 0, clients=1)
    return Door(rule, balancer, open_on_loopback(listener))


async def ask(host: Host, protocol: Protocol, port: int, source: str = "") -> str:
    """How a question to 127.0.0.1 begins, as far as its sender can tell."""
    with host.inside():
        client = socket.socket(socket.AF_INET, KINDS[protocol])
    with client:
        client.setblocking(False)
        client.bind((source, 0))
        try:
            async with asyncio.timeout(5):
                await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", port))
                if protocol is Protocol.TCP:
                    return "connected"
                client.send(b"?")
                return (await asyncio.get_running_loop().sock_recv(client, 9)).decode()
        except ConnectionRefusedError:
            return "refused"


@pytest.mark.parametrize("protocol", KINDS)
async def test_neighbours_do_not_reach_our_listeners_and_the_node_does(
    hosts: tuple[Host, Host], protocol: Protocol
) -> None:
    node, neighbour = hosts
    with node.inside():
        ours, plain = door(protocol), socket.socket(socket.AF_INET, KINDS[protocol])
        plain.setblocking(False)
        plain.bind(("127.0.0.1", OPEN))
    sockets = [ours.socket, plain]
    for each in sockets:
        if protocol is Protocol.TCP:
            each.listen()
        else:
            asyncio.get_running_loop().add_reader(each, answer, each)
    good = "connected" if protocol is Protocol.TCP else "!"
    try:
        assert await ask(neighbour, protocol, OPEN) == good  # so it does come through
        assert await ask(neighbour, protocol, PORT) == "refused"
        assert await ask(node, protocol, PORT) == good
        assert await ask(node, protocol, PORT, source="192.0.2.1") == good
    finally:
        for each in sockets:
            asyncio.get_running_loop().remove_reader(each)
            each.close()


def answer(listener: socket.socket) -> None:
    _, peer = listener.recvfrom(9)
    listener.sendto(b"!", peer)
