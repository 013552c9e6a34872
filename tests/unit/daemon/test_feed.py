"""Which changes ask for a round, and when the first one may be asked for."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from msgspec.structs import replace

from kproxy.daemon.complaints import Complaints
from kproxy.daemon.events import Recorder
from kproxy.daemon.feed import Feed
from kproxy.daemon.metrics import Metrics
from kproxy.model.change import Change, Listed, Put
from kproxy.model.cluster import Cluster
from kproxy.model.enums import IPFamily, Kind
from tests.builders import node, service, slice_of

Jump = Callable[[Any], Any]
V4, V6 = IPFamily.IPV4, IPFamily.IPV6
SERVICES = Listed(Kind.SERVICE, (service("web"),))
SLICES = Listed(Kind.ENDPOINT_SLICE, (slice_of("web", "10.0.0.1"),))
NODES = Listed(Kind.NODE, (node(),))


class Lane:
    def __init__(self) -> None:
        self.asked: list[float] = []
        self.noted: list[Change] = []

    def note(self, change: Change) -> None:
        self.noted.append(change)

    def request(self) -> None:
        self.asked.append(asyncio.get_running_loop().time() - 1000.0)


class World:
    def __init__(self, node_wait: float = 30.0, pod_cidr_wait: float = 0.0) -> None:
        self.lanes = {V4: Lane(), V6: Lane()}
        self.metrics = Metrics()
        complaints = Complaints(Recorder(None, "n1"), lambda _kind, _key: "")
        self.feed = Feed(
            Cluster("n1"),
            self.lanes,
            metrics=self.metrics,
            complaints=complaints,
            node_wait=node_wait,
            pod_cidr_wait=pod_cidr_wait,
        )

    async def play(self, *steps: Change | float) -> list[list[float]]:
        """Changes and pauses; then when each family was asked for a round."""

        async def changes() -> AsyncIterator[Change]:
            for step in steps:
                if isinstance(step, int | float):
                    await asyncio.sleep(step)
                else:
                    yield step

        async with asyncio.TaskGroup() as group:
            opening = group.create_task(self.feed.open("n1"))
            await self.feed.follow(changes())
            await asyncio.sleep(1)
            opening.cancel()
        return [lane.asked for lane in self.lanes.values()]


@pytest.mark.parametrize("known", [(SERVICES, NODES), (SLICES, NODES), ()])
def test_a_half_known_cluster_asks_for_nothing(jump: Jump, known: tuple[Change, ...]) -> None:
    assert jump(World().play(*known, 500)) == [[], []]


def test_the_first_round_is_asked_for_when_all_is_known(jump: Jump) -> None:
    assert jump(World().play(SERVICES, 1, SLICES, 1, NODES)) == [[2], [2]]


def test_a_node_that_cannot_be_read_is_not_waited_for_for_ever(jump: Jump, caplog: pytest.LogCaptureFixture) -> None:
    assert jump(World().play(SERVICES, SLICES, 100)) == [[30], [30]]
    assert "Our Node is not known" in caplog.text


def test_manifests_need_no_node(jump: Jump, caplog: pytest.LogCaptureFixture) -> None:
    assert jump(World(node_wait=0.0).play(SERVICES, SLICES, 1)) == [[0], [0]]
    assert "Our Node" not in caplog.text


def test_a_slice_asks_its_own_family_and_a_service_both(jump: Jump) -> None:
    world = World()
    slice_ = Put(Kind.ENDPOINT_SLICE, slice_of("web", "fd00::1", suffix="6"))
    asked = jump(world.play(SERVICES, SLICES, NODES, 1, slice_, 1, Put(Kind.SERVICE, service("other", "172.30.0.42"))))
    assert asked == [[0, 2], [0, 1, 2]]
    assert slice_ not in world.lanes[V4].noted
    assert slice_ in world.lanes[V6].noted


def test_what_changes_nothing_asks_for_nothing(jump: Jump) -> None:
    assert jump(World().play(SERVICES, SLICES, NODES, 1, SERVICES, Put(Kind.SERVICE, service("web")))) == [[0], [0]]


def counted(world: World) -> dict[str, str]:
    text = world.metrics.answer().body.decode()
    return dict(re.findall(r"^kubeproxy_sync_proxy_rules_(\w+_changes_\w+) (\S+)$", text, re.MULTILINE))


def test_changes_are_counted_as_kube_proxy_counts_them(jump: Jump) -> None:
    """Services once for each family, slices for the family that they are for; the same again counts, too."""
    world = World()
    jump(world.play(SERVICES, SLICES, NODES, *[Put(Kind.SERVICE, service("other", "172.30.0.42"))] * 2))
    assert counted(world) == {
        "service_changes_total": "6",
        "service_changes_pending": "2",
        "endpoint_changes_total": "1",
        "endpoint_changes_pending": "1",
    }


def test_a_relist_counts_what_it_brings_and_what_is_gone(jump: Jump) -> None:
    world = World()
    jump(world.play(SERVICES, SERVICES, Listed(Kind.SERVICE, ())))
    assert (counted(world)["service_changes_total"], counted(world)["service_changes_pending"]) == ("4", "0")


def test_a_slice_of_which_only_metadata_was_edited_asks_and_a_service_does_not(jump: Jump) -> None:
    again = Put(Kind.ENDPOINT_SLICE, slice_of("web", "10.0.0.1"))
    world = World()
    assert jump(world.play(SERVICES, SLICES, NODES, 1, Put(Kind.SERVICE, service("web")), again)) == [[0, 1], [0]]
    assert (counted(world)["endpoint_changes_total"], counted(world)["endpoint_changes_pending"]) == ("2", "1")


def test_a_node_asks_where_a_plan_depends_on_it(jump: Jump) -> None:
    taint, zone = frozenset({"ToBeDeletedByClusterAutoscaler"}), "b"
    tainted, moved = (Put(Kind.NODE, replace(node(), **each)) for each in ({"taints": taint}, {"zone": zone}))
    assert jump(World().play(SERVICES, SLICES, NODES, 1, tainted, 1, moved)) == [[0, 2], [0, 2]]


def test_a_node_without_addresses_is_waited_for_like_one_that_is_unknown(jump: Jump) -> None:
    bare = Listed(Kind.NODE, (replace(node(), addresses=()),))
    assert jump(World().play(SERVICES, SLICES, bare, 5, NODES)) == [[5], [5]]


def test_pod_ranges_are_waited_for_where_pods_are_told_by_them(jump: Jump) -> None:
    ranged = Put(Kind.NODE, replace(node(), pod_cidrs=("10.0.0.0/24",)))
    assert jump(World(pod_cidr_wait=300.0).play(SERVICES, SLICES, NODES, 200, ranged)) == [[200], [200]]
    assert jump(World(pod_cidr_wait=300.0).play(SERVICES, SLICES, NODES, 400)) == [[300], [300]]


def test_what_else_a_plan_depends_on_asks_only_when_open(jump: Jump) -> None:
    async def main() -> list[list[float]]:
        world = World()
        world.feed.request_all()
        await world.play(SERVICES, SLICES, NODES)
        world.feed.request_all()
        return [lane.asked for lane in world.lanes.values()]

    assert jump(main()) == [[0, 1], [0, 1]]
