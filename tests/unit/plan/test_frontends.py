"""Who listens where, and who keeps what several claim. Actions are test_endpoints'."""

from __future__ import annotations

from itertools import permutations

import pytest

from kproxy.model.enums import IPFamily, Protocol, ServiceType, TrafficPolicy
from kproxy.model.keys import ObjectKey
from kproxy.model.service import Service
from kproxy.plan.frontends import (
    Bid,
    Claim,
    Contest,
    Lost,
    allowed_sources,
    bids,
    cluster_ip,
    contest,
    frontends,
    health_check_won,
    port_bids,
)
from kproxy.plan.plan import Drop, Frontend, FrontendKind, Note, Reject
from kproxy.plan.viewpoint import Viewpoint
from tests.builders import key, port, service, udp

KIND = FrontendKind
IPV4 = Viewpoint(IPFamily.IPV4, node="n1", ip="192.168.0.2")
IPV6 = Viewpoint(IPFamily.IPV6, node="n1", ip="fd00::2")
OLD, NEW = "2020-01-01T00:00:00Z", "2024-01-01T00:00:00Z"


def kinds(svc: Service, view: Viewpoint = IPV4) -> list[tuple[str, FrontendKind]]:
    return [(str(bid.claim), bid.kind) for bid in port_bids(svc, 0, view)]


def settle(*services: Service, view: Viewpoint = IPV4) -> Contest:
    return contest(Contest(), {each.key: each for each in services}, [], [each.key for each in services], view)


def losers(*services: Service) -> dict[str, list[str]]:
    return {key.name: sorted(str(claim) for _, claim in lost) for key, lost in sorted(settle(*services).lost.items())}


# --- bids -----------------------------------------------------------------------------------------------------


def test_every_kind_of_frontend_in_the_order_of_the_rules() -> None:
    svc = service(
        external_ips=("203.0.113.1", "203.0.113.2", "fd00::9"),
        load_balancer_vips=("198.51.100.1", "fd00::8"),
        ports=[port(80, node_port=30080)],
    )
    assert kinds(svc) == [
        ("172.30.0.41:80/TCP", KIND.CLUSTER_IP),
        ("203.0.113.1:80/TCP", KIND.EXTERNAL_IP),
        ("203.0.113.2:80/TCP", KIND.EXTERNAL_IP),
        ("198.51.100.1:80/TCP", KIND.LOAD_BALANCER_VIP),
        ("30080/TCP", KIND.NODE_PORT),
    ]


def test_each_family_has_its_own_addresses() -> None:
    svc = service(
        "web", "172.30.0.41", "fd00:30::41", external_ips=("203.0.113.1", "fd00::9"), load_balancer_vips=("1.1.1.1",)
    )
    assert kinds(svc, IPV6) == [("[fd00:30::41]:80/TCP", KIND.CLUSTER_IP), ("[fd00::9]:80/TCP", KIND.EXTERNAL_IP)]


def test_external_ips_can_be_switched_off() -> None:
    view = Viewpoint(IPFamily.IPV4, ip="192.168.0.2", external_ips=False)
    assert kinds(service(external_ips=("203.0.113.1",)), view) == [("172.30.0.41:80/TCP", KIND.CLUSTER_IP)]


def test_an_address_held_twice_counts_as_what_is_vouched_for_best() -> None:
    svc = service(external_ips=("1.1.1.1", "172.30.0.41"), load_balancer_vips=("1.1.1.1", "172.30.0.41"))
    assert kinds(svc) == [("172.30.0.41:80/TCP", KIND.CLUSTER_IP), ("1.1.1.1:80/TCP", KIND.LOAD_BALANCER_VIP)]


@pytest.mark.parametrize(
    ("svc", "ipv4", "ipv6"),
    [
        (service("web", "fd00::1", "172.30.0.1"), "172.30.0.1", "fd00::1"),
        (service("web", "172.30.0.1"), "172.30.0.1", ""),
        (Service(key("web"), ports=(port(),)), "", ""),
        (service("web", "172.30.0.1", "fd00::1", type=ServiceType.EXTERNAL_NAME), "", ""),
    ],
)
def test_cluster_ip_of_each_family(svc: Service, ipv4: str, ipv6: str) -> None:
    assert (cluster_ip(svc, IPV4), cluster_ip(svc, IPV6)) == (ipv4, ipv6)


def test_a_service_that_is_not_served_bids_for_nothing() -> None:
    assert bids(service(type=ServiceType.EXTERNAL_NAME, external_ips=("1.1.1.1",)), IPV4) == []


