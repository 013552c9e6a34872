"""Whose flow it is. What flows carry is counted in daemon/ledger.py."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from kproxy.config import Config
from kproxy.model.enums import IPFamily, Protocol
from kproxy.model.flow import Destination
from kproxy.model.keys import ServicePortKey
from kproxy.plan import attribution
from kproxy.plan.attribution import Attribution
from kproxy.plan.build import build_plan
from kproxy.plan.plan import Plan
from tests.builders import port, service, slice_of, snapshot, udp

TCP, UDP = Protocol.TCP, Protocol.UDP
HERE = ("192.168.0.2", "192.168.0.77", "127.0.0.1", "fd00::2")
V4, V6 = "172.30.0.10", "fd00:30::10"
WEB = service(
    "web", V4, V6, ports=[port(80, node_port=30080)], external_ips=("203.0.113.1",), load_balancer_vips=("1.1.1.1",)
)
OWNER = ServicePortKey("default", "web", "", TCP)


def plan_of(*objects: object, family: IPFamily = IPFamily.IPV4, previous: Plan | None = None, **config: object) -> Plan:
    made = Config(hostname="n1", **config)  # type: ignore[arg-type]
    return build_plan(snapshot(*objects), made, family, HERE, previous)  # type: ignore[arg-type]


def following(*plans: Plan) -> Attribution:
    table = Attribution()
    for plan in plans:
        table.follow(plan)
    return table


@pytest.mark.parametrize(
    ("dialled", "owner"),
    [
        (Destination(TCP, V4, 80), OWNER),
        (Destination(TCP, "203.0.113.1", 80), OWNER),
        (Destination(TCP, "1.1.1.1", 80), OWNER),
        (Destination(TCP, "192.168.0.2", 30080), OWNER),
        (Destination(TCP, "192.168.0.77", 30080), OWNER),
        (Destination(TCP, "127.0.0.1", 30080), OWNER),  # by rule, where localhost node ports are on
        (Destination(TCP, "8.8.8.8", 30080), None),  # some other machine
        (Destination(TCP, V4, 81), None),
        (Destination(UDP, V4, 80), None),
        (Destination(TCP, "10.180.0.1", 8080), None),  # the endpoint itself
        (Destination(TCP, V6, 80), None),  # of a family without a plan
    ],
)
def test_a_flow_belongs_to_the_service_port_whose_frontend_was_dialled(
    dialled: Destination, owner: ServicePortKey | None
) -> None:
    assert following(plan_of(WEB, slice_of("web", "10.180.0.1"))).owner(dialled, HERE) == owner


def test_node_ports_belong_only_where_they_listen() -> None:
    table = following(plan_of(WEB, nodeport_addresses=("192.168.0.2/32",)))
    assert table.owner(Destination(TCP, "192.168.0.2", 30080), HERE) == OWNER
    assert table.owner(Destination(TCP, "192.168.0.77", 30080), HERE) is None


def test_an_exact_frontend_comes_before_a_node_port() -> None:
    own = service("own", "172.30.0.11", external_ips=("192.168.0.2",), ports=[port(30080)])
    table = following(plan_of(WEB, own))
    assert table.owner(Destination(TCP, "192.168.0.2", 30080), HERE) == OWNER._replace(name="own")
    assert table.owner(Destination(TCP, "192.168.0.77", 30080), HERE) == OWNER


def test_both_families_of_a_service_are_one_and_gone_only_together() -> None:
    table = following(plan_of(WEB), plan_of(WEB, family=IPFamily.IPV6))
    assert table.owner(Destination(TCP, V6, 80), HERE) == OWNER
    assert table.owner(Destination(TCP, "fd00::2", 30080), HERE) == OWNER
    assert table.service_ports(at_most=1) == {OWNER}
    assert table.follow(plan_of()) == []
    assert table.owner(Destination(TCP, V4, 80), HERE) is None
    assert table.owner(Destination(TCP, V6, 80), HERE) == OWNER
    assert table.follow(plan_of(family=IPFamily.IPV6)) == [OWNER]
    assert table.owner(Destination(TCP, V6, 80), HERE) is None


def test_an_address_that_goes_from_one_service_to_another_is_the_latters() -> None:
    first = plan_of(WEB, service("api", "172.30.0.11"))
    lesser = replace(WEB, external_ips=())
    second = plan_of(lesser, service("api", "172.30.0.11", external_ips=("203.0.113.1",)), previous=first)
    table = following(first)
    moved = Destination(TCP, "203.0.113.1", 80)
    assert table.owner(moved, HERE) == OWNER
    assert table.follow(second) == []
    assert table.owner(moved, HERE) == OWNER._replace(name="api")
    assert table.follow(plan_of(WEB, service("api", "172.30.0.11"), previous=second)) == []
    assert table.owner(moved, HERE) == OWNER


def test_a_change_costs_what_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    many = [service(f"s{n}", f"172.30.1.{n}") for n in range(200)]
    first = plan_of(*many)
    table = following(first)
    seen: list[ServicePortKey] = []
    destinations = attribution._destinations
    monkeypatch.setattr(attribution, "_destinations", lambda each: seen.append(each.key) or destinations(each))
    many[7] = replace(many[7], external_ips=("203.0.113.7",))
    second = plan_of(*many, slice_of("s9", "10.180.0.1"), previous=first)
    table.follow(second)
    assert {key.name for key in seen} == {"s7", "s9"}
    fresh = following(second)
    assert table._tables[IPFamily.IPV4].owners == fresh._tables[IPFamily.IPV4].owners


def test_all_service_ports_are_told_only_where_they_are_few() -> None:
    table = following(plan_of(WEB, service("dns", "172.30.0.11", ports=[udp(53), port(53, "tcp")])))
    assert len(table.service_ports(at_most=3)) == 3
    assert table.service_ports(at_most=2) == frozenset()
    other = service("six", "fd00:30::11")
    table.follow(plan_of(WEB, other, family=IPFamily.IPV6))
    assert table.service_ports(at_most=3) == frozenset()
    assert len(table.service_ports(at_most=4)) == 4
