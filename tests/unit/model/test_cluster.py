"""The store's laws: what it holds depends on what was said last of each object, on nothing else."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from kproxy.errors import InvalidObject
from kproxy.model.change import Change, Listed, Put, Rejected, Rejection, Removed, Resource
from kproxy.model.cluster import Cluster, Snapshot
from kproxy.model.endpoint import Endpoint, Endpoints, EndpointSlice
from kproxy.model.enums import IPFamily, Kind
from kproxy.model.keys import ObjectKey
from kproxy.model.node import Node, ServiceCIDR
from kproxy.model.service import Service

NAMES = st.sampled_from(["a", "b", "c"])
KEYS = st.builds(ObjectKey, st.sampled_from(["default", "other"]), NAMES)
SERVICES = st.builds(Service, key=KEYS, cluster_ips=st.sampled_from([(), ("10.0.0.1",), ("10.0.0.2",)]))
SLICES = st.builds(
    EndpointSlice,
    key=KEYS,
    service=KEYS,
    family=st.sampled_from(IPFamily),
    endpoints=st.sampled_from([(), (Endpoint("10.0.0.1"),)]),
)
NODES = st.builds(Node, name=NAMES, zone=st.sampled_from([None, "z"]))
CIDRS = st.builds(ServiceCIDR, name=NAMES, cidrs=st.sampled_from([(), ("10.0.0.0/8",), ("10.0.0.0/8", "fd00::/8")]))


@st.composite
def _endpoints(draw: st.DrawFn) -> Endpoints:
    key = draw(KEYS)
    families = draw(st.lists(st.sampled_from(IPFamily), max_size=2, unique=True))
    slices = (EndpointSlice(ObjectKey(key.namespace, f"{key.name}/{family}"), key, family) for family in families)
    return Endpoints(key, tuple(slices))


RESOURCES: dict[Kind, st.SearchStrategy[Resource]] = {
    Kind.SERVICE: SERVICES,
    Kind.ENDPOINT_SLICE: SLICES,
    Kind.ENDPOINTS: _endpoints(),
    Kind.NODE: NODES,
    Kind.SERVICE_CIDR: CIDRS,
}


def _rejection(key: ObjectKey) -> Rejection:
    return Rejection(key, "", InvalidObject("Service", str(key), field="f", why="is wrong", remedy="repair it"))


@st.composite
def _changes(draw: st.DrawFn) -> Change:
    kind = draw(st.sampled_from(Kind))
    resource = draw(RESOURCES[kind])
    match draw(st.sampled_from(["put", "removed", "rejected", "listed"])):
        case "put":
            return Put(kind, resource)
        case "removed":
            return Removed(kind, resource.key)
        case "rejected":
            return Rejected(kind, _rejection(resource.key))
        case _:
            objects = draw(st.lists(RESOURCES[kind], max_size=4, unique_by=lambda each: each.key))
            return Listed(kind, tuple(objects))


CHANGES = st.lists(_changes(), max_size=12)


def _store(changes: list[Change]) -> Cluster:
    cluster = Cluster("a")
    for change in changes:
        cluster.apply(change)
    return cluster


def _without_node(snapshot: Snapshot) -> tuple[object, ...]:
    return dict(snapshot.services), dict(snapshot.slices), snapshot.service_cidrs


def _held(cluster: Cluster, kind: Kind) -> list[Resource]:
    return list(cluster._objects[kind].values())


def service(name: str, *ips: str) -> Service:
    return Service(ObjectKey("default", name), cluster_ips=ips)


def endpoint_slice(name: str, of: str, family: IPFamily = IPFamily.IPV4) -> EndpointSlice:
    return EndpointSlice(ObjectKey("default", name), ObjectKey("default", of), family)


# --- laws -------------------------------------------------------------------------------------------------------------


@given(CHANGES, st.randoms(use_true_random=False))
def test_order_across_objects_is_irrelevant(changes: list[Change], chance: random.Random) -> None:
    singles = [change for change in changes if not isinstance(change, Listed)]
    identities = [
        (change.kind, change.object.key if isinstance(change, Put) else getattr(change, "key", None))
        for change in singles
    ]
    order = list(range(len(singles)))
    chance.shuffle(order)
    # Within one object the order stays: its changes are dealt out again to the places where any of them stands.
    queues: dict[object, list[Change]] = {}
    for identity, change in zip(identities, singles, strict=True):
        queues.setdefault(identity, []).append(change)
    shuffled = [queues[identities[index]].pop(0) for index in order]
    assert _without_node(_store(shuffled).snapshot()) == _without_node(_store(singles).snapshot())


@given(CHANGES)
def test_a_relist_of_what_is_held_changes_nothing(changes: list[Change]) -> None:
    cluster = _store(changes)
    before = cluster.snapshot()
    for kind in Kind:
        cluster.apply(Listed(kind, tuple(_held(cluster, kind))))
    assert cluster.snapshot() == before


@given(CHANGES)
def test_a_store_filled_by_lists_equals_one_filled_by_events(changes: list[Change]) -> None:
    cluster = _store(changes)
    lists: list[Change] = [Listed(kind, tuple(_held(cluster, kind))) for kind in Kind]
    assert _without_node(_store(lists).snapshot()) == _without_node(cluster.snapshot())


@given(CHANGES, _changes())
def test_applying_twice_changes_nothing_and_says_so(changes: list[Change], last: Change) -> None:
    cluster = _store([*changes, last])
    before = cluster.snapshot()
    assert not cluster.apply(last)
    assert cluster.snapshot() == before


@given(CHANGES, _changes())
def test_apply_says_whether_anything_differs(changes: list[Change], last: Change) -> None:
    cluster = _store(changes)
    held, complete = {kind: _held(cluster, kind) for kind in Kind}, cluster._listed.copy()
    differs = cluster.apply(last)
    now = {kind: _held(cluster, kind) for kind in Kind}
    same = all(set(map(str, held[kind])) == set(map(str, now[kind])) for kind in Kind) and complete == cluster._listed
    assert differs == (not same)


@given(CHANGES)
def test_slices_are_grouped_as_if_from_scratch(changes: list[Change]) -> None:
    cluster = _store(changes)
    expected: dict[ObjectKey, list[EndpointSlice]] = {}
    for each in [*_held(cluster, Kind.ENDPOINT_SLICE), *_held(cluster, Kind.ENDPOINTS)]:
        parts = each.slices if isinstance(each, Endpoints) else (each,)
        for part in parts:
            assert isinstance(part, EndpointSlice)
            expected.setdefault(part.service, []).append(part)
    found = {key: sorted(map(str, parts)) for key, parts in cluster.snapshot().slices.items()}
    assert found == {key: sorted(map(str, parts)) for key, parts in expected.items()}


# --- cases ------------------------------------------------------------------------------------------------------------


def test_it_is_complete_after_services_and_either_kind_of_endpoints() -> None:
    for kind in (Kind.ENDPOINT_SLICE, Kind.ENDPOINTS):
        cluster = Cluster("n1")
        cluster.apply(Put(Kind.SERVICE, service("a")))
        cluster.apply(Listed(Kind.NODE, ()))
        assert not cluster.complete
        cluster.apply(Listed(Kind.SERVICE, ()))
        assert not cluster.complete
        cluster.apply(Listed(kind, ()))
        assert cluster.complete


def test_a_list_removes_what_is_not_in_it_but_not_what_it_could_not_read() -> None:
    cluster = Cluster("n1")
    cluster.apply(Listed(Kind.SERVICE, (service("gone", "10.0.0.1"), service("bad", "10.0.0.2"))))
    cluster.apply(Listed(Kind.SERVICE, (service("new"),), rejected=(_rejection(ObjectKey("default", "bad")),)))
    assert sorted(key.name for key in cluster.snapshot().services) == ["bad", "new"]


def test_a_rejected_change_leaves_the_object_as_it_was() -> None:
    cluster = Cluster("n1")
    cluster.apply(Put(Kind.SERVICE, service("a", "10.0.0.1")))
    assert not cluster.apply(Rejected(Kind.SERVICE, _rejection(ObjectKey("default", "a"))))
    assert cluster.get(Kind.SERVICE, ObjectKey("default", "a")) == service("a", "10.0.0.1")


def test_a_slice_that_changes_its_service_leaves_the_old_one() -> None:
    cluster = Cluster("n1")
    cluster.apply(Put(Kind.ENDPOINT_SLICE, endpoint_slice("s", "a")))
    cluster.apply(Put(Kind.ENDPOINT_SLICE, endpoint_slice("s", "b")))
    assert dict(cluster.snapshot().slices) == {ObjectKey("default", "b"): (endpoint_slice("s", "b"),)}


def test_a_snapshot_is_not_touched_by_later_changes_and_shares_what_did_not_change() -> None:
    cluster = Cluster("n1")
    cluster.apply(Put(Kind.SERVICE, service("a")))
    cluster.apply(Put(Kind.ENDPOINT_SLICE, endpoint_slice("s", "a")))
    before = cluster.snapshot()
    cluster.apply(Put(Kind.SERVICE, service("b")))
    after = cluster.snapshot()
    key = ObjectKey("default", "a")
    assert list(before.services) == [key]
    assert after.services[key] is before.services[key]
    assert after.slices[key] is before.slices[key]


def test_our_node_outlives_its_object_and_others_are_not_ours() -> None:
    cluster = Cluster("n1")
    cluster.apply(Put(Kind.NODE, Node("n2")))
    assert cluster.node is None
    cluster.apply(Put(Kind.NODE, Node("n1", zone="z")))
    cluster.apply(Removed(Kind.NODE, ObjectKey("", "n1")))
    assert cluster.node == cluster.snapshot().node == Node("n1", zone="z")


def test_a_cidr_in_two_objects_outlives_one_of_them() -> None:
    cluster = Cluster("n1")
    cluster.apply(Put(Kind.SERVICE_CIDR, ServiceCIDR("a", ("10.0.0.0/8",))))
    cluster.apply(Put(Kind.SERVICE_CIDR, ServiceCIDR("b", ("10.0.0.0/8", "fd00::/8"))))
    cluster.apply(Removed(Kind.SERVICE_CIDR, ObjectKey("", "b")))
    assert cluster.snapshot().service_cidrs == ("10.0.0.0/8",)
