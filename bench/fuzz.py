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
import sys
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from itertools import product
from pathlib import Path
from typing import Any

import report
from hypothesis import HealthCheck, given, seed, settings

sys.path.append(str(Path(__file__).parents[1]))  # the examples are those of the tests

from kproxy.config import IptablesVariant
from kproxy.model.enums import IPFamily
from tests.fuzz.examples import Example, examples
from tests.fuzz.laws import check_example
from tests.fuzz.programs import Programs, abilities


class _Bench:
    """``walls``: what the programs' namespaces end with."""

    def __init__(self, variants: list[IptablesVariant], walls: ExitStack, advance: Callable[[], None]) -> None:
        self.counts = Counter[str]()
        every = product(variants, IPFamily)
        self.programs = {each: walls.enter_context(Programs(*each)) for each in every}
        self.abilities = abilities(variants[0])  # a kernel has what it has, whichever program asks for it
        # Most of its time a program waits for the kernel, so all of them are asked at once.
        self._threads = walls.enter_context(ThreadPoolExecutor(len(self.programs)))
        self._advance = advance

    def take(self, example: Example) -> None:
        trip = check_example(example, self.abilities)
        asked = [
            self._threads.submit(programs.check, trip.rounds[family]) for (_, family), programs in self.programs.items()
        ]
        for answer in asked:
            answer.result()
        self.counts.update(examples=1, objects_right=len(example.world), objects_wrong=len(example.visitors))
        self.counts.update(rejected=trip.rejected, served_in_part_and_named=trip.named)
        self._advance()

    def finish(self) -> dict[str, Any]:
        for programs in self.programs.values():
            programs.test()
            self.counts.update(inputs_tested=programs.tested, inputs_committed=programs.committed, rules=programs.rules)
        return dict(self.counts)


def main() -> int:
    """Run, print, save."""
    arguments = _arguments()
    console = report.new_console()
    before = report.circumstances()
    began = time.monotonic()
    variants = [IptablesVariant(variant) for variant in arguments.variant]
    with report.new_progress(console) as progress, ExitStack() as walls:
        bar = progress.add_task("examples", total=arguments.examples)
        bench = _Bench(variants, walls, lambda: progress.advance(bar))

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
    table = report.new_table(f"seed {arguments.seed}: nothing found", ("what", "count"))
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
    parser.add_argument("--output", type=Path, default=report.RESULTS / "fuzz.json", metavar="FILE")
    return report.read_variants(parser)


if __name__ == "__main__":
    sys.exit(main())
