"""Laws of the plan, over random clusters and random histories of them.

The examples that explain each rule are in tests/unit/plan; here is what must hold whatever happens: the order in
which things arrive does not matter, reuse is never visible in a result, and what nobody touched is the same object.
"""

from __future__ import annotations

from itertools import product
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

LAW = settings(max_examples=60, deadline=None)  # a deadline would be a test of the machine
IPV4 = IPFamily.IPV4
CONFIG = Config(hostname=NODE, cluster_cidr=("10.0.0.0/8",))
ADDRESSES = ("192.168.0.2", "127.0.0.1")

# --- small worlds, in which everything meets everything -------------------------------------------------------

# Few names, few addresses, few ports: clashes are the rule.
SERVICES = [ObjectKey("ns", name) for name in "abc"]
PORTS = [("", Protocol.TCP), ("", Protocol.UDP), ("x", Protocol.UDP)]
IPS = [f"172.30.0.{number}" for number in (1, 2, 3)]
NODES, ZONES = [NODE, "n2", None], ["za", "zb"]


def hints(names: list[str]) -> st.SearchStrategy[frozenset[str] | None]:
    return st.none() | st.frozensets(st.sampled_from(names), min_size=1)


ENDPOINTS = st.builds(
    Endpoint,
    ip=st.integers(1, 4).map(lambda number: f"10.180.0.{number}"),
    node=st.sampled_from(NODES),
    ready=st.booleans(),
    serving=st.booleans(),
    terminating=st.booleans(),
    zone_hints=hints(ZONES),
    node_hints=hints([NODE, "n2"]),
)


@st.composite
def slices(draw: st.DrawFn) -> EndpointSlice:
    owner = draw(st.sampled_from(SERVICES))
    ports = draw(st.lists(st.sampled_from(PORTS), unique=True, max_size=2))
    return EndpointSlice(
        key=ObjectKey("ns", f"{owner.name}-{draw(st.integers(1, 2))}"),
        service=owner,
        family=draw(st.sampled_from([IPV4, IPV4, IPV4, IPFamily.IPV6])),
        ports=tuple(SlicePort(name, protocol, draw(st.sampled_from([8080, 9090]))) for name, protocol in ports),
        endpoints=tuple(draw(st.lists(ENDPOINTS, max_size=4))),
    )


@st.composite
def services(draw: st.DrawFn) -> Service:
    def few(values: list[Any], most: int = 2) -> tuple[Any, ...]:
        return tuple(draw(st.lists(st.sampled_from(values), unique=True, max_size=most)))

    port_numbers, node_ports = st.sampled_from([53, 80]), st.sampled_from([0, 0, 30000, 30001])
    policies = st.sampled_from(TrafficPolicy)
    return Service(
        key=draw(st.sampled_from(SERVICES)),
        type=draw(st.sampled_from(ServiceType)),
        cluster_ips=few(IPS, most=1),
        ports=tuple(ServicePort(*each, draw(port_numbers), draw(node_ports)) for each in few(PORTS)),
        external_ips=few([*IPS, "1.1.1.1"]),
        load_balancer_vips=few([*IPS, "1.1.1.1"]),
        source_ranges=few(["203.0.113.0/24", "192.168.0.0/24", "0.0.0.0/0", "fd00::/8"]),
        internal_policy=draw(policies),
        external_policy=draw(policies),
        affinity_seconds=draw(st.sampled_from([0, 10])),
        health_check_node_port=draw(st.sampled_from([0, 30001])),
        created=draw(st.sampled_from(["", "2024-01-01T00:00:00Z", "2025-01-01T00:00:00Z"])),
    )


NODES_OF_OURS = st.builds(
    Node,
    name=st.just(NODE),
    zone=st.sampled_from([None, *ZONES]),
    addresses=st.sampled_from([(), ("192.168.0.2",)]),
)


def put(kind: Kind) -> Any:
    return lambda resource: Put(kind, resource)


def removed(kind: Kind, names: list[str]) -> st.SearchStrategy[Change]:
    return st.sampled_from(names).map(lambda name: Removed(kind, ObjectKey("ns", name)))


CHANGES: st.SearchStrategy[Change] = st.one_of(
    services().map(put(Kind.SERVICE)),
    slices().map(put(Kind.ENDPOINT_SLICE)),
    NODES_OF_OURS.map(put(Kind.NODE)),
    removed(Kind.SERVICE, list("abc")),
    removed(Kind.ENDPOINT_SLICE, [f"{name}-{number}" for name in "abc" for number in (1, 2)]),
)
HISTORIES = st.lists(st.lists(CHANGES, min_size=1, max_size=4), min_size=1, max_size=6)
WORLDS = st.lists(CHANGES, max_size=14)


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
    for answered, answering in [("10.180.0.1", 8080), ("10.180.0.2", 9090), (to, port)]
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
