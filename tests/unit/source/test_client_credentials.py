"""Credentials while a client lives: refused, expiring, changed, gone. How they are found: test_credentials.py."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from msgspec.structs import replace

from kproxy.config import Config
from kproxy.errors import ApiRefused, BadCredentials
from kproxy.source.client import Client
from kproxy.source.credentials import Credentials


async def get(client: Client, path: str = "/x") -> bytes:
    async with asyncio.timeout(10):
        return await client.get(path, {"limit": "1"}, what="list services")


async def test_a_401_resolves_the_credentials_and_asks_once_more(server: Any, config: Config, api: Any) -> None:
    first = Credentials(server=server.url, source="a test", authorization="Bearer first")
    resolver, clock = api.Resolver(first, replace(first, authorization="Bearer second")), api.Clock()
    server.on("/x", api.status(401), api.body({}))
    async with Client(config, resolve=resolver, clock=clock) as client:
        clock.now += 60
        await get(client)
    assert [request.headers["Authorization"] for request in server.requests] == ["Bearer first", "Bearer second"]


async def test_a_401_that_stays_is_refused_and_asks_the_plugin_at_most_twice_a_minute(
    server: Any, config: Config, api: Any
) -> None:
    resolver, clock = api.Resolver(Credentials(server=server.url, source="kubeconfig /k")), api.Clock()
    server.on("/x", *[api.status(401)] * 10)
    async with Client(config, resolve=resolver, clock=clock) as client:
        for _ in range(3):
            with pytest.raises(ApiRefused, match=r"does not accept our credentials .* renew those of kubeconfig /k"):
                await get(client)
        assert resolver.calls == 1
        clock.now += 31
        with pytest.raises(ApiRefused):
            await get(client)
        assert resolver.calls == 2


async def test_many_401s_at_once_resolve_once(server: Any, config: Config, api: Any) -> None:
    first = Credentials(server=server.url, source="a test", authorization="Bearer first")
    resolver, clock = api.Resolver(first, replace(first, authorization="Bearer second")), api.Clock()
    paths = [f"/{number}" for number in range(5)]
    for path in paths:
        server.on(path, api.status(401), api.body({}))
    async with Client(config, resolve=resolver, clock=clock) as client:
        clock.now += 60
        await asyncio.gather(*(get(client, path) for path in paths))
    assert resolver.calls == 2


async def test_a_plugin_that_fails_later_says_so(server: Any, config: Config, api: Any) -> None:
    good = Credentials(server=server.url, source="a test")
    resolver, clock = api.Resolver(good, BadCredentials("the plugin is gone")), api.Clock()
    server.on("/x", api.status(401))
    async with Client(config, resolve=resolver, clock=clock) as client:
        clock.now += 60
        with pytest.raises(BadCredentials, match="the plugin is gone"):
            await get(client)


async def test_an_expiring_credential_is_resolved_before_it_expires(server: Any, config: Config, api: Any) -> None:
    first = Credentials(server=server.url, source="a test", authorization="Bearer first", expires=5000.0)
    second = replace(first, authorization="Bearer second", expires=9000.0)
    resolver, clock, wall = api.Resolver(first, second), api.Clock(), api.Clock()
    server.on("/x", *[api.body({})] * 3)
    async with Client(config, resolve=resolver, clock=clock, now=wall) as client:
        await get(client)
        clock.now, wall.now = 5000.0, 4990.0
        await get(client)
        await get(client)
    headers = [request.headers["Authorization"] for request in server.requests]
    assert headers == ["Bearer first", "Bearer second", "Bearer second"]
    assert resolver.calls == 2


async def test_a_plugin_that_fails_at_expiry_is_run_once_for_all_who_wait(
    server: Any, config: Config, api: Any
) -> None:
    first = Credentials(server=server.url, source="a test", authorization="Bearer first", expires=5000.0)
    resolver, clock, wall = api.Resolver(first, BadCredentials("the plugin is gone")), api.Clock(), api.Clock()
    paths = ("/services", "/slices", "/nodes")
    for path in paths:
        server.on(path, api.body({}))
    async with Client(config, resolve=resolver, clock=clock, now=wall) as client:
        clock.now, wall.now = clock.now + 60, 4990.0
        found = await asyncio.gather(*(get(client, path) for path in paths), return_exceptions=True)
    assert [type(each) for each in found] == [BadCredentials, bytes, bytes]  # the old ones may serve a little longer
    assert resolver.calls == 2


async def test_a_token_file_is_read_again_every_minute_and_on_401(
    server: Any, config: Config, api: Any, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    credentials = Credentials(server=server.url, source="a test", authorization="Bearer first", token_file=str(token))
    resolver, clock = api.Resolver(credentials), api.Clock()
    token.write_text("second\n")
    server.on("/x", api.body({}), api.body({}), api.status(401), api.body({}), api.body({}))
    async with Client(config, resolve=resolver, clock=clock) as client:
        await get(client)
        clock.now += 61
        await get(client)
        token.write_text("third\n")
        await get(client)
        token.unlink()  # what we have may still serve
        clock.now += 61
        await get(client)
    headers = [request.headers["Authorization"] for request in server.requests]
    assert headers == ["Bearer first", "Bearer second", "Bearer second", "Bearer third", "Bearer third"]
    assert resolver.calls == 1


async def test_a_token_file_that_is_gone_has_the_kubeconfig_read_again(
    server: Any, config: Config, api: Any, tmp_path: Path
) -> None:
    first = Credentials(server=server.url, source="a test", authorization="Bearer first", token_file=f"{tmp_path}/gone")
    resolver, clock = api.Resolver(first, replace(first, authorization="Bearer second", token_file="")), api.Clock()
    server.on("/x", api.status(401), api.body({}))
    async with Client(config, resolve=resolver, clock=clock) as client:
        clock.now += 60
        await get(client)
    assert [request.headers["Authorization"] for request in server.requests] == ["Bearer first", "Bearer second"]


async def test_new_certificates_mean_new_connections_and_leave_a_watch_its_own(
    server: Any, config: Config, api: Any
) -> None:
    first = Credentials(server=server.url, source="a test")
    resolver, clock = api.Resolver(first, replace(first, certificate="another")), api.Clock()
    server.on("/watch", api.Answer(chunks=(b"one\n", b"two\n"), pause=True))
    server.on("/x", api.status(401), api.body({}))
    async with Client(config, resolve=resolver, clock=clock) as client:
        link = client._link
        assert link is not None
        async with client.stream("/watch", {}, what="watch services", silence=10) as stream:
            lines = aiter(stream)
            assert await anext(lines) == b"one"
            clock.now += 60
            await get(client)
            assert client._link is not link
            assert not link._session.closed
            server.resume()
            assert await anext(lines) == b"two"
        assert link._session.closed
