"""The parity table: what kube-proxy does, row by row, which scenarios show it, and what came of them.

A scenario says ``rows: [38, 39]`` and shows these rows as a whole; a step or a probe that says ``rows`` shows its rows
alone. A row of the table may name scenarios as well (``shown_by``), for scenarios that say nothing about rows. A row
passes when everything that shows it passed; a row that must hold and that nothing shows has failed.

Source: spec: parity.md, its columns for iptables and userspace mode: Y it holds, D it holds with another result than
in other modes, P in part, N it does not exist here. The mark is ours where it goes further: the rules of iptables mode
lead to userspace mode's relay, so what they alone decide holds there, too. A row that says nothing of userspace mode is
marked as for iptables mode.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import yaml

from tests.conformance.compare import Difference
from tests.conformance.modes import IPTABLES, USERSPACE, passed_over
from tests.conformance.probes import probe_id

Json = dict[str, Any]
_TABLE = Path(__file__).parent / "data" / "parity.yaml"


@dataclass(frozen=True, slots=True)
class Evidence:
    """What shows a row: a whole scenario, or some of its probes."""

    scenario: str
    probes: frozenset[str] | None = None  # None: all of it


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the table."""

    id: int
    feature: str
    check: str
    iptables: str
    why: str = ""  # it does not exist in this mode
    differs: str = ""  # on purpose
    userspace: str = ""  # the same as in iptables mode
    userspace_why: str = ""  # what does not hold of it in userspace mode
    needs: tuple[str, ...] = ()
    shown_by: tuple[Evidence, ...] = ()

    def mark(self, mode: str) -> tuple[str, str]:
        """Y, D, P or N, and the reason for P and N."""
        if mode == USERSPACE and self.userspace:
            return self.userspace, self.userspace_why
        return self.iptables, self.why


@dataclass(slots=True)
class Verdict:
    """What came of one scenario: no differences and no reason is equal to the record."""

    name: str
    differences: list[Difference] = field(default_factory=list)
    skipped: str = ""
    failed: str = ""
    seconds: float = 0.0
    asked: dict[str, float] = field(default_factory=dict)  # seconds by probe

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
            "probes": {probe: round(seconds, 3) for probe, seconds in self.asked.items()},
        }

    @classmethod
    def of(cls, document: Json) -> Self:
        """What a document says; the opposite of ``document``."""
        verdict = cls(document["name"], seconds=document["seconds"], asked=document["probes"])
        verdict.differences = [
            Difference(each["probe"], each["recorded"], each["got"]) for each in document["differences"]
        ]
        if document["verdict"] == "skipped":
            verdict.skipped = document["why"]
        else:
            verdict.failed = document["why"]
        return verdict


@dataclass(frozen=True, slots=True)
class Finding:
    """What came of one row: pass, fail or skip; ``why`` where it is not simply a pass."""

    row: Row
    word: str
    seconds: float
    why: str
    evidence: tuple[Evidence, ...]

    def document(self) -> Json:
        shown = [each.scenario + (f"#{','.join(sorted(each.probes))}" if each.probes else "") for each in self.evidence]
        document = {"id": self.row.id, "feature": self.row.feature, "check": self.row.check, "result": self.word}
        return {**document, "why": self.why, "seconds": round(self.seconds, 1), "shown_by": shown}


def read_rows() -> list[Row]:
    """The table, in its order."""
    rows = []
    for written in yaml.safe_load(_TABLE.read_text(encoding="utf-8")):
        shown_by = []
        for each in written.pop("shown_by", ()):
            name, _, probes = each.partition("#")
            shown_by.append(Evidence(name, frozenset(probes.split(",")) if probes else None))
        needs = tuple(written.pop("needs", ()))
        rows.append(Row(**written, needs=needs, shown_by=tuple(shown_by)))
    return rows


def evidence(rows: Iterable[Row], scenarios: Iterable[Json], mode: str = IPTABLES) -> dict[int, tuple[Evidence, ...]]:
    """What shows each row: what the table says, and what the scenarios say about themselves, in their order.

    What is not asked in this mode shows nothing.
    """
    found: dict[int, list[Evidence]] = {row.id: list(row.shown_by) for row in rows}
    unasked: dict[str, frozenset[str] | None] = {}
    for scenario in scenarios:
        unasked[scenario["name"]] = None if passed_over(scenario, mode) else left_out(scenario, mode)
        for row in _rows(scenario):
            found.setdefault(row, []).append(Evidence(scenario["name"]))
        alone: dict[int, set[str]] = {}
        for row, probe in _marked(scenario.get("steps", ())):
            alone.setdefault(row, set()).add(probe)
        for row, probes in alone.items():
            found.setdefault(row, []).append(Evidence(scenario["name"], frozenset(probes)))
    return {row: tuple(_asked(_merged(shown), unasked)) for row, shown in found.items()}


