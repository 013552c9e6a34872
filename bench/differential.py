"""What the tracer says of packets, held against what becomes of them, on random clusters by the hundred.

    ./run bench differential                          200 clusters, 10 packets each, both variants, both families
    ./run bench differential --seed 31 --clusters 1   one of them again
    ./run bench differential --dump save.txt          packets to what a dump serves, such as one of kube-proxy's

A cluster has services of every kind, laid out as lists or as trees, and in three of four cases rules of other programs
around ours: every table and hook, chains that jump and go to chains, policies, marks, ranges, translations (see
tests/differential). Its rules are loaded into a network namespace and read back with iptables-save, as `kproxy explain`
would; then packets are sent, and each must end as the tracer said: the endpoint, its port, the source that the endpoint
sees, refused, or dropped. Where nothing is left to chance but our own choice of endpoints, every rule's counter must be
what the tracer foretold, and a second packet of a flow must go where the first one went. The first difference ends the
run with the packet, the way that the tracer saw, and every rule with its counter.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import Counter
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from random import Random
from typing import Any

import report

sys.path.append(str(Path(__file__).parents[1]))  # clusters, packets and their world are those of the tests

from kproxy.backend.iptables.parse import parse_save
from kproxy.config import IptablesVariant
from kproxy.model.enums import IPFamily
from tests.differential.clusters import make_packet
from tests.differential.compare import Differs, run_cluster, run_rules
from tests.differential.field import Field, all_fields
from tests.differential.targets import aims


def main() -> int:
    """Run, print, save."""
    arguments = _arguments()
    console = report.new_console()
    before = report.circumstances()
    began = time.monotonic()
    counts = Counter[str]()
    with report.new_progress(console) as progress, all_fields() as fields:
        chosen = [fields[IptablesVariant(variant)] for variant in arguments.variant]
        rounds = list(_rounds(arguments))
        bar = progress.add_task("clusters", total=len(rounds) * len(chosen))
        try:
            for run, field in product(rounds, chosen):
                counts += run(field)
                progress.advance(bar)
        except Differs as difference:
            console.print(str(difference), markup=False, highlight=False, soft_wrap=True)
            return 1
    wall = time.monotonic() - began
    table = report.new_table(f"seeds from {arguments.seed}: no difference", ("what", "count"))
    for name, value in (*sorted(counts.items()), ("seconds", round(wall))):
        table.add_row(name, f"{value:,}")
    console.print(table)
    document = {"seed": arguments.seed, "variants": arguments.variant, "wall": round(wall, 1), "counts": dict(counts)}
    report.save(arguments.output, {"before": before, "after": report.circumstances(), **document})
    return 0


def _rounds(arguments: argparse.Namespace) -> Iterator[Any]:
    """What is to be done in each field."""
    for path in arguments.dump:
        text = path.read_text(encoding="utf-8", errors="replace")
        yield lambda field, text=text, name=path.name: _run_dump(field, text, name, arguments.packets)
    if arguments.dump:
        return
    for seed, family in product(range(arguments.seed, arguments.seed + arguments.clusters), IPFamily):
        yield lambda field, seed=seed, family=family: run_cluster(field, family, str(seed), arguments.packets)


def _run_dump(field: Field, text: str, name: str, packets: int) -> Counter[str]:
    frontends, endpoints = aims(parse_save(text.splitlines()))
    named = [*endpoints, *(ip for ip, _, _ in frontends)]
    family = IPFamily.IPV6 if any(":" in ip for ip in named) else IPFamily.IPV4
    random = Random(name)  # noqa: S311 -- repeatable
    chosen = [make_packet(random, family, frontends, endpoints) for _ in range(packets)]
    return run_rules(field, family, text, name, chosen, exact=True)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench/differential.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--clusters", type=int, default=200, metavar="N", help="how many (200)")
    parser.add_argument("--packets", type=int, default=10, metavar="N", help="for each cluster (10)")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the first cluster (0)")
    parser.add_argument(
        "--dump", type=Path, action="append", default=[], metavar="FILE", help="repeat; no clusters then"
    )
    parser.add_argument("--output", type=Path, default=report.RESULTS / "differential.json", metavar="FILE")
    return report.read_variants(parser)


if __name__ == "__main__":
    sys.exit(main())
