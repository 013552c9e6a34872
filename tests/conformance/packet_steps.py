"""Steps that send packets: probes, connections that stay open, clients that never pause."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tests.conformance import stray
from tests.conformance.modes import expectation
from tests.conformance.probes import parse_target, probe_id
from tests.conformance.relayed import SHOWS_CLIENTS, carries, expecting_the_node
from tests.conformance.scene import Action, Scene

Json = dict[str, Any]
_TALK_DEADLINE = 3.0  # seconds for an established connection to answer
_ANSWER_DEADLINE = 5.0  # seconds for a probe that is answered unless something is wrong
_BACKGROUND_PAUSE = 0.03


@dataclass
class Line:
    """A connection that stays open."""

    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    name: str = ""  # of the backend that answered first
    local: str = ""  # where the backend was reached
    peer: str = ""  # whom the backend sees
    client: str = ""  # the host that opened it
    talk: asyncio.Task[None] | None = None
    said: int = field(default=0)

    async def say(self) -> str:
        """The name of the backend that answers one more line."""
        self.writer.write(b"still there?\n")
        async with asyncio.timeout(_TALK_DEADLINE):
            facts = json.loads(await self.reader.readuntil(b"\n"))
        self.local, self.peer = facts["local"], facts["peer"]
        self.said += 1
        return str(facts["name"])

    async def talk_on(self) -> None:
        while True:
            await self.say()
            await asyncio.sleep(_BACKGROUND_PAUSE)

    async def hush(self) -> None:
        """End the talk; raises what ended it before."""
        if self.talk is not None:
            self.talk.cancel()
            (ending,) = await asyncio.gather(self.talk, return_exceptions=True)
            self.talk = None
            if isinstance(ending, Exception):
                raise ending


class PacketSteps:
    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._lines: dict[str, Line] = {}
        self._busy: dict[str, tuple[asyncio.Task[None], Counter[str]]] = {}

    def actions(self) -> dict[str, Action]:
        return {"probes": self._probes, "conn": self._conn, "bg": self._background}

    async def close(self) -> None:
        tasks = [task for task, _ in self._busy.values()]
        tasks += [line.talk for line in self._lines.values() if line.talk is not None]
        for task in tasks:
            task.cancel()
        for line in self._lines.values():
            line.writer.transport.abort()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _probes(self, probes: list[Json]) -> bool:
        for probe in probes:
            wanted = self._as_carried(probe)
            asked = self._with_patience(wanted)
            await self._scene.settle(wanted, lambda asked=asked: self._scene.prober.record(asked))  # type: ignore[misc]
        return False

    def _as_carried(self, probe: Json) -> Json:
        """The probe, which finds and wants the node as the backends' peer where our relay asks them."""
        scene, protocol = self._scene, probe.get("proto", "tcp")
        target = parse_target(probe["to"], scene.cluster.resolve)
        shows_clients = SHOWS_CLIENTS in scene.scenario.get("flags", ())
        if (
            shows_clients
            or not scene.proxy.is_running
            or not carries(scene.cluster, scene.proxy.mode, target, protocol)
        ):
            return probe
        name = probe_id(probe)
        if scene.recorded is not None and name in scene.recorded:
            scene.recorded[name] = expecting_the_node(scene.recorded[name])
        return {**probe, "carried": True, "want": expecting_the_node(probe.get("want", {}))}

    def _with_patience(self, probe: Json) -> Json:
        """The probe, with time for a busy machine where an answer is expected: silence is what is waited for else."""
        recorded = (self._scene.recorded or {}).get(probe_id(probe), {}).get("outcome")
        expect = expectation(probe.get("expect", ""), self._scene.proxy.mode)
        is_awaited = recorded == "ok" if self._scene.recorded is not None else str(expect).startswith("ok")
        if is_awaited and not {"timeout", "until"} & probe.keys():
            return {**probe, "timeout": _ANSWER_DEADLINE}
        return probe

    async def _conn(self, step: Json) -> bool:
        """``do``: open, check, close; talk without a pause until the check; stray (see `stray`)."""
        do, cid = step["do"], step["cid"]
        if do == "open":
            try:
                self._lines[cid] = await self._open(step)
                record: Json = {"outcome": "ok"}
            except (OSError, EOFError):
                record = {"outcome": "failed"}
            self._scene.note(step, step["id"], record)
        elif do == "talk":
            self._lines[cid].talk = asyncio.create_task(self._lines[cid].talk_on())
        elif do == "check":
            self._scene.note(step, step["id"], await self._check(cid))
        elif do == "stray":
            line = self._lines[cid]
            own_port = line.writer.get_extra_info("sockname")[1]
            with stray.Watch(self._scene.hosts[line.name], self._scene.hosts[line.client], own_port) as watch:
                await line.say()
                seen = await watch.disturb(line.local, line.peer)
            self._scene.note(step, step["id"], {"outcome": seen})
        elif cid in self._lines:
            self._lines.pop(cid).writer.transport.abort()
        return False

    async def _check(self, cid: str) -> Json:
        line = self._lines.get(cid)
        try:
            if line is not None:
                await line.hush()
            return {"outcome": "alive", "same": line is not None and await line.say() == line.name}
        except (OSError, EOFError) as error:
            return {"outcome": f"dead: {type(error).__name__}"}

    async def _open(self, step: Json) -> Line:
        target = parse_target(step["to"], self._scene.cluster.resolve)
        reader, writer = await asyncio.open_connection(sock=await self._scene.prober.connect(step["from"], target))
        line = Line(reader, writer, client=step["from"])
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
        self._scene.note(step, step["id"], {"outcome": outcome})
        return False

    async def _ask_on(self, step: Json, counts: Counter[str]) -> None:
        while True:
            counts[(await self._scene.prober.ask(step)).outcome] += 1
            await asyncio.sleep(_BACKGROUND_PAUSE)
