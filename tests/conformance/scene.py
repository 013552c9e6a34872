"""One scenario being performed: what it is about, what it may touch, and what its probes have found so far."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kproxy.sandbox.host import Host
from tests.conformance import compare
from tests.conformance.cluster import Cluster
from tests.conformance.probes import Prober, probe_id
from tests.conformance.proxy import Proxy

Json = dict[str, Any]
Action = Callable[[Any], Awaitable[bool]]  # performs a step; whether the proxy has something to act on now
_PAUSE = 0.1  # seconds between two looks of a probe with ``until``


class Skipped(Exception):
    """This scenario cannot be performed here; the text says why."""


@dataclass
class Scene:
    """``results`` and ``seconds`` by probe."""

    scenario: Json
    recorded: Json | None  # the record's probes; None where expectations decide
    hosts: dict[str, Host]
    cluster: Cluster
    prober: Prober
    proxy: Proxy
    lacking: Mapping[str, str] = field(default_factory=dict)  # what this machine does not have, and why
    results: dict[str, Json] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    accepted: dict[str, Any] = field(default_factory=dict)
    changed: set[str] = field(default_factory=set)  # probes of which this mode says what they find
    judged: set[str] = field(default_factory=set)  # probes of which no record decided
    unexpected: list[compare.Difference] = field(default_factory=list)  # among those
    _began: float = field(default_factory=time.monotonic)

    def begin(self) -> None:
        """What comes now belongs to the next result."""
        self._began = time.monotonic()

    async def settle(self, probe: Json, ask: Callable[[], Awaitable[Json]]) -> None:
        """Record an answer; with ``until``, the first that is as it should be, or the last within so many seconds."""
        probe = self._of_mode(probe)
        name = probe_id(probe)
        if "accept" in probe:
            self.accepted[name] = probe["accept"]
        got = await ask()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(probe.get("until", 0)):
                while not self._is_right(probe, name, got):
                    await asyncio.sleep(_PAUSE)
                    got = await ask()
        self.note(probe, name, got)

    def note(self, probe: Json, name: str, got: Json) -> None:
        """Keep a result, and judge it at once where it is not for the record to decide."""
        probe = self._of_mode(probe)
        self.results[name] = got
        now = time.monotonic()
        self.seconds[name], self._began = now - self._began, now
        if self._is_recorded(name):
            return
        self.judged.add(name)
        if not compare.is_expected(probe, got, self.proxy.mode):
            wanted: Json = {key: probe[key] for key in ("expect", "want") if key in probe}
            self.unexpected.append(compare.Difference(name, wanted, got))

    def _is_right(self, probe: Json, name: str, got: Json) -> bool:
        if not self._is_recorded(name):
            return compare.is_expected(probe, got, self.proxy.mode)
        return compare.is_same((self.recorded or {}).get(name, {}), got)

    def _of_mode(self, probe: Json) -> Json:
        """The probe with what it says of this mode alone, which then decides in place of the record."""
        if self.proxy.mode not in probe:
            return probe
        self.changed.add(probe_id(probe))
        return {**probe, **probe[self.proxy.mode]}

    def _is_recorded(self, name: str) -> bool:
        return self.recorded is not None and name not in self.changed
