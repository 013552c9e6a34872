"""What becomes of a flow in time, what it costs and what is counted of it. What it carries is test_flow's."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import tracemalloc

import pytest

from kproxy.backend.userspace.flow import Client
from kproxy.backend.userspace.reactor import INPUT_AND_OUTPUT
from kproxy.config import Config
from tests.unit.backend.userspace.pairs import (
    Nobody,
    World,
    becomes,
    is_reset,
    pair,
    read,
    world,
    write,
)
from tests.unit.backend.userspace.sockets import somebody

LOTS = bytes(range(251)) * 40_000  # 10 MB; a prime, so that a lost or repeated page shows

CONFIG = Config()


def age(made: World, now: float, config: Config = CONFIG) -> None:
    """As streams do from time to time."""
    for client in list(made.flows.live):
        client.age(now, config)


async def test_an_idle_flow_is_reset_and_one_that_moves_is_not() -> None:
    async with world() as made:
        client, endpoint, ours, _ = made.begin(to=somebody(idle=10))
        assert isinstance(ours, Client)
        config = Config(relay_half_closed=3)
        for now in (0, 5, 9.9):
            age(made, now, config)
        await write(client, b"x")
        await read(endpoint)
        for now in (12, 21):
            age(made, now, config)
        client.shutdown(socket.SHUT_WR)
        assert await read(endpoint) == b""
        for now in (22, 24.9):
            age(made, now, config)
        assert made.flows.live
        assert ours.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        age(made, 25, config)
        assert not made.flows.live
        await becomes(lambda: is_reset(client) and is_reset(endpoint))


async def test_flows_of_a_process_that_is_killed_are_reset() -> None:
    (client, near_client), (endpoint, near_endpoint) = pair(None), pair(None)
    child = os.fork()
    if not child:  # only system calls, and no loop: it is the parent's
        made = World()
        try:
            first = Client(made.flows, near_client, somebody(), 0)
            second = Client(made.flows, near_endpoint, somebody(), 0)
            first.peer, second.peer = second, first
            first.age(0, Config())
            os.kill(os.getpid(), signal.SIGKILL)
        finally:
            os._exit(1)
    near_client.close()
    near_endpoint.close()
    assert (await asyncio.to_thread(os.waitpid, child, 0))[1] == signal.SIGKILL
    with client, endpoint:
        for each in (client, endpoint):
            with pytest.raises(ConnectionResetError):
                await read(each)


async def test_an_idle_flow_takes_less_than_a_kilobyte() -> None:
    async with world() as made:
        count, pairs, to = 200, [], somebody()
        for _ in range(count):
            (client, near_client), (endpoint, near_endpoint) = pair(None), pair(None)
            made.far += [client, endpoint]
            made.reactor.register(Nobody(), near_endpoint, INPUT_AND_OUTPUT)
            pairs.append((client, near_client, endpoint, near_endpoint))
        gc.collect()
        tracemalloc.start()
        try:
            for client, near_client, endpoint, near_endpoint in pairs:
                made.flows.join(near_client, near_endpoint, to, 0)
                for one, other in ((client, endpoint), (endpoint, client)):
                    await write(one, b"x" * 300)
                    await read(other)
            age(made, 0)
            gc.collect()
            taken, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        sockets = 2 * near_client.__sizeof__()  # they were there before
        assert taken / count + sockets < 1000


async def test_flows_are_freed_without_the_collector() -> None:
    async with world() as made:
        gc.collect()
        gc.disable()
        try:
            for _ in range(20):
                client, endpoint = made.begin()[:2]
                client.close()
                assert await read(endpoint) == b""
                endpoint.close()
            await becomes(lambda: len(made.over) == 20)
            made.over.clear()
            assert not [each for each in gc.get_objects() if isinstance(each, Client)]
        finally:
            gc.enable()
        assert not any(made.reactor.handlers)


async def test_a_flow_in_which_nobody_ever_spoke_is_reset_earlier_and_one_letter_is_enough() -> None:
    async with world() as made:
        client, _, *_ = made.begin(to=somebody(silence=10))
        other, other_endpoint, *_ = made.begin(to=somebody(silence=10))
        await write(other_endpoint, b"banner")
        assert await read(other) == b"banner"
        for now in (5, 9.9):
            age(made, now)
        assert len(made.flows.live) == 2
        age(made, 10)
        await becomes(lambda: is_reset(client))
        age(made, 86_000)
        assert len(made.flows.live) == 1


async def test_an_end_is_nothing_said() -> None:
    async with world() as made:
        client, endpoint, *_ = made.begin(to=somebody(silence=10))
        client.shutdown(socket.SHUT_WR)
        assert await read(endpoint) == b""
        for now in (1, 11):
            age(made, now)
        await becomes(lambda: is_reset(client))


async def test_where_a_service_wants_no_limit_an_idle_flow_lives() -> None:
    async with world() as made:
        made.begin(to=somebody(idle=0, silence=0))
        for now in (1, 1e12):
            age(made, now)
        assert made.flows.live


async def test_a_flow_of_an_endpoint_that_left_is_reset_so_long_afterwards_and_not_where_it_came_back() -> None:
    async with world() as made:
        drained, patient = somebody(drain=10), somebody()
        client, endpoint, *_ = made.begin(to=drained)
        made.begin(to=patient)
        drained.left = patient.left = 100.0
        for now in (100, 105):
            await write(client, b"still busy")
            await read(endpoint)
            age(made, now)
        drained.left = None
        age(made, 110)
        assert len(made.flows.live) == 2
        drained.left = 100.0
        age(made, 110)
        assert len(made.flows.live) == 1
        await becomes(lambda: is_reset(client) and is_reset(endpoint))


async def test_bytes_are_counted_when_a_flow_is_looked_after_and_when_it_ends() -> None:
    async with world() as made:
        to = somebody()
        client, endpoint, *_ = made.begin(to=to)
        tally = to.service.tally
        for times in (1, 2):
            await write(client, b"x" * 300)
            await write(endpoint, b"y" * 5000)
            got = 0
            while got < 5000:
                got += len(await read(client))
            await read(endpoint)
            assert (tally.received, tally.sent) == (300 * (times - 1), 5000 * (times - 1))
            age(made, times)
            assert (tally.received, tally.sent) == (300 * times, 5000 * times)
        await write(client, b"last")
        await read(endpoint)
        client.close()
        endpoint.close()
        await becomes(lambda: len(made.over) == 1)
        assert (tally.received, tally.sent) == (604, 10_000)
