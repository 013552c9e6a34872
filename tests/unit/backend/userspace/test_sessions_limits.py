"""What a service port's settings do to its UDP sessions, and what is counted of them, through listeners."""

from __future__ import annotations

import contextlib

import pytest
from msgspec.structs import replace

from kproxy.config import Balance
from kproxy.plan.plan import Target
from tests.unit.backend.userspace.datagram_ends import Fountain, ask, counts_of, echoes, free_port, hear, udp
from tests.unit.backend.userspace.sockets import UDP, key, listening, rule, rules, tally_of, until

pytestmark = pytest.mark.usefixtures("how")


async def test_beyond_the_cap_of_its_service_port_the_oldest_session_of_that_one_ends() -> None:
    ports = [free_port(), free_port()]
    with echoes("a") as (a,), contextlib.ExitStack() as stack:
        idle, *clients = [stack.enter_context(udp()) for _ in range(4)]
        capped = rule(ports[0], a.target, protocol=UDP, connections=2)
        other = replace(rule(ports[1], a.target, protocol=UDP), key=key(UDP, "other"))
        async with listening(capped, other) as listeners:
            assert await ask(idle, ports[1]) == b"a?"  # idle for longer than any of the other port
            first, second, third = clients
            for client in (first, second, first, third, first):
                assert await ask(client, ports[0]) == b"a?"
            tally = tally_of(listeners, UDP)
            assert (tally.flows, tally.active, tally.evicted) == (3, 2, 1)  # the second one's
            assert tally_of(listeners, UDP, "other").active == 1
            listeners.reconcile(rules(replace(capped, relay=replace(capped.relay, connections=1)), other))
            assert await ask(second, ports[0]) == b"a?"
            assert (tally.active, tally.evicted) == (1, 3)
            assert counts_of(listeners).active == 2


async def test_where_other_processes_have_all_that_may_be_one_session_goes_on_here() -> None:
    port, there = free_port(), 0
    with echoes("a") as (a,), udp() as first, udp() as second, udp() as third:
        wanted = rule(port, a.target, protocol=UDP, connections=3)
        async with listening(wanted, elsewhere=lambda _: there) as listeners:
            tally = tally_of(listeners, UDP)
            for there, client, active in ((1, first, 1), (1, second, 2), (1, third, 2), (9, first, 1)):  # noqa: B007 -- it is asked
                assert await ask(client, port) == b"a?"
                assert tally.active == active
            assert await ask(first, port) == b"a?"
            assert tally.flows == 4


async def test_a_service_port_knows_its_sessions_bytes_and_drops() -> None:
    port = free_port()
    with echoes("a") as (a,), contextlib.closing(Fountain("f")) as fountain, udp() as client:
        async with listening(rule(port, a.target, protocol=UDP), relay_udp_idle=0.2) as listeners:
            tally = tally_of(listeners, UDP)
            for data in (b"", b"1234", b"x" * 3000):
                assert await ask(client, port, data) == b"a" + data
            assert (tally.flows, tally.active, tally.received, tally.sent) == (1, 1, 3004, 3007)
            await until(lambda: tally.active == 0)
            listeners.reconcile(rules(rule(port, fountain.target, protocol=UDP)))
            client.sendto(b"\0\0\x50\x00\0\0\x04\xb0", ("127.0.0.1", port))  # 20480 bytes, cut by 1200
            got = 0
            while got < 20480:
                got += len((await hear(client))[0])
            assert (tally.flows, tally.received, tally.sent) == (2, 3012, 3007 + 20480)
            assert counts_of(listeners).flows == 2


async def test_an_endpoint_that_refuses_is_ejected_and_one_that_answers_is_not() -> None:
    port, nobody = free_port(), Target("127.0.0.1", free_port(), local=False)
    with echoes("a") as (a,), contextlib.ExitStack() as stack:
        wanted = rule(port, nobody, a.target, protocol=UDP, eject_after=2, eject_seconds=(1000.0, 1000.0))
        async with listening(wanted) as listeners:
            tally = tally_of(listeners, UDP)
            (door,) = listeners._doors.values()
            answers = next(each for each in door.balancer.endpoints if each.target == a.target)
            answers.failures = 1
            for flows in (1, 3):  # every other one goes to nobody
                stack.enter_context(udp()).sendto(b"?", ("127.0.0.1", port))
                await until(lambda flows=flows: tally.refused == {"endpoints": (flows + 1) // 2})  # type: ignore[misc]
                if flows == 1:
                    assert await ask(stack.enter_context(udp()), port) == b"a?"
            assert (tally.ejections, tally_of(listeners, UDP).ejected) == (1, 1)
            for _ in range(5):
                assert await ask(stack.enter_context(udp()), port) == b"a?"
            assert answers.failures == 0
            assert tally.refused == {"endpoints": 2}


async def test_a_session_that_ends_without_a_refusal_speaks_for_its_endpoint_though_nothing_was_answered() -> None:
    port = free_port()
    with udp() as sink, udp() as client:
        target = Target("127.0.0.1", sink.getsockname()[1], local=False)
        async with listening(rule(port, target, protocol=UDP), relay_udp_idle=0.02) as listeners:
            (door,) = listeners._doors.values()
            (to,) = door.balancer.endpoints
            to.failures = 1
            client.sendto(b"?", ("127.0.0.1", port))
            await until(lambda: tally_of(listeners, UDP).flows == 1)
            assert to.failures == 1
            await until(lambda: tally_of(listeners, UDP).active == 0)
            assert (to.failures, to.active) == (0, 0)


async def test_least_connections_counts_sessions() -> None:
    port = free_port()
    with echoes("a", "b") as (a, b), contextlib.ExitStack() as stack:
        wanted = rule(port, a.target, b.target, protocol=UDP, balance=Balance.LEAST_CONNECTIONS)
        async with listening(wanted) as listeners:
            for _ in range(10):
                await ask(stack.enter_context(udp()), port)
            (door,) = listeners._doors.values()
            assert [each.active for each in door.balancer.endpoints] == [5, 5]


async def test_an_endpoint_that_cannot_be_dialled_is_a_failure_and_the_next_one_a_retry() -> None:
    port, unreachable = free_port(), Target("255.255.255.255", 9, local=False)  # needs SO_BROADCAST
    with echoes("a") as (a,), udp() as client:
        async with listening(rule(port, unreachable, a.target, protocol=UDP)) as listeners:
            assert await ask(client, port) == b"a?"
            tally = tally_of(listeners, UDP)
            (door,) = listeners._doors.values()
            assert [each.failures for each in door.balancer.endpoints] == [1, 0]
            assert (tally.flows, tally.retries, tally.refused) == (1, 1, {})
