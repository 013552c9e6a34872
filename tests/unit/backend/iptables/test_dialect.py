"""Settings and facts become the few values that rules depend on."""

from __future__ import annotations

import pytest

from kproxy.backend.iptables.dialect import Abilities, canonical_cidr, dialect, fixtures, from_pod, from_source
from kproxy.backend.iptables.rules import InInterface, Match, Source
from kproxy.config import Config
from kproxy.plan.plan import Detector, FromCIDR, FromInterface, NodePorts
from tests.unit.backend.iptables.examples import COUNTED, PLAIN, plan_of, simple, targets

CONFIG = Config(large_cluster_endpoints=5)


@pytest.mark.parametrize(("endpoints", "large"), [(5, False), (6, True)])
def test_a_cluster_is_large_above_the_limit(endpoints: int, large: bool) -> None:
    plan = plan_of(simple(1, targets(3)), simple(2, targets(endpoints - 3)))
    assert dialect(plan, CONFIG, PLAIN).large is large


def test_loopback_node_ports_are_counted_only_where_there_are_any_and_a_counter() -> None:
    open_, closed = plan_of(), plan_of(node_ports=NodePorts())
    assert dialect(open_, CONFIG, COUNTED).localhost_counter
    assert not dialect(closed, CONFIG, COUNTED).localhost_counter
    assert not dialect(open_, CONFIG, PLAIN).localhost_counter


def test_an_address_of_the_node_is_no_part_of_what_services_depend_on() -> None:
    plan, moved = plan_of(), plan_of(node_ports=NodePorts(addresses=("10.0.0.1",), localhost=True))
    assert dialect(plan, CONFIG, PLAIN) == dialect(moved, CONFIG, PLAIN)
    assert fixtures(plan, PLAIN) != fixtures(moved, PLAIN)


def test_abilities_reach_the_rules() -> None:
    weak = Abilities(random_fully=False, recent=False, sctp=False, drop_invalid=False)
    made = dialect(plan_of(), CONFIG, weak)
    assert (made.recent, made.sctp) == (False, False)
    fixed = fixtures(plan_of(), weak)
    assert (fixed.random_fully, fixed.drop_invalid) == (False, False)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.1", "10.0.0.1/32"),
        ("10.0.0.1/8", "10.0.0.0/8"),
        ("FD00:0:0::1", "fd00::1/128"),
        ("fd00::1/16", "fd00::/16"),
    ],
)
def test_addresses_are_written_as_iptables_save_prints_them(text: str, expected: str) -> None:
    assert canonical_cidr(text) == expected


@pytest.mark.parametrize(
    ("detector", "local", "strangers"),
    [
        (None, (), ()),
        (FromCIDR("10.0.0.0/8"), (Source("10.0.0.0/8"),), (Source("10.0.0.0/8", negated=True),)),
        (FromInterface("cni0", prefix=False), (InInterface("cni0"),), (InInterface("cni0", negated=True),)),
        (FromInterface("veth", prefix=True), (InInterface("veth+"),), (InInterface("veth+", negated=True),)),
    ],
)
def test_a_pod_is_recognised_as_the_plan_says(
    detector: Detector, local: tuple[Match, ...], strangers: tuple[Match, ...]
) -> None:
    assert from_pod(detector) == local
    assert from_pod(detector, negated=True) == strangers


def test_a_source_that_is_everybody_is_no_match_because_it_is_never_printed() -> None:
    assert from_source("0.0.0.0/0") == from_source("::/0") == ()
    assert from_source("0.0.0.0/0", negated=True) == (Source("0.0.0.0/0", negated=True),)
