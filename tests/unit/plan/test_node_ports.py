"""Where node ports listen. Who owns a node port is test_frontends'."""

from __future__ import annotations

import pytest

from kproxy.config import Config
from kproxy.model.enums import IPFamily
from kproxy.plan.build import build_plan
from kproxy.plan.node_ports import doubt, listens_on, node_ports
from kproxy.plan.plan import NodePorts
from tests.builders import cluster, node, port, service

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


# --- what is probably not meant ---------------------------------------------------------------------------------


def doubted(
    *configured: str,
    registered: tuple[str, ...] | None = ("192.168.0.2",),
    has: tuple[str, ...] = HERE,
    family: IPFamily = IPFamily.IPV4,
    bind: str = "0.0.0.0",
) -> str:
    config = Config(hostname="n1", bind_address=bind, nodeport_addresses=configured)
    known = None if registered is None else node(addresses=registered)
    note = doubt(config, known, family, has, node_ports(config, known, family, has))
    return f"{note.reason}: {note.problem}" if note else ""


@pytest.mark.parametrize("has", [HERE, ()])
def test_primary_without_a_node_is_noted_alike_in_both_families(has: tuple[str, ...]) -> None:
    said = doubted("primary", registered=None, has=has)
    assert said == (
        "NodePortsEverywhere: Node n1: status.addresses are unknown for want of that Node, so nodePortAddresses "
        "primary restricts nothing and node ports answer on all local addresses; add the Node with status.addresses "
        "(--hostname-override says its name), or give CIDRs"
    )
    assert doubted("primary", registered=None, has=has, family=IPFamily.IPV6) == said


def test_primary_without_an_address_of_the_family_is_noted() -> None:
    assert "hold no IPv6 address that others reach" in doubted("primary", family=IPFamily.IPV6)
    assert "hold no IPv4 address that others reach" in doubted("primary", registered=("127.0.0.1",))


@pytest.mark.parametrize(
    ("configured", "said"),
    [
        (("10.0.0.0/8", "10.9.0.0/16"), "nodePortAddresses 10.0.0.0/8, 10.9.0.0/16 matches none of this node's IPv4"),
        (("10.0.0.0/8",), "addresses (192.168.0.2, 192.168.0.77), so node ports are served nowhere; give CIDRs that"),
        (("10.0.0.0/8", "localhost"), "so node ports are served on loopback alone; give"),
    ],
)
def test_cidrs_that_match_no_address_are_noted(configured: tuple[str, ...], said: str) -> None:
    assert doubted(*configured).startswith("NodePortsNowhere: Node n1: ")
    assert said in doubted(*configured)


def test_a_primary_address_that_no_interface_has_is_noted() -> None:
    said = doubted("primary", registered=("192.0.2.9",))
    assert "nodePortAddresses primary (192.0.2.9) matches none of this node's IPv4 addresses" in said
    assert "correct the Node's InternalIP" in said
    assert "primary (192.0.2.8) matches none" in (said := doubted("primary", bind="192.0.2.8"))
    assert "correct --bind-address" in said


def test_of_many_addresses_the_first_are_named() -> None:
    many = tuple(f"192.168.0.{each}" for each in range(9, 0, -1))
    assert "(192.168.0.1, 192.168.0.2, 192.168.0.3, 192.168.0.4 and 5 more)" in doubted("10.0.0.0/8", has=many)


@pytest.mark.parametrize(
    ("configured", "registered", "has"),
    [
        (("primary",), ("192.168.0.2",), HERE),
        (("192.168.0.0/16",), None, HERE),
        (("localhost",), None, HERE),  # asked for
        ((), None, HERE),
        (("0.0.0.0/0",), None, HERE),
        (("10.0.0.0/8",), None, ()),  # the addresses are not known
        (("10.0.0.0/8",), None, ("127.0.0.1", "169.254.73.80", "fd00::1")),  # none of IPv4 that others reach
        (("primary",), ("fd00::1",), ("127.0.0.1", "fd00::1")),
    ],
)
def test_what_is_sound_or_not_known_is_not_noted(
    configured: tuple[str, ...], registered: tuple[str, ...] | None, has: tuple[str, ...]
) -> None:
    assert not doubted(*configured, registered=registered, has=has)


def test_where_no_service_has_a_node_port_nothing_is_noted() -> None:
    config = Config(hostname="n1", nodeport_addresses=("primary",))
    for ports, noted in (([port()], []), ([port(node_port=30080)], ["NodePortsEverywhere"])):
        plan = build_plan(cluster(service(ports=ports)).snapshot(), config, IPFamily.IPV4, HERE)
        assert [note.reason for note in plan.notes] == noted
