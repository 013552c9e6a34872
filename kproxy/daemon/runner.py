"""When to sync: one runner for each IP family, which turns requests into rounds, one at a time.

The arithmetic is ``schedule.py``'s; here it meets the event loop. Everything else asks by ``request`` and goes on, so
a hundred changes while a round runs are one round more. A round that fails is tried again by the schedule; one that
fails because of a mistake of ours is logged with its traceback and survived, for the other family and the health
endpoints must go on, and health turns bad by itself when the age of what is pending says so (spec: runtime.md 7).

The clock is the event loop's, so a test that wants time to pass gives a loop whose time jumps.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Never

from kproxy.daemon.log import Log
from kproxy.daemon.schedule import Omitted, Schedule
from kproxy.errors import KproxyError
from kproxy.model.enums import IPFamily

_log = Log(__name__)

# The argument: compare with the kernel instead of trusting memory; the result: what was left out.
Round = Callable[[bool], Awaitable[Omitted]]


class Runner:
    def __init__(self, family: IPFamily, schedule: Schedule, work: Round) -> None:
        self._family = family
        self._schedule = schedule
        self._work = work
        self._wake = asyncio.Event()
        self._said = ""

    @property
    def trouble(self) -> str:
        """Why the last round failed; empty: it did not."""
        return self._said

    def request(self, *, healing: bool = False) -> None:
        """Ask for a round; returns at once. ``healing``: somebody else changed our rules."""
        self._schedule.request(healing=healing)
        self._wake.set()

    async def run(self) -> Never:
        loop = asyncio.get_running_loop()
        while True:
            await self._until_due()
            full = self._schedule.begin(loop.time())
            omitted = await self._attempt(full=full)
            self._schedule.finish(loop.time(), succeeded=omitted is not None, omitted=omitted or frozenset())

    async def _until_due(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            due = self._schedule.due()
            if due is not None and due <= loop.time():
                return
            self._wake.clear()
            try:
                async with asyncio.timeout_at(due):
                    await self._wake.wait()
            except TimeoutError:
                return

    async def _attempt(self, *, full: bool) -> Omitted | None:
        """What was left out; None: it failed."""
        try:
            omitted = await self._work(full)
        except KproxyError as error:
            if str(error) != self._said:  # the same sentence at each retry helps nobody
                _log.error("Sync failed, trying again; rules in the kernel stay", family=self._family, err=error)
            self._said = str(error)
            return None
        except Exception as error:  # noqa: BLE001 -- see above: a mistake of ours must not silence the other family
            _log.crash("Sync failed by a mistake in kproxy, trying again; please report it", error, family=self._family)
            self._said = f"a mistake in kproxy ({type(error).__name__}); the log has it, please report it"
            return None
        if self._said:
            _log.info("Sync works again", family=self._family)
            self._said = ""
        return omitted
