"""The reflector where the server fails: how long it stays away, and what it reports."""

import random
from contextlib import aclosing
from typing import Any

from kproxy.config import Config
from kproxy.errors import ApiRefused, BadCredentials
from kproxy.model.change import Listed
from kproxy.model.enums import Kind
from kproxy.source.client import Client
from kproxy.source.credentials import Credentials
from kproxy.source.watch import Backoff
from tests.unit.source.watching import CIDRS, Watching, start


async def test_failures_wait_longer_and_longer_and_are_reported(watching: Watching, server: Any, api: Any) -> None:
    server.on("/services", *[api.status(500)] * 8, api.events(api.bookmark("9", end=True), hold=True))
    await watching.next()
    assert len(watching.problems) == 8
    ceilings = [0.8 * 2**failure for failure in range(6)] + [30.0, 30.0]
    assert all(0 <= wait <= ceiling for wait, ceiling in zip(watching.waits, ceilings, strict=True))
    assert watching.reports[-1] is None


async def test_retry_after_is_respected(watching: Watching, server: Any, api: Any) -> None:
    server.on("/services", api.status(429, **{"Retry-After": "17"}), api.events(api.bookmark("9", end=True), hold=True))
    await watching.next()
    assert watching.waits == [17.0]


async def test_a_server_that_hangs_up_at_once_is_not_asked_again_at_once(
    watching: Watching, server: Any, api: Any
) -> None:
    await start(watching, server, api)
    server.on("/services", *[api.events()] * 5, api.events(("ADDED", api.service("a", "6")), hold=True))
    await watching.names()
    assert len(watching.waits) == 6
    assert watching.problems == []


async def test_a_watch_that_lasted_is_resumed_at_once(watching: Watching, server: Any, api: Any) -> None:
    server.on("/services", api.events(api.bookmark("5", end=True), ("ADDED", api.service("a", "6"))))
    server.on("/services", api.events(("ADDED", api.service("b", "7")), hold=True))
    await watching.next()
    await watching.next()
    watching.clock.now += 300
    assert await watching.names() == ["+b"]
    assert watching.waits == []


async def test_failing_credentials_are_retried_too(server: Any, paging: Config, api: Any) -> None:
    good = Credentials(server=server.url, source="a test")
    clock = api.Clock()
    server.on("/services", api.status(401), api.events(api.bookmark("9", end=True), hold=True))
    async with Client(paging, resolve=api.Resolver(good, BadCredentials("no login")), clock=clock) as client:
        clock.now += 60
        watching = Watching(client, paging, clock)
        async with aclosing(watching.changes):
            assert await watching.names() == []
    assert [str(problem) for problem in watching.problems] == ["no login"]


async def test_a_resource_that_an_old_cluster_lacks_is_empty_and_asked_for_rarely(
    client: Client, paging: Config, server: Any, api: Any
) -> None:
    watching = Watching(client, paging, api.Clock(), CIDRS)
    server.on("/cidrs", api.status(404), api.status(403), api.events(api.bookmark("9", end=True), hold=True))
    async with aclosing(watching.changes):
        assert await watching.next() == Listed(Kind.SERVICE_CIDR, ())
        assert await watching.next() == Listed(Kind.SERVICE_CIDR, ())
    assert all(300 <= wait <= 900 for wait in watching.waits)
    assert [type(problem) for problem in watching.problems] == [ApiRefused]  # 404 is how an old cluster is


def test_backoff_starts_again_after_a_healthy_while(api: Any) -> None:
    clock = api.Clock()
    backoff = Backoff((1.0, 8.0), random.Random(2), clock)
    first = [backoff.next() for _ in range(50)]
    assert max(first) > 4.0
    assert max(first) <= 8.0
    clock.now += sum(first) + 17
    assert backoff.next() <= 1.0
