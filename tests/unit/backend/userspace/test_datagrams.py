"""UDP through a listener, with real sockets, many datagrams at once and one by one.

How sessions begin and end is test_sessions', their table test_udp's, batches by themselves are test_mmsg's, uncut
datagrams test_uncut's.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
import shutil
import socket
import struct

import pytest

from kproxy.backend.userspace.balance import Balancer
from kproxy.backend.userspace.datagrams import Datagrams
from kproxy.backend.userspace.door import Door, open_on_loopback
from kproxy.backend.userspace.endpoints import ServicePort
from kproxy.backend.userspace.watch import Watch
from kproxy.config import Config
from kproxy.plan.plan import Target
from tests.unit.backend.userspace.datagram_ends import (
    Echo,
    Fountain,
    Log,
    ask,
    content,
    counts_of,
    cut,
    echoes,
    free_port,
    hear,
    open_files,
    udp,
)
from tests.unit.backend.userspace.sockets import UDP, listening, rule, until

pytestmark = pytest.mark.usefixtures("how")


@pytest.mark.parametrize("ip", ["127.0.0.1", "::1"])
async def test_datagrams_of_every_size_pass_as_they_are(ip: str) -> None:
    port, chance = free_port(ip), random.Random(7)
    longest = 65507 if ip == "127.0.0.1" else 65487  # what lo carries in one packet
    sizes = [*range(1500), *chance.sample(range(1500, longest), 200), longest]
    with echoes("", ip=ip) as (a,), udp(ip) as client:
        for each in (a.socket, client):
            each.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 22)
        async with listening(rule(port, a.target, protocol=UDP, ip=ip)) as listeners:
            for at in range(0, len(sizes), 16):
                some = [content(size) for size in sizes[at : at + 16]]
                for data in some:
                    client.sendto(data, (ip, port))
                assert [await hear(client) for _ in some] == [(data, (ip, port)) for data in some]
            assert counts_of(listeners).flows == 1


async def test_many_clients_at_once_lose_nothing() -> None:
    port, clients, times = free_port(), 64, 30
    with echoes("", "") as (a, b), contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(udp()) for _ in range(clients)]
        async with listening(rule(port, a.target, b.target, protocol=UDP)) as listeners:

            async def talk(client: socket.socket, name: int) -> None:
                for turn in range(times):
                    data = f"{name} {turn}".encode()
                    assert await ask(client, port, data) == data

            await asyncio.gather(*(talk(client, name) for name, client in enumerate(sockets)))
            counts = counts_of(listeners)
            assert (counts.flows, counts.active, counts.dropped) == (clients, clients, 0)
            assert {len(a.seen), len(b.seen)} == {clients // 2}


async def test_answers_to_many_clients_at_once_reach_them_through_the_listeners_that_they_asked() -> None:
    ports = [free_port(), free_port()]
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(Log().socket)
        target = Target("127.0.0.1", server.getsockname()[1], local=False)
        clients = [stack.enter_context(udp()) for _ in range(40)]
        async with listening(*(rule(port, target, protocol=UDP) for port in ports)) as listeners:
            for size in (0, 1, 1200, 3000):
                for number, client in enumerate(clients):
                    client.sendto(content(size + number), ("127.0.0.1", ports[number % 2]))
                asked = [await hear(server) for _ in clients]
                for data, peer in asked:
                    server.sendto(data, peer)
                for number, client in enumerate(clients):
                    assert await hear(client) == (content(size + number), ("127.0.0.1", ports[number % 2]))
            assert counts_of(listeners).dropped == 0


@pytest.mark.parametrize("code", [errno.EAGAIN, errno.EMSGSIZE, errno.ENETUNREACH])
async def test_what_cannot_be_sent_is_dropped_counted_and_harms_no_other(code: int) -> None:
    def refuse(_: object) -> int:
        raise OSError(code, "")

    port = free_port()
    with echoes("a") as (a,), udp() as client:
        async with listening(rule(port, a.target, protocol=UDP)) as listeners:
            assert await ask(client, port) == b"a?"
            (session,) = listeners._datagrams._by_file.values()
            session.send = refuse  # type: ignore[assignment]
            client.sendto(b"!", ("127.0.0.1", port))
            if code == errno.ENETUNREACH:  # another session may fare better
                assert (await hear(client))[0] == b"a!"
                assert counts_of(listeners).dropped == 0
                return
            await until(lambda: counts_of(listeners).dropped == 1)
            session.send = session.socket.send
            assert await ask(client, port) == b"a?"
            assert counts_of(listeners).flows == 1


async def test_a_listener_that_cannot_be_watched_is_not_opened_by_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "")

    before = open_files()
    made = Datagrams(Config(), limit=9, elsewhere=lambda _: 0)
    wanted = rule(free_port(), protocol=UDP)
    balancer = Balancer(ServicePort(wanted.key, wanted.relay), chance=lambda: 0, clients=9)
    with contextlib.closing(Door(wanted, balancer, open_on_loopback(wanted.listener))) as door:
        with monkeypatch.context() as patch:
            patch.setattr(Watch, "add", refuse)
            with pytest.raises(OSError, match="28"):
                made.open(door)
        assert open_files() == before + 1
        made.open(door)
        made.shut(door)
    assert open_files() == before


async def test_a_burst_of_one_client_arrives_in_order_and_so_do_its_answers() -> None:
    port = free_port()
    with echoes("") as (a,), udp() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
        client.connect(("127.0.0.1", port))
        async with listening(rule(port, a.target, protocol=UDP)):
            sent = [f"{number}".encode() * (number % 300) for number in range(200)]
            for data in sent:
                client.send(data)
            got = [(await hear(client))[0] for _ in sent]
            assert got == sent


async def test_what_finds_a_queue_full_is_dropped_and_counted() -> None:
    port, log, total = free_port(), Log(), 300
    with log.socket, udp() as client:
        client.connect(("127.0.0.1", port))
        async with listening(rule(port, log.target, protocol=UDP), relay_udp_buffer=65536) as listeners:
            for _ in range(total):
                client.send(bytes(1400))
            counts = counts_of(listeners)
            await until(lambda: counts.dropped > 0)
            got = await log.all((total - counts.dropped) * 1400)
            assert 0 < len(got) == total - counts.dropped


async def test_a_listener_on_every_address_answers_from_the_one_that_was_dialled() -> None:
    port = free_port()
    with echoes("a") as (a,), udp() as client:
        async with listening(rule(port, a.target, protocol=UDP, ip="0.0.0.0")) as listeners:
            for _ in range(2):
                for ip in ("127.0.0.1", "127.0.0.2", "127.9.9.9"):
                    assert await ask(client, port, b"?", ip) == b"a?"
            assert counts_of(listeners).active == 3  # for whoever answers, they are three clients
        fountain, log = Fountain("f"), Log()
        with contextlib.closing(fountain), log.socket:
            async with listening(rule(port, fountain.target, protocol=UDP, ip="0.0.0.0")):
                for _ in range(10):
                    log.socket.sendto(struct.pack("!II", 20500, 1000), ("127.0.0.3", port))
                    assert [data for data, _ in await log.all(20500)] == cut(content(20500), 1000)


async def test_a_listener_on_every_address_of_ipv6_too() -> None:
    port = free_port("::1")
    with echoes("a", ip="::1") as (a,), udp("::1") as client:
        async with listening(rule(port, a.target, protocol=UDP, ip="::")):
            assert [await ask(client, port, b"?", "::1") for _ in range(2)] == [b"a?"] * 2


@pytest.mark.skipif(not shutil.which("dig"), reason="dig is not installed")
@pytest.mark.parametrize("ip", ["127.0.0.1", "::1"])
async def test_dig_is_answered(ip: str) -> None:
    class Nameserver(Echo):
        def _answer(self) -> None:
            query, peer = self.socket.recvfrom(65536)
            question = query[12 : query.index(b"\0", 12) + 5]
            answer = b"\xc0\x0c\0\x01\0\x01\0\0\0\x3c\0\x04\xc0\0\x02\x07"
            self.socket.sendto(query[:2] + b"\x84\0\0\x01\0\x01\0\0\0\0" + question + answer, peer)

    port = free_port(ip)
    with contextlib.closing(Nameserver("ns", ip)) as server:
        async with listening(rule(port, server.target, protocol=UDP, ip=ip)):
            command = ("dig", f"@{ip}", "-p", str(port), "+short", "+noedns", "+tries=1", "web.example", "A")
            digs = [await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE) for _ in range(4)]
            assert [(await each.communicate())[0] for each in digs] == [b"192.0.2.7\n"] * 4
