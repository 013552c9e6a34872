"""Judges a record against the recorded one: equal, probe by probe, but for what the scenario calls the same.

A scenario without a record, one of ours, is judged by what its probes say: ``expect`` in the scenarios' words
(``ok=p1a,p1b``, ``reject``, ``timeout``) and ``want``, parts that the result must contain. A wanted part is a value,
or a condition: ``{has: texts, lacks: texts, like: pattern, min: 1, max: 2, part: {some: keys}}``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from tests.conformance.modes import IPTABLES, expectation

Json = dict[str, Any]
_UNORDERED = {"out"}  # the two variants list tables in different orders


@dataclass(frozen=True, slots=True)
class Difference:
    """One probe whose result is not the recorded one."""

    probe: str
    recorded: Json | None
    got: Json | None

    def document(self) -> Json:
        return {"probe": self.probe, "recorded": self.recorded, "got": self.got}


def differences(
    recorded: Mapping[str, Json], got: Mapping[str, Json], accepted: Mapping[str, Any]
) -> Iterator[Difference]:
    """All probes that differ; ``accepted`` holds the ``accept`` of the probes that have one."""
    for probe in sorted({*recorded, *got}):
        want, have = recorded.get(probe), got.get(probe)
        if want is None or have is None or not is_same(want, have):
            if have is not None and _is_accepted(have, accepted.get(probe)):
                continue
            yield Difference(probe, want, have)


def is_same(recorded: Json, got: Json) -> bool:
    """Whether all that was recorded is found; ``balanced`` may be judged where the record did not."""
    keys = {*recorded, *got} - ({"balanced"} - recorded.keys())
    return all(_equal(key, recorded.get(key), got.get(key)) for key in keys)


def is_expected(probe: Json, got: Json, mode: str = IPTABLES) -> bool:
    """Whether a result is what the probe expects by itself."""
    expect = expectation(probe.get("expect", ""), mode)
    parts = all(fits(value, got.get(key)) for key, value in probe.get("want", {}).items())
    return parts and (not expect or _is_accepted(got, expect))


def fits(wanted: Any, got: Any) -> bool:
    """Whether ``got`` is the wanted value, or meets all conditions where ``wanted`` holds conditions."""
    if isinstance(wanted, dict) and wanted and wanted.keys() <= _CONDITIONS.keys():
        return all(_CONDITIONS[name](value, got) for name, value in wanted.items())
    if isinstance(wanted, dict) and isinstance(got, dict):
        return wanted.keys() == got.keys() and all(fits(value, got[key]) for key, value in wanted.items())
    return bool(wanted == got)


def _texts(wanted: Any) -> list[str]:
    return [str(each) for each in wanted] if isinstance(wanted, list) else [str(wanted)]


def _text(got: Any) -> str:
    return "\n".join(map(str, got)) if isinstance(got, list) else str(got)


_CONDITIONS: dict[str, Callable[[Any, Any], bool]] = {
    "has": lambda wanted, got: all(each in _text(got) for each in _texts(wanted)),
    "lacks": lambda wanted, got: not any(each in _text(got) for each in _texts(wanted)),
    "like": lambda wanted, got: re.search(wanted, _text(got)) is not None,
    "min": lambda wanted, got: got is not None and got >= wanted,
    "max": lambda wanted, got: got is not None and got <= wanted,
    "part": lambda wanted, got: all(isinstance(got, dict) and fits(each, got.get(key)) for key, each in wanted.items()),
}


def _equal(key: str, recorded: Any, got: Any) -> bool:
    if key in _UNORDERED and isinstance(recorded, list) and isinstance(got, list):
        return sorted(map(str, recorded)) == sorted(map(str, got))
    return bool(recorded == got)


def _is_accepted(got: Json, accept: Any) -> bool:
    """``accept: refused``, ``accept: "ok=p1a,p1b"`` or a list of those."""
    for each in [accept] if isinstance(accept, str) else accept or []:
        outcome, _, backends = str(each).partition("=")
        if outcome == "reject":
            outcome = got["outcome"] if got.get("outcome") in {"refused", "icmp-unreachable"} else outcome
        if got.get("outcome") == outcome and (not backends or got.get("backends") == sorted(backends.split(","))):
            return True
    return False
