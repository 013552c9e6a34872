"""Which service ports our relay carries, and how. How annotations are read is test_convert_relay's."""

from __future__ import annotations

import pytest
from msgspec.structs import asdict, replace

from kproxy.config import Balance, Config, ProxyMode
from kproxy.model.enums import IPFamily, Protocol
from kproxy.model.keys import ObjectKey
from kproxy.model.relay import NO_WISH, Wish
from kproxy.plan.build import build_plan
from kproxy.plan.plan import ServicePlan
from kproxy.plan.relay import default_relay, mode_for, relay
from tests.builders import port, service, slice_of, snapshot, udp

DEFAULT = default_relay(Config())
IPTABLES, USERSPACE = ProxyMode.IPTABLES, ProxyMode.USERSPACE


@pytest.mark.parametrize(
    ("wish", "node", "relayed"),
    [
        (NO_WISH, IPTABLES, False),
        (NO_WISH, USERSPACE, True),
        (Wish(USERSPACE), IPTABLES, True),
        (Wish(IPTABLES), USERSPACE, False),
        (Wish(overrides=(("drain", 1.0),)), IPTABLES, False),
    ],
)
def test_a_services_mode_goes_before_the_nodes(wish: Wish, node: ProxyMode, relayed: bool) -> None:
    for protocol in (Protocol.TCP, Protocol.UDP):
        assert (relay(wish, protocol, node, DEFAULT) is not None) is relayed
    assert relay(wish, Protocol.SCTP, node, DEFAULT) is None


def test_who_asks_for_nothing_gets_the_nodes_very_own() -> None:
    assert relay(Wish(USERSPACE), Protocol.TCP, IPTABLES, DEFAULT) is DEFAULT


def test_what_is_asked_for_counts_and_the_rest_is_the_nodes() -> None:
    node = default_relay(Config(relay_drain=7.0, relay_balance=Balance.RANDOM, userspace_transparent=True))
    wish = Wish(USERSPACE, (("balance", Balance.LEAST_CONNECTIONS), ("connections", 10)))
    found = relay(wish, Protocol.TCP, IPTABLES, node)
    assert found == replace(node, balance=Balance.LEAST_CONNECTIONS, connections=10)
    assert relay(wish, Protocol.UDP, IPTABLES, node) is found
    assert relay(wish, Protocol.TCP, IPTABLES, DEFAULT) != found


def test_each_default_is_one_of_the_configuration() -> None:
    """So that no default is written in a second place: whatever is changed there comes out here."""
    config = Config(
        relay_balance=Balance.RANDOM,
        relay_service_connections=1,
        relay_connect_deadlines=(2.0,),
        relay_idle=3.0,
        relay_silence=4.0,
        relay_drain=5.0,
        relay_eject_after=6,
        relay_eject_seconds=(7.0, 8.0),
        relay_eject_floor=0.9,
        relay_slow_start=10.0,
        userspace_transparent=True,
    )
    assert not [name for name, value in asdict(default_relay(config)).items() if value == getattr(DEFAULT, name)]


def plans(wish: Wish, mode: ProxyMode = IPTABLES) -> list[ServicePlan]:
    ports = [port(80, "http"), udp(53, "dns"), port(90, "s", Protocol.SCTP)]
    known = snapshot(service("web", ports=ports, wish=wish), slice_of("web", "10.180.0.1", port_name="http"))
    return list(build_plan(known, Config(proxy_mode=mode), IPFamily.IPV4).services.values())


def test_a_plan_says_of_each_port_who_carries_it() -> None:
    wish = Wish(USERSPACE, (("eject_after", 9),))
    wanted = replace(DEFAULT, eject_after=9)
    assert {each.key.port: each.relay for each in plans(wish)} == {"http": wanted, "dns": wanted, "s": None}
    assert {each.relay for each in plans(NO_WISH)} == {None}
    assert {each.key.port for each in plans(NO_WISH, USERSPACE) if each.relay == DEFAULT} == {"http", "dns"}


def test_the_api_server_is_the_kernels_unless_it_asks_itself() -> None:
    """Or a killed kproxy would cut its successor off from whom it must ask."""
    assert mode_for(ObjectKey("default", "kubernetes"), USERSPACE) is IPTABLES
    assert mode_for(ObjectKey("other", "kubernetes"), USERSPACE) is USERSPACE
    plan = build_plan(
        snapshot(service("kubernetes"), slice_of("kubernetes", "10.0.0.1")),
        Config(hostname="n1", proxy_mode=USERSPACE),
        IPFamily.IPV4,
    )
    assert [each.relay for each in plan.services.values()] == [None]
