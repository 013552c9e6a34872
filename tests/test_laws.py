"""Laws of the plan, over random clusters and random histories of them.

The examples that explain each rule are in tests/unit/plan; here is what must hold whatever happens: the order in
which things arrive does not matter, reuse is never visible in a result, and what nobody touched is the same object.
"""

from __future__ import annotations

from functools import partial
from itertools import product
from random import Random
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from kproxy.config import Config
from kproxy.model.change import Change, Put, Removed
from kproxy.model.cluster import Cluster, Snapshot
from kproxy.model.endpoint import Endpoint, EndpointSlice, SlicePort
from kproxy.model.enums import IPFamily, Kind, Protocol, ServiceType, TrafficPolicy
from kproxy.model.flow import Flow
from kproxy.model.keys import ObjectKey
from kproxy.model.node import Node
from kproxy.model.service import Service, ServicePort
from kproxy.plan.build import build_plan
from kproxy.plan.plan import Client, Forward, FrontendKind, Plan, Pool, ServicePlan
from kproxy.plan.stale import stale_flows, suspects
from tests.builders import NODE

LAW = settings(max_examples=150, deadline=None)  # a deadline would be a test of the machine
IPV4 = IPFamily.IPV4
CONFIG = Config(hostname=NODE, cluster_cidr=("10.0.0.0/8",))
ADDRESSES = ("192.168.0.2", "127.0.0.1")

# --- small worlds, in which everything meets everything -------------------------------------------------------

# Few names, few addresses, few ports: clashes are the rule. What is ordinary is likely, what is odd is possible. The
# objects come from a catalogue, so that an example is a choice of some: found quickly, and small when it fails.
SERVICES = [ObjectKey("ns", name) for name in "abc"]
PORTS = [("", Protocol.UDP), ("", Protocol.TCP), ("x", Protocol.UDP)]
IPS = [f"172.30.0.{number}" for number in (1, 2, 3)]
ZONES = ["za", "zb"]
DICE = Random(1)


def mostly(usual: Any, *others: Any) -> Any:
    return DICE.choice(others) if others and DICE.random() < 0.35 else usual


def few(values: list[Any], least: int = 0, most: int = 2) -> tuple[Any, ...]:
    return tuple(DICE.sample(values, DICE.randint(least, most)))


def hints(names: list[str]) -> frozenset[str] | None:
    return mostly(None, *(frozenset({name}) for name in names), frozenset(names))


def some_endpoint() -> Endpoint:
    return Endpoint(
        ip=f"10.180.0.{DICE.randint(1, 4)}",
        node=DICE.choice([NODE, "n2", None]),
        ready=mostly(True, False),
        serving=mostly(True, False),
        terminating=mostly(False, True),
        zone_hints=hints(ZONES),
        node_hints=hints([NODE, "n2"]),
    )


def some_slice(owner: ObjectKey) -> EndpointSlice:
    return EndpointSlice(
        key=ObjectKey("ns", f"{owner.name}-{DICE.randint(1, 2)}"),
        service=owner,
        family=DICE.choice([IPV4] * 9 + [IPFamily.IPV6]),
        ports=tuple(SlicePort(*each, mostly(8080, 9090)) for each in few(PORTS, least=1)),
        endpoints=tuple(some_endpoint() for _ in range(DICE.randint(0, 4))),
    )


def some_service(key: ObjectKey) -> Service:
    return Service(
        key=key,
        type=mostly(ServiceType.LOAD_BALANCER, *ServiceType),
        cluster_ips=mostly((f"172.30.0.{ord(key.name) - 96}",), *((ip,) for ip in IPS), ()),
        ports=tuple(ServicePort(*each, DICE.choice([53, 80]), mostly(0, 30000, 30001)) for each in few(PORTS, least=1)),
        external_ips=few([*IPS, "1.1.1.1", "192.168.0.2"]),
        load_balancer_vips=few([*IPS, "1.1.1.1"]),
        source_ranges=few(["203.0.113.0/24", "192.168.0.0/24", "0.0.0.0/0", "fd00::/8"]),
        internal_policy=DICE.choice([*TrafficPolicy]),
        external_policy=DICE.choice([*TrafficPolicy]),
        affinity_seconds=mostly(0, 10),
        health_check_node_port=mostly(0, 30001),
        created=DICE.choice(["", "2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z"]),
    )


