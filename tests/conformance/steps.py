"""Performs the steps of a scenario and records what its probes found.

After each step that changes what the proxy should do, the sentinel is waited for, unless the step says ``nowait``. A
step of another proxy mode is passed over. What cannot be done here raises Skipped with the reason.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from kproxy.sandbox.host import Host
from tests.conformance import compare, objects, webs
from tests.conformance.cluster import Cluster
from tests.conformance.probes import Prober, parse_target, probe_id
from tests.conformance.proxy import Proxy, write_reference_rules

Json = dict[str, Any]
_MODE = "iptables"
_PAUSE = 0.1  # seconds between two looks of a probe with ``until``
_TALK_DEADLINE = 3.0  # seconds for an established connection to answer
_BACKGROUND_PAUSE = 0.03
_LOAD_DEADLINE = 180.0  # seconds until a thousand Services are there


class Skipped(Exception):
    """This scenario cannot be performed here; the text says why."""


@dataclass
class Line:
    """A connection that stays open."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    name: str  # of the backend that answered first

    async def say(self) -> str:
        """The backend's answer to one more line."""
        self.writer.write(b"still there?\n")
        async with asyncio.timeout(_TALK_DEADLINE):
            return str(json.loads(await self.reader.readuntil(b"\n"))["name"])


@dataclass
class Scene:
    """One scenario being performed; ``results`` by probe."""

    scenario: Json
    recorded: Json | None  # the record's probes; None where expectations decide
    hosts: dict[str, Host]
    cluster: Cluster
    prober: Prober
    proxy: Proxy
    results: dict[str, Json] = field(default_factory=dict)
    accepted: dict[str, Any] = field(default_factory=dict)
    unexpected: list[compare.Difference] = field(default_factory=list)  # without a record
    _is_served: bool = True
    _lines: dict[str, Line] = field(default_factory=dict)
    _busy: dict[str, tuple[asyncio.Task[None], Counter[str]]] = field(default_factory=dict)

    async def perform(self) -> None:
        """Every step in its order; raises Skipped, or what went wrong."""
        try:
            for step in self.scenario["steps"]:
                if _MODE in step.get("modes", [_MODE]):
                    await self._step(step)
        finally:
            for task, _ in self._busy.values():
                task.cancel()
            await self._apiserver("start")
            for line in self._lines.values():
                line.writer.transport.abort()
            await asyncio.gather(*(task for task, _ in self._busy.values()), return_exceptions=True)

    async def _step(self, step: Json) -> None:
        actions: dict[str, Callable[[Any], Awaitable[bool]]] = {
            "probes": self._probes,
            "http": self._http,
            "apply": self._apply,
            "eps": self._eps,
            "delete": self._delete,
            "delete_slice": self._delete_slice,
            "lb": self._lb,
            "node": self._node,
            "object": self._object,
            "load": self._load,
            "bulk": self._bulk,
            "delete_bulk": self._delete_bulk,
            "proxy": self._proxy,
            "apiserver": self._apiserver,
            "conn": self._conn,
            "bg": self._background,
            "sh": self._shell,
            "sleep": self._sleep,
        }
        changed = False
        for name, value in step.items():
            if name in {"modes", "note", "nowait", "rows"}:
                continue
            if name not in actions:
                raise Skipped(f"unknown step {name}")
            changed |= await actions[name](value)
        if changed and not step.get("nowait"):
            await self.cluster.converge(self.prober, _LOAD_DEADLINE if "bulk" in step else 60)

    async def _until(self, probe: Json, ask: Callable[[], Awaitable[Json]]) -> bool:
        """Record an answer; with ``until``, the first that is as recorded, or the last within so many seconds."""
        name = probe_id(probe)
        if "accept" in probe:
            self.accepted[name] = probe["accept"]
        got = await ask()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(probe.get("until", 0)):
                while not self._is_right(probe, name, got):
                    await asyncio.sleep(_PAUSE)
                    got = await ask()
        self._note(probe, name, got)
        return False

    def _is_right(self, probe: Json, name: str, got: Json) -> bool:
        if self.recorded is None:
            return compare.is_expected(probe, got)
        return compare.is_same(self.recorded.get(name, {}), got)

    def _note(self, probe: Json, name: str, got: Json) -> None:
        self.results[name] = got
        if self.recorded is None and not compare.is_expected(probe, got):
            wanted: Json = {key: probe[key] for key in ("expect", "want") if key in probe}
            self.unexpected.append(compare.Difference(name, wanted, got))

    async def _probes(self, probes: list[Json]) -> bool:
        for probe in probes:
            if _MODE in probe.get("modes", [_MODE]):
                await self._until(probe, lambda probe=probe: self.prober.record(probe))  # type: ignore[misc]
        return False

    async def _http(self, probes: Json | list[Json]) -> bool:
        for probe in [probes] if isinstance(probes, dict) else probes:
            await self._until(
                probe,
                lambda probe=probe: webs.record(self.hosts, self.cluster.resolve, probe),  # type: ignore[misc]
            )
        return False

    async def _apply(self, shorts: Json | list[Json]) -> bool:
        for short in [shorts] if isinstance(shorts, dict) else shorts:
            self.cluster.write(short)
        return True

    async def _eps(self, lists: dict[str, list[Any]]) -> bool:
        for name, endpoints in lists.items():
            self.cluster.set_endpoints(name, endpoints)
        return True

    async def _delete(self, names: str | list[str]) -> bool:
        for name in [names] if isinstance(names, str) else names:
            self.cluster.delete(name)
        return True

    async def _delete_slice(self, names: str | list[str]) -> bool:
        for name in [names] if isinstance(names, str) else names:
            self.cluster.delete_slice(name)
        return True

    async def _lb(self, lists: dict[str, list[Any]]) -> bool:
        for name, addresses in lists.items():
            self.cluster.balance(name, addresses)
        return True

    async def _node(self, change: Json) -> bool:
        change = dict(change)
        self.cluster.api.patch("Node", change.pop("name"), change)
        return True

    async def _object(self, document: Json) -> bool:
        self.cluster.api.apply(document)
        return True

    async def _load(self, documents: list[Json]) -> bool:
        self.cluster.api.load(documents)  # unseen, for what no API server would let pass
        return True

    async def _bulk(self, step: Json) -> bool:
        for short in objects.bulk(step):
            self.cluster.write(short)
            await asyncio.sleep(0)
        return True

    async def _delete_bulk(self, step: Json) -> bool:
        for number in range(step["count"]):
            self.cluster.delete(f"{step['prefix']}{number}")
        return True

    async def _sleep(self, seconds: float) -> bool:
        await asyncio.sleep(seconds)
        return False

    async def _apiserver(self, what: str) -> bool:
        if what == "stop":
            await self.cluster.api.stop()
        elif not self._is_served:
            await self.cluster.api.start()
        self._is_served = what == "start"
        return self._is_served

    async def _shell(self, step: Json) -> bool:
        if step.get("ns", "n1") != "n1":
            raise Skipped(f"shell on {step['ns']}")
        done = await self.proxy.shell(step["cmd"])
        if "id" in step:
            self._note(step, step["id"], {"out": done.stdout.splitlines(), "rc": done.status})
        return False

    async def _proxy(self, step: str | Json) -> bool:
        step = {"do": step} if isinstance(step, str) else step
        do, record = step["do"], {}
        if do in {"term", "stop", "kill"}:
            was = "running" if self.proxy.is_running else "ended"
            ended = await self.proxy.end(signal.SIGKILL if do == "kill" else signal.SIGTERM)
            record = {"ended": ended, "was": was}
        elif do == "cleanup":
            done = await self.proxy.clean_up()
            record = {"rc_zero": done.status == 0}
        elif do == "start" and step.get("which") == "reference":
            await write_reference_rules(self.proxy, self.scenario["name"])
        elif do in {"start", "restart"}:
            await self.proxy.end()
            await self.proxy.start(self.scenario.get("flags", ()), self.scenario.get("drop_flags", ()))
        else:
            raise Skipped(f"proxy step {do}")
        if "id" in step:
            self._note(step, step["id"], record)
        return do in {"start", "restart"} and self.proxy.is_running

    async def _conn(self, step: Json) -> bool:
        do, cid, record = step["do"], step["cid"], dict[str, Any]()
        if do == "open":
            try:
                self._lines[cid] = await self._open(step)
                record = {"outcome": "ok"}
            except (OSError, EOFError):
                record = {"outcome": "failed"}
            self._note(step, step["id"], record)
        elif do == "check":
            line = self._lines.get(cid)
            try:
                record = {"outcome": "alive", "same": line is not None and await line.say() == line.name}
            except (OSError, EOFError) as error:
                record = {"outcome": f"dead: {type(error).__name__}"}
            self._note(step, step["id"], record)
        elif cid in self._lines:
            self._lines.pop(cid).writer.transport.abort()
        return False

    async def _open(self, step: Json) -> Line:
        target = parse_target(step["to"], self.cluster.resolve)
        reader, writer = await asyncio.open_connection(sock=await self.prober.connect(step["from"], target))
        line = Line(reader, writer, "")
        line.name = await line.say()
        return line

    async def _background(self, step: Json) -> bool:
        if step["do"] == "start":
            counts: Counter[str] = Counter()
            self._busy[step["cid"]] = asyncio.create_task(self._ask_on(step, counts)), counts
            return False
        task, counts = self._busy.pop(step["cid"])
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        drops = {outcome: number for outcome, number in counts.items() if outcome != "ok"}
        outcome = f"drops: {drops} of {counts.total()}" if drops else "no-drop"
        self._note(step, step["id"], {"outcome": outcome})
        return False

    async def _ask_on(self, step: Json, counts: Counter[str]) -> None:
        while True:
            counts[(await self.prober.ask(step)).outcome] += 1
            await asyncio.sleep(_BACKGROUND_PAUSE)
