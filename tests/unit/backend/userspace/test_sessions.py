"""How UDP sessions begin and end, with real sockets. What they carry is test_datagrams'."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
import resource
import socket

import pytest

from kproxy.backend.userspace import session
from kproxy.backend.userspace.apply import Listeners
from kproxy.backend.userspace.door import dial
from kproxy.backend.userspace.session import Session
from kproxy.plan.plan import Target
from tests.unit.backend.userspace.datagram_ends import (
    ask,
    counts_of,
    echoes,
    free_port,
    hear,
    open_files,
    udp,
)
from tests.unit.backend.userspace.sockets import UDP, listening, rule, rules, until

pytestmark = pytest.mark.usefixtures("how")


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
                patch.setattr(session, "dial", lambda ip, kind: (dialled.append(ip), dial(ip, kind))[1])
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
