"""Goes through the scenarios: a shared proxy for most, a bare node and a proxy of their own for the others."""

from __future__ import annotations

import contextlib
import json
import time
import traceback
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from tests.conformance import capabilities, launch
from tests.conformance.cluster import Cluster, NotConverged
from tests.conformance.compare import differences
from tests.conformance.launch import Launch, UnknownWord
from tests.conformance.modes import IPTABLES, passed_over
from tests.conformance.parity import Verdict, left_out
from tests.conformance.probes import Prober
from tests.conformance.proxy import Proxy
from tests.conformance.scene import Scene, Skipped
from tests.conformance.steps import perform
from tests.conformance.world import World

Json = dict[str, Any]
DATA = Path(__file__).parent / "data"


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
    alone = any(scenario.get(key) for key in ("fresh", "n2_proxy", "before", "after"))
    return "start" in scenario or alone or not launch.shared(scenario)


class Runner:
    """Runs scenarios in one mode on one iptables variant; ``report`` is called after each.

    ``dumps`` is a directory for what iptables-save says at the end of each scenario. ``crowd`` is how many Services
    there are besides the scenario's. After a run, ``lacking`` tells what this machine does not have, and ``machine``
    what it is.
    """

    def __init__(
        self,
        directory: Path,
        variant: str,
        report: Callable[[Verdict], None],
        *,
        mode: str = IPTABLES,
        dumps: Path | None = None,
        crowd: int = 0,
    ) -> None:
        self._directory, self._variant, self._report, self._dumps = directory, variant, report, dumps
        self._mode, self._crowd = mode, crowd
        self._shared = False  # whether the proxy that runs is the shared one
        self.lacking: dict[str, str] = {}
        self.machine: dict[str, str] = {}

    async def run(self, scenarios: Iterable[Json]) -> list[Verdict]:
        """Make the world and perform the scenarios in it, those that share a proxy first."""
        verdicts = []
        async with World() as world:
            with world.hosts["cp"].inside():
                async with Cluster() as cluster:
                    cluster.gather(self._crowd)
                    kubeconfig = cluster.api.kubeconfig(self._directory / "kubeconfig")
                    proxy = Proxy(world.hosts["n1"], self._directory, self._variant, kubeconfig, self._mode)
                    self.lacking = await capabilities.lacking(proxy.host, proxy.environment)
                    self.machine = await capabilities.describe(proxy.host, proxy.environment)
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
        if recorded is not None:
            unasked = left_out(scenario, self._mode)
            recorded = {probe: result for probe, result in recorded.items() if probe not in unasked}
        verdict.skipped = self._why_not(scenario)
        if verdict.skipped:
            return verdict
        scene = Scene(scenario, recorded, world.hosts, cluster, prober, proxy, self.lacking)
        try:
            async with self._second_proxy(scenario, world, cluster):
                await self._prepare(scenario, scene)
                await perform(scene)
        except (Skipped, UnknownWord) as reason:
            verdict.skipped = str(reason)
        except NotConverged as error:
            verdict.failed = f"{error}\n{proxy.tail()}"
        except Exception:  # noqa: BLE001 - one broken scenario must not end the run
            verdict.failed = f"{traceback.format_exc()}\n{proxy.tail()}"
        if not verdict.skipped and not verdict.failed:
            verdict.differences = scene.unexpected
            if recorded is not None:
                compared = [
                    {probe: result for probe, result in each.items() if probe not in scene.judged}
                    for each in (recorded, scene.results)
                ]
                verdict.differences += differences(compared[0], compared[1], scene.accepted)
        verdict.asked = scene.seconds
        await self._dump(verdict.name, proxy)
        await self._put_back(scenario, proxy)
        self._shared = self._shared and not verdict.failed
        cluster.clear()
        verdict.seconds = time.monotonic() - began
        return verdict

    def _why_not(self, scenario: Json) -> str:
        if reason := passed_over(scenario, self._mode):
            return reason
        return "; ".join(self.lacking[need] for need in scenario.get("needs", ()) if need in self.lacking)

    @contextlib.asynccontextmanager
    async def _second_proxy(self, scenario: Json, world: World, cluster: Cluster) -> AsyncIterator[None]:
        """A proxy on n2, too, for scenarios that want one."""
        if not scenario.get("n2_proxy"):
            yield
            return
        kubeconfig = self._directory / "kubeconfig"
        second = Proxy(world.hosts["n2"], self._directory, self._variant, kubeconfig, self._mode)
        cluster.served_nodes = ("n1", "n2")
        try:
            await second.start(Launch.of(scenario))
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
            proxy.clear_scratch()
            for command in _lines(scenario, "before"):
                (await proxy.shell(command)).check()
            if scenario.get("start", True):
                await proxy.start(Launch.of(scenario))
                await cluster.converge(scene.prober)
            self._shared = not own
        for short in scenario.get("services", []):
            cluster.write(short)
        if scenario.get("services") and proxy.is_running:
            await cluster.converge(scene.prober)

    async def _put_back(self, scenario: Json, proxy: Proxy) -> None:
        for command in _lines(scenario, "after"):
            await proxy.shell(command)


def _lines(scenario: Json, key: str) -> list[str]:
    """What a scenario does in a shell on the node before or after: one line or several."""
    lines = scenario.get(key) or []
    return [lines] if isinstance(lines, str) else list(lines)


def chosen(scenarios: Sequence[Json], names: Sequence[str]) -> list[Json]:
    """The scenarios of these names, all without names; raises KeyError for a name that none has."""
    by_name = {scenario["name"]: scenario for scenario in scenarios}
    return [by_name[name] for name in names] if names else list(scenarios)
