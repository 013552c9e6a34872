"""A watch under test."""

import asyncio
import random
from typing import Any

from kproxy.config import Config
from kproxy.errors import KproxyError
from kproxy.model.change import Change, Listed, Put, Rejected, Removed
from kproxy.model.enums import Kind
from kproxy.source.client import Client
from kproxy.source.watch import Selection, watch

SERVICES = Selection(Kind.SERVICE, "/services", labels="!l", fields="f!=None")
CIDRS = Selection(Kind.SERVICE_CIDR, "/cidrs", optional=True)


class Watching:
    """One watch under test: its changes, and what it reported and waited in between. Waiting moves the clock."""

    def __init__(self, client: Client, config: Config, clock: Any, selection: Selection = SERVICES) -> None:
        self.waits: list[float] = []
        self.reports: list[KproxyError | None] = []
        self.lines = 0  # that were heard
        self._news = asyncio.Event()
        self.clock = clock
        chance = random.Random(1)
        self.changes = watch(
            client,
            selection,
            config,
            sleep=self._sleep,
            chance=chance,
            clock=clock,
            report=self._report,
            hear=self._hear,
        )

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.clock.now += seconds
        await asyncio.sleep(0)

    def _report(self, kind: Kind, problem: KproxyError | None) -> None:
        assert kind in Kind
        self.reports.append(problem)
        self._news.set()

    def _hear(self) -> None:
        self.lines += 1

    async def heard_after(self, failure: type[KproxyError]) -> None:
        """Until contact (None) was reported after such a failure."""
        while not (len(self.reports) > 1 and self.reports[-1] is None and isinstance(self.reports[-2], failure)):
            self._news.clear()
            await self._news.wait()

    @property
    def problems(self) -> list[KproxyError]:
        return [problem for problem in self.reports if problem is not None]

    async def next(self) -> Change:
        async with asyncio.timeout(10):
            return await anext(self.changes)

    async def names(self) -> list[str]:
        """The names in the next change."""
        change = await self.next()
        match change:
            case Listed():
                return [each.key.name for each in change.objects]
            case Put():
                return [f"+{change.object.key.name}"]
            case Removed():
                return [f"-{change.key.name}"]
            case Rejected():
                return [f"!{change.rejection.key.name}"]


async def start(watching: Watching, server: Any, api: Any, version: str = "5") -> None:
    """Past the initial list, whose stream then ends."""
    server.on("/services", api.events(api.bookmark(version, end=True)))
    assert await watching.names() == []
