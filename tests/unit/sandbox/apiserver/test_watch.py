"""Watches over real HTTP on loopback: what arrives, in which order, and how a watch ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import aiohttp
import msgspec
import pytest

from kproxy.sandbox.apiserver import ApiServer
from kproxy.sandbox.apiserver.status import Json

_MAPS = "/api/v1/namespaces/default/configmaps"
_STREAM = {
    "sendInitialEvents": "true",
    "resourceVersionMatch": "NotOlderThan",
    "allowWatchBookmarks": "true",
}


class Watcher:
    """One watch as a client sees it."""

    def __init__(self, answer: aiohttp.ClientResponse) -> None:
        self.answer = answer

    async def event(self) -> Json:
        async with asyncio.timeout(10):
            event: Json = msgspec.json.decode(await self.answer.content.readuntil(b"\n"))
        return event

    async def names(self, count: int) -> list[tuple[str, str]]:
        events = [await self.event() for _ in range(count)]
        return [(event["type"], event["object"]["metadata"].get("name", "")) for event in events]

    async def ended(self) -> bool:
        async with asyncio.timeout(10):
            return await self.answer.content.read() == b""


Open = Callable[..., Awaitable[Watcher]]


@pytest.fixture
async def watch(server: ApiServer) -> AsyncIterator[Open]:
    """Open watches that are closed when the test ends."""
    async with aiohttp.ClientSession(server.url) as http, AsyncExitStack() as stack:

        async def opened(path: str = _MAPS, headers: Json | None = None, **query: Any) -> Watcher:
            answer = await http.get(path, params={"watch": "1"} | query, headers=headers)
            stack.callback(answer.close)
            return Watcher(answer)

        yield opened


def _map(name: str, **labels: str) -> Json:
    return {"kind": "ConfigMap", "metadata": {"name": name, "labels": labels}}


async def test_changes_arrive_in_order_with_whole_objects(server: ApiServer, watch: Open) -> None:
    watcher = await watch(resourceVersion=str(server.store.revision))
    created = server.create(_map("x"))
    server.patch("ConfigMap", "x", {"data": {"a": "1"}})
    server.delete("ConfigMap", "x")
    first = await watcher.event()
    assert first == {"type": "ADDED", "object": created}
    assert await watcher.names(2) == [("MODIFIED", "x"), ("DELETED", "x")]


async def test_missed_changes_are_told_first(server: ApiServer, watch: Open) -> None:
    start = str(server.store.revision)
    server.create(_map("x"))
    server.create(_map("y") | {"metadata": {"name": "y", "namespace": "kube-system"}})
    server.delete("ConfigMap", "x")
    watcher = await watch(resourceVersion=start)
    server.create(_map("z"))
    assert await watcher.names(3) == [("ADDED", "x"), ("DELETED", "x"), ("ADDED", "z")]


@pytest.mark.parametrize("start", [{}, {"resourceVersion": "0"}])
async def test_without_a_start_the_present_comes_first(server: ApiServer, watch: Open, start: dict[str, str]) -> None:
    server.create(_map("x"))
    watcher = await watch(**start)
    server.create(_map("y"))
    assert await watcher.names(2) == [("ADDED", "x"), ("ADDED", "y")]


async def test_a_streamed_list_ends_with_a_marked_bookmark(server: ApiServer, watch: Open) -> None:
    server.create(_map("x"))
    watcher = await watch(**_STREAM)
    assert await watcher.names(1) == [("ADDED", "x")]
    mark = await watcher.event()
    assert mark["type"] == "BOOKMARK"
    assert mark["object"]["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    assert mark["object"]["metadata"]["resourceVersion"] == str(server.store.revision)
    assert mark["object"]["kind"] == "ConfigMap"


async def test_an_old_server_refuses_to_stream_lists(server: ApiServer, watch: Open) -> None:
    server.faults.streaming_lists = False
    watcher = await watch(**_STREAM)
    assert watcher.answer.status == 422
    assert "WatchList feature gate" in (await watcher.answer.json())["message"]


async def test_a_selection_is_entered_and_left(server: ApiServer, watch: Open) -> None:
    watcher = await watch(resourceVersion=str(server.store.revision), labelSelector="on=yes")
    server.create(_map("x"))
    server.patch("ConfigMap", "x", {"metadata": {"labels": {"on": "yes"}}})
    server.patch("ConfigMap", "x", {"data": {"a": "1"}})
    left = server.patch("ConfigMap", "x", {"metadata": {"labels": {"on": "no"}}})
    assert await watcher.names(2) == [("ADDED", "x"), ("MODIFIED", "x")]
    last = await watcher.event()
    assert last["type"] == "DELETED"
    assert last["object"]["metadata"]["labels"] == {"on": "yes"}
    assert last["object"]["metadata"]["resourceVersion"] == left["metadata"]["resourceVersion"]


async def test_one_object_can_be_watched(server: ApiServer, watch: Open) -> None:
    watcher = await watch(f"{_MAPS}/y", resourceVersion=str(server.store.revision))
    server.create(_map("x"))
    server.create(_map("y"))
    assert await watcher.names(1) == [("ADDED", "y")]


async def test_bookmarks_come_to_those_who_ask(server: ApiServer, watch: Open) -> None:
    start = str(server.store.revision)
    asks = await watch(resourceVersion=start, allowWatchBookmarks="true")
    does_not = await watch(resourceVersion=start)
    server.create({"kind": "Secret", "metadata": {"name": "other"}})
    server.send_bookmarks()
    mark = await asks.event()
    assert (mark["type"], mark["object"]["metadata"]["resourceVersion"]) == ("BOOKMARK", str(server.store.revision))
    server.create(_map("x"))
    assert await does_not.names(1) == [("ADDED", "x")]


async def test_a_watch_ends_by_its_own_timeout(watch: Open, server: ApiServer) -> None:
    watcher = await watch(resourceVersion=str(server.store.revision), timeoutSeconds="0.05")
    assert await watcher.ended()
    assert server.open_watches == 0


async def test_a_start_from_before_a_compaction_is_told_to_list_again(server: ApiServer, watch: Open) -> None:
    start = str(server.store.revision)
    running = await watch(resourceVersion=start)
    server.create(_map("x"))
    server.compact()
    watcher = await watch(resourceVersion=start)
    error = await watcher.event()
    assert (error["type"], error["object"]["code"], error["object"]["reason"]) == ("ERROR", 410, "Expired")
    assert await watcher.ended()
    server.create(_map("y"))
    assert await running.names(2) == [("ADDED", "x"), ("ADDED", "y")]


async def test_a_running_watch_can_be_expired(server: ApiServer, watch: Open) -> None:
    watcher = await watch(resourceVersion=str(server.store.revision))
    assert server.expire_watches() == 1
    assert (await watcher.event())["object"]["code"] == 410
    assert await watcher.ended()


async def test_a_running_watch_can_be_closed_or_cut(server: ApiServer, watch: Open) -> None:
    closed = await watch(resourceVersion=str(server.store.revision))
    assert server.close_watches() == 1
    assert await closed.ended()
    cut = await watch(resourceVersion=str(server.store.revision))
    assert server.drop_watches() == 1
    with pytest.raises(aiohttp.ClientError):
        await cut.event()


async def test_stopping_ends_every_watch(server: ApiServer, watch: Open) -> None:
    watcher = await watch(resourceVersion=str(server.store.revision))
    await server.stop()
    with pytest.raises(aiohttp.ClientError):
        await watcher.event()
    assert server.open_watches == 0


async def test_events_of_the_second_group_bear_its_names(server: ApiServer, watch: Open) -> None:
    watcher = await watch("/apis/events.k8s.io/v1/events", resourceVersion=str(server.store.revision))
    server.create({"kind": "Event", "metadata": {"name": "e"}, "message": "hello"})
    event = await watcher.event()
    assert (event["object"]["apiVersion"], event["object"]["note"]) == ("events.k8s.io/v1", "hello")


async def test_tables_can_be_watched(server: ApiServer, watch: Open) -> None:
    accept = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}
    watcher = await watch(headers=accept, resourceVersion=str(server.store.revision))
    server.create(_map("x"))
    event = await watcher.event()
    assert event["object"]["kind"] == "Table"
    assert event["object"]["rows"][0]["cells"][0] == "x"


async def test_a_thousand_changes_arrive(server: ApiServer, watch: Open) -> None:
    watcher = await watch(resourceVersion=str(server.store.revision))
    server.load(_map(f"m{number}") for number in range(1000))
    assert await watcher.names(1000) == [("ADDED", f"m{number}") for number in range(1000)]
