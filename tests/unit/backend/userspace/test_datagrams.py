"""UDP through a listener, with real sockets, many datagrams at once and one by one.

The table of sessions is test_udp's, batches by themselves are test_mmsg's, uncut datagrams test_uncut's.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
import resource
import shutil
import socket
import struct

import pytest

from kproxy.backend.userspace import datagrams, mmsg
from kproxy.backend.userspace.apply import Listeners
from kproxy.backend.userspace.balance import Balancer
from kproxy.backend.userspace.datagrams import Datagrams, Session, _Watch
from kproxy.backend.userspace.door import Door, dial, open_on_loopback
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
from tests.unit.backend.userspace.sockets import UDP, listening, rule, rules, until


@pytest.fixture(params=["many", "single"], autouse=True)
def how(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Whether the system lets us have many datagrams with one call."""
    assert mmsg.is_available()
    if request.param == "single":
        monkeypatch.setattr(mmsg, "is_available", lambda: False)
    return str(request.param)


@pytest.mark.parametrize("ip", ["127.0.0.1", "::1"])
async def test_every_client_has_a_session_of_its_own_and_keeps_its_endpoint(ip: str) -> None:
    port = free_port(ip)
    with echoes("a", "b", ip=ip) as (a, b), udp(ip) as first, udp(ip) as second:
        async with listening(rule(port, a.target, b.target, protocol=UDP, ip=ip)) as listeners:
            assert [await ask(first, port, b"1", ip) for _ in range(3)] == [b"a1"] * 3
            assert [await ask(second, port, b"2" * 9000, ip) for _ in range(3)] == [b"b" + b"2" * 9000] * 3
            assert await ask(first, port, b"", ip) == b"a"
            assert (counts_of(listeners).flows, counts_of(listeners).active) == (2, 2)
        assert (len(a.seen), len(b.seen)) == (1, 1)


async def test_affinity_holds_for_a_client_whatever_its_port() -> None:
    port = free_port()
    with echoes("a", "b") as (a, b), udp() as first, udp() as second:
        async with listening(rule(port, a.target, b.target, protocol=UDP, affinity=100)):
            assert await ask(first, port) == await ask(second, port)


async def test_a_session_moves_when_its_endpoint_no_longer_serves() -> None:
    port = free_port()
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
    port, nobody = free_port(), Target("127.0.0.1", free_port(), local=False)
    with echoes("a") as (a,), udp() as client:
        async with listening(rule(port, nobody, a.target, protocol=UDP, affinity=100)) as listeners:
            client.sendto(b"lost", ("127.0.0.1", port))
            await until(lambda: counts_of(listeners).refused["endpoints"] == 1)
            assert counts_of(listeners).active == 0
            assert await ask(client, port) == b"a?"


async def test_where_no_endpoint_can_be_dialled_nothing_happens_but_a_count() -> None:
    port, unreachable = free_port(), Target("255.255.255.255", 9, local=False)  # needs SO_BROADCAST
    with udp() as client:
        async with listening(rule(port, unreachable, protocol=UDP)) as listeners:
            client.sendto(b"?", ("127.0.0.1", port))
            await until(lambda: counts_of(listeners).refused["endpoints"] == 1)
            assert counts_of(listeners).active == 0


async def test_too_many_clients_cost_the_one_that_was_idle_longest() -> None:
    port = free_port()
    with echoes("a") as (a,), udp() as first, udp() as second, udp() as third:
        async with listening(rule(port, a.target, protocol=UDP), caps=(2, 2)) as listeners:
            for client in (first, second, first, third, first):
                assert await ask(client, port) == b"a?"
            counts = counts_of(listeners)
            assert (counts.flows, counts.active, counts.evicted) == (3, 2, 1)


async def test_idle_sessions_end_by_themselves() -> None:
    port = free_port()
    with echoes("a") as (a,), udp() as client:
        async with listening(rule(port, a.target, protocol=UDP), relay_udp_idle=0.05) as listeners:
            assert await ask(client, port) == b"a?"
            await until(lambda: counts_of(listeners).active == 0)
            assert await ask(client, port) == b"a?"
        assert len(a.seen) == 2


async def sweep(listeners: Listeners) -> None:
    """Idle sessions were looked for since."""
    looked, expire = 0, listeners._datagrams._sessions.expire

    def look(now: float) -> list[Session]:
        nonlocal looked
        looked += 1
        return expire(now)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(listeners._datagrams._sessions, "expire", look)
        await until(lambda: looked > 0)


async def test_a_session_lives_while_either_side_speaks_and_ends_at_the_second() -> None:
    port, now = free_port(), 0.0
    with echoes("a") as (a,), udp() as client:
        async with listening(rule(port, a.target, protocol=UDP), relay_udp_idle=100) as listeners:
            listeners._datagrams._clock = lambda: now
            assert await ask(client, port) == b"a?"
            for now in (99.0, 198.0):
                if now == 99:
                    (peer,) = a.seen
                    a.socket.sendto(b"unasked", peer)
                    assert await hear(client) == (b"unasked", ("127.0.0.1", port))
                else:
                    await sweep(listeners)
                    assert await ask(client, port) == b"a?"
            now = 297.9
            await sweep(listeners)
            assert counts_of(listeners).flows == counts_of(listeners).active == 1
            now = 298.0
            await until(lambda: counts_of(listeners).active == 0)


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


