"""Interface addresses and their events, from the real kernel, on both event loops."""

from __future__ import annotations

import asyncio

import pytest
import uvloop

from kproxy.kernel.address import Addresses
from kproxy.kernel.doors import Address
from kproxy.model.enums import IPFamily
from tests.netns.conftest import Namespace

pytestmark = pytest.mark.root


async def scenario(netns: Namespace) -> None:
    async with Addresses(settle=0.01) as addresses:
        assert await addresses.list(IPFamily.IPV4) == (Address("127.0.0.1", 1, loopback=True),)
        changes = addresses.changes()
        async with asyncio.timeout(20):
            await anext(changes)
            netns.run(("ip", "addr", "add", "10.1.2.3/32", "dev", "lo"))
            netns.run(("ip", "addr", "add", "fd00::3/128", "dev", "lo"))
            await anext(changes)
            while "10.1.2.3" not in {each.ip for each in await addresses.list(IPFamily.IPV4)}:
                await anext(changes)
            while "fd00::3" not in {each.ip for each in await addresses.list(IPFamily.IPV6)}:
                await anext(changes)
        await changes.aclose()


@pytest.mark.parametrize("factory", [asyncio.SelectorEventLoop, uvloop.new_event_loop])
def test_addresses_are_listed_and_watched(inside: Namespace, factory: type) -> None:
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(scenario(inside))
