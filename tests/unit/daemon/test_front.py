"""That the servers answer while nothing else runs yet; what they answer is test_status's and test_server's."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path

import aiohttp
import pytest
from msgspec.structs import replace

from kproxy.config import Config
from kproxy.daemon.front import Front
from kproxy.errors import CannotListen
from kproxy.sandbox.apiserver import ApiServer


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


async def test_who_ends_because_an_address_is_taken_says_so_in_an_event(tmp_path: Path) -> None:
    async with ApiServer() as api:
        api.kubeconfig(tmp_path / "kubeconfig")
        with socket.create_server(("127.0.0.1", 0)) as holder:
            config = Config(
                hostname="n1",
                kubeconfig=str(tmp_path / "kubeconfig"),
                bind_address_hard_fail=True,
                healthz_bind_address=f"127.0.0.1:{holder.getsockname()[1]}",
                metrics_bind_address="127.0.0.1:0",
            )
            with pytest.raises(ExceptionGroup) as ended:
                await open_until_cancelled(Front(config))
        assert ended.group_contains(CannotListen)
        (event,) = api.list("Event")
    assert event["reason"] == "FailedToStartProxierHealthcheck"
    assert (event["involvedObject"]["kind"], event["involvedObject"]["name"]) == ("Node", "n1")


async def test_who_cannot_tell_ends_all_the_same(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        config = Config(kubeconfig=str(tmp_path / "none"), bind_address_hard_fail=True, metrics_bind_address=address)
        with pytest.raises(ExceptionGroup) as ended:
            await open_until_cancelled(Front(replace(config, healthz_bind_address="")))
    assert ended.group_contains(CannotListen)


async def test_a_node_without_an_api_server_needs_no_node_object() -> None:
    health, metrics = (f"127.0.0.1:{free_port()}" for _ in range(2))
    for manifests, expected in (("/etc/manifests", 200), ("", 503)):
        config = Config(hostname="n1", manifests=manifests, healthz_bind_address=health, metrics_bind_address=metrics)
        front = Front(config)
        async with aiohttp.ClientSession() as session, asyncio.TaskGroup() as group:
            waits = group.create_task(open_until_cancelled(front))
            assert await status(session, f"http://{health}/healthz") == expected
            waits.cancel()
