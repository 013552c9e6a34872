"""That the servers answer while nothing else runs yet; what they answer is test_status's and test_server's."""

from __future__ import annotations

import asyncio
import socket

import aiohttp

from kproxy.config import Config
from kproxy.daemon.front import Front


def free_port() -> int:
    with socket.socket() as each:
        each.bind(("127.0.0.1", 0))
        return int(each.getsockname()[1])


async def status(session: aiohttp.ClientSession, url: str) -> int:
    while True:
        try:
            async with session.get(url) as answer:
                return answer.status
        except aiohttp.ClientConnectorError:
            await asyncio.sleep(0)


async def test_a_daemon_that_still_waits_is_alive_but_not_ready() -> None:
    health, metrics = (f"127.0.0.1:{free_port()}" for _ in range(2))
    front = Front(Config(hostname="n1", healthz_bind_address=health, metrics_bind_address=metrics))
    async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
        waits = group.create_task(open_until_cancelled(front))
        assert await status(session, f"http://{health}/livez") == 200
        assert await status(session, f"http://{health}/readyz") == 503
        assert await status(session, f"http://{metrics}/proxyMode") == 200
        waits.cancel()


async def open_until_cancelled(front: Front) -> None:
    async with asyncio.TaskGroup() as group:
        front.open(group)


async def test_a_node_without_an_api_server_needs_no_node_object() -> None:
    health, metrics = (f"127.0.0.1:{free_port()}" for _ in range(2))
    for manifests, expected in (("/etc/manifests", 200), ("", 503)):
        config = Config(hostname="n1", manifests=manifests, healthz_bind_address=health, metrics_bind_address=metrics)
        front = Front(config)
        async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
            waits = group.create_task(open_until_cancelled(front))
            assert await status(session, f"http://{health}/healthz") == expected
            waits.cancel()
