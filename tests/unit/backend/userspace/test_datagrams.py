"""UDP through a listener, with real sockets. The table is test_udp's."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import pytest

from kproxy.backend.userspace.apply import Listeners
from kproxy.backend.userspace.counts import Counts
from kproxy.plan.plan import Target
from tests.unit.backend.userspace.sockets import UDP, free_port, listening, rule, rules, until


class Echo:
    """A UDP server that answers with its name and what it was sent; ``seen``: who asked."""

    def __init__(self, name: str, ip: str = "127.0.0.1") -> None:
        self.name = name.encode()
        self.seen: set[tuple[object, ...]] = set()
        self.socket = udp(ip)
        self.target = Target(ip, self.socket.getsockname()[1], local=False)
        asyncio.get_running_loop().add_reader(self.socket, self._answer)

    def _answer(self) -> None:
        data, peer = self.socket.recvfrom(65536)
        self.seen.add(peer)
        self.socket.sendto(self.name + data, peer)

    def close(self) -> None:
        asyncio.get_running_loop().remove_reader(self.socket)
        self.socket.close()


def udp(ip: str = "127.0.0.1") -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_DGRAM)
    made.setblocking(False)
    made.bind((ip, 0))
    return made


@contextlib.contextmanager
def echoes(*names: str, ip: str = "127.0.0.1") -> Iterator[list[Echo]]:
    made = [Echo(name, ip) for name in names]
    try:
        yield made
    finally:
        for each in made:
            each.close()


async def ask(client: socket.socket, port: int, data: bytes = b"?", ip: str = "127.0.0.1") -> bytes:
    loop = asyncio.get_running_loop()
    await loop.sock_sendto(client, data, (ip, port))
    answer, peer = await loop.sock_recvfrom(client, 65536)
    assert peer[:2] == (ip, port)
    return answer


def counts_of(listeners: Listeners) -> Counts:
    return listeners.counts[UDP]


@pytest.mark.parametrize("ip", ["127.0.0.1", "::1"])
async def test_every_client_has_a_session_of_its_own_and_keeps_its_endpoint(ip: str) -> None:
    port = free_port(UDP, ip)
    with echoes("a", "b", ip=ip) as (a, b), udp(ip) as first, udp(ip) as second:
        async with listening(rule(port, a.target, b.target, protocol=UDP, ip=ip)) as listeners:
            assert [await ask(first, port, b"1", ip) for _ in range(3)] == [b"a1"] * 3
            assert [await ask(second, port, b"2" * 9000, ip) for _ in range(3)] == [b"b" + b"2" * 9000] * 3
            assert await ask(first, port, b"", ip) == b"a"
            assert (counts_of(listeners).flows, counts_of(listeners).active) == (2, 2)
        assert (len(a.seen), len(b.seen)) == (1, 1)


async def test_affinity_holds_for_a_client_whatever_its_port() -> None:
    port = free_port(UDP)
    with echoes("a", "b") as (a, b), udp() as first, udp() as second:
        async with listening(rule(port, a.target, b.target, protocol=UDP, affinity=100)):
            assert await ask(first, port) == await ask(second, port)


async def test_a_session_moves_when_its_endpoint_no_longer_serves() -> None:
    port = free_port(UDP)
    with echoes("a", "b") as (a, b), udp() as client:
        async with listening(rule(port, a.target, protocol=UDP)) as listeners:
            assert await ask(client, port) == b"a?"
            both = rule(port, a.target, b.target, protocol=UDP)
            listeners.reconcile(rules(both))
            assert await ask(client, port) == b"a?"
            listeners.reconcile(rules(rule(port, b.target, protocol=UDP)))
            assert await ask(client, port) == b"b?"
            assert counts_of(listeners).active == 1
            listeners.reconcile(rules())
            assert counts_of(listeners).active == 0


async def test_an_endpoint_that_refuses_is_left_for_the_next_one() -> None:
    port, nobody = free_port(UDP), Target("127.0.0.1", free_port(UDP), local=False)
    with echoes("a") as (a,), udp() as client:
        async with listening(rule(port, nobody, a.target, protocol=UDP, affinity=100)) as listeners:
            await asyncio.get_running_loop().sock_sendto(client, b"lost", ("127.0.0.1", port))
            await until(lambda: counts_of(listeners).refused["endpoints"] == 1)
            assert counts_of(listeners).active == 0
            assert await ask(client, port) == b"a?"


async def test_where_no_endpoint_can_be_dialled_nothing_happens_but_a_count() -> None:
    port, unreachable = free_port(UDP), Target("255.255.255.255", 9, local=False)  # needs SO_BROADCAST
    with udp() as client:
        async with listening(rule(port, unreachable, protocol=UDP)) as listeners:
            await asyncio.get_running_loop().sock_sendto(client, b"?", ("127.0.0.1", port))
            await until(lambda: counts_of(listeners).refused["endpoints"] == 1)
            assert counts_of(listeners).active == 0


async def test_too_many_clients_cost_the_one_that_was_idle_longest() -> None:
    port = free_port(UDP)
    with echoes("a") as (a,), udp() as first, udp() as second, udp() as third:
        async with listening(rule(port, a.target, protocol=UDP), caps=(2, 2)) as listeners:
            for client in (first, second, first, third, first):
                assert await ask(client, port) == b"a?"
            counts = counts_of(listeners)
            assert (counts.flows, counts.active, counts.evicted) == (3, 2, 1)


async def test_idle_sessions_end_by_themselves() -> None:
    port = free_port(UDP)
    with echoes("a") as (a,), udp() as client:
        async with listening(rule(port, a.target, protocol=UDP), relay_udp_idle=0.05) as listeners:
            assert await ask(client, port) == b"a?"
            await until(lambda: counts_of(listeners).active == 0)
            assert await ask(client, port) == b"a?"
        assert len(a.seen) == 2