def left_out(scenario: Json, mode: str) -> frozenset[str]:
    """The probes that are not asked in this mode."""
    probes = _probes(scenario.get("steps", ()))
    return frozenset(probe_id(each) for step, each in probes if passed_over(step, mode) or passed_over(each, mode))


def _asked(shown: Iterable[Evidence], unasked: Mapping[str, frozenset[str] | None]) -> Iterator[Evidence]:
    for each in shown:
        without = unasked.get(each.scenario, frozenset())
        if without is None or (each.probes is not None and each.probes <= without):
            continue
        yield each if each.probes is None else Evidence(each.scenario, each.probes - without)


def _merged(shown: Iterable[Evidence]) -> Iterator[Evidence]:
    """One for each scenario, in their order."""
    probes: dict[str, frozenset[str] | None] = {}
    for each in shown:
        before = probes.get(each.scenario, each.probes)
        probes[each.scenario] = None if before is None or each.probes is None else before | each.probes
    return (Evidence(*each) for each in probes.items())


def judge(
    row: Row,
    shown: Sequence[Evidence],
    verdicts: Mapping[str, Verdict],
    lacking: Mapping[str, str],
    mode: str = IPTABLES,
) -> Finding | None:
    """What came of a row; None when nothing that shows it was run.

    ``lacking`` says of what this machine does not have why it does not.
    """
    run = tuple(each for each in shown if each.scenario in verdicts)
    seconds = sum(_seconds(each, verdicts[each.scenario]) for each in run)
    missing = [lacking[need] for need in row.needs if need in lacking]
    wrong = [why for each in run if (why := _wrong(each, verdicts[each.scenario]))]
    skipped = [f"{each.scenario}: {verdicts[each.scenario].skipped}" for each in run if verdicts[each.scenario].skipped]
    mark, reason = row.mark(mode)
    if mark == "N":
        word, why = "skip", f"not in {mode} mode: {reason}"
    elif missing:
        word, why = "skip", "; ".join(missing)
    elif not shown:
        word, why = "fail", "nothing shows it"
    elif not run:
        return None
    elif wrong:
        word, why = "fail", "; ".join(wrong)
    elif skipped:
        word, why = "skip", "; ".join(skipped)
    else:
        told = [row.differs and f"differs on purpose: {row.differs}", reason and f"in part: {reason}"]
        word, why = "pass", "; ".join(filter(None, told))
    return Finding(row, word, seconds, why, run)


def _seconds(shown: Evidence, verdict: Verdict) -> float:
    if shown.probes is None:
        return verdict.seconds
    return sum(verdict.asked.get(probe, 0.0) for probe in shown.probes)


def _wrong(shown: Evidence, verdict: Verdict) -> str:
    """What of it went wrong; empty when nothing did."""
    if verdict.skipped:
        return ""
    if verdict.failed:
        return f"{verdict.name} failed"
    differing = [each.probe for each in verdict.differences]
    if shown.probes is not None:
        unasked = shown.probes - verdict.asked.keys()
        if unasked:
            return f"{verdict.name} did not ask {', '.join(sorted(unasked))}"
        differing = [probe for probe in differing if probe in shown.probes]
    return f"{verdict.name} differs in {', '.join(differing)}" if differing else ""


def _marked(steps: Sequence[Json]) -> Iterator[tuple[int, str]]:
    """Pairs of a row and the id of a probe that shows it."""
    for step, each in _probes(steps):
        for row in (*_rows(step), *_rows(each)):
            yield row, probe_id(each)


def _probes(steps: Sequence[Json]) -> Iterator[tuple[Json, Json]]:
    """All that is asked, with the step in which it stands."""
    for step in steps:
        for kind, value in step.items():
            for each in value if isinstance(value, list) else [value]:
                if isinstance(each, dict) and (kind in {"probes", "http"} or "id" in each):
                    yield step, each


def _rows(marked: Mapping[str, Any]) -> list[int]:
    rows = marked.get("rows", [])
    return [rows] if isinstance(rows, int) else list(rows)