def some_node() -> Node:
    return Node(name=NODE, zone=DICE.choice([None, *ZONES]), addresses=mostly(("192.168.0.2",), ()))


def catalogue(kind: Kind, make: Any, count: int) -> st.SearchStrategy[Change]:
    return st.sampled_from([Put(kind, make()) for _ in range(count)])


NODES = catalogue(Kind.NODE, some_node, 10)
OF_SERVICE = {key: catalogue(Kind.SERVICE, partial(some_service, key), 80) for key in SERVICES}
OF_SLICE = {key: catalogue(Kind.ENDPOINT_SLICE, partial(some_slice, key), 80) for key in SERVICES}
PUTS = [NODES, *OF_SERVICE.values(), *OF_SLICE.values()]
REMOVALS = st.sampled_from(
    [
        *(Removed(Kind.SERVICE, key) for key in SERVICES),
        *(
            Removed(Kind.ENDPOINT_SLICE, ObjectKey("ns", f"{key.name}-{number}"))
            for key in SERVICES
            for number in (1, 2)
        ),
    ]
)
WORLDS: st.SearchStrategy[list[Change]] = st.tuples(*PUTS, *OF_SLICE.values()).map(list)
ROUNDS = st.lists(st.lists(st.one_of(*PUTS, REMOVALS), min_size=1, max_size=2), max_size=5)
HISTORIES = st.tuples(WORLDS, ROUNDS).map(lambda both: [both[0], *both[1]])


def world(changes: list[Change]) -> Snapshot:
    store = Cluster(NODE)
    for change in changes:
        store.apply(change)
    return store.snapshot()


def plan_of(snapshot: Snapshot, previous: Plan | None = None) -> Plan:
    return build_plan(snapshot, CONFIG, IPV4, ADDRESSES, previous)


# --- laws -----------------------------------------------------------------------------------------------------


@LAW
@given(HISTORIES)
def test_a_later_round_gives_what_a_first_round_would(history: list[list[Change]]) -> None:
    store, plan = Cluster(NODE), None
    for changes in history:
        for change in changes:
            store.apply(change)
        plan = plan_of(store.snapshot(), plan)
        scratch = plan_of(store.snapshot())
        assert plan == scratch
        assert list(plan.services) == list(scratch.services)


@LAW
@given(HISTORIES)
def test_what_does_not_change_is_the_same_object(history: list[list[Change]]) -> None:
    store, previous = Cluster(NODE), None
    for changes in history:
        for change in changes:
            store.apply(change)
        plan = plan_of(store.snapshot(), previous)
        if previous is not None:
            for key, each in plan.services.items():
                old = previous.services.get(key)
                assert (each is old) == (each == old)
        previous = plan


@LAW
@given(WORLDS)
def test_an_idle_round_touches_nothing(changes: list[Change]) -> None:
    before = plan_of(world(changes))
    after = plan_of(world(changes), before)  # equal objects, none of them the same
    assert all(after.services[key] is before.services[key] for key in before.services)


@LAW
@given(WORLDS, st.randoms(use_true_random=False))
def test_order_does_not_matter(changes: list[Change], random: Any) -> None:
    snapshot = world(changes)

    def shuffled(items: Any) -> list[Any]:
        items = list(items)
        random.shuffle(items)
        return items

    turned = Snapshot(
        services=dict(shuffled(snapshot.services.items())),
        slices={
            key: tuple(replace(each, endpoints=tuple(shuffled(each.endpoints))) for each in shuffled(found))
            for key, found in shuffled(snapshot.slices.items())
        },
        node=snapshot.node,
    )
    assert plan_of(turned) == plan_of(snapshot)
    assert list(plan_of(turned).services) == list(plan_of(snapshot).services)


