"""The node's addresses are known before anybody asks, and stay fresh."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from kproxy.daemon.addresses import LocalAddresses
from kproxy.errors import KernelError
from kproxy.kernel.doors import Address
from kproxy.kernel.fake import FakeAddresses
from kproxy.model.enums import IPFamily

LO = Address("127.0.0.1", 1, loopback=True)
ETH = Address("192.0.2.1", 2, loopback=False)


async def test_a_refresh_says_whether_something_differs() -> None:
    door = FakeAddresses({IPFamily.IPV4: (LO,)})
    addresses = LocalAddresses(door, again=0.0)
    assert await addresses.refresh()
    assert not await addresses.refresh()
    door.set(IPFamily.IPV4, LO, ETH)
    assert await addresses.refresh()
    assert addresses.known == ("127.0.0.1", "192.0.2.1")


class Broken(FakeAddresses):
    """Its events stop at once, the first time."""

    broken = True

    async def changes(self) -> AsyncIterator[None]:
        if self.broken:
            self.broken = False
            raise KernelError("the socket overflowed")
        async for each in super().changes():
            yield each


async def test_changes_are_followed_even_after_the_events_stopped() -> None:
    door = Broken({IPFamily.IPV4: (LO,)})
    addresses = LocalAddresses(door, again=0.0)
    await addresses.refresh()
    changed = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(addresses.follow(changed.set))
        await asyncio.sleep(0)
        door.set(IPFamily.IPV4, LO, ETH)
        async with asyncio.timeout(5):
            await changed.wait()
        task.cancel()
    assert addresses.known == ("127.0.0.1", "192.0.2.1")