def test_the_health_check_port_is_bid_for_once() -> None:
    svc = balanced("web", ports=[port(80, "a"), port(81, "b")])
    assert bids(svc, IPV4)[2:] == [Bid(Claim("", 31000, Protocol.TCP), KIND.NODE_PORT, 2)]


# --- clashes --------------------------------------------------------------------------------------------------


def balanced(name: str, **rest: object) -> Service:
    fields: dict[str, object] = {
        "type": ServiceType.LOAD_BALANCER,
        "external_policy": TrafficPolicy.LOCAL,
        "health_check_node_port": 31000,
        **rest,
    }
    return service(name, f"172.30.1.{len(name)}", **fields)  # type: ignore[arg-type]


VICTIM = service("victim", "172.30.0.1", created=NEW)
WITH_VIP = service("vip", "172.30.0.2", load_balancer_vips=("1.1.1.1",), created=NEW)
CLASHES = {
    "nobody": ((VICTIM, WITH_VIP), {}),
    "older": (
        (
            service("a", "172.30.0.3", ports=[port(node_port=30000)], created=NEW),
            service("b", "172.30.0.4", ports=[port(node_port=30000)], created=OLD),
        ),
        {"a": ["30000/TCP"]},
    ),
    "dated": (
        (
            service("a", "172.30.0.3", external_ips=("1.1.1.1",)),
            service("b", "172.30.0.4", external_ips=("1.1.1.1",), created=NEW),
        ),
        {"a": ["1.1.1.1:80/TCP"]},
    ),
    "name": (
        (
            service("a", "172.30.0.3", external_ips=("1.1.1.1",), created=OLD),
            service("b", "172.30.0.4", external_ips=("1.1.1.1",), created=OLD),
            service("c", "172.30.0.5", external_ips=("1.1.1.1",), created=OLD),
        ),
        {"b": ["1.1.1.1:80/TCP"], "c": ["1.1.1.1:80/TCP"]},
    ),
    "cluster IP before external IP": (
        (VICTIM, service("thief", "172.30.0.3", external_ips=("172.30.0.1",), created=OLD)),
        {"thief": ["172.30.0.1:80/TCP"]},
    ),
    "cluster IP before VIP": (
        (VICTIM, service("thief", "172.30.0.3", load_balancer_vips=("172.30.0.1",), created=OLD)),
        {"thief": ["172.30.0.1:80/TCP"]},
    ),
    "VIP before external IP": (
        (WITH_VIP, service("thief", "172.30.0.3", external_ips=("1.1.1.1",), created=OLD)),
        {"thief": ["1.1.1.1:80/TCP"]},
    ),
    "other port": ((VICTIM, service("b", "172.30.0.3", external_ips=("172.30.0.1",), ports=[port(81)])), {}),
    "other protocol": ((VICTIM, service("b", "172.30.0.1", ports=[udp(80)])), {}),
    "health check": (
        (balanced("old", created=OLD), balanced("new2", created=NEW)),
        {"new2": ["31000/TCP"]},
    ),
    "health check and node port": (
        (balanced("old", created=OLD), service("np", "172.30.0.9", ports=[port(node_port=31000)], created=NEW)),
        {"np": ["31000/TCP"]},
    ),
    "within a Service": (
        (service("a", ports=[port(80, "x", node_port=30000), port(81, "y", node_port=30000), port(80, "z")]),),
        {"a": ["172.30.0.41:80/TCP", "30000/TCP"]},
    ),
}


@pytest.mark.parametrize("case", CLASHES)
def test_a_clash_ends_the_same_in_any_order(case: str) -> None:
    services, expected = CLASHES[case]
    for order in permutations(services):
        assert losers(*order) == expected


def test_the_loser_is_told_who_has_it() -> None:
    thief = service("thief", "172.30.0.3", external_ips=("172.30.0.1",), created=OLD, uid="u7")
    (note,) = settle(VICTIM, thief).notes
    assert (note.reason, note.uid) == ("AddressClash", "u7")
    assert str(note.problem) == (
        "Service default/thief: spec.externalIPs claims 172.30.0.1:80/TCP, which belongs to Service default/victim; "
        "give one of them another address or port"
    )


def test_the_loser_of_a_node_port_is_told_which_port() -> None:
    holder = balanced("old", created=OLD)
    other = service("np", "172.30.0.9", ports=[port(), udp(node_port=1), port(81, "b", node_port=31000)], created=NEW)
    notes: tuple[Note, ...] = settle(holder, other, balanced("new2", created=NEW)).notes
    assert [(note.reason, note.problem.name, note.problem.field) for note in notes] == [
        ("NodePortClash", "default/new2", "spec.healthCheckNodePort"),
        ("NodePortClash", "default/np", "spec.ports[2].nodePort"),
    ]