async def test_a_session_that_cannot_be_watched_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    with echoes("a") as (a,), udp() as client:
        async with listening(rule(port, a.target, protocol=UDP)) as listeners:
            before = open_files()

            def refuse(_: object) -> None:
                raise OSError(errno.ENOSPC, "")  # fs.epoll.max_user_watches

            with monkeypatch.context() as patch:
                patch.setattr(listeners._datagrams._watch, "add", refuse)
                client.sendto(b"?", ("127.0.0.1", port))
                await until(lambda: counts_of(listeners).refused["endpoints"] == 1)
            assert open_files() == before
            assert await ask(client, port) == b"a?"


async def test_a_listener_that_cannot_be_watched_is_not_opened_by_halves(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "")

    before = open_files()
    made = Datagrams(Config(), limit=9)
    wanted = rule(free_port(), protocol=UDP)
    with contextlib.closing(Door(wanted, Balancer(first=0, clients=9), open_on_loopback(wanted.listener))) as door:
        with monkeypatch.context() as patch:
            patch.setattr(_Watch, "add", refuse)
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


async def test_a_datagram_that_meets_the_refusal_of_an_earlier_one_goes_to_the_next_endpoint() -> None:
    port, nobody = free_port(), Target("127.0.0.1", free_port(), local=False)
    with echoes("a") as (a,), udp() as client:
        async with listening(rule(port, nobody, a.target, protocol=UDP)) as listeners:
            client.connect(("127.0.0.1", port))
            for data in (b"1", b"2", b"3"):
                client.send(data)  # all of them wait in the listener's queue
            got = {(await hear(client))[0] for _ in range(2)}
            assert got == {b"a2", b"a3"}
            assert (counts_of(listeners).refused["endpoints"], counts_of(listeners).active) == (1, 1)


async def test_no_question_is_lost_while_endpoints_come_and_go() -> None:
    port, chance = free_port(), random.Random(5)
    with echoes("a", "b", "c") as servers, contextlib.ExitStack() as stack:
        clients = [stack.enter_context(udp()) for _ in range(10)]
        async with listening(rule(port, servers[0].target, protocol=UDP)) as listeners:
            for _ in range(100):
                some = chance.sample(servers, chance.randint(1, 3))
                wanted = rule(port, *(each.target for each in some), protocol=UDP)
                assert listeners.reconcile(rules(wanted)) == []
                answers = await asyncio.gather(*(ask(client, port) for client in chance.sample(clients, 3)))
                assert {answer[:1] for answer in answers} <= {each.name for each in some}


async def test_a_listener_that_is_opened_again_has_no_sessions_of_the_earlier_one() -> None:
    ports = [free_port() for _ in range(2)]
    with echoes("a") as (a,), udp() as client:
        wanted = [rule(port, a.target, protocol=UDP) for port in ports]
        async with listening(*wanted) as listeners:
            for _ in range(3):
                assert [await ask(client, port) for port in ports] == [b"a?"] * 2
                assert counts_of(listeners).active == 2
                listeners.reconcile(rules(wanted[0]))
                assert (await ask(client, ports[0]), counts_of(listeners).active) == (b"a?", 1)
                listeners.reconcile(rules())
                assert counts_of(listeners).active == 0
                listeners.reconcile(rules(*wanted))
            assert counts_of(listeners).flows == 6


async def test_without_files_to_open_datagrams_are_refused_and_served_when_there_are_some(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    port = free_port()
    with echoes("a", "b") as (a, b), udp() as client:
        async with listening(rule(port, a.target, b.target, protocol=UDP)) as listeners:
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            with contextlib.closing(socket.socket()) as spare, monkeypatch.context() as patch:
                dialled: list[str] = []
                patch.setattr(datagrams, "dial", lambda ip, kind: (dialled.append(ip), dial(ip, kind))[1])
                resource.setrlimit(resource.RLIMIT_NOFILE, (spare.fileno() + 1, hard))
                try:
                    client.sendto(b"?", ("127.0.0.1", port))
                    await until(lambda: counts_of(listeners).refused["files"] > 0)
                finally:
                    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            assert dict(counts_of(listeners).refused) == {"files": 1}
            assert len(dialled) == 1  # another endpoint needs a file, too
            assert await ask(client, port) in {b"a?", b"b?"}


async def test_thousands_of_short_flows_leave_no_file_open(how: str) -> None:
    port, flows = free_port(), 10_000 if how == "many" else 500  # on either loop
    with echoes("") as (a,):
        async with listening(rule(port, a.target, protocol=UDP), caps=(1, 150)) as listeners:
            before, counts = open_files(), counts_of(listeners)
            while counts.flows < flows:
                with contextlib.ExitStack() as stack:
                    clients = [stack.enter_context(udp()) for _ in range(100)]
                    for client in clients:
                        client.sendto(b"?", ("127.0.0.1", port))
                    assert [(await hear(client))[0] for client in clients] == [b"?"] * 100
            assert (counts.active, counts.evicted) == (150, counts.flows - 150)
            assert open_files() == before + 150
            listeners.reconcile(rules())
            assert open_files() <= before


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
