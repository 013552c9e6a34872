"""The addresses of this node's interfaces, always at hand: the plan asks for them in the middle of a round."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Never

from kproxy.daemon.log import Log
from kproxy.errors import KernelError
from kproxy.kernel.doors import AddressDoor
from kproxy.model.enums import IPFamily

_log = Log(__name__)


class LocalAddresses:
    def __init__(self, door: AddressDoor, *, again: float) -> None:
        """``again``: seconds until the events are asked for again after they stopped."""
        self._door = door
        self._again = again
        self._known: tuple[str, ...] = ()

    @property
    def known(self) -> tuple[str, ...]:
        """Canonical text, both families."""
        return self._known

    async def refresh(self) -> bool:
        """Read them; say whether they differ. Raises KernelError."""
        found = [address.ip for family in IPFamily for address in await self._door.list(family)]
        before, self._known = self._known, tuple(dict.fromkeys(found))
        return before != self._known

    async def claim(self, ip: str) -> bool:
        """Make an address, or a network in CIDR notation, this node's; False: it was. Raises KernelError."""
        return await (self._door.claim_network(ip) if "/" in ip else self._door.claim(ip))

    async def release(self, ip: str) -> bool:
        """Undo that; False: there was nothing to undo. Raises KernelError."""
        return await (self._door.release_network(ip) if "/" in ip else self._door.release(ip))

    async def follow(self, changed: Callable[[], None]) -> Never:
        """Keep them fresh for ever."""
        while True:
            try:
                async for _ in self._door.changes():
                    if await self.refresh():
                        _log.verbose(1, "The node's addresses changed", addresses=len(self._known))
                        changed()
            except KernelError as error:
                _log.warning("Changes of addresses are not heard, listening again", err=error)
            await asyncio.sleep(self._again)
