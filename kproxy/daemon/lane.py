"""A family and its runner: whoever asks for a round asks here, so that what is pending is counted from that moment."""

from __future__ import annotations

import asyncio
import time
from typing import Generic, Never, TypeVar

from kproxy.backend.base import Backend
from kproxy.daemon.family import Family, Shared, now
from kproxy.daemon.rivalry import Rivalry
from kproxy.daemon.runner import Runner
from kproxy.daemon.schedule import Schedule
from kproxy.kernel.doors import ConntrackDoor
from kproxy.model.change import Change
from kproxy.model.enums import IPFamily

R = TypeVar("R")


class Lane(Generic[R]):
    def __init__(self, family: IPFamily, shared: Shared, backend: Backend[R], conntrack: ConntrackDoor) -> None:
        config = shared.config
        self.family = family
        self.is_entered = backend.is_entered
        self._shared = shared
        self._rivalry = Rivalry(longest=config.iptables_sync_period, calm=config.idle_sync_period)
        self._later: asyncio.TimerHandle | None = None
        self._family = Family(family, shared, backend, conntrack, self._rivalry, self.request)
        self.localhost = self._family.localhost
        schedule = Schedule(
            minimum=config.iptables_min_sync_period,
            retry=config.iptables_sync_period,
            idle=config.idle_sync_period,
        )
        self._runner = Runner(family, schedule, self._family.sync)

    @property
    def trouble(self) -> str:
        """Why the last round failed; empty: it did not."""
        return self._runner.trouble

    @property
    def synced(self) -> asyncio.Event:
        """Set by the first success."""
        return self._family.synced

    def note(self, change: Change) -> None:
        self._family.note(change)

    def request(self, *, healing: bool = False) -> None:
        self._shared.health.queued(self.family, now())
        self._shared.metrics.queued(self.family, time.time())
        self._runner.request(healing=healing)

    @property
    def rival_pause(self) -> float:
        """Seconds that healing should wait, because another proxy writes the same chains; 0 where none does."""
        return self._rivalry.wait(now().monotonic)

    def heal_later(self, seconds: float) -> None:
        """Ask for a round that compares with the kernel, unless one is to be asked for already."""
        if self._later is None:
            self._later = asyncio.get_running_loop().call_later(seconds, self._heal)

    def _heal(self) -> None:
        self._later = None
        self.request(healing=True)

    @property
    def relay_ip(self) -> str:
        """The relay's address, which this node must have; empty: none."""
        return self._family.relay_ip

    async def retire(self) -> None:
        """After ``run``: see to it that the kernel serves without us. Raises KernelError."""
        await self._family.retire()

    async def run(self) -> Never:
        self._shared.health.started(self.family, now())
        self._shared.metrics.queued(self.family, time.time())
        try:
            await self._runner.run()
        finally:
            if self._later is not None:
                self._later.cancel()
            await self._family.close()
