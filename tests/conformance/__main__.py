"""``python -m tests.conformance``: run the scenarios behind walls and say of each row of the parity table whether it
holds; the exit status is 1 if a row failed or a scenario differs.

Most of a run is waiting, so the scenarios are dealt to a few processes with a world each (`parts`); this one prints.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests.conformance import parts
from tests.conformance.modes import IPTABLES, MODES
from tests.conformance.parity import Evidence, Row, Verdict, evidence, judge, read_rows
from tests.conformance.report import Report
from tests.conformance.runner import chosen, read_scenarios

Json = dict[str, Any]
_RESULTS = Path(__file__).parent / "results"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("--row", metavar="ID,...", default="", help="these rows of the parity table (all)")
    parser.add_argument("--only", metavar="NAME,...", default="", help="these scenarios (all)")
    parser.add_argument("--mode", choices=MODES, default=IPTABLES, help="how the proxy runs (%(default)s)")
    parser.add_argument("--variant", choices=("nft", "legacy"), default="nft", help="of iptables (%(default)s)")
    parser.add_argument("--jobs", type=int, default=min(2, os.cpu_count() or 1), metavar="N", help="worlds at a time")
    parser.add_argument("--json", type=Path, help=f"write the result to this file (one in {_RESULTS.name}/ here)")
    parser.add_argument("--markdown", type=Path, help="the same for people (likewise)")
    parser.add_argument("--log", type=Path, help="keep the proxy's log in this file")
    parser.add_argument("--crowd", type=int, default=0, metavar="N", help="Services besides the scenario's (none)")
    parser.add_argument("--dumps", type=Path, help="write the rules at the end of each scenario into this directory")
    arguments = parser.parse_args()
    arguments.rows = _split(arguments.row)
    if unknown := sorted(set(arguments.rows) - {str(row.id) for row in read_rows()}):
        parser.error(f"no row has the number {', '.join(unknown)}")
    arguments.names = _split(arguments.only)
    known = {scenario["name"] for scenario in read_scenarios()}
    if unknown := sorted(set(arguments.names) - known):
        parser.error(f"no scenario is called {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    return arguments


def _split(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


class _Progress:
    """Tells on standard error how far it is, one line a scenario."""

    def __init__(self, scenarios: int) -> None:
        self._scenarios = scenarios
        self._done = 0

    def report(self, verdict: Verdict) -> None:
        self._done += 1
        line = f"{self._done:4}/{self._scenarios}  {verdict.word:8} {verdict.name:36} {verdict.seconds:6.1f} s"
        sys.stderr.write(f"{line}  {verdict.skipped}".rstrip() + "\n")
        sys.stderr.flush()


def _select(arguments: argparse.Namespace, rows: Sequence[Row], shown: dict[int, tuple[Evidence, ...]]) -> list[Json]:
    """The scenarios to run: those named, those that show the rows named, or all."""
    names = list(arguments.names)
    if arguments.rows:
        wanted = {each.scenario for row in rows for each in shown.get(row.id, ())}
        names += [scenario["name"] for scenario in read_scenarios() if scenario["name"] in wanted - set(names)]
        return chosen(read_scenarios(), names) if names else []
    return chosen(read_scenarios(), names)


def main() -> int:
    """Run and tell; returns the exit status."""
    arguments = _arguments()
    rows = [row for row in read_rows() if not arguments.rows or str(row.id) in arguments.rows]
    shown = evidence(read_rows(), read_scenarios(), arguments.mode)
    scenarios = _select(arguments, rows, shown)
    progress = _Progress(len(scenarios))
    order = parts.Order(arguments.variant, arguments.mode, arguments.crowd, arguments.dumps, arguments.log)
    result = asyncio.run(parts.run(scenarios, order, max(1, arguments.jobs), progress.report))
    ran = {verdict.name: verdict for verdict in result.verdicts}
    found = [judge(row, shown.get(row.id, ()), ran, result.lacking, arguments.mode) for row in rows]
    findings = [each for each in found if each is not None and (not arguments.names or each.evidence)]
    showing = {each.scenario for every in shown.values() for each in every}
    verdicts = [ran[scenario["name"]] for scenario in read_scenarios() if scenario["name"] in ran]
    rowless = frozenset(ran.keys() - showing)
    report = Report(arguments.variant, result.machine, findings, verdicts, rowless, arguments.mode)
    sys.stdout.write("".join(f"{line}\n" for line in report.text()))
    _write(arguments, report)
    return 0 if report.is_green else 1


def _write(arguments: argparse.Namespace, report: Report) -> None:
    as_markdown = arguments.markdown or _RESULTS / f"{report.name}.md"
    as_json = arguments.json or _RESULTS / f"{report.name}.json"
    for path, text in (
        (as_markdown, report.markdown()),
        (as_json, json.dumps(report.document(), indent=1, ensure_ascii=False) + "\n"),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    sys.stdout.write(f"written to {as_markdown} and {as_json}\n")


if __name__ == "__main__":
    sys.exit(main())
