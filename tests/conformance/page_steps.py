"""Steps that read what the proxy says: pages over HTTP, metrics, its log."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from tests.conformance import webs
from tests.conformance.scene import Action, Scene
from tests.conformance.series import Page

Json = dict[str, Any]
_EXPECTED = Path(__file__).parent / "data" / "metrics.yaml"
_METRICS = {"from": "n1", "to": "lo:10249", "path": "/metrics"}


class PageSteps:
    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._marks: dict[str, Page] = {}

    def actions(self) -> dict[str, Action]:
        return {"http": self._http, "metrics": self._metrics, "metric_list": self._metric_list, "log": self._log}

    async def close(self) -> None:
        self._marks.clear()

    async def _http(self, probes: Json | list[Json]) -> bool:
        for probe in [probes] if isinstance(probes, dict) else probes:
            await self._scene.settle(
                probe,
                lambda probe=probe: webs.record(self._scene.hosts, self._scene.cluster.resolve, probe),  # type: ignore[misc]
            )
        return False

    async def _metrics(self, probe: Json) -> bool:
        """``{mark: name}`` remembers; ``{id, want: {series: value}, since: name}`` gives values, or their growth."""
        if "mark" in probe:
            self._marks[probe["mark"]] = await self._page()
            return False
        before = self._marks.get(probe.get("since", ""))

        async def look() -> Json:
            page = await self._page()
            return {series: page.value(series, before) for series in probe["want"]}

        await self._scene.settle(probe, look)
        return False

    async def _metric_list(self, probe: Json) -> bool:
        """Compare all of kube-proxy's metrics by name, type, labels and buckets."""
        listed = yaml.safe_load(_EXPECTED.read_text(encoding="utf-8"))
        expected = {name: each for name, each in listed.items() if each.get("needs") not in self._scene.lacking}

        async def look() -> Json:
            return (await self._page()).compare(expected)

        await self._scene.settle(probe, look)
        return False

    async def _log(self, probe: Json) -> bool:
        """How many lines of the running program's log fit a pattern."""

        async def look() -> Json:
            lines = [line for line in self._scene.proxy.said().splitlines() if re.search(probe["like"], line)]
            return {"lines": len(lines), "last": lines[-1] if lines else ""}

        await self._scene.settle(probe, look)
        return False

    async def _page(self) -> Page:
        return Page(await webs.text(self._scene.hosts, self._scene.cluster.resolve, _METRICS))
