"""The relay's workers, as whoever leads traffic to them sees them.

A listener is opened here (``open``), with a socket for each worker; workers are told what it serves (``push``); then
traffic may be led there. In the other direction: nobody is led there any more, then it is shut (``shut``), and flows
that it let in live on. Workers are started with the first rule, so a node without relayed Services has none.

No client notices that a worker ended, but those whose flows it had: its sockets are open here, and who comes waits in
their queues for the successor, usually a fifth of a second. Rules wait for workers that serve, not for one that is
being replaced.

Everything here belongs to one event loop, and nothing of it blocks. What happens to workers is told, not logged.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Iterable, Mapping
from functools import partial

from kproxy.backend.userspace.apply import Failure
from kproxy.backend.userspace.board import ROWS, Board, create_board
from kproxy.backend.userspace.caps import columns, columns_of
from kproxy.backend.userspace.counts import Tally
from kproxy.backend.userspace.messages import Counted
from kproxy.backend.userspace.openings import Openings
from kproxy.backend.userspace.rules import Listener, Rule
from kproxy.backend.userspace.seat import Ended, Event, Seat, Started
from kproxy.backend.userspace.share import raise_files
from kproxy.backend.userspace.totals import Totals
from kproxy.config import Config
from kproxy.errors import KernelError
from kproxy.model.enums import Protocol
from kproxy.model.keys import ServicePortKey

_SWEEP = 60  # beats between two looks for figures that nobody needs


class Crew:
    """``told`` is called with whatever happens to a worker."""

    def __init__(self, config: Config, *, workers: int, told: Callable[[Event], None]) -> None:
        self._config = config
        self._told = told
        self._wanted: dict[Listener, Rule] = {}
        self._openings = Openings(workers, raise_files() * 3 // 4)
        self._totals = Totals()
        self._seats = [Seat(config, self, number, workers) for number in range(workers)]
        self._board_file = -1
        self._board: Board | None = None
        self._rows: dict[ServicePortKey, int] = {}  # of the board
        self._free_rows = list(range(ROWS - 1, -1, -1))
        self._tasks: dict[Seat, asyncio.Task[None]] = {}
        self._shutting: dict[Listener, float] = {}  # with the time to tell workers
        self._gone: set[Listener] = set()  # of which they were told
        self._needed = asyncio.Event()
        self._news = asyncio.Event()
        self._is_stopping = False
        self.replaced = 0  # workers that ended without having been told to

    @property
    def open_listeners(self) -> frozenset[Listener]:
        """Those that were opened and not shut."""
        return frozenset(self._openings) - self._shutting.keys() - self._gone

    @property
    def size(self) -> int:
        """How many workers there are to be."""
        return len(self._seats)

    @property
    def serving(self) -> list[Started]:
        """The workers that serve at present."""
        return [Started(number, seat.pid, seat.share) for number, seat in enumerate(self._seats) if seat.share]

    @property
    def tallies(self) -> Mapping[ServicePortKey, Tally]:
        """What all workers have told so far: a view, in which counters only grow."""
        return self._totals.tallies

    async def run(self) -> None:
        """Until cancelled, which ends workers and their flows at once, or stopped."""
        try:
            async with asyncio.TaskGroup() as group:
                sweeper = group.create_task(self._sweep())
                await self._needed.wait()
                if not self._is_stopping:
                    self._tasks = {seat: group.create_task(seat.run()) for seat in self._seats}
                    await asyncio.wait(self._tasks.values())
                sweeper.cancel()
        finally:
            self._close()

    def open(self, ip: str, protocol: Protocol, port: int = 0) -> Listener:
        """A new listener; ``port`` 0: one that nobody else has. Serves nobody until it has a rule.

        Raises OSError. Thousands take a while (a hundred microseconds each, for two workers): then call it in a thread.
        """
        if self._board is None:
            self._board_file = create_board(columns(len(self._seats)))
            self._board = Board(self._board_file)
        return self._openings.open(ip, protocol, port)

    async def push(self, rules: Iterable[Rule]) -> list[Failure]:
        """Serve each of these instead of what its listener, which must be open, served before; others stay.

        Returns when all workers that serve do so, with what some of them could not open (it is tried again). Raises
        KernelError if no worker serves and none gets on for ``relay_patience``: nobody is to be led there yet.
        """
        pushed = list(rules)
        if strangers := [rule.listener for rule in pushed if rule.listener not in self._openings]:
            raise ValueError(f"{strangers[0]} is not open")
        changed = []
        for rule in pushed:
            self._shutting.pop(rule.listener, None)
            self._gone.discard(rule.listener)
            have = self._wanted.get(rule.listener)
            if have is not rule and have != rule:
                if (have is not None and have.affinity_seconds > 0) != (rule.affinity_seconds > 0):
                    self._openings.steer(rule.listener, by_client=rule.affinity_seconds > 0)
                self._wanted[rule.listener] = rule
                changed.append(rule.listener)
                if rule.relay.connections and rule.key not in self._rows and self._free_rows:
                    self._rows[rule.key] = self._free_rows.pop()
        if not self._wanted:
            return []
        self._needed.set()
        for seat in self._seats:
            seat.mark(changed)
        await self._settled()
        failed = {listener: error for seat in self._seats for listener, error in seat.failed.items()}
        return [Failure(rule, OSError(failed[at], "")) for rule in pushed if (at := rule.listener) in failed]

    def shut(self, listeners: Iterable[Listener]) -> None:
        """Nobody is led there any more: let in who is on the way, for ``relay_linger``, then close them."""
        now = asyncio.get_running_loop().time()
        for each in listeners:
            if each in self._openings and each not in self._gone:
                self._shutting.setdefault(each, now + self._config.relay_linger)

    async def refresh(self, deadline: float) -> None:
        """Bring ``tallies`` up to date, as far as workers answer within ``deadline`` seconds."""
        asked = [(seat, seat.ask(urgent=True)) for seat in self._seats]
        try:
            async with asyncio.timeout(deadline):
                await self._until(lambda: all(seat.has_answered(number) for seat, number in asked))
        except TimeoutError:
            return  # what they told with their last beat is not old

    async def stop(self, grace: float) -> None:
        """Let nobody in any more, give flows ``grace`` seconds to end, then end the workers; ``run`` returns."""
        self._is_stopping = True
        self._needed.set()
        for seat, task in self._tasks.items():
            seat.stop(min(self._config.relay_linger, grace), grace)
            if not seat.pid:  # it waits for the next
                task.cancel()
        if self._tasks:
            _, late = await asyncio.wait(self._tasks.values(), timeout=grace + self._config.relay_patience)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
        self._close()

    def _close(self) -> None:
        for listener in list(self._openings):
            self._openings.close(listener)
        self._wanted.clear()
        if self._board is not None:
            self._board.close()
            self._board = None
            os.close(self._board_file)

    async def _settled(self) -> None:
        """Wait as long as workers get on with it. Raises KernelError."""
        try:
            while not self._is_settled():
                async with asyncio.timeout(self._config.relay_patience):
                    await self._until(partial(self._is_further, self._served()))
        except TimeoutError:
            if not any(seat.is_settled for seat in self._seats):
                raise KernelError(
                    f"no worker of the relay took rules for {self._config.relay_patience:g} s; "
                    "what became of them is in the log"
                ) from None

    def _served(self) -> list[int]:
        return [seat.served for seat in self._seats]

    def _is_further(self, before: list[int]) -> bool:
        return self._is_settled() or self._served() != before

    def _is_settled(self) -> bool:
        live = [seat for seat in self._seats if seat.share is not None or not seat.has_failed]
        return bool(live) and all(seat.is_settled for seat in live)

    async def _until(self, check: Callable[[], bool]) -> None:
        while not check():
            self._news.clear()
            await self._news.wait()

    async def _sweep(self) -> None:
        """Close what was shut, and forget what is over."""
        loop, beats = asyncio.get_running_loop(), 0
        while True:
            await asyncio.sleep(self._config.relay_beat)
            due = [each for each, when in self._shutting.items() if when <= loop.time()]
            for each in due:
                del self._shutting[each]
                self._wanted.pop(each, None)
            self._gone.update(due)
            if due:
                for seat in self._seats:
                    seat.mark(due)
            for each in [each for each in self._gone if not any(seat.holds(each) for seat in self._seats)]:
                self._gone.remove(each)
                self._openings.close(each)
            beats += 1
            if beats % _SWEEP == 0:
                self._forget()

    def _forget(self) -> None:
        """What no rule has any more, and no flow."""
        served = {rule.key for rule in self._wanted.values()}
        self._totals.sweep(served)
        for key in [key for key in self._rows if key not in served and key not in self._totals.tallies]:
            row = self._rows.pop(key)
            if self._board is not None:
                self._board.wipe([row], range(columns(len(self._seats))))
            self._free_rows.append(row)

    # --- what a seat wants of us ------------------------------------------------------------------------------

    @property
    def wanted(self) -> Mapping[Listener, Rule]:
        return self._wanted

    @property
    def board_file(self) -> int:
        return self._board_file

    def row_of(self, key: ServicePortKey) -> int | None:
        return self._rows.get(key)

    def socket_of(self, listener: Listener, seat: int) -> socket.socket:
        return self._openings.of(listener, seat)

    def counted(self, seat: int, message: Counted) -> None:
        self._totals.add(seat, message.tallies)

    def left(self, seat: int) -> None:
        self._totals.leave(seat)
        if self._board is not None:
            self._board.wipe(self._rows.values(), columns_of(seat))

    def changed(self) -> None:
        self._news.set()

    def tell(self, event: Event) -> None:
        self.replaced += isinstance(event, Ended)
        self._told(event)
