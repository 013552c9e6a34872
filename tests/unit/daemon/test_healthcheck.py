"""Listeners that come and go with Services. What they answer is in test_status.py."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator

import aiohttp
import pytest

from kproxy.daemon.healthcheck import HealthCheckPorts
from kproxy.daemon.status import Health, Instant
from kproxy.model.enums import IPFamily
from kproxy.model.keys import ObjectKey
from kproxy.plan.plan import HealthCheck, NodePorts

LOOPBACK = NodePorts(addresses=("127.0.0.1",))


@pytest.fixture
async def ports() -> AsyncIterator[HealthCheckPorts]:
    health = Health((IPFamily.IPV4,), sync_period=30)
    made = HealthCheckPorts(IPFamily.IPV4, health, lambda: Instant(0.0, 0))
    yield made
    await made.close()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def check(port: int, ready: int = 1, name: str = "lb") -> HealthCheck:
    return HealthCheck(ObjectKey("default", name), port, ready)


async def ask(port: int) -> tuple[int, str]:
    try:
        async with aiohttp.ClientSession() as http, http.post(f"http://127.0.0.1:{port}/any/path") as answer:
            return answer.status, answer.headers["X-Load-Balancing-Endpoint-Weight"]
    except aiohttp.ClientConnectionError:
        return 0, ""


async def test_ports_open_answer_and_close(ports: HealthCheckPorts) -> None:
    first, second = free_port(), free_port()
    await ports.reconcile([check(first, 2), check(second, 0, "other")], LOOPBACK)
    assert await ask(first) == (200, "2")
    assert await ask(second) == (503, "0")
    await ports.reconcile([check(first, 3)], LOOPBACK)
    assert await ask(first) == (200, "3")
    assert await ask(second) == (0, "")


async def test_the_wildcard_is_of_one_family(ports: HealthCheckPorts) -> None:
    port = free_port()
    await ports.reconcile([check(port)], NodePorts())
    assert (await ask(port))[0] == 200
    with pytest.raises(OSError, match="refused"), socket.socket(socket.AF_INET6) as client:
        client.connect(("::1", port))


async def test_a_taken_port_is_told_once_and_opened_when_it_is_free(ports: HealthCheckPorts) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        port = int(holder.getsockname()[1])
        (failure,) = await ports.reconcile([check(port)], LOOPBACK)
        assert (failure.check.port, failure.why) == (port, "Address already in use")
        assert await ports.reconcile([check(port)], LOOPBACK) == []
    assert await ports.reconcile([check(port)], LOOPBACK) == []
    assert (await ask(port))[0] == 200


async def test_no_address_no_listener(ports: HealthCheckPorts) -> None:
    port = free_port()
    assert await ports.reconcile([check(port)], NodePorts(addresses=())) == []
    assert (await ask(port))[0] == 0


async def test_where_node_ports_listen_on_loopback_so_do_health_checks(ports: HealthCheckPorts) -> None:
    port = free_port()
    assert await ports.reconcile([check(port)], NodePorts(addresses=(), listeners=True)) == []
    assert (await ask(port))[0] == 200


async def test_ports_leave_files_for_programs(ports: HealthCheckPorts, monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setattr("kproxy.kernel.files.resource.getrlimit", lambda _: (8, 8))
    (failure,) = await ports.reconcile([check(port)], LOOPBACK)
    assert failure.why == "Too many open files"
    monkeypatch.undo()
    assert await ports.reconcile([check(port)], LOOPBACK) == []
    assert (await ask(port))[0] == 200
