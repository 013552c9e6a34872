"""The whole source against the embedded API server: a store that follows it through everything that servers do.

Scripts of single answers are test_watch.py's; here the server decides what to answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from kproxy.config import Config, EndpointsSource
from kproxy.errors import KproxyError
from kproxy.model.change import Listed
from kproxy.model.cluster import Cluster
from kproxy.model.enums import Kind
from kproxy.model.keys import ObjectKey
from kproxy.sandbox.apiserver import ApiServer
from kproxy.source.client import Client
from kproxy.source.credentials import Credentials
from kproxy.source.watch import Selection, resources, watch

WEB = ObjectKey("default", "web")


class Follower:
    """Every kind watched into one store, as the daemon does it; waits for facts, not for time."""

    def __init__(self, url: str, config: Config) -> None:
        self._credentials = Credentials(server=url, source="a test")
        self._config = config
        self.cluster = Cluster("n1")
        self.lists: dict[Kind, int] = dict.fromkeys(Kind, 0)
        self.problems: list[str] = []
        self._changed = asyncio.Condition()

    async def until(self, fact: Callable[[], bool]) -> None:
        async with asyncio.timeout(20), self._changed:
            await self._changed.wait_for(fact)

    async def run(self) -> None:
        async with Client(self._config, resolve=self._resolve) as client, asyncio.TaskGroup() as tasks:
            for selection in resources(self._config):
                tasks.create_task(self._feed(client, selection))

    async def _resolve(self, _config: Config) -> Credentials:
        return self._credentials

    async def _feed(self, client: Client, selection: Selection) -> None:
        async with aclosing(watch(client, selection, self._config, sleep=_sleep, report=self._report)) as changes:
            async for change in changes:
                self.lists[change.kind] += isinstance(change, Listed)
                self.cluster.apply(change)
                async with self._changed:
                    self._changed.notify_all()

    def _report(self, _kind: Kind, problem: KproxyError | None) -> None:
        self.problems += [str(problem)] if problem else []

    def services(self) -> set[str]:
        return {key.name for key in self.cluster.snapshot().services}


async def _sleep(_seconds: float) -> None:
    await asyncio.sleep(0)


@asynccontextmanager
async def following(server: ApiServer, **fields: Any) -> AsyncIterator[Follower]:
    config = replace(Config(hostname="n1", list_page=3), **fields)
    follower = Follower(server.url, config)
    task = asyncio.create_task(follower.run())
    try:
        await follower.until(lambda: follower.cluster.complete)
        yield follower
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def service(name: str, **spec: Any) -> dict[str, Any]:
    ports = {"ports": [{"name": "http", "port": 80}]}
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": ports | spec,
    }


def endpoint_slice(name: str, of: str, *ips: str) -> dict[str, Any]:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": of}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}],
        "endpoints": [{"addresses": [ip]} for ip in ips],
    }


@pytest.fixture
async def api_server() -> AsyncIterator[ApiServer]:
    async with ApiServer(controllers=False) as running:
        yield running


@pytest.mark.parametrize("streaming", [True, False])
async def test_a_store_follows_the_server(api_server: ApiServer, streaming: bool) -> None:
    api_server.faults.streaming_lists = streaming
    for number in range(7):
        api_server.create(service(f"old-{number}"))
    api_server.create(service("headless", clusterIP="None"))
    async with following(api_server) as follower:
        assert {f"old-{number}" for number in range(7)} <= follower.services()
        assert "headless" not in follower.services()
        api_server.create(service("web"))
        api_server.create(endpoint_slice("web-1", "web", "10.0.0.1"))
        await follower.until(lambda: WEB in follower.cluster.snapshot().slices)
        api_server.update(endpoint_slice("web-1", "web", "10.0.0.2"))
        await follower.until(lambda: follower.cluster.snapshot().slices[WEB][0].endpoints[0].ip == "10.0.0.2")
        api_server.patch("Service", "web", {"metadata": {"labels": {"service.kubernetes.io/service-proxy-name": "x"}}})
        await follower.until(lambda: WEB not in follower.cluster.snapshot().services)
        api_server.delete("EndpointSlice", "web-1")
        await follower.until(lambda: WEB not in follower.cluster.snapshot().slices)
        assert follower.lists[Kind.SERVICE] == 1


async def test_a_cut_connection_loses_nothing_and_does_not_list_again(api_server: ApiServer) -> None:
    async with following(api_server) as follower:
        for number in range(3):
            api_server.drop_watches()
            api_server.create(service(f"s-{number}"))
            await follower.until(lambda number=number: f"s-{number}" in follower.services())
        api_server.close_watches()
        api_server.create(service("last"))
        await follower.until(lambda: "last" in follower.services())
        assert follower.lists[Kind.SERVICE] == 1


async def test_what_was_deleted_behind_a_compaction_is_gone_after_the_relist(api_server: ApiServer) -> None:
    api_server.create(service("gone"))
    async with following(api_server) as follower:
        assert "gone" in follower.services()
        await api_server.stop()
        api_server.delete("Service", "gone")
        api_server.create(service("new"))
        api_server.compact()
        await api_server.start()
        await follower.until(lambda: "new" in follower.services())
        assert "gone" not in follower.services()
        assert follower.lists[Kind.SERVICE] == 2


async def test_an_error_event_lists_again(api_server: ApiServer) -> None:
    async with following(api_server) as follower:
        api_server.expire_watches()
        await follower.until(lambda: follower.lists[Kind.SERVICE] == 2)
        assert any("listing them again" in problem for problem in follower.problems)


async def test_bookmarks_carry_a_quiet_watch_over_a_compaction(api_server: ApiServer) -> None:
    async with following(api_server) as follower:
        lists = follower.lists[Kind.NODE]
        for number in range(5):
            api_server.create(service(f"s-{number}"))
        api_server.send_bookmarks()
        api_server.compact()
        await follower.until(lambda: "s-4" in follower.services())
        api_server.close_watches()
        api_server.create({"apiVersion": "v1", "kind": "Node", "metadata": {"name": "n1"}})
        await follower.until(lambda: follower.cluster.node is not None)
        assert follower.lists[Kind.NODE] == lists


async def test_throttling_and_refusals_pass(api_server: ApiServer) -> None:
    api_server.faults.fail(429, times=2, path="services", retry_after=1)
    api_server.faults.fail(403, times=2, path="endpointslices")
    api_server.faults.fail(500, times=2, path="nodes")
    async with following(api_server) as follower:
        await follower.until(lambda: follower.lists[Kind.NODE] == 1)
        assert len(follower.problems) >= 6


async def test_legacy_endpoints(api_server: ApiServer) -> None:
    api_server.create(
        {
            "apiVersion": "v1",
            "kind": "Endpoints",
            "metadata": {"name": "web"},
            "subsets": [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80}]}],
        }
    )
    async with following(api_server, endpoints_source=EndpointsSource.ENDPOINTS) as follower:
        assert follower.cluster.snapshot().slices[WEB][0].endpoints[0].ip == "10.0.0.1"


async def test_malformed_objects_in_storage_spoil_nothing(api_server: ApiServer) -> None:
    bad = service("bad", clusterIP="10.96.0.51", ports=[{"port": "80"}])
    api_server.load([service("web", clusterIP="10.96.0.50"), bad, endpoint_slice("s", "web", "10.0.0.1", "x")])
    async with following(api_server) as follower:
        assert "web" in follower.services()
        assert "bad" not in follower.services()
        assert [each.ip for each in follower.cluster.snapshot().slices[WEB][0].endpoints] == ["10.0.0.1"]


async def test_a_kubeconfig_with_a_token_that_is_rotated(api_server: ApiServer, tmp_path: Path) -> None:
    """From the file to the Authorization header, through the installed ``kubernetes`` package and back."""
    api_server.token = "first"
    path = api_server.kubeconfig(tmp_path / "config")
    clock = [1000.0]
    async with Client(Config(kubeconfig=str(path)), clock=lambda: clock[0]) as client:
        await client.get("/api/v1/services", {}, what="list services")
        api_server.token = "second"
        api_server.kubeconfig(path)
        clock[0] += 60
        await client.get("/api/v1/services", {}, what="list services")
