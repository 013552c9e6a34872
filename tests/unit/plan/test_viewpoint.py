"""Who we are. Whether an equal viewpoint leads to reuse is test_build's."""

from __future__ import annotations

import pytest

from kproxy.config import Config
from kproxy.model.enums import IPFamily
from kproxy.plan.viewpoint import Viewpoint, node_ip, of_family, viewpoint
from tests.builders import node


def test_holds_what_config_and_node_say() -> None:
    config = Config(hostname="me", cluster_cidr=("10.0.0.0/8",), masquerade_all=True, allow_external_ips=False)
    assert viewpoint(config, node(name="me", zone="a"), IPFamily.IPV4) == Viewpoint(
        family=IPFamily.IPV4,
        node="me",
        zone="a",
        ip="192.168.0.2",
        detected=True,
        masquerade_all=True,
        external_ips=False,
        relay_ip="169.254.73.80",
    )


def test_takes_the_name_of_the_node_where_none_is_configured() -> None:
    assert viewpoint(Config(), node(name="n7"), IPFamily.IPV4).node == "n7"


def test_knows_nothing_without_node_and_name() -> None:
    assert viewpoint(Config(), None, IPFamily.IPV6) == Viewpoint(
        family=IPFamily.IPV6, ip="::1", relay_ip="fd6b:7072:6f78:79::1"
    )


@pytest.mark.parametrize(
    ("bind", "addresses", "ipv4", "ipv6"),
    [
        # the table of runtime.md 3
        ("0.0.0.0", (), "127.0.0.1", "::1"),
        ("::", ("fd00::1",), "127.0.0.1", "fd00::1"),
        ("0.0.0.0", ("fd00::1", "10.0.0.1", "10.0.0.2"), "10.0.0.1", "fd00::1"),
        ("80.80.80.80", ("fd00::1", "10.0.0.1"), "80.80.80.80", "fd00::1"),
        ("fd00::2", (), "127.0.0.1", "fd00::2"),
        ("", ("10.0.0.1",), "10.0.0.1", "::1"),
    ],
)
def test_node_ip_of_each_family(bind: str, addresses: tuple[str, ...], ipv4: str, ipv6: str) -> None:
    config = Config(bind_address=bind)
    ours = node(addresses=addresses)
    assert (node_ip(config, ours, IPFamily.IPV4), node_ip(config, ours, IPFamily.IPV6)) == (ipv4, ipv6)


def test_of_family_keeps_order() -> None:
    assert of_family(("10.0.0.2", "fd00::/64", "10.0.0.0/8"), IPFamily.IPV4) == ("10.0.0.2", "10.0.0.0/8")
