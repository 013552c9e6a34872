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
import sys
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack

import msgspec

from kproxy.cli.parser import Command
from kproxy.cli.scope import Scope, read_scope
from kproxy.errors import InvalidConfig
from kproxy.explain.answer import FrontendKind, ServicePort
from kproxy.explain.paper import lay_out
from kproxy.explain.passages import Passage, Passages
from kproxy.explain.rulebook import LiveRules
from kproxy.explain.traced import TracedPacket, describe
from kproxy.explain.traced_text import blocks
from kproxy.kernel.logger import hear_legacy
from kproxy.kernel.trace_table import TABLE, Selector
from kproxy.kernel.tracing import TraceRule, Watch, hear_nft, refuse_second

SEEN, NONE_CAME = 0, 3
_ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_PAUSE = 0.05  # seconds between two looks at packets that are silent
_MOST_SELECTORS = 256  # rules of the scope; each is asked for every new flow


def trace(command: Command) -> int:
    """The exit status. Raises InvalidConfig, NotPermitted, KernelError, UnreadableDump."""
    if command.schema:
        sys.stdout.write(json.dumps(msgspec.json.schema(TracedPacket), indent=2) + "\n")
        return SEEN
    scope = read_scope(command)
    return asyncio.run(_Trace(scope, _Printer(as_json=command.json)).run())


class _Printer:
    """Packets on standard output, all else on standard error where programs read the output."""

    def __init__(self, *, as_json: bool) -> None:
        self._json = as_json
        is_terminal = sys.stdout.isatty()
        self._width = shutil.get_terminal_size().columns if is_terminal else 0
        self._colour = is_terminal and "NO_COLOR" not in os.environ

    def packet(self, packet: TracedPacket) -> None:
        if self._json:
            text = json.dumps(msgspec.to_builtins(packet)) + "\n"  # all ASCII: what rules say may move a cursor
        else:
            text = lay_out(blocks(packet), width=self._width, colour=self._colour) + "\n"
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


def selectors_of(scope: Scope, services: list[ServicePort]) -> list[Selector]:
    """Raises InvalidConfig where no rule knows the Service."""
    given = {"source": scope.source, "interface": scope.interface}
    if not scope.service:
        where = {"destination": scope.destination, "port": scope.port, "protocol": scope.protocol}
        return [Selector(family, **given, **where) for family in scope.families]  # type: ignore[arg-type]
    found = list(dict.fromkeys(_of_service(scope, services)))
    if not found:
        port = f":{scope.service_port}" if scope.service_port else ""
        raise InvalidConfig(
            f"--service={scope.service}{port}: no rule of this node is for it; see `kproxy explain live`"
        )
    if len(found) > _MOST_SELECTORS:
        raise InvalidConfig(
            f"--service={scope.service}: it has {len(found)} addresses and ports, too many for a trace; "
            f"name one of its ports ({scope.service}:PORT), or an address with --to"
        )
    return found


def _of_service(scope: Scope, services: list[ServicePort]) -> Iterator[Selector]:
    for service in services:
        if service.service != scope.service or service.family not in scope.families:
            continue
        for frontend in service.frontends:
            is_meant = scope.service_port in {"", service.port, str(frontend.port)}
            if is_meant and frontend.kind is not FrontendKind.HEALTH_CHECK:
                yield Selector(
                    service.family,
                    source=scope.source,
                    destination=frontend.address,
                    port=frontend.port,
                    protocol=service.protocol,
                    interface=scope.interface,
                    local=not frontend.address,
                )


def _beginning(scope: Scope) -> str:
    which = "packets" if scope.every else "first packets of flows"
    many = f"at most {scope.rate} a second, {scope.limit} in all, for {scope.seconds:g} s"
    return f"watching {which}: {many}; Ctrl-C ends it\n"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" + ("" if number == 1 else "s")