@LAW
@given(WORLDS)
def test_pools_are_sorted_without_repetition(changes: list[Change]) -> None:
    for key, each in plan_of(world(changes)).services.items():
        for pool in (each.cluster, each.local, each.reachable):
            texts = [str(target) for target in pool]
            assert texts == sorted(set(texts))
        assert all(target.local for target in each.local)
        if key.protocol is not Protocol.TCP:  # or flows that the rules made would be cut at once
            assert {(target.ip, target.port) for target in each.reachable} <= each.serving


@LAW
@given(WORLDS)
def test_every_frontend_has_one_owner_and_every_loss_a_note(changes: list[Change]) -> None:
    snapshot = world(changes)
    plan = plan_of(snapshot)
    owned = [
        (frontend.ip, frontend.port, key.protocol) for key, each in plan.services.items() for frontend in each.frontends
    ]
    owned += [("", check.port, Protocol.TCP) for check in plan.health_checks]
    assert len(owned) == len(set(owned))
    for note in plan.notes:
        assert any(f"claims {ip and f'{ip}:'}{port}/{protocol}," in note.problem.why for ip, port, protocol in owned)


@LAW
@given(WORLDS)
def test_nobody_takes_a_cluster_ip_from_its_service(changes: list[Change]) -> None:
    snapshot = world(changes)
    owners = {
        (frontend.ip, frontend.port, key.protocol): frontend.kind
        for key, each in plan_of(snapshot).services.items()
        for frontend in each.frontends
    }
    for service in snapshot.services.values():
        if service.type is not ServiceType.EXTERNAL_NAME:
            for ip, port in product(service.cluster_ips, service.ports):
                assert owners[ip, port.port, port.protocol] is FrontendKind.CLUSTER_IP


@LAW
@given(WORLDS)
def test_no_route_leads_nowhere(changes: list[Change]) -> None:
    for each in plan_of(world(changes)).services.values():
        used = set(pools_used(each))
        assert (bool(each.cluster), bool(each.local)) == (Pool.CLUSTER in used, Pool.LOCAL in used)
        for frontend in each.frontends:
            if isinstance(frontend.action, Forward):
                assert [route.client for route in frontend.action.routes].index(Client.ANY) == len(
                    frontend.action.routes
                ) - 1


def pools_used(each: ServicePlan) -> list[Pool]:
    return [
        route.pool
        for frontend in each.frontends
        if isinstance(frontend.action, Forward)
        for route in frontend.action.routes
        if route.pool is not None
    ]


FLOWS = [
    Flow(protocol, "10.9.9.9", 4000, to, port, answered, answering)
    for protocol in (Protocol.UDP, Protocol.TCP)
    for to, port in [*((ip, 53) for ip in (*IPS, "1.1.1.1")), ("192.168.0.2", 30000), ("8.8.8.8", 30000)]
    for answered, answering in [*((f"10.180.0.{number}", 8080) for number in (1, 2, 3, 4)), (to, port)]
]


@LAW
@given(HISTORIES)
def test_watching_changes_forgets_what_comparing_everything_would(history: list[list[Change]]) -> None:
    """Flows that outlived one round's cleaning are stale in the next only if that round suspects their frontend."""
    store, previous, alive = Cluster(NODE), None, set(FLOWS)
    for changes in history:
        for change in changes:
            store.apply(change)
        plan = plan_of(store.snapshot(), previous)
        everything = set(stale_flows(alive, suspects(plan), plan.node_ports, ADDRESSES))
        changed = set(stale_flows(alive, suspects(plan, previous), plan.node_ports, ADDRESSES))
        assert everything <= changed
        assert not any(flow.protocol is Protocol.TCP for flow in changed)
        alive -= changed
        previous = plan
