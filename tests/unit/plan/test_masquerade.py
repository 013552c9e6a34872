"""Detector and routes. Which pool holds what is test_endpoints'."""

from __future__ import annotations

import pytest

from kproxy.config import Config, DetectLocalMode
from kproxy.model.enums import IPFamily
from kproxy.plan.masquerade import detector, external, internal
from kproxy.plan.plan import Client, Detector, FromCIDR, FromInterface, Pool, Route
from tests.builders import node

BOTH = ("fd00:10::/64", "10.0.0.0/8", "11.0.0.0/8")
MODE = DetectLocalMode


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (Config(cluster_cidr=BOTH), FromCIDR("10.0.0.0/8")),
        (Config(cluster_cidr=("fd00:10::/64",)), None),
        (Config(detect_local_mode=MODE.NODE_CIDR, cluster_cidr=BOTH), FromCIDR("10.180.0.0/24")),
        (Config(detect_local_mode=MODE.BRIDGE_INTERFACE, pod_bridge_interface="br0"), FromInterface("br0", False)),
        (Config(detect_local_mode=MODE.BRIDGE_INTERFACE), None),
        (
            Config(detect_local_mode=MODE.INTERFACE_NAME_PREFIX, pod_interface_name_prefix="veth"),
            FromInterface("veth", True),
        ),
        (Config(detect_local_mode=MODE.INTERFACE_NAME_PREFIX), None),
    ],
)
def test_detector_of_each_mode(config: Config, expected: Detector) -> None:
    ours = node(pod_cidrs=("fd00:180::/64", "10.180.0.0/24"))
    assert detector(config, ours, IPFamily.IPV4) == expected


def test_detector_of_the_other_family() -> None:
    assert detector(Config(cluster_cidr=BOTH), None, IPFamily.IPV6) == FromCIDR("fd00:10::/64")


def test_node_cidr_without_a_node_detects_nothing() -> None:
    assert detector(Config(detect_local_mode=MODE.NODE_CIDR), None, IPFamily.IPV4) is None


@pytest.mark.parametrize(
    ("masquerade_all", "detected", "routes"),
    [
        (True, True, (Route(Client.ANY, Pool.CLUSTER, True),)),
        (True, False, (Route(Client.ANY, Pool.CLUSTER, True),)),
        (False, True, (Route(Client.POD, Pool.CLUSTER), Route(Client.ANY, Pool.CLUSTER, True))),
        (False, False, (Route(Client.ANY, Pool.CLUSTER),)),
    ],
)
def test_internal_routes(masquerade_all: bool, detected: bool, routes: tuple[Route, ...]) -> None:
    assert internal(local=False, masquerade_all=masquerade_all, detected=detected).routes == routes


def test_internal_policy_local_changes_the_pool_alone() -> None:
    assert internal(local=True, masquerade_all=False, detected=True).routes == (
        Route(Client.POD, Pool.LOCAL),
        Route(Client.ANY, Pool.LOCAL, True),
    )


@pytest.mark.parametrize("detected", [True, False])
def test_external_policy_cluster_masquerades_everybody(detected: bool) -> None:
    routes = external(local=False, served_here=True, detected=detected).routes
    assert routes == (Route(Client.ANY, Pool.CLUSTER, True),)


@pytest.mark.parametrize(("served_here", "pool"), [(True, Pool.LOCAL), (False, None)])
def test_external_policy_local_short_circuits_pods_and_the_node(served_here: bool, pool: Pool | None) -> None:
    assert external(local=True, served_here=served_here, detected=True).routes == (
        Route(Client.POD, Pool.CLUSTER),
        Route(Client.HOST, Pool.CLUSTER, True),
        Route(Client.ANY, pool),
    )


def test_external_policy_local_treats_pods_as_strangers_where_they_cannot_be_told() -> None:
    assert external(local=True, served_here=True, detected=False).routes == (
        Route(Client.HOST, Pool.CLUSTER, True),
        Route(Client.ANY, Pool.LOCAL),
    )


def test_equal_answers_are_one_object() -> None:
    assert internal(local=True, masquerade_all=False, detected=True) is internal(
        local=True, masquerade_all=False, detected=True
    )
