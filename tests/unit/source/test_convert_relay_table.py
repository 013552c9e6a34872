"""The table of annotations: complete, sayable, and the one that the README of userspace mode shows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from msgspec.structs import fields

from kproxy.config import Config
from kproxy.model.relay import Relay
from kproxy.plan.relay import default_relay
from kproxy.source.convert_relay import ANNOTATIONS

README = Path(__file__).parents[3] / "kproxy" / "backend" / "userspace" / "README.md"


def test_whatever_a_relay_can_be_told_a_service_can_ask_for() -> None:
    found = [annotation.field for annotation in ANNOTATIONS.values()]
    assert sorted(found) == sorted([*(each.name for each in fields(Relay)), "mode"])


def defaults() -> dict[str, str]:
    """Of every annotation, as it would say it; of the mode, in words."""
    relay = default_relay(Config())
    rest = {
        name: annotation.kind.show(getattr(relay, annotation.field))
        for name, annotation in ANNOTATIONS.items()
        if annotation.field != "mode"
    }
    return {"kproxy.io/mode": "the node's", **rest}


@pytest.mark.parametrize("name", [name for name in ANNOTATIONS if name != "kproxy.io/mode"])
def test_every_default_can_be_asked_for(name: str) -> None:
    annotation = ANNOTATIONS[name]
    expected = getattr(default_relay(Config()), annotation.field)
    assert annotation.kind.read(defaults()[name]) == expected


def rows() -> list[list[str]]:
    """The README's table of annotations, cell by cell."""
    found = re.findall(r"^\| `(kproxy\.io/[^`]+)` \| (.+) \|$", README.read_text(), re.MULTILINE)
    return [[name, *rest.split(" | ")] for name, rest in found]


def test_the_readme_says_what_is_accepted() -> None:
    expected = [[name, each.kind.accepted, f"`{defaults()[name]}`"] for name, each in ANNOTATIONS.items()]
    expected[0][-1] = defaults()["kproxy.io/mode"]
    assert [row[:3] for row in rows()] == expected
    assert all(len(row) == 4 and row[3] for row in rows())
