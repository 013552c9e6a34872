"""A page of /metrics: values of series, and a comparison with the list of kube-proxy's.

A series is written as Prometheus writes it, ``name{label="value"}``; labels that are left out are summed over. The
list (data/metrics.yaml) names for each metric its type, its labels and a histogram's buckets; one that is ``late``
appears only after its first use.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from prometheus_client.parser import text_string_to_metric_families

Json = dict[str, Any]
_SERIES = re.compile(r"(?P<name>[a-zA-Z_:][\w:]*)(?:\{(?P<labels>.*)\})?$")
_LABEL = re.compile(r'(\w+)="?([^",]*)"?')
_PREFIX = "kubeproxy_"


class Page:
    """``text`` in the text format 0.0.4."""

    def __init__(self, text: str) -> None:
        self._families = list(text_string_to_metric_families(text))
        self._samples = [sample for family in self._families for sample in family.samples]

    def value(self, series: str, before: Page | None = None) -> float | None:
        """The sum of the samples of a series, None when there are none; with ``before``, how much it has grown."""
        found = _SERIES.match(series)
        if found is None:
            raise ValueError(f"not a series: {series}")
        labels = dict(_LABEL.findall(found["labels"] or ""))
        values = [
            sample.value
            for sample in self._samples
            if sample.name == found["name"] and labels.items() <= sample.labels.items()
        ]
        if before is not None:
            return sum(values) - (before.value(series) or 0.0)
        return sum(values) if values else None

    def compare(self, expected: Mapping[str, Json]) -> Json:
        """What is ``missing``, ``different``, and ours although its name is not on the list."""
        shown = {(f"{each.name}_total" if each.type == "counter" else each.name): each for each in self._families}
        different = {
            name: problem
            for name, wanted in expected.items()
            if name in shown and (problem := _differs(shown[name], wanted))
        }
        return {
            "missing": sorted(
                name for name, wanted in expected.items() if name not in shown and not wanted.get("late")
            ),
            "different": different,
            "unknown": sorted(name for name in shown if name.startswith(_PREFIX) and name not in expected),
        }


def _differs(family: Any, wanted: Json) -> str:
    if family.type != wanted["type"]:
        return f"a {family.type}, not a {wanted['type']}"
    buckets: set[str] = set()
    for sample in family.samples:
        labels = set(sample.labels) - {"le"}
        if labels != set(wanted.get("labels", ())):
            return f"labels {sorted(labels)}"
        if "le" in sample.labels:
            buckets.add(sample.labels["le"])
    want = {_number(each) for each in wanted.get("buckets", ())}
    return "" if {_number(each) for each in buckets - {"+Inf"}} == want else f"buckets {sorted(buckets)}"


def _number(text: float | str) -> float:
    return round(float(text), 6)
