"""Figures of service ports from readings of the kernel's twin: when it is read, and what the metrics say.

How figures add up is in test_ledger.py, whose flow it is in tests/unit/plan/test_attribution.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from types import SimpleNamespace

import pytest
from msgspec.structs import replace
from prometheus_client.core import Metric

from kproxy.config import Config
from kproxy.daemon import service_metrics
from kproxy.daemon.service_metrics import ServiceMetrics
from kproxy.errors import KernelError
from kproxy.kernel.fake import FakeAccounting, FakeSysctl
from kproxy.kernel.sysctl import CONNTRACK_ACCOUNTING, CONNTRACK_EVENTS
from kproxy.model.enums import IPFamily, Protocol
from kproxy.model.flow import Destination
from kproxy.plan.build import build_plan
from tests.builders import port, service, slice_of, snapshot

WEB, DNS = Destination(Protocol.TCP, "172.30.0.41", 80), Destination(Protocol.TCP, "172.30.0.42", 80)
NODE_PORT = Destination(Protocol.TCP, "192.168.0.2", 30080)
HERE = ("192.168.0.2",)
OBJECTS = (
    service("web", ports=[port(80, node_port=30080)]),
    service("dns", "172.30.0.42", ports=[port(80, "tcp")]),
    slice_of("web", "10.180.0.1"),
)


class World:
    def __init__(self, shown: int = 10, *, room: int = 1000, accounting: int = 0) -> None:
        self.config = Config(hostname="n1", service_metrics=shown, service_metrics_pause=0.0)
        self.door = FakeAccounting(room=room)
        self.sysctl = FakeSysctl({CONNTRACK_ACCOUNTING: accounting, CONNTRACK_EVENTS: 2})
        self.metrics = ServiceMetrics(self.config, self.door, self.sysctl, lambda: HERE)
        self.plan = build_plan(snapshot(*OBJECTS), self.config, IPFamily.IPV4, HERE)

    @asynccontextmanager
    async def counting(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self.metrics.run())
        try:
            self.metrics.follow(self.plan)
            await until(lambda: self.door.is_open and self.door.readings > 0)
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        assert not self.door.is_open

    async def shown(self) -> dict[tuple[str, ...], float]:
        """What a scrape finds, however soon after the last one: metric, service, and direction where there is one."""
        self.metrics._due = 0.001
        await self.metrics.refresh()
        return samples(self.metrics.collect())


def samples(metrics: Iterable[Metric]) -> dict[tuple[str, ...], float]:
    return {
        (
            sample.name.removeprefix("kproxy_"),
            *(sample.labels[name] for name in ("service", "direction") if name in sample.labels),
        ): sample.value
        for metric in metrics
        for sample in metric.samples
    }


async def until(check: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not check():  # noqa: ASYNC110 -- the twins tell nobody
            await asyncio.sleep(0)


async def test_living_and_ended_flows_of_all_frontends_are_counted() -> None:
    world = World()
    async with world.counting():
        world.door.put(WEB, 100, 1000, flows=3)
        world.door.put(NODE_PORT, 1, 10)
        world.door.put(Destination(Protocol.TCP, "8.8.8.8", 80), 7, 7)
        world.door.end(WEB, 5, 50)
        found = await world.shown()
    assert found["service_connections_total", "web"] == 4
    assert found["service_active_connections", "web"] == 3
    assert found["service_bytes_total", "web", "in"] == 306
    assert found["service_bytes_total", "web", "out"] == 3060
    assert found["service_connections_total", "dns"] == 0
    assert found["flow_events_lost_total",] == 0
    assert not [key for key in found if "other" in key]


async def test_labels_name_the_service_port() -> None:
    world = World()
    async with world.counting():
        await world.shown()
        (connections, *_) = world.metrics.collect()
    labels = [tuple(sample.labels.values()) for sample in connections.samples]
    assert labels == [("default", "dns", "tcp", "TCP"), ("default", "web", "", "TCP")]
    assert list(connections.samples[0].labels) == ["namespace", "service", "port", "protocol"]


async def test_a_plan_that_changes_loses_nothing_and_a_deleted_service_its_series() -> None:
    world = World()
    async with world.counting():
        world.door.put(WEB, 100, 1000, flows=2)
        world.door.put(DNS, 1, 1)
        world.door.end(WEB)
        await world.shown()
        moved = snapshot(OBJECTS[0], OBJECTS[1], slice_of("web", "10.180.0.2"))
        plan = build_plan(moved, world.config, IPFamily.IPV4, HERE, world.plan)
        world.metrics.follow(plan)
        world.door.put(WEB, 100, 1000)
        found = await world.shown()
        assert (found["service_connections_total", "web"], found["service_connections_total", "dns"]) == (3, 1)
        world.metrics.follow(build_plan(snapshot(OBJECTS[0]), world.config, IPFamily.IPV4, HERE, plan))
        found = await world.shown()
    assert found["service_connections_total", "web"] == 3
    assert ("service_connections_total", "dns") not in found


async def test_beyond_the_limit_the_rest_is_one_series() -> None:
    world = World(shown=1)
    async with world.counting():
        world.door.put(WEB, 100, 1000, flows=2)
        world.door.put(DNS, 1, 1)
        found = await world.shown()
    assert found["service_connections_total", "web"] == 2
    assert found["service_connections_total", "other"] == 1
    assert found["service_active_connections", "other"] == 1
    assert ("service_connections_total", "dns") not in found


async def test_what_lived_before_is_counted_from_then_on() -> None:
    world = World()
    world.door.put(WEB, 1000, 1000, flows=2)
    async with world.counting():
        found = await world.shown()
        assert (found["service_connections_total", "web"], found["service_bytes_total", "web", "in"]) == (0, 0)
        assert found["service_active_connections", "web"] == 2
        world.door.end(WEB, 7, 70)
        found = await world.shown()
        assert (found["service_connections_total", "web"], found["service_bytes_total", "web", "in"]) == (0, 7)


async def test_ends_of_flows_are_read_though_nobody_asks() -> None:
    world = World(room=5)
    async with world.counting():
        for _ in range(20):
            world.door.put(WEB, 1, 1)
            world.door.end(WEB)
            await until(lambda: not world.door._told)
        assert world.door.lost == 0
        assert world.door.readings == 1
        assert (await world.shown())["service_connections_total", "web"] == 20


async def test_lost_ends_are_counted_and_said_once(caplog: pytest.LogCaptureFixture) -> None:
    world = World(room=1)
    async with world.counting():
        for _ in range(3):
            world.door.put(WEB, 1, 1, flows=2)
            world.door.end(WEB)
            world.door.end(WEB)
            found = await world.shown()
    assert found["flow_events_lost_total",] == 3
    assert len([each for each in caplog.records if "faster than they could be read" in each.message]) == 1


async def test_the_table_is_read_no_more_often_than_its_share_of_a_processor_allows(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    async with world.counting():
        clock = SimpleNamespace(now=1000.0)
        monkeypatch.setattr(service_metrics, "time", SimpleNamespace(monotonic=lambda: clock.now))
        reading = world.door.living

        async def living() -> object:
            clock.now += 0.5
            return await reading()

        monkeypatch.setattr(world.door, "living", living)
        world.metrics._due = clock.now
        await asyncio.gather(world.metrics.refresh(), world.metrics.refresh(), world.metrics.refresh())
        assert world.door.readings == 2
        clock.now += 24.4  # half a second each 25 s is two percent
        await world.metrics.refresh()
        assert world.door.readings == 2
        clock.now += 0.2
        await world.metrics.refresh()
        assert world.door.readings == 3


async def test_a_reading_that_fails_leaves_the_figures_and_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    async with world.counting():
        world.door.put(WEB, 1, 1)
        await world.shown()

        async def refuse() -> object:
            raise KernelError("busy")

        with monkeypatch.context() as patched:
            patched.setattr(world.door, "living", refuse)
            world.door.put(WEB, 1, 1)
            assert (await world.shown())["service_connections_total", "web"] == 1
            await world.shown()
        assert (await world.shown())["service_connections_total", "web"] == 2
    assert len([each for each in caplog.records if "not counted for now" in each.message]) == 1


async def test_a_door_that_does_not_open_is_tried_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    world = World()
    world.metrics._config = replace(world.config, bind_retry=0.0)
    failures = [KernelError("no"), KernelError("no")]
    opening = world.door.open

    def open_() -> None:
        if failures:
            raise failures.pop()
        opening()

    monkeypatch.setattr(world.door, "open", open_)
    async with world.counting():
        assert not failures


async def test_a_door_that_breaks_is_opened_again(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.metrics._config = replace(world.config, bind_retry=0.0)
    ended, opening, opened = world.door.ended, world.door.open, []

    def break_(_limit: int) -> object:
        monkeypatch.setattr(world.door, "ended", ended)
        raise KernelError("gone")

    def open_() -> None:
        opened.append(True)
        opening()

    monkeypatch.setattr(world.door, "ended", break_)
    monkeypatch.setattr(world.door, "open", open_)
    async with world.counting():
        world.door.put(WEB, 1, 1, flows=2)
        world.door.end(WEB)
        await until(lambda: len(opened) == 2)
        assert (await world.shown())["service_connections_total", "web"] == 1  # whose end was told to nobody
        world.door.put(WEB, 1, 1)
        assert (await world.shown())["service_connections_total", "web"] == 2


async def test_a_scrape_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    world.metrics._config = replace(world.config, service_metrics_patience=0.01)
    async with world.counting():
        world.door.put(WEB, 1, 1)
        reading, slow = world.door.living, asyncio.Event()

        async def living() -> object:
            await slow.wait()
            return await reading()

        monkeypatch.setattr(world.door, "living", living)
        assert (await world.shown())["service_connections_total", "web"] == 0
        slow.set()
        await until(lambda: not world.metrics._reading.locked())
        assert samples(world.metrics.collect())["service_connections_total", "web"] == 1


async def test_nothing_is_read_before_the_first_plan() -> None:
    world = World()
    task = asyncio.create_task(world.metrics.run())
    await asyncio.sleep(0)
    await world.metrics.refresh()
    assert not world.door.is_open
    assert world.sysctl.values[CONNTRACK_ACCOUNTING] == 0
    assert samples(world.metrics.collect()) == {("flow_events_lost_total",): 0}
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_where_the_kernel_does_not_count_bytes_none_are_shown(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.sysctl = FakeSysctl({CONNTRACK_ACCOUNTING: 0, CONNTRACK_EVENTS: 2}, read_only=[CONNTRACK_ACCOUNTING])
    world.metrics._sysctl = world.sysctl
    async with world.counting():
        world.door.put(WEB, 0, 0)
        found = await world.shown()
    assert found["service_connections_total", "web"] == 1
    assert not [key for key in found if key[0] == "service_bytes_total"]
    assert "bytes are not" in caplog.text
