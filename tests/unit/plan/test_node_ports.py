"""Where node ports listen. Who owns a node port is test_frontends'."""

from __future__ import annotations

import pytest

from kproxy.config import Config
from kproxy.model.enums import IPFamily
from kproxy.plan.node_ports import listens_on, node_ports
from kproxy.plan.plan import NodePorts
from tests.builders import node

HERE = ("192.168.0.77", "192.168.0.2", "127.0.0.1", "fd00::2", "::1", "fd00::1")


def of(*configured: str, family: IPFamily = IPFamily.IPV4, localhost: bool = True) -> NodePorts:
    config = Config(nodeport_addresses=configured, iptables_localhost_nodeports=localhost)
    return node_ports(config, node(addresses=("192.168.0.2",)), family, HERE)


@pytest.mark.parametrize(
    ("configured", "addresses", "localhost"),
    [
        ((), None, True),
        (("0.0.0.0/0",), None, True),
        (("10.0.0.0/8", "0.0.0.0/0"), None, True),
        (("fd00::/64",), None, True),  # nothing of this family: everywhere
        (("192.168.0.0/30",), ("192.168.0.2",), False),
        (("192.168.0.0/24", "127.0.0.0/8"), ("127.0.0.1", "192.168.0.2", "192.168.0.77"), True),
        (("127.0.0.1/32",), ("127.0.0.1",), True),
        (("126.0.0.0/7",), ("127.0.0.1",), True),
        (("10.0.0.0/8",), (), False),
        (("primary",), ("192.168.0.2",), False),
    ],
)
def test_ipv4(configured: tuple[str, ...], addresses: tuple[str, ...] | None, localhost: bool) -> None:
    assert of(*configured) == NodePorts(addresses, localhost)


@pytest.mark.parametrize("configured", [(), ("127.0.0.0/8",)])
def test_localhost_can_be_switched_off(configured: tuple[str, ...]) -> None:
    assert of(*configured, localhost=False) == NodePorts(None if not configured else (), localhost=False)


@pytest.mark.parametrize(
    ("configured", "addresses"),
    [((), None), (("::/0",), None), (("fd00::/64", "::1/128"), ("fd00::1", "fd00::2")), (("192.168.0.0/24",), None)],
)
def test_ipv6_never_serves_localhost(configured: tuple[str, ...], addresses: tuple[str, ...] | None) -> None:
    assert of(*configured, family=IPFamily.IPV6) == NodePorts(addresses, localhost=False)


@pytest.mark.parametrize(
    ("configured", "ipv4", "ipv6"),
    [
        (("localhost",), (), ()),
        (("primary", "localhost"), ("192.168.0.2",), None),  # no IPv6 address of the node is known
        (("localhost", "192.168.0.0/24"), ("192.168.0.2", "192.168.0.77"), ()),
        (("127.0.0.0/8", "::1/128", "localhost"), (), ()),
        (("0.0.0.0/0", "localhost", "fd00::1/128"), None, ("fd00::1",)),
    ],
)
def test_listeners_of_our_own_take_loopback_away_from_the_rules(
    configured: tuple[str, ...], ipv4: tuple[str, ...] | None, ipv6: tuple[str, ...] | None
) -> None:
    assert of(*configured) == NodePorts(ipv4, localhost=False, listeners=True)
    assert of(*configured, family=IPFamily.IPV6) == NodePorts(ipv6, localhost=False, listeners=True)


def test_primary_may_stand_beside_others() -> None:
    assert of("primary", "192.168.0.64/26") == NodePorts(("192.168.0.2", "192.168.0.77"))


@pytest.mark.parametrize("addresses", [(), ("127.0.0.1",), ("fd00::1",)])
def test_primary_restricts_nothing_without_an_address(addresses: tuple[str, ...]) -> None:
    config = Config(nodeport_addresses=("primary",))
    assert node_ports(config, node(addresses=addresses), IPFamily.IPV4, HERE) == NodePorts(None, localhost=False)


@pytest.mark.parametrize(
    ("where", "ip", "listens"),
    [
        (NodePorts(None, localhost=True), "192.168.0.77", True),
        (NodePorts(None, localhost=True), "192.168.0.78", False),
        (NodePorts(None, localhost=True), "127.3.2.1", True),
        (NodePorts(None, localhost=False), "127.0.0.1", False),
        (NodePorts(None, localhost=False), "::1", False),
        (NodePorts((), listeners=True), "127.0.0.1", True),
        (NodePorts((), listeners=True), "::1", True),
        (NodePorts(("192.168.0.2",)), "192.168.0.2", True),
        (NodePorts(("192.168.0.2",)), "192.168.0.77", False),
    ],
)
def test_listens_on(where: NodePorts, ip: str, listens: bool) -> None:
    assert listens_on(where, ip, HERE) is listens
