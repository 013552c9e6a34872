"""Objects of which something is wrong, by the ten thousand, from API JSON to what the kernel holds.

    ./run bench fuzz                              10,000 examples, both iptables variants
    ./run bench fuzz --examples 500 --variant nft --seed 7

Each example is a small cluster that is right and one to four objects of which something is wrong (tests/fuzz). Every
law that the tests check is checked; every restore input of both families is read by `iptables-restore --test`,
committed, and compared with what iptables-save prints. The same seed makes the same examples. The first failure ends
the run with the smallest example that hypothesis finds, and a line that repeats it.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import report
from hypothesis import HealthCheck, given, seed, settings
from rich.progress import Progress, TaskID

sys.path.append(str(Path(__file__).parents[1]))  # the examples are those of the tests

from kproxy.config import IptablesVariant
from kproxy.model.enums import IPFamily
from tests.fuzz.examples import Example, examples
from tests.fuzz.laws import check_example
from tests.fuzz.programs import Programs, abilities, private_network


class _Bench:
    def __init__(self, variants: list[str], progress: Progress, bar: TaskID) -> None:
        self.variants = [IptablesVariant(variant) for variant in variants]
        self.counts = Counter[str]()
        self.programs = {
            (variant, family): Programs(variant, family) for variant in self.variants for family in IPFamily
        }
        # What the kernel has is asked once; an example is planned for the least of them.
        self.abilities = abilities(self.variants[0])
        self._progress, self._bar = progress, bar

    def take(self, example: Example) -> None:
        trip = check_example(example, self.abilities)
        for (_, family), programs in self.programs.items():
            programs.check(trip.rounds[family])
        self.counts.update(examples=1, good=len(example.world), accepted=trip.accepted, rejected=trip.rejected)
        self.counts.update(named_in_part=trip.named)
        self._progress.advance(self._bar)

    def finish(self) -> dict[str, Any]:
        for programs in self.programs.values():
            programs.test()
            self.counts.update(tested=programs.tested, committed=programs.committed, rules=programs.rules)
        return dict(self.counts)


def main() -> int:
    """Run, print, save."""
    arguments = _arguments()
    console = report.new_console()
    before = report.circumstances()
    began = time.monotonic()
    with report.new_progress(console) as progress, private_network():
        bench = _Bench(arguments.variant, progress, progress.add_task("examples", total=arguments.examples))

        @seed(arguments.seed)
        @settings(
            max_examples=arguments.examples,
            database=None,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        )
        @given(examples())
        def run(example: Example) -> None:
            bench.take(example)

        run()
        counts = bench.finish()
    wall = time.monotonic() - began
    table = report.new_table(f"fuzz, seed {arguments.seed}: nothing found", ("", "count"))
    for name, value in (*counts.items(), ("seconds", round(wall))):
        table.add_row(name.replace("_", " "), f"{value:,}")
    console.print(table)
    document = {"seed": arguments.seed, "variants": arguments.variant, "wall": round(wall, 1), "counts": counts}
    report.save(arguments.output, {"before": before, "after": report.circumstances(), **document})
    return 0


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench/fuzz.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--examples", type=int, default=10_000, metavar="N", help="how many (10000)")
    parser.add_argument("--seed", type=int, default=1, metavar="N", help="which (1)")
    parser.add_argument("--variant", action="append", choices=report.VARIANTS, help="repeat; default: both")
    parser.add_argument("--output", type=Path, default=report.RESULTS / "fuzz.json", metavar="FILE")
    arguments = parser.parse_args()
    arguments.variant = arguments.variant or list(report.VARIANTS)
    if os.geteuid() != 0:
        parser.error("network namespaces and iptables need root")
    return arguments


if __name__ == "__main__":
    sys.exit(main())
