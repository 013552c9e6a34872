"""``kproxy trace``: mark a few live packets, hear what the kernel tells of them, print it, and leave nothing behind.

The order matters. The rules are read first, for a Service's name means the addresses that its rules have. Then the ears
are opened, then the mark is set, so nothing that is told is missed; at the end the mark goes first. Whatever ends this,
the mark goes with the process (kernel/trace_table.py).

The kernel tells a packet's whole way at once, so packets are printed whole, a moment after they passed.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import socket
import sys
import time
from contextlib import AsyncExitStack

import msgspec

from kproxy.cli.parser import Command
from kproxy.cli.scope import Scope, read_scope
from kproxy.cli.selection import check_interface, selectors_of
from kproxy.explain.show.paper import BLANK, Span, lay_out, line
from kproxy.explain.show.traced_text import blocks
from kproxy.explain.watch.passages import Passage, Passages
from kproxy.explain.watch.rulebook import LiveRules
from kproxy.explain.watch.traced import TracedPacket, describe
from kproxy.kernel.logger import hear_legacy
from kproxy.kernel.trace_table import TABLE
from kproxy.kernel.tracing import TraceRule, Watch, hear_nft, refuse_second

SEEN, NONE_CAME = 0, 3
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_LEGEND = "The number before a rule is its line in iptables-save or ip6tables-save, as that was when the packet came."
_PAUSE = 0.05  # seconds between two looks at packets that are silent


def trace(command: Command) -> int:
    """The exit status. Raises InvalidConfig, NotPermitted, KernelError, UnreadableDump."""
    if command.schema:
        sys.stdout.write(json.dumps(msgspec.json.schema(TracedPacket), indent=2) + "\n")
        return SEEN
    scope = read_scope(command)
    check_interface(scope, {name for _, name in socket.if_nameindex()})
    return asyncio.run(_Trace(scope, _Printer(command)).run())


class _Printer:
    """Packets on standard output, all else on standard error where programs read the output."""

    def __init__(self, command: Command) -> None:
        self._json = command.json
        self._explained = command.json  # whether it was said what the numbers are
        is_terminal = sys.stdout.isatty()
        width = shutil.get_terminal_size().columns if is_terminal else 0
        allowed = is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        self._width = width if command.width is None else command.width
        self._colour = command.colour == "always" or (command.colour == "auto" and allowed)

    def packet(self, packet: TracedPacket) -> None:
        if self._json:
            text = json.dumps(msgspec.to_builtins(packet)) + "\n"  # all ASCII: what rules say may move a cursor
        else:
            legend = () if self._explained or not packet.rules else (line(Span(_LEGEND, "dim")), BLANK)
            self._explained |= bool(legend)
            text = lay_out([*legend, *blocks(packet), BLANK], width=self._width, colour=self._colour)
        sys.stdout.write(text)
        sys.stdout.flush()  # somebody waits for it, at the end of a pipe too

    def say(self, text: str) -> None:
        out = sys.stderr if self._json else sys.stdout
        out.write(f"{text}\n")
        out.flush()


class _Trace:
    def __init__(self, scope: Scope, printer: _Printer) -> None:
        self._scope = scope
        self._printer = printer
        self._rules = LiveRules(scope.families)
        self._ended = asyncio.Event()
        self._packets = 0
        self._flows: set[object] = set()
        self._read_at = 0.0  # when the rules were read again, if ever

    async def run(self) -> int:
        loop = asyncio.get_running_loop()
        for number in _ENDING:
            loop.add_signal_handler(number, self._ended.set)
        scope = self._scope
        async with AsyncExitStack() as stack:
            nft = hear_nft()
            stack.callback(nft.close)
            refuse_second()  # as who may not do this: told before anything is read
            await self._rules.read()
            selectors = selectors_of(scope, [each for survey in self._rules.surveys for each in survey.services])
            legacy = None
            if families := self._rules.legacy:
                legacy, remarks = await stack.enter_async_context(hear_legacy(families, scope.seconds))
                for remark in remarks:
                    self._printer.say(remark)
            watch = Watch(nft, legacy)
            with TraceRule(selectors, rate=scope.rate, every=scope.every) as rule:
                self._rules.own_change()
                self._printer.say(_beginning(scope))
                await self._watch(watch, rule)
        self._printer.say(self._ending(watch.lost))
        return SEEN if self._packets else NONE_CAME

    async def _watch(self, watch: Watch, rule: TraceRule) -> None:
        passages = Passages(TABLE, rate=self._scope.rate, now=time.monotonic())
        until = time.monotonic() + self._scope.seconds
        while True:
            now = time.monotonic()
            is_last = self._ended.is_set() or now >= until
            # No packet is new from then on, and those under way get the moment that they need
            if is_last and rule.remove():
                self._rules.own_change()
            self._hear(watch, passages)
            if over := list(passages.over(now)):
                if await self._rules.refresh():
                    # What was told until now may speak of the rules before
                    self._hear(watch, passages)
                    self._read_at = time.monotonic()
                self._print(over)
            if self._packets >= self._scope.limit or (is_last and not passages):
                return
            if passages:
                await asyncio.sleep(_PAUSE)
            else:
                await self._wait(watch, until - now)

    @staticmethod
    def _hear(watch: Watch, passages: Passages) -> None:
        now = time.monotonic()
        for sighting in watch.hear():
            passages.add(sighting, now)

    async def _wait(self, watch: Watch, seconds: float) -> None:
        """Until something is told, or it is time to end."""
        told = asyncio.ensure_future(watch.wait(seconds))
        ended = asyncio.ensure_future(self._ended.wait())
        try:
            await asyncio.wait({told, ended}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for each in (told, ended):
                each.cancel()
            await asyncio.gather(told, ended, return_exceptions=True)

    def _print(self, over: list[Passage]) -> None:
        for passage in over:
            if self._packets == self._scope.limit:
                return
            self._packets += 1
            self._flows.add(passage.flow)
            books = self._rules.books if passage.last > self._read_at else self._rules.without_places()
            self._printer.packet(describe(passage, books))

    def _ending(self, lost: int) -> str:
        flows = len(self._flows)
        said = f"{_count(self._packets, 'packet')} of {_count(flows, 'flow')}" if flows else "no such packet came"
        missed = "; the kernel told more than could be heard, so some are incomplete" if lost else ""
        return f"{said}{missed}; the trace rule is removed"


def _beginning(scope: Scope) -> str:
    which = "packets" if scope.every else "first packets of flows"
    many = f"at most {scope.rate} a second, {scope.limit} in all, for {scope.seconds:g} s"
    return f"watching {which}: {many}; Ctrl-C ends it\n"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
