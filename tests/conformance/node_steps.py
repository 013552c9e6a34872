"""Steps on the node: the program starts and ends, a shell, programs that fail, ports that are taken."""

from __future__ import annotations

import asyncio
import signal
import socket
from typing import Any

import yaml

from tests.conformance.launch import Launch
from tests.conformance.proxy import write_reference_rules
from tests.conformance.scene import Action, Scene, Skipped

Json = dict[str, Any]
_RUN_DEADLINE = 20.0  # seconds for a run that should end by itself


class NodeSteps:
    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._proxy = scene.proxy
        self._launch = Launch.of(scene.scenario)
        self._taken: list[socket.socket] = []

    def actions(self) -> dict[str, Action]:
        return {
            "proxy": self._step,
            "run": self._run,
            "program": self._program,
            "occupy": self._occupy,
            "sh": self._shell,
            "file": self._file,
            "sleep": self._sleep,
        }

    async def close(self) -> None:
        self._proxy.restore_programs()
        await self._occupy("nothing")

    async def _step(self, step: str | Json) -> bool:
        """``do``: start, restart; stop, term, kill; wait for it to end by itself; cleanup; run to the end."""
        step = {"do": step} if isinstance(step, str) else step
        do, record = step["do"], dict[str, Any]()
        if do == "run":
            await self._run({"want": {}, **step})
            return False
        if do in {"term", "stop", "kill"}:
            was = "running" if self._proxy.is_running else "ended"
            ended = await self._proxy.end(signal.SIGKILL if do == "kill" else signal.SIGTERM)
            record = {"ended": ended, "was": was}
            if "want" in step:
                record["rc"] = self._proxy.status
        elif do == "wait":
            record = {"ended": await self._proxy.wait(step.get("deadline", _RUN_DEADLINE)), "rc": self._proxy.status}
        elif do == "cleanup":
            done = await self._proxy.clean_up()
            record = {"rc_zero": done.status == 0}
        elif do == "start" and step.get("which") == "reference":
            await write_reference_rules(self._proxy, self._scene.scenario["name"])
        elif do in {"start", "restart"}:
            await self._proxy.end()
            await self._proxy.start(self._launch.with_more(step))
        else:
            raise Skipped(f"proxy step {do}")
        if "id" in step:
            self._scene.note(step, step["id"], record)
        return do in {"start", "restart"} and self._proxy.is_running

    async def _run(self, step: Json) -> bool:
        """The program, beside the one that runs, until it ends: status and what it wrote."""
        launch = Launch.of(step) if step.get("alone") else self._launch.with_more(step)
        arguments = step.get("args")
        done = await self._proxy.run(launch, arguments, step.get("deadline", _RUN_DEADLINE))
        if "id" in step:
            record = {"rc_zero": done.status == 0, "rc": done.status, "out": done.stdout, "err": done.stderr}
            self._scene.note(step, step["id"], record if step.get("want") else {"rc_zero": done.status == 0})
        return False

    async def _program(self, step: Json) -> bool:
        """``{name, sh}``: put a script in a program's place; without ``sh``: the real one again."""
        for name in [step["name"]] if isinstance(step["name"], str) else step["name"]:
            self._proxy.replace_program(name, step.get("sh"))
        return False

    async def _occupy(self, step: str | Json) -> bool:
        """``{port, on, proto}``: take a port of n1; ``nothing``: give all back."""
        if isinstance(step, str):
            for each in self._taken:
                each.close()
            self._taken.clear()
            return False
        on = step.get("on", "0.0.0.0")
        kind = socket.SOCK_DGRAM if step.get("proto") == "udp" else socket.SOCK_STREAM
        with self._proxy.host.inside():
            taken = socket.socket(socket.AF_INET6 if ":" in on else socket.AF_INET, kind)
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        taken.bind((on, step["port"]))
        if kind == socket.SOCK_STREAM:
            taken.listen()
        self._taken.append(taken)
        return False

    async def _shell(self, step: Json) -> bool:
        host = self._scene.hosts.get(step.get("ns", "n1"))
        if host is None:
            raise Skipped(f"shell on {step['ns']}")

        async def look() -> Json:
            done = await self._proxy.shell(step["cmd"], host)
            return {"out": done.stdout.splitlines(), "rc": done.status}

        if "id" in step:
            await self._scene.settle(step, look)
        else:
            await look()
        return False

    async def _file(self, probe: Json) -> bool:
        """The parts of a YAML file of the scenario's directory."""
        path = self._proxy.scratch / probe["name"]

        async def look() -> Json:
            return dict(yaml.safe_load(path.read_text(encoding="utf-8")) or {}) if path.exists() else {}

        await self._scene.settle(probe, look)
        return False

    async def _sleep(self, seconds: float) -> bool:
        await asyncio.sleep(seconds)
        return False
