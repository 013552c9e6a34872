"""Goes through the scenarios: a shared proxy for most, a bare node and a proxy of their own for the others."""

from __future__ import annotations

import contextlib
import json
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.conformance.cluster import Cluster, NotConverged
from tests.conformance.compare import Difference, differences
from tests.conformance.probes import Prober
from tests.conformance.proxy import Proxy
from tests.conformance.steps import Scene, Skipped
from tests.conformance.world import World

Json = dict[str, Any]
DATA = Path(__file__).parent / "data"
_NOT_YET = ("config", "kubeconfig", "bare_flags")


@dataclass(slots=True)
class Verdict:
    """What came of one scenario: no differences and no reason is equal to the record."""

    name: str
    differences: list[Difference] = field(default_factory=list)
    skipped: str = ""
    failed: str = ""
    seconds: float = 0.0

    @property
    def word(self) -> str:
        if self.skipped or self.failed:
            return "skipped" if self.skipped else "FAILED"
        return "DIFFERS" if self.differences else "same"

    def document(self) -> Json:
        return {
            "name": self.name,
            "verdict": self.word,
            "why": self.skipped or self.failed,
            "differences": [each.document() for each in self.differences],
            "seconds": round(self.seconds, 1),
        }


def read_scenarios() -> list[Json]:
    """All scenario documents, in the order of their files."""
    found = []
    for path in sorted((DATA / "scenarios").glob("*.yaml")):
        with path.open(encoding="utf-8") as stream:
            found += [document for document in yaml.safe_load_all(stream) if document]
    return found


def read_record(name: str) -> Json | None:
    """What kube-proxy did, by probe; None when the scenario was not recorded."""
    path = DATA / "records" / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8"))["probes"] if path.exists() else None


def needs_own_proxy(scenario: Json) -> bool:
    """Whether a scenario must not share the proxy of the others."""
    return "start" in scenario or any(scenario.get(key) for key in ("fresh", "flags", "drop_flags", "n2_proxy"))


class Runner:
    """Runs scenarios on one iptables variant; ``report`` is called after each.

    ``dumps`` is a directory for what iptables-save says at the end of each scenario. ``crowd`` is how many Services
    there are besides the scenario's.
    """

    def __init__(
        self,
        directory: Path,
        variant: str,
        report: Callable[[Verdict], None],
        *,
        dumps: Path | None = None,
        crowd: int = 0,
    ) -> None:
        self._directory, self._variant, self._report, self._dumps = directory, variant, report, dumps
        self._crowd = crowd
        self._shared = False  # whether the proxy that runs is the shared one

    async def run(self, scenarios: Iterable[Json]) -> list[Verdict]:
        """Make the world and perform the scenarios in it, those that share a proxy first."""
        verdicts = []
        async with World() as world:
            with world.hosts["cp"].inside():
                async with Cluster() as cluster:
                    cluster.gather(self._crowd)
                    kubeconfig = cluster.api.kubeconfig(self._directory / "kubeconfig")
                    proxy = Proxy(world.hosts["n1"], self._directory, self._variant, kubeconfig)
                    prober = Prober(world.hosts, cluster.resolve)
                    for scenario in sorted(scenarios, key=needs_own_proxy):
                        verdict = await self._judge(scenario, world, cluster, prober, proxy)
                        self._report(verdict)
                        verdicts.append(verdict)
                    await proxy.end()
                    prober.close()
        return verdicts

    async def _judge(self, scenario: Json, world: World, cluster: Cluster, prober: Prober, proxy: Proxy) -> Verdict:
        verdict, began = Verdict(scenario["name"]), time.monotonic()
        recorded = read_record(scenario["name"])
        later = [key for key in _NOT_YET if key in scenario]
        if "iptables" not in scenario.get("modes", ["iptables"]) or later:
            verdict.skipped = f"needs {', '.join(later)}, which comes later" if later else "not of this mode"
            return verdict
        scene = Scene(scenario, recorded, world.hosts, cluster, prober, proxy)
        try:
            async with self._second_proxy(scenario, world, cluster):
                await self._prepare(scenario, scene)
                await scene.perform()
        except Skipped as reason:
            verdict.skipped = str(reason)
        except NotConverged as error:
            verdict.failed = f"{error}\n{proxy.tail()}"
        except Exception:  # noqa: BLE001 - one broken scenario must not end the run
            verdict.failed = f"{traceback.format_exc()}\n{proxy.tail()}"
        if not verdict.skipped and not verdict.failed:
            verdict.differences = scene.unexpected
            if recorded is not None:
                verdict.differences = list(differences(recorded, scene.results, scene.accepted))
        await self._dump(verdict.name, proxy)
        self._shared = self._shared and not verdict.failed
        cluster.clear()
        verdict.seconds = time.monotonic() - began
        return verdict

    @contextlib.asynccontextmanager
    async def _second_proxy(self, scenario: Json, world: World, cluster: Cluster) -> AsyncIterator[None]:
        """A proxy on n2, too, for scenarios that want one."""
        if not scenario.get("n2_proxy"):
            yield
            return
        second = Proxy(world.hosts["n2"], self._directory, self._variant, self._directory / "kubeconfig")
        cluster.served_nodes = ("n1", "n2")
        try:
            await second.start(scenario.get("flags", ()), scenario.get("drop_flags", ()))
            yield
        finally:
            cluster.served_nodes = ("n1",)
            await second.end()
            await second.wipe()

    async def _dump(self, name: str, proxy: Proxy) -> None:
        if self._dumps:
            for program in ("iptables", "ip6tables"):
                saved = (await proxy.shell(f"{program}-save")).stdout
                (self._dumps / f"{name}.{program}.txt").write_text(saved, encoding="utf-8")

    async def _prepare(self, scenario: Json, scene: Scene) -> None:
        proxy, cluster = scene.proxy, scene.cluster
        own = needs_own_proxy(scenario)
        if own or not self._shared or not proxy.is_running:
            await proxy.end()
            await proxy.wipe()
            for command in scenario.get("before", []):
                (await proxy.shell(command)).check()
            if scenario.get("start", True):
                await proxy.start(scenario.get("flags", ()), scenario.get("drop_flags", ()))
                await cluster.converge(scene.prober)
            self._shared = not own
        for short in scenario.get("services", []):
            cluster.write(short)
        if scenario.get("services") and proxy.is_running:
            await cluster.converge(scene.prober)


def chosen(scenarios: Sequence[Json], names: Sequence[str]) -> list[Json]:
    """The scenarios of these names, all without names; raises KeyError for a name that none has."""
    by_name = {scenario["name"]: scenario for scenario in scenarios}
    return [by_name[name] for name in names] if names else list(scenarios)
