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


async def test_an_idle_flow_is_reset_and_one_that_moves_is_not() -> None:
    async with world() as made:
        client, endpoint, ours, _ = made.begin(to=somebody(idle=10))
        assert isinstance(ours, Client)
        config = Config(relay_half_closed=3)
        for now in (0, 5, 9.9):
            made.flows.age(now, config)
        await write(client, b"x")
        await read(endpoint)
        for now in (12, 21):
            made.flows.age(now, config)
        client.shutdown(socket.SHUT_WR)
        assert await read(endpoint) == b""
        for now in (22, 24.9):
            made.flows.age(now, config)
        assert made.flows.live
        assert ours.sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        made.flows.age(25, config)
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
            made.flows.age(0, Config())
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
