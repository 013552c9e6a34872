"""What a run says: a line for each row of the parity table, then the scenarios that went wrong, in detail.

The same as Markdown, for people, and as JSON, for programs. The order is that of the table and of the scenario files.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.conformance.modes import IPTABLES, USERSPACE
from tests.conformance.parity import Finding, Verdict

Json = dict[str, Any]
_TITLES = {
    IPTABLES: "Conformance with kube-proxy 1.36.2, iptables mode",
    USERSPACE: "Userspace mode, compared with kube-proxy 1.36.2 in iptables mode",
}
_LIMIT = 2000  # characters of one result; a whole log helps nobody


@dataclass(frozen=True, slots=True)
class Report:
    """``rowless`` names the scenarios that show no row."""

    variant: str
    machine: Mapping[str, str]
    findings: Sequence[Finding]
    verdicts: Sequence[Verdict]
    rowless: frozenset[str]
    mode: str = IPTABLES

    @property
    def name(self) -> str:
        return run_name(self.mode, self.variant)

    @property
    def is_green(self) -> bool:
        failed = any(finding.word == "fail" for finding in self.findings)
        return not failed and all(verdict.word in {"same", "skipped"} for verdict in self.verdicts)

    def count(self) -> str:
        """One line: how many rows and scenarios of which kind."""
        rows = _counts((finding.word for finding in self.findings), ("pass", "fail", "skip"))
        words = _counts((verdict.word for verdict in self.verdicts), ("same", "DIFFERS", "FAILED", "skipped"))
        return f"{self.name}: {len(self.findings)} rows: {rows}\n{self.name}: {words}"

    def text(self) -> Iterator[str]:
        """Lines for a terminal."""
        for each in self.findings:
            why = f"  {_flat(each.why)}" if each.why else ""
            yield f"{each.row.id:4} {each.word:4} {each.seconds:6.1f} s  {each.row.feature}{why}"
        wrong = [verdict for verdict in self.verdicts if verdict.word in {"DIFFERS", "FAILED"}]
        for verdict in wrong:
            yield ""
            yield from describe(verdict)
        alone = [verdict for verdict in self.verdicts if verdict.name in self.rowless]
        if alone:
            yield ""
            yield "of no row:"
            yield from (f"{each.word:8} {each.seconds:6.1f} s  {each.name}  {each.skipped}".rstrip() for each in alone)
        yield ""
        yield from self.count().splitlines()

    def markdown(self) -> str:
        """A table of the rows, then of the scenarios."""
        lines = [f"# {_TITLES[self.mode]}", ""]
        lines += [f"{self.count().splitlines()[0].partition(': ')[2]}. {', '.join(self.machine.values())}.", ""]
        lines += ["| id | feature | check | result | seconds | |", "|---:|---|---|---|---:|---|"]
        for each in self.findings:
            cells = (each.row.id, each.row.feature, each.row.check, each.word, f"{each.seconds:.1f}", each.why)
            lines.append(_cells(cells))
        lines += ["", "## Scenarios", "", "`same`: every probe fared as recorded, or as the scenario expects.", ""]
        lines += ["| scenario | result | seconds | |", "|---|---|---:|---|"]
        for verdict in self.verdicts:
            why = verdict.skipped or verdict.failed or ", ".join(each.probe for each in verdict.differences)
            lines.append(_cells((verdict.name, verdict.word, f"{verdict.seconds:.1f}", why)))
        return "\n".join(lines) + "\n"

    def document(self) -> Json:
        return {
            "mode": self.mode,
            "variant": self.variant,
            "machine": dict(self.machine),
            "rows": [each.document() for each in self.findings],
            "scenarios": [each.document() for each in self.verdicts],
        }


def run_name(mode: str, variant: str) -> str:
    """What the results of a run are called, and their files."""
    return variant if mode == IPTABLES else f"{mode}-{variant}"


def describe(verdict: Verdict) -> Iterator[str]:
    """A scenario that went wrong: each probe with what was wanted and what came."""
    yield f"{verdict.word:8} {verdict.name:32} {verdict.seconds:6.1f} s  {verdict.skipped}".rstrip()
    yield from (f"         {line}" for line in verdict.failed.splitlines())
    for each in verdict.differences:
        yield f"         {each.probe}"
        yield f"           wanted {_short(each.recorded)}"
        yield f"           got    {_short(each.got)}"


def _short(result: Json | None) -> str:
    text = json.dumps(result, sort_keys=True)
    return text if len(text) <= _LIMIT else f"{text[:_LIMIT]}…"


def _counts(words: Iterable[str], order: Sequence[str]) -> str:
    found = list(words)
    return ", ".join(f"{found.count(word)} {word}" for word in order)


def _cells(cells: Iterable[object]) -> str:
    return f"| {' | '.join(_flat(str(cell)).replace('|', chr(92) + '|') for cell in cells)} |"


def _flat(text: str) -> str:
    return " ".join(text.split())