def test_a_clash_within_a_service_says_so() -> None:
    (note,) = settle(service(ports=[port(80, "a"), port(80, "b")])).notes
    assert note.problem.why == "claims 172.30.0.41:80/TCP, which belongs to another port of the same Service"


def test_a_health_check_port_that_was_lost_is_not_opened() -> None:
    first, second = balanced("old", created=OLD), balanced("new2", created=NEW)
    lost = settle(first, second).lost
    nothing: Lost = frozenset()
    assert [health_check_won(each, lost.get(each.key, nothing)) for each in (first, second)] == [31000, 0]


# --- rounds ---------------------------------------------------------------------------------------------------


def test_nothing_changed_nothing_settled() -> None:
    before = settle(VICTIM)
    assert contest(before, {}, [], [], IPV4) is before


def test_when_the_holder_goes_the_loser_gets_it() -> None:
    thief = service("thief", "172.30.0.3", external_ips=("172.30.0.1",))
    before = settle(VICTIM, thief)
    after = contest(before, {thief.key: thief}, [VICTIM.key], [], IPV4)
    assert (bool(before.lost), after) == (True, settle(thief))


def test_when_an_older_one_comes_the_holder_loses() -> None:
    holder = service("a", "172.30.0.3", ports=[port(node_port=30000)], created=NEW)
    older = service("b", "172.30.0.4", ports=[port(node_port=30000)], created=OLD)
    services = {each.key: each for each in (holder, older)}
    after = contest(settle(holder), services, [], [older.key], IPV4)
    assert after == settle(holder, older)
    assert list(after.lost) == [holder.key]


def test_a_clash_stays_settled_while_others_change() -> None:
    thief = service("thief", "172.30.0.3", external_ips=("172.30.0.1",))
    services = {each.key: each for each in (VICTIM, thief, WITH_VIP)}
    after = contest(settle(VICTIM, thief), services, [], [WITH_VIP.key], IPV4)
    assert after == settle(VICTIM, thief, WITH_VIP)
    assert list(after.lost) == [thief.key]


def test_a_changed_service_gives_up_what_it_no_longer_wants() -> None:
    a = service("a", "172.30.0.3", ports=[port(node_port=30000)], created=OLD)
    b = service("b", "172.30.0.4", ports=[port(node_port=30000)], created=NEW)
    changed = service("a", "172.30.0.3", created=OLD)
    services: dict[ObjectKey, Service] = {a.key: changed, b.key: b}
    assert contest(settle(a, b), services, [], [a.key], IPV4) == settle(changed, b)


# --- frontends ------------------------------------------------------------------------------------------------


def test_internal_and_external_frontends_meet_their_fate() -> None:
    svc = service(
        external_ips=("203.0.113.1",),
        load_balancer_vips=("198.51.100.1",),
        source_ranges=("10.0.0.0/8",),
        ports=[port(80, node_port=30080)],
    )
    assert frontends(svc, port_bids(svc, 0, IPV4), IPV4, Drop(), Reject()) == (
        Frontend(KIND.CLUSTER_IP, "172.30.0.41", 80, Drop()),
        Frontend(KIND.EXTERNAL_IP, "203.0.113.1", 80, Reject()),
        Frontend(KIND.LOAD_BALANCER_VIP, "198.51.100.1", 80, Reject(), ("10.0.0.0/8",)),
        Frontend(KIND.NODE_PORT, "", 30080, Reject()),
    )


@pytest.mark.parametrize(
    ("ranges", "view", "sources"),
    [
        ((), IPV4, ()),
        (("203.0.113.0/25", "10.0.0.0/8"), IPV4, ("203.0.113.0/25", "10.0.0.0/8")),
        (("10.0.0.0/8", "0.0.0.0/0"), IPV4, ()),
        (("fd00::/8",), IPV4, ()),  # ranges of the other family alone let everybody in
        (("10.0.0.0/8", "::/0"), IPV4, ("10.0.0.0/8",)),
        (("192.168.0.0/24",), IPV4, ("192.168.0.0/24", "1.1.1.1/32", "1.1.1.2/32")),
        (("fd00::/64",), IPV6, ("fd00::/64", "fd00:8::1/128")),
    ],
)
def test_allowed_sources(ranges: tuple[str, ...], view: Viewpoint, sources: tuple[str, ...]) -> None:
    svc = service(source_ranges=ranges, load_balancer_vips=("1.1.1.1", "fd00:8::1", "1.1.1.2"))
    assert allowed_sources(svc, view) == sources
