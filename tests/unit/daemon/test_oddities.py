"""What looks like a mistake, and which family and addresses a node has (spec: runtime.md 3)."""

from __future__ import annotations

from typing import Any

import pytest

from kproxy.config import Config, DetectLocalMode
from kproxy.daemon.oddities import circle, oddities, primary_family, refuse, show_node_ips
from kproxy.errors import InvalidConfig
from kproxy.model.enums import IPFamily
from kproxy.model.node import Node
from kproxy.plan.viewpoint import node_ip
from tests import builders

V4, V6 = IPFamily.IPV4, IPFamily.IPV6
SOUND = {"nodeport_addresses": ("primary",), "healthz_bind_address": "0.0.0.0:10256"}


@pytest.mark.parametrize(
    ("bind", "addresses", "primary", "v4", "v6"),
    [
        ("0.0.0.0", None, V4, "127.0.0.1", "::1"),
        ("0.0.0.0", (), V4, "127.0.0.1", "::1"),
        ("::", ("fd00::1",), V6, "127.0.0.1", "fd00::1"),
        ("0.0.0.0", ("fd00::1", "192.0.2.1"), V6, "192.0.2.1", "fd00::1"),
        ("0.0.0.0", ("192.0.2.1", "192.0.2.2", "fd00::1"), V4, "192.0.2.1", "fd00::1"),
        ("80.80.80.80", ("fd00::1", "192.0.2.1"), V4, "80.80.80.80", "fd00::1"),
        ("fd00::2", None, V6, "127.0.0.1", "fd00::2"),
        ("127.0.0.2", ("fd00::1",), V4, "127.0.0.2", "fd00::1"),
    ],
)
def test_the_primary_family_and_the_nodes_addresses(
    bind: str, addresses: tuple[str, ...] | None, primary: IPFamily, v4: str, v6: str
) -> None:
    config, node = Config(bind_address=bind), None if addresses is None else Node("n1", addresses=addresses)
    assert primary_family(config, node) is primary
    assert (node_ip(config, node, V4), node_ip(config, node, V6)) == (v4, v6)
    said = [{"127.0.0.1": "none (IPv4)", "::1": "none (IPv6)"}.get(each, each) for each in (v4, v6)]
    assert show_node_ips(config, node) == ", ".join(said if primary is V4 else said[::-1])


@pytest.mark.parametrize(
    ("config", "families", "pod_cidrs", "said"),
    [
        ({}, [V4, V6], (), ""),
        ({"nodeport_addresses": ()}, [V4], (), "--nodeport-addresses is not set"),
        ({"nodeport_addresses": ("10.0.0.0/8",)}, [V4, V6], (), ""),  # nobody says that the cluster has two families
        ({"nodeport_addresses": ("10.0.0.0/8",)}, [V4, V6], ("10.1.0.0/24", "fd00::/64"), "says nothing of IPv6"),
        (
            {"nodeport_addresses": ("fd00::/8",), "cluster_cidr": ("10.0.0.0/8", "fd00::/48")},
            [V4, V6],
            (),
            "says nothing of IPv4",
        ),
        ({"healthz_bind_address": "[fd00::1]:10256"}, [V4], (), "--healthz-bind-address [fd00::1]:10256: this node"),
        ({"healthz_bind_address": "[::]:10256"}, [V4], (), ""),
        ({"metrics_bind_address": "127.0.0.1:10249"}, [V6], (), "--metrics-bind-address 127.0.0.1:10249: this node"),
        ({"cluster_cidr": ("fd00::/48",)}, [V4], (), "--cluster-cidr fd00::/48: this node serves IPv4 alone"),
        ({"cluster_cidr": ("fd00::/48",)}, [V4, V6], (), ""),
        ({}, [V4], ("fd00::/64",), "the Node's podCIDRs fd00::/64: this node serves IPv4 alone"),
    ],
)
def test_what_looks_like_a_mistake(
    config: dict[str, Any], families: list[IPFamily], pod_cidrs: tuple[str, ...], said: str
) -> None:
    found = list(oddities(Config(**(SOUND | config)), families, Node("n1", pod_cidrs=pod_cidrs)))
    assert [said in sentence for sentence in found] == ([True] if said else [])


def test_a_cluster_cidr_of_the_other_family_alone_is_fatal_where_pods_are_told_by_it() -> None:
    config = Config(cluster_cidr=("fd00::/48",))
    with pytest.raises(InvalidConfig, match="--cluster-cidr fd00::/48: this node serves IPv4 alone"):
        refuse(config, [V4])
    refuse(config, [V4, V6])
    refuse(Config(cluster_cidr=("fd00::/48",), detect_local_mode=DetectLocalMode.NODE_CIDR), [V4])
    refuse(Config(), [V4])


@pytest.mark.parametrize(
    ("server", "told"),
    [
        ("https://10.96.0.1:443", True),
        ("https://[fd00:10:96::1]:443", True),
        ("https://192.0.2.1:6443", False),
        ("https://api.example.com", False),
    ],
)
def test_an_api_server_that_only_we_lead_to(server: str, told: bool) -> None:
    found = list(circle(server, builders.service("kubernetes", "10.96.0.1", "fd00:10:96::1")))
    assert ["kproxy itself provides" in each and "give kproxy.master" in each for each in found] == [True] * told
    assert not list(circle(server, None))
