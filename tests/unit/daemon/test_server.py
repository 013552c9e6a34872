"""Answers over HTTP, from paths to bytes. Whether they say healthy is in test_status.py."""

from __future__ import annotations

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import aiohttp
import pytest

from kproxy.config import Config
from kproxy.daemon.metrics import Metrics
from kproxy.daemon.server import Page, answer_by_path, health_pages, listen, metrics_pages, serve, split_address
from kproxy.daemon.status import Answer, Health, Instant
from kproxy.errors import CannotListen
from kproxy.model.enums import IPFamily
from kproxy.model.node import Node

CONFIG = Config(hostname="n1", bind_retry=0.01)


@asynccontextmanager
async def serving(pages: Mapping[str, Page], address: str = "127.0.0.1:0") -> AsyncIterator[str]:
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(serve("test", address, answer_by_path(pages), config=CONFIG, bound=port.set_result))
        yield f"http://127.0.0.1:{await port}"
        task.cancel()


def of_health(health: Health, metrics: Metrics) -> dict[str, Page]:
    return health_pages(health, metrics, lambda: Node("n1"), lambda: Instant(1.0, 1_700_000_000_000_000_000))


async def test_health_answers_any_method_and_nothing_else() -> None:
    metrics = Metrics()
    async with serving(of_health(Health((IPFamily.IPV4,), sync_period=30), metrics)) as url, _session() as http:
        for method in ("GET", "POST", "DELETE"):
            async with http.request(method, f"{url}/healthz") as answer:
                assert (answer.status, json.loads(await answer.text())["nodeEligible"]) == (200, True)
                assert answer.headers["X-Content-Type-Options"] == "nosniff"
        assert (await http.get(f"{url}/livez")).status == 200
        assert (await http.get(f"{url}/readyz")).status == 503
        assert (await http.get(f"{url}/metrics")).status == 404
    assert b'kubeproxy_proxy_healthz_total{code="200"} 3.0' in metrics.render()
    assert b'kubeproxy_proxy_livez_total{code="200"} 1.0' in metrics.render()


async def test_the_metrics_servers_pages() -> None:
    async with serving(metrics_pages(Metrics(), CONFIG)) as url, _session() as http:
        async with http.get(f"{url}/proxyMode") as answer:
            assert (await answer.text(), answer.headers["Content-Type"]) == ("iptables", "text/plain; charset=utf-8")
        async with http.get(f"{url}/metrics") as answer:
            assert answer.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        async with http.get(f"{url}/healthz?verbose") as answer:
            assert "[+]ping ok" in await answer.text()
        async with http.get(f"{url}/healthz/ping") as answer:
            assert await answer.text() == "ok"
        async with http.get(f"{url}/configz") as answer:
            shown = json.loads(await answer.text())["kubeproxy.config.k8s.io"]
        assert (shown["kind"], shown["iptables"]["syncPeriod"]) == ("KubeProxyConfiguration", "30s")
        assert (await http.get(f"{url}/livez")).status == 404


async def test_connections_that_say_nothing_give_way_to_newer_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kproxy.daemon.server._CONNECTIONS", 3)
    pages = of_health(Health((IPFamily.IPV4,), sync_period=30), Metrics())
    async with serving(pages) as url, _session() as http, asyncio.timeout(10):
        host, port = split_address(url.removeprefix("http://"))
        silent = [await asyncio.open_connection(host, port) for _ in range(3)]
        assert (await http.get(f"{url}/livez")).status == 200  # the fourth
        assert await silent[0][0].read() == b""  # closed
        assert not silent[1][0].at_eof()
        for _, writer in silent:
            writer.close()


@pytest.mark.parametrize("request_", [b"NONSENSE\r\n\r\n", b"\x16\x03\x01\r\n\r\n"])
async def test_bad_requests_do_not_fill_the_log(caplog: pytest.LogCaptureFixture, request_: bytes) -> None:
    async with serving({}) as url, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(*split_address(url.removeprefix("http://")))
        writer.write(request_)
        assert b" 400 " in await reader.readline()
        writer.close()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_our_own_mistakes_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_query: Mapping[str, str]) -> Answer:
        raise ZeroDivisionError

    async with serving({"/broken": broken}) as url, _session() as http:
        assert (await http.get(f"{url}/broken")).status == 500
    assert "ZeroDivisionError" in caplog.text


async def test_the_wildcard_answers_both_families() -> None:
    with listen("0.0.0.0", 0) as listener:
        port = listener.getsockname()[1]
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            with socket.socket(family) as client:
                client.connect((host, port))


async def test_a_wildcard_of_one_family_leaves_the_other_alone() -> None:
    with listen("::", 0, one_family=True) as six, listen("0.0.0.0", six.getsockname()[1], one_family=True):
        pass


async def test_a_taken_address_is_tried_again_until_it_is_free(caplog: pytest.LogCaptureFixture) -> None:
    holder = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{holder.getsockname()[1]}"
    asyncio.get_running_loop().call_later(0.05, holder.close)
    async with serving({}, address) as url, _session() as http:
        assert (await http.get(url)).status == 404
    assert [record.message for record in caplog.records] == ["Cannot listen, trying again"]


async def test_a_taken_address_is_fatal_on_request() -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        with pytest.raises(CannotListen, match="stop whoever holds the address"):
            await serve("test", address, answer_by_path({}), config=Config(bind_address_hard_fail=True))


def test_addresses_are_split() -> None:
    assert split_address("[::1]:10256") == ("::1", 10256)
    assert split_address("0.0.0.0:1") == ("0.0.0.0", 1)


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession()
