"""The picture of relay.py: a panel for each measure, a bar for each peer, the range of the rounds as a line on it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from relay_measures import MEASURES
from relay_results import Results

_COLUMNS = 2
_OURS, _THEIRS, _NOBODY = "#2563eb", "#9ca3af", "#d1d5db"
_PROCESSLESS = {"direct", "dnat"}


def draw(results: Results, order: Sequence[str], path: Path, caption: str) -> None:
    """Write a PNG; nothing where nothing was measured."""
    import matplotlib as mpl  # takes a second, and the program starts twice

    mpl.use("Agg")  # draws without a screen; must be chosen before the next line
    from matplotlib import pyplot as plt

    panels = [(name, "rate") for name in MEASURES if results.has(name)]
    panels += [(name, "cost") for name in ("bulk1", "connect", "request") if results.has(name)]
    if not panels:
        return
    rows = -(-len(panels) // _COLUMNS)
    figure, grid = plt.subplots(rows, _COLUMNS, figsize=(11, 2.9 * rows), squeeze=False, layout="constrained")
    places = [axes for row in grid for axes in row]
    for axes, (name, what) in zip(places, panels, strict=False):
        _panel(axes, results, name, what, order)
    for axes in places[len(panels) :]:
        axes.set_axis_off()
    figure.suptitle(caption, fontsize=9)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)


def _panel(axes: Any, results: Results, name: str, what: str, order: Sequence[str]) -> None:
    measure = MEASURES[name]
    peers = [peer for peer in order if results.spread(name, peer, what)]
    if what == "cost":
        peers = [peer for peer in peers if peer not in _PROCESSLESS]
    for place, peer in enumerate(reversed(peers)):
        found = results.spread(name, peer, what)
        if found is None:
            continue
        colour = _OURS if peer.startswith("kproxy") else _NOBODY if peer in _PROCESSLESS else _THEIRS
        axes.barh(place, found.median, color=colour)
        axes.plot((found.least, found.most), (place, place), color="black", linewidth=1)
    axes.set_yticks(range(len(peers)), [*reversed(peers)], fontsize=8)
    is_rate = what == "rate"
    unit = measure.unit if is_rate else f"CPU {measure.cost_unit}"
    direction = "more is better" if is_rate and measure.more_is_better else "less is better"
    axes.set_title(f"{measure.title} [{unit}], {direction}", fontsize=9, loc="left")
    axes.tick_params(axis="x", labelsize=8)
    axes.set_xlim(left=0)
    axes.spines[["top", "right"]].set_visible(False)
