"""The reflector against a scripted server: where it resumes and what it asks for.

How long it stays away is test_watch_failures.py's, connections and credentials are test_client.py's; a real list/watch
server is test_apiserver.py's.
"""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
from msgspec.structs import replace

from kproxy.config import Config
from kproxy.errors import ApiError, ApiUnreachable, ResourceExpired
from kproxy.model.change import Listed
from kproxy.model.cluster import Cluster
from kproxy.source.client import Client
from kproxy.source.watch import resources
from tests.unit.source.watching import Watching, start

# --- the streamed initial list ----------------------------------------------------------------------------------------


async def test_the_initial_list_is_streamed_and_comes_as_one_change(watching: Watching, server: Any, api: Any) -> None:
    server.on(
        "/services",
        api.events(
            ("ADDED", api.service("a", "3")),
            ("ADDED", api.service("b", "4")),
            ("MODIFIED", api.service("b", "5", ports=[])),
            ("ADDED", api.service("c", "6")),
            ("DELETED", api.service("c", "7")),
            ("ADDED", api.service("bad", "8", ports=7)),
            api.bookmark("8"),
            api.bookmark("9", end=True),
            ("ADDED", api.service("d", "10")),
            hold=True,
        ),
    )
    change = await watching.next()
    assert isinstance(change, Listed)
    assert [(each.key.name, len(getattr(each, "ports", ()))) for each in change.objects] == [("a", 1), ("b", 0)]
    assert [rejection.key.name for rejection in change.rejected] == ["bad"]
    assert await watching.names() == ["+d"]
    query = server.queries()[0]
    assert 300 <= int(query.pop("timeoutSeconds")) <= 600
    assert query == {
        "watch": "true",
        "allowWatchBookmarks": "true",
        "sendInitialEvents": "true",
        "resourceVersionMatch": "NotOlderThan",
        "labelSelector": "!l",
        "fieldSelector": "f!=None",
    }
    assert watching.problems == []


@pytest.mark.parametrize("status", [400, 422])
async def test_a_server_that_refuses_to_stream_is_listed_and_not_asked_again(
    watching: Watching, server: Any, api: Any, status: int
) -> None:
    server.on("/services", api.status(status), api.page(api.service("a"), version="5"), api.status(410))
    server.on("/services", api.page(version="9"))
    assert await watching.names() == ["a"]
    assert await watching.names() == []
    streamed = ["sendInitialEvents" in query for query in server.queries()]
    assert streamed == [True, False, False, False]


async def test_a_server_that_does_not_know_the_question_never_ends_its_answer(
    server: Any, api: Any, client: Client, paging: Config
) -> None:
    config = replace(paging, request_deadline=0.1)
    server.on("/services", api.events(("ADDED", api.service("a")), hold=True), api.page(api.service("a"), version="5"))
    impatient = Watching(client, config, api.Clock())
    async with aclosing(impatient.changes):
        assert await impatient.names() == ["a"]


async def test_nor_does_it_in_a_busy_cluster_where_there_is_always_news(
    server: Any, api: Any, client: Client, paging: Config
) -> None:
    config = replace(paging, request_deadline=0.2)
    news = api.events(("MODIFIED", api.service("a")))
    news.busy = True
    server.on("/services", news, api.page(api.service("a"), version="5"))
    impatient = Watching(client, config, api.Clock())
    async with aclosing(impatient.changes):
        assert await impatient.names() == ["a"]
    assert impatient.problems == []


@pytest.mark.parametrize("cut", [False, True])
async def test_an_initial_stream_that_breaks_off_shows_nothing_and_is_listed(
    watching: Watching, server: Any, api: Any, cut: bool
) -> None:
    server.on("/services", api.events(("ADDED", api.service("a")), cut=cut))
    server.on("/services", api.page(api.service("a"), api.service("b"), version="5"))
    assert await watching.names() == ["a", "b"]


@pytest.mark.parametrize("status", [401, 403, 404, 429, 500])
async def test_other_failures_say_nothing_about_streaming(
    watching: Watching, server: Any, api: Any, status: int
) -> None:
    server.on("/services", api.status(status), api.events(api.bookmark("9", end=True), hold=True))
    assert await watching.names() == []
    assert ["sendInitialEvents" in query for query in server.queries()] == [True, True]
    assert isinstance(watching.problems[0], ApiError)
    assert watching.problems[0].status == status


# --- the paged list ---------------------------------------------------------------------------------------------------


async def test_a_list_is_fetched_in_pages_and_comes_as_one_change(watching: Watching, server: Any, api: Any) -> None:
    server.on(
        "/services",
        api.status(400),
        api.page(api.service("a"), api.service("b"), version="5", token="more"),
        api.page(api.service("c"), version="5"),
        api.events(("ADDED", api.service("d", "6")), hold=True),
    )
    assert await watching.names() == ["a", "b", "c"]
    assert await watching.names() == ["+d"]
    selectors = {"labelSelector": "!l", "fieldSelector": "f!=None"}
    _, first, second, following = server.queries()
    assert first == selectors | {"limit": "2", "resourceVersion": "0"}
    assert second == selectors | {"limit": "2", "continue": "more"}
    assert following["resourceVersion"] == "5"


async def test_pages_that_expire_start_again_with_all_at_once(watching: Watching, server: Any, api: Any) -> None:
    server.on(
        "/services",
        api.status(400),
        api.page(api.service("a"), version="5", token="more"),
        api.status(410),
        api.page(api.service("b"), version="9"),
    )
    assert await watching.names() == ["b"]
    assert "limit" not in server.queries()[3]
    assert "continue" not in server.queries()[3]


