"""The parity table: what kube-proxy does, row by row, and which scenarios show it.

A scenario says ``rows: [38, 39]`` and shows these rows as a whole; a step or a probe that says ``rows`` shows its rows
alone. A row of the table may name scenarios as well (``shown_by``), for scenarios that say nothing about rows. A row
passes when everything that shows it passed; a row that must hold and that nothing shows has failed.

Source: spec: parity.md, its column for iptables mode: Y it holds, D it holds with another result than in other modes,
P in part, N it does not exist here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.conformance.probes import probe_id

Json = dict[str, Any]
MODE = "iptables"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What shows a row: a whole scenario, or some of its probes."""

    scenario: str
    probes: frozenset[str] | None = None  # None: all of it


def evidence(scenarios: Iterable[Json]) -> dict[int, list[Evidence]]:
    """What the scenarios say about themselves, by row, in their order."""
    found: dict[int, list[Evidence]] = {}
    for scenario in scenarios:
        for row in _rows(scenario):
            found.setdefault(row, []).append(Evidence(scenario["name"]))
        alone: dict[int, set[str]] = {}
        for row, probe in _marked(scenario.get("steps", ())):
            alone.setdefault(row, set()).add(probe)
        for row, probes in alone.items():
            found.setdefault(row, []).append(Evidence(scenario["name"], frozenset(probes)))
    return found


def _marked(steps: Sequence[Json]) -> Iterator[tuple[int, str]]:
    """Pairs of a row and the id of a probe that shows it."""
    for step in steps:
        if not _is_ours(step):
            continue
        for kind, value in step.items():
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, dict) and _is_ours(each) and (kind == "probes" or "id" in each):
                    for row in (*_rows(step), *_rows(each)):
                        yield row, probe_id(each)


def _is_ours(step: Mapping[str, Any]) -> bool:
    return MODE in step.get("modes", [MODE])


def _rows(marked: Mapping[str, Any]) -> list[int]:
    rows = marked.get("rows", [])
    return [rows] if isinstance(rows, int) else list(rows)
