"""``python -m tests.conformance``: run the scenarios behind walls, print what differs, exit 1 if anything does."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
from pathlib import Path

from kproxy.sandbox import isolate
from tests.conformance.runner import Runner, Verdict, chosen, read_scenarios

_INSIDE = "--inside"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.conformance", description=__doc__)
    parser.add_argument("--only", metavar="NAME,...", default="", help="these scenarios (all)")
    parser.add_argument("--variant", choices=("nft", "legacy"), default="nft", help="of iptables (%(default)s)")
    parser.add_argument("--json", type=Path, help="write the result to this file")
    parser.add_argument("--log", type=Path, help="keep the proxy's log in this file")
    parser.add_argument("--crowd", type=int, default=0, metavar="N", help="Services besides the scenario's (none)")
    parser.add_argument("--dumps", type=Path, help="write the rules at the end of each scenario into this directory")
    parser.add_argument(_INSIDE, action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    known = {scenario["name"] for scenario in read_scenarios()}
    if unknown := sorted(set(filter(None, arguments.only.split(","))) - known):
        parser.error(f"no scenario is called {', '.join(unknown)}; there are {', '.join(sorted(known))}")
    return arguments


def _report(verdict: Verdict) -> None:
    out = sys.stdout
    out.write(f"{verdict.word:8} {verdict.name:32} {verdict.seconds:6.1f} s  {verdict.skipped}\n")
    if verdict.failed:
        out.write("".join(f"         {line}\n" for line in verdict.failed.splitlines()))
    for each in verdict.differences:
        out.write(f"         {each.probe}\n")
        out.write(f"           recorded {json.dumps(each.recorded, sort_keys=True)}\n")
        out.write(f"           got      {json.dumps(each.got, sort_keys=True)}\n")
    out.flush()


def _run(arguments: argparse.Namespace) -> int:
    scenarios = chosen(read_scenarios(), [name for name in arguments.only.split(",") if name])
    with tempfile.TemporaryDirectory(dir="/run") as directory:
        runner = Runner(Path(directory), arguments.variant, _report, dumps=arguments.dumps, crowd=arguments.crowd)
        verdicts = asyncio.run(runner.run(scenarios))
        log = Path(directory) / "n1.log"
        if arguments.log and log.exists():
            arguments.log.write_bytes(log.read_bytes())
    if arguments.json:
        result = {"variant": arguments.variant, "scenarios": [verdict.document() for verdict in verdicts]}
        arguments.json.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    words = [verdict.word for verdict in verdicts]
    counts = ", ".join(f"{words.count(word)} {word}" for word in ("same", "DIFFERS", "FAILED", "skipped"))
    sys.stdout.write(f"{arguments.variant}: {counts}\n")
    return 1 if {"DIFFERS", "FAILED"} & set(words) else 0


def main() -> int:
    """Come back behind the walls, then run; returns the exit status."""
    arguments = _arguments()
    if not arguments.inside:
        return isolate.run([sys.executable, "-m", "tests.conformance", *sys.argv[1:], _INSIDE])
    return _run(arguments)


if __name__ == "__main__":
    sys.exit(main())
