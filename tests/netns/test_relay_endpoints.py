"""Endpoints and clients that misbehave, in front of the relay's workers: each harms its own connection, nobody else's.

Programs that behave are test_relay_programs.py's, who dies test_relay_churn.py's; what a flow does with each event is
tests/unit/backend/userspace's.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from kproxy.backend.userspace.rules import Listener
from kproxy.plan.plan import Target
from tests.netns.relay_node import DEADLINE, RelayNode, echo, is_reset, relay_node, reset, target

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]
LORISES = 40


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node() -> AsyncIterator[RelayNode]:
    async with relay_node(relay_sweep=0.05) as made:
        yield made


@pytest.fixture(autouse=True)
async def in_time() -> AsyncIterator[None]:
    async with asyncio.timeout(DEADLINE):
        yield


async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """And do not even listen."""
    del reader, writer
    await asyncio.Event().wait()


async def ask(node: RelayNode, front: Listener) -> None:
    """One that behaves, and is served."""
    reader, writer = await node.dial(front)
    writer.write(b"hello")
    writer.write_eof()
    assert await reader.read() == b"hello"
    writer.close()


async def is_turned_away(node: RelayNode, front: Listener) -> bool:
    try:
        return await is_reset(await node.dial(front))
    except ConnectionResetError:  # so soon that connecting failed
        return True


async def test_who_never_answers_keeps_its_clients_until_they_were_silent_or_idle_for_too_long(node: RelayNode) -> None:
    async with node.endpoint(say_nothing) as mute, node.endpoint(echo) as good:
        front, other, ours = (
            await node.front(mute, silence=1.0),
            await node.front(mute, idle=1.0),
            await node.front(good),
        )
        talking, silent, idle = await node.dial(front), await node.dial(front), await node.dial(other)
        for _, writer in (talking, idle):
            writer.write(b"somebody?")
        await asyncio.gather(*(ask(node, ours) for _ in range(100)))
        assert await is_reset(silent)
        assert await is_reset(idle)
        assert ((await node.over(other)).flows, (await node.tally(front)).active) == (1, 1)
        talking[1].close()


async def test_who_closes_at_once_is_told_as_the_end_and_not_as_a_failure(node: RelayNode) -> None:
    async def close(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        del reader, writer

    async with node.endpoint(close) as hasty:
        front = await node.front(hasty, eject_after=1)
        for _ in range(50):
            assert not await is_reset(await node.dial(front))
        tally = await node.over(front)
    assert (tally.flows, tally.ejections, tally.retries, tally.refused) == (50, 0, 0, {})


async def test_who_resets_is_told_as_a_reset(node: RelayNode) -> None:
    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        reset(writer)

    async with node.endpoint(break_off) as rude:
        front = await node.front(rude)
        for _ in range(50):
            streams = await node.dial(front)
            streams[1].write(b"?")
            assert await is_reset(streams)
        assert (await node.over(front)).refused == {}


async def test_who_speaks_first_is_heard_before_the_client_has_said_anything(node: RelayNode) -> None:
    async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"220 at your service\r\n")
        assert await reader.readline() == b"QUIT\r\n"
        writer.write(b"221 bye\r\n")

    async with node.endpoint(greet) as polite:
        front = await node.front(polite)
        for _ in range(20):
            reader, writer = await node.dial(front)
            assert await reader.readline() == b"220 at your service\r\n"
            writer.write(b"QUIT\r\n")
            assert await reader.read() == b"221 bye\r\n"
            writer.close()


async def test_a_slow_loris_holds_its_own_connection_and_nothing_else(node: RelayNode) -> None:
    heard = asyncio.Event()

    async def wait_for_the_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.read(1):
            heard.set()
        writer.write(b"408")

    async with node.endpoint(wait_for_the_request) as server, node.endpoint(echo) as good:
        front, other = await node.front(server, connections=LORISES, silence=20.0), await node.front(good)
        await node.over(other)
        before = node.files()
        lorises = [await node.dial(front) for _ in range(LORISES)]
        for _ in range(10):  # none is too slow, for each has said something
            for _, writer in lorises:
                heard.clear()
                writer.write(b"G")
                await heard.wait()
            await asyncio.gather(*(ask(node, other) for _ in range(10)))
        assert await is_turned_away(node, front)  # its Service is full; others are served
        await node.over(other)
        tally = await node.tally(front)
        assert (tally.active, tally.refused) == (LORISES, {"service limit": 1})
        assert node.files() == before + 2 * LORISES
        for reader, writer in lorises:
            writer.write_eof()
            assert await reader.read() == b"408"
            writer.close()
        assert (await node.over(front)).received == 10 * LORISES
        assert node.files() == before


async def test_connections_are_refused_by_no_endpoint_while_one_lives(node: RelayNode) -> None:
    gone = node.listening()
    dead = target(gone)
    gone.close()
    async with node.endpoint(echo) as good:
        front = await node.front(dead, good, Target(dead.ip, 1, local=False), eject_after=2)
        await asyncio.gather(*(ask(node, front) for _ in range(100)))
        tally = await node.over(front)
        assert (tally.flows, tally.refused) == (100, {})
        assert tally.retries > 0
        await node.change(front, dead)
        assert await is_turned_away(node, front)
        assert (await node.over(front)).refused == {"endpoints": 1}
