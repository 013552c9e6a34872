"""What relay.py makes of its samples: medians and ranges, ratios within a round, targets met or missed.

Ratios are taken within a round, where both sides met the same machine, and their median is shown with the least and
the most; a ratio of two medians would mix rounds.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any, NamedTuple

import report
from relay_measures import MEASURES, Measure, Sample
from rich import box
from rich.table import Table


class Spread(NamedTuple):
    median: float
    least: float
    most: float


@dataclass(frozen=True, slots=True)
class Target:
    """What kproxy must reach. ``rival`` empty: a figure, else a ratio of the same figure."""

    measure: str
    peer: str
    figure: str
    rival: str
    bound: float
    at_least: bool = True

    def met(self, value: float) -> bool:
        return value >= self.bound if self.at_least else value <= self.bound


def _targets() -> Iterator[Target]:
    for measure in ("bulk1", "bulk16"):
        for rival, bound in (("haproxy", 2.5), ("haproxy-splice", 1.2), ("direct", 0.8)):
            yield Target(measure, "kproxy", "rate", rival, bound)
        yield Target(measure, "kproxy", "cost", "", 0.25, at_least=False)
    for measure in ("connect", "request"):
        for suffix in ("", "-2"):
            yield Target(measure, f"kproxy{suffix}", "rate", f"haproxy{suffix}", 0.85)
            if measure == "connect":
                yield Target(measure, f"kproxy{suffix}", "cost", f"haproxy{suffix}", 1.25, at_least=False)
    yield Target("memory", "kproxy", "rate", "haproxy", 0.3, at_least=False)
    yield Target("memory", "kproxy", "rate", "", 1.0, at_least=False)
    for suffix in ("", "-2"):
        yield Target("udp", f"kproxy{suffix}", "rate", f"nginx{suffix}", 1.1)
        yield Target("udp", f"kproxy{suffix}", "lost", "", 0, at_least=False)


TARGETS = tuple(_targets())


class Results:
    """Samples by measure, peer and round; a round is missing where the peer could not be measured."""

    def __init__(self) -> None:
        self._samples: dict[str, dict[str, dict[int, Sample]]] = {}

    def add(self, measure: str, peer: str, turn: int, sample: Sample) -> None:
        self._samples.setdefault(measure, {}).setdefault(peer, {})[turn] = sample

    def has(self, measure: str) -> bool:
        return measure in self._samples

    def peers(self, measure: str) -> Sequence[str]:
        return [*self._samples.get(measure, {})]

    def rounds(self, measure: str, peer: str, figure: str) -> dict[int, float]:
        """By the number of the round."""
        samples = self._samples.get(measure, {}).get(peer, {})
        found = {turn: getattr(sample, figure) for turn, sample in samples.items()}
        return {turn: float(value) for turn, value in found.items() if value is not None}

    def spread(self, measure: str, peer: str, figure: str = "rate") -> Spread | None:
        return _spread([*self.rounds(measure, peer, figure).values()])

    def ratio(self, measure: str, peer: str, rival: str, figure: str = "rate") -> Spread | None:
        """Of the same figure in the same round."""
        ours, theirs = self.rounds(measure, peer, figure), self.rounds(measure, rival, figure)
        return _spread([ours[turn] / theirs[turn] for turn in ours.keys() & theirs.keys() if theirs[turn]])

    def verdicts(self, peers: Sequence[str]) -> Iterator[tuple[Target, Spread | None]]:
        """The targets among ``peers`` for what was measured. One round with a loss is enough to miss that target."""
        for target in TARGETS:
            if {target.peer, target.rival} - {*peers, ""} or not self.has(target.measure):
                continue
            if target.rival:
                yield target, self.ratio(target.measure, target.peer, target.rival, target.figure)
            else:
                found = self.spread(target.measure, target.peer, target.figure)
                yield target, found._replace(median=found.most) if found and target.figure == "lost" else found

    def document(self, peers: Sequence[str]) -> dict[str, Any]:
        """For JSON: all samples, and what the tables show."""
        return {
            "samples": {
                measure: {peer: [asdict(sample) for sample in turns.values()] for peer, turns in peers.items()}
                for measure, peers in self._samples.items()
            },
            "medians": {
                measure: {peer: self._summary(MEASURES[measure], peer) for peer in peers}
                for measure, peers in self._samples.items()
            },
            "targets": [
                {**asdict(target), "found": found and found._asdict(), "met": bool(found and target.met(found.median))}
                for target, found in self.verdicts(peers)
            ],
        }

    def _summary(self, measure: Measure, peer: str) -> dict[str, Any]:
        spreads = {figure: self.spread(measure.name, peer, figure) for figure in ("rate", "cost", "p50_us", "p99_us")}
        ratios = {f"x {rival}": self.ratio(measure.name, peer, rival) for rival in measure.rivals}
        return {name: found._asdict() for name, found in {**spreads, **ratios}.items() if found}


def _spread(values: Sequence[float]) -> Spread | None:
    return Spread(median(values), min(values), max(values)) if values else None


# --- tables -------------------------------------------------------------------------------------------------------


def tables(results: Results, order: Sequence[str], *, wide: bool) -> Iterator[Table]:
    """One for each measure, then the targets. ``order`` of the peers; ``wide``: ratios with their ranges."""
    for measure in MEASURES.values():
        if results.has(measure.name):
            peers = [peer for peer in order if peer in results.peers(measure.name)]
            yield _table(results, measure, peers, wide=wide)
    if any(results.verdicts(order)):
        yield _targets_table(results, order)


def _table(results: Results, measure: Measure, peers: Sequence[str], *, wide: bool) -> Table:
    columns = ["", measure.unit]
    has_times = any(results.rounds(measure.name, peer, "p50_us") for peer in peers)
    columns += ["p50/p99 ms"] if has_times else []
    columns += [f"CPU {measure.cost_unit}"] if measure.cost_unit else []
    rivals = [rival for rival in measure.rivals if rival in peers]
    columns += [f"x {rival}" for rival in rivals]
    columns += ["remarks"]
    table = report.new_table(measure.title, columns)
    table.box = box.SIMPLE_HEAD
    for peer in peers:
        row = [peer, _shown(results.spread(measure.name, peer))]
        if has_times:
            row.append(_times(results, measure.name, peer))
        if measure.cost_unit:
            cost = results.spread(measure.name, peer, "cost")
            row.append(_figure(cost.median) if cost and cost.most else "-")
        row += [_shown(results.ratio(measure.name, peer, rival), ranged=wide) for rival in rivals]
        table.add_row(*row, _remarks(results, measure.name, peer), style="bold" if peer.startswith("kproxy") else None)
    return table


def _targets_table(results: Results, peers: Sequence[str]) -> Table:
    table = report.new_table("Targets", ("", "what", "found", "target", ""))
    table.box = box.SIMPLE_HEAD
    for target, found in results.verdicts(peers):
        measure = MEASURES[target.measure]
        unit = {"cost": f"CPU {measure.cost_unit}", "lost": "lost"}.get(target.figure, measure.unit)
        what = f"{unit}, x {target.rival}" if target.rival else unit
        bound = f"{'>=' if target.at_least else '<='} {target.bound:g}"
        verdict = "not measured" if found is None else "[green]met" if target.met(found.median) else "[red]missed"
        table.add_row(f"{target.peer}: {measure.title}", what, _shown(found), bound, verdict)
    return table


def _times(results: Results, measure: str, peer: str) -> str:
    spreads = [results.spread(measure, peer, figure) for figure in ("p50_us", "p99_us")]
    return "/".join(f"{found.median / 1000:.1f}" if found else "-" for found in spreads)


def _remarks(results: Results, measure: str, peer: str) -> str:
    said = []
    for figure in ("lost", "errors", "stuck"):
        values = results.rounds(measure, peer, figure).values()
        if any(values):
            total = f"{median(values):.1%}" if measure == "gso" and figure == "lost" else f"{sum(values):.0f}"
            said.append(f"{figure} {total}")
    return ", ".join(said)


def _shown(found: Spread | None, *, ranged: bool = True) -> str:
    if found is None:
        return "-"
    if found.least == found.most or not ranged:
        return _figure(found.median)
    return f"{_figure(found.median)} ({_figure(found.least)}-{_figure(found.most)})"


def _figure(value: float) -> str:
    size = abs(value)
    if size >= 10_000:
        return f"{value / 1000:.1f}k"
    return f"{value:.0f}" if size >= 100 else f"{value:.1f}" if size >= 10 else f"{value:.2f}"
