"""What a service port's settings do to its TCP connections, and what is counted of them, through listeners."""

from __future__ import annotations

import asyncio
import itertools

import pytest
from msgspec.structs import replace

from kproxy.backend.userspace import streams
from kproxy.backend.userspace.apply import Listeners
from kproxy.backend.userspace.flow import Client
from kproxy.backend.userspace.rules import Rule
from kproxy.config import Config
from kproxy.plan.plan import Target
from tests.unit.backend.userspace.sockets import (
    dial,
    endpoint,
    free_port,
    key,
    listening,
    rule,
    rules,
    tally_of,
    until,
)
from tests.unit.backend.userspace.test_streams import echo

Stream = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def served(port: int) -> Stream:
    """A connection over which something was echoed. Raises ConnectionResetError."""
    reader, writer = await dial(port)
    try:
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
    except (ConnectionError, asyncio.IncompleteReadError) as error:
        writer.close()
        raise ConnectionResetError from error
    return reader, writer


async def test_beyond_the_cap_of_its_service_port_a_client_is_reset_and_others_are_served() -> None:
    ports = [free_port(), free_port()]
    async with endpoint(echo) as target:
        capped, free = rule(ports[0], target, connections=2), rule(ports[1], target)
        async with listening(capped, replace(free, key=key(name="free"))) as listeners:
            tally = tally_of(listeners)
            kept = [await served(ports[0]) for _ in range(2)]
            with pytest.raises(ConnectionResetError):
                await served(ports[0])
            assert (tally.active, tally.refused) == (2, {"service limit": 1})
            (await served(ports[1]))[1].close()
            kept.append(await raised(listeners, ports[0], capped))
            for _, writer in kept:
                writer.close()
            await until(lambda: tally.active == 0)
            assert tally.flows == 3


async def raised(listeners: Listeners, port: int, capped: Rule) -> Stream:
    """Somebody more is served by a rule that allows them."""
    listeners.reconcile(rules(replace(capped, relay=replace(capped.relay, connections=3))))
    return await served(port)


async def test_what_other_processes_have_counts_for_the_cap_of_a_service_port() -> None:
    port, there = free_port(), {key(): 4}
    elsewhere = there.__getitem__
    async with endpoint(echo) as to, listening(rule(port, to, connections=5), elsewhere=elsewhere) as listeners:
        _, writer = await served(port)
        with pytest.raises(ConnectionResetError):
            await served(port)
        writer.close()
        await until(lambda: tally_of(listeners).active == 0)
        there[key()] = 5
        with pytest.raises(ConnectionResetError):
            await served(port)
        there[key()] = 0
        (await served(port))[1].close()


async def test_a_service_port_knows_its_flows_bytes_retries_and_refusals() -> None:
    port, dead = free_port(), Target("127.0.0.1", free_port(), local=False)
    async with endpoint(echo) as target, listening(rule(port, dead, target, eject_after=2)) as listeners:
        tally = tally_of(listeners)
        for _ in range(6):
            _, writer = await served(port)
            writer.close()
            await until(lambda: tally.active == 0)
        assert (tally.flows, tally.received, tally.sent) == (6, 6, 6)
        assert (tally.retries, tally.ejections, listeners.tallies()[key()].ejected) == (2, 1, 1)
        assert (sum(tally.connects), tally.connect_seconds > 0) == (6, True)
        (door,) = listeners._doors.values()
        assert [each.active for each in door.balancer.endpoints] == [0, 0]
        listeners.reconcile(rules(rule(port, dead)))
        with pytest.raises(ConnectionResetError):
            await served(port)
        assert (tally.refused, tally.active) == ({"endpoints": 1}, 0)


async def test_flows_to_an_endpoint_that_left_end_when_the_service_wants_it_and_others_do_not() -> None:
    async with endpoint(echo) as first, endpoint(echo) as second:
        both = rule(free_port(), first, second, drain=0.05)
        async with listening(both) as listeners:
            left, stays = await served(both.listener.port), await served(both.listener.port)
            listeners.reconcile(rules(replace(both, targets=(second,))))
            with pytest.raises(ConnectionResetError):
                await left[0].read(-1)
            stays[1].write(b"y")
            assert await stays[0].readexactly(1) == b"y"
            for _, writer in (left, stays):
                writer.close()


async def test_a_flow_outlives_its_listener_where_another_one_of_its_service_has_the_endpoint() -> None:
    async with endpoint(echo) as target:
        had, has = (rule(free_port(), target, drain=0.001) for _ in range(2))
        async with listening(had) as listeners:
            reader, writer = await served(had.listener.port)
            listeners.reconcile(rules(has))
            (flow,) = listeners._streams._flows.live
            assert flow.endpoint.left is None
            (await served(has.listener.port))[1].close()
            writer.write(b"y")
            assert await reader.readexactly(1) == b"y"
            writer.close()


async def test_nobody_is_refused_nor_kept_waiting_when_all_endpoints_were_ejected_and_one_is_back() -> None:
    port, target = free_port(), Target("127.0.0.1", free_port(), local=False)
    other = Target("127.0.0.1", free_port(), local=False)
    async with listening(rule(port, target, other, eject_after=1, eject_seconds=(1000.0, 1000.0))) as listeners:
        for _ in range(2):
            with pytest.raises(ConnectionResetError):
                await served(port)
        assert tally_of(listeners).ejected == 1
        (door,) = listeners._doors.values()
        (away,) = (each for each in door.balancer.endpoints if each.ejections)
        async with endpoint(echo, port=away.target.port):
            for _ in range(2):  # it is tried last, and then it is back
                _, writer = await served(port)
                writer.close()
                assert not away.ejections
            assert tally_of(listeners).flows == 2


async def test_flows_are_looked_after_some_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    turns, looked = itertools.count(), list[tuple[Client, int]]()

    def look(client: Client, now: float, config: Config) -> None:
        looked.append((client, next(turns)))
        age(client, now, config)

    async def pass_messages_on() -> None:
        while True:
            await asyncio.sleep(0)
            next(turns)

    age = Client.age
    monkeypatch.setattr(streams, "_LOOKED_AFTER", 2)
    monkeypatch.setattr(Client, "age", look)
    port = free_port()
    async with endpoint(echo) as target, listening(rule(port, target), relay_sweep=1000) as listeners:
        kept = [await served(port) for _ in range(5)]
        task = asyncio.create_task(pass_messages_on())
        await asyncio.sleep(0)
        await listeners._streams._look_after_flows()
        task.cancel()
        assert {client for client, _ in looked} == listeners._streams._flows.live
        first, second, third = looked[0][1], looked[2][1], looked[4][1]
        assert second > first + 2  # the other one, and at least one message in between
        assert third > second + 2
        for _, writer in kept:
            writer.close()