async def test_a_page_that_is_no_list_is_asked_for_again(watching: Watching, server: Any, api: Any) -> None:
    server.on("/services", api.status(400), api.Answer(chunks=(b"<html>",)), api.page(api.service("a")))
    assert await watching.names() == ["a"]
    assert "answered no list" in str(watching.problems[0])


# --- following --------------------------------------------------------------------------------------------------------


async def test_events_become_changes(watching: Watching, server: Any, api: Any) -> None:
    await start(watching, server, api)
    taken = api.service("web", "8")
    taken["metadata"]["labels"] = {"service.kubernetes.io/service-proxy-name": "x"}
    server.on(
        "/services",
        api.events(
            ("ADDED", api.service("web", "6")),
            ("MODIFIED", api.service("web", "7", ports="broken")),
            ("MODIFIED", taken),
            ("DELETED", {"metadata": {"name": "web", "namespace": "default", "resourceVersion": "9"}, "spec": 7}),
            hold=True,
        ),
    )
    assert [await watching.names() for _ in range(4)] == [["+web"], ["!web"], ["-web"], ["-web"]]


async def test_the_end_of_a_stream_resumes_from_the_last_event_or_bookmark(
    watching: Watching, server: Any, api: Any
) -> None:
    await start(watching, server, api)
    server.on("/services", api.events(("ADDED", api.service("a", "6")), api.bookmark("70")))
    server.on("/services", api.events(api.bookmark("80"), ("ADDED", api.service("bad", "81", ports=7))))
    server.on("/services", api.events(("ADDED", api.service("b", "90")), hold=True))
    assert [await watching.names() for _ in range(3)] == [["+a"], ["!bad"], ["+b"]]
    assert [query.get("resourceVersion") for query in server.queries()] == [None, "5", "70", "81"]
    assert watching.problems == []


async def test_a_broken_connection_resumes_too(watching: Watching, server: Any, api: Any) -> None:
    await start(watching, server, api)
    server.on("/services", api.events(("ADDED", api.service("a", "6")), cut=True))
    server.on("/services", api.events(("ADDED", api.service("b", "7")), hold=True))
    assert [await watching.names() for _ in range(2)] == [["+a"], ["+b"]]
    assert server.queries()[2]["resourceVersion"] == "6"
    assert isinstance(watching.problems[0], ApiUnreachable)


@pytest.mark.parametrize(
    "bad",
    [
        ("ERROR", {"kind": "Status", "code": 410, "message": "too old"}),
        ("ERROR", {"kind": "Status", "code": 500, "message": "etcd is away"}),
        ("ERROR", "surprise"),
        ("GREETING", {}),
        b'{"type":"ADDED","object":{"metadata"\n',
        b"<html>\n",
    ],
)
async def test_whatever_may_have_lost_something_lists_again(
    watching: Watching, server: Any, api: Any, bad: Any
) -> None:
    await start(watching, server, api)
    server.on("/services", api.events(("ADDED", api.service("a", "6")), bad, ("ADDED", api.service("never", "7"))))
    server.on("/services", api.events(("ADDED", api.service("b", "8")), api.bookmark("9", end=True), hold=True))
    assert await watching.names() == ["+a"]
    assert await watching.names() == ["b"]
    assert isinstance(watching.problems[0], ResourceExpired)
    assert "resourceVersion" not in server.queries()[2]


async def test_a_410_to_the_request_lists_again(watching: Watching, server: Any, api: Any) -> None:
    await start(watching, server, api)
    server.on("/services", api.status(410), api.events(api.bookmark("9", end=True), hold=True))
    assert await watching.names() == []
    assert [query.get("resourceVersion") for query in server.queries()] == [None, "5", None]


async def test_a_relist_does_not_go_back_to_a_cached_version(watching: Watching, server: Any, api: Any) -> None:
    server.on("/services", api.status(400), api.page(version="5"), api.status(410), api.page(version="9"))
    await watching.next()
    await watching.next()
    assert [query.get("resourceVersion") for query in server.queries()] == [None, "0", "5", None]


async def test_half_a_line_at_the_end_is_not_an_event(watching: Watching, server: Any, api: Any) -> None:
    await start(watching, server, api)
    server.on("/services", api.events(b'{"type":"ADDED","object":{"metadata":{}}}'))
    server.on("/services", api.events(("ADDED", api.service("a", "6")), hold=True))
    assert await watching.names() == ["+a"]
    assert watching.problems == []


async def test_a_stream_that_opens_is_contact_though_nothing_has_happened(
    watching: Watching, server: Any, api: Any
) -> None:
    await start(watching, server, api)
    server.on("/services", api.status(500), api.events(hold=True))
    quiet = asyncio.ensure_future(watching.next())
    async with asyncio.timeout(10):
        await watching.heard_after(ApiError)
    assert not quiet.done()
    quiet.cancel()
    await asyncio.gather(quiet, return_exceptions=True)


async def test_every_line_of_a_watch_is_heard_an_unreadable_one_too(watching: Watching, server: Any, api: Any) -> None:
    await start(watching, server, api)
    assert watching.lines == 1
    news = [("ADDED", api.service("a", "6")), api.bookmark("7"), ("ADDED", api.service("b", "8")), b"<html>\n"]
    server.on("/services", api.events(*news))
    server.on("/services", api.events(api.bookmark("9", end=True), hold=True))
    assert [await watching.names() for _ in range(3)] == [["+a"], ["+b"], []]
    assert watching.lines == 6


async def test_the_store_is_complete_after_both_lists(client: Client, paging: Config, server: Any, api: Any) -> None:
    cluster = Cluster("n1")
    for selection in resources(paging)[:2]:
        server.on(selection.path, api.events(api.bookmark("5", end=True), hold=True))
        assert not cluster.complete
        watching = Watching(client, paging, api.Clock(), selection)
        async with aclosing(watching.changes):
            cluster.apply(await watching.next())
    assert cluster.complete
