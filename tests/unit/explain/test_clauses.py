"""Conditions made fewer, and ways that one condition does not tell apart."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.backend.iptables.trace import Dropped, Met, Outcome, Untouched
from kproxy.explain.packets.clauses import merge, simplify

RULE, OTHER = Met("filter", "FORWARD", 0), Met("filter", "FORWARD", 1)


@pytest.mark.parametrize(
    ("depends", "left"),
    [
        (("-i a", "not -o b"), ("-i a", "not -o b")),
        (("not all of: -i a; ! -o b", "not all of: -i a; -o b"), ("not -i a",)),
        (("not all of: -i a; -o b", "-i a"), ("not -o b", "-i a")),
        (("not all of: -i a; -m x y", "not -i a"), ("not -i a",)),
        (("not all of: -i a; ! -o b", "-o b"), ("-o b",)),
        (("not all of: -m b; -m a", "not all of: -m c; -m b"), ("not all of: -m b; -m a", "not all of: -m b; -m c")),
        (("not all of: -i a; ! -o b; -m c",), ("not all of: -i a; ! -o b; -m c",)),
        (("-m a", "-m b", "not all of: -m a; -m b"), None),
        (('not all of: -m string --string "a; not ; b"; -i c', "-i c"),) * 2,  # what is quoted is not taken apart
        (("not all of: -i a; not -",), ("not all of: -i a; not -",)),
        (("any of 9 conditions, such as: -o a",), ("any of 9 conditions, such as: -o a",)),
    ],
)
def test_what_follows_from_the_rest_goes(depends: tuple[str, ...], left: tuple[str, ...] | None) -> None:
    assert simplify(depends) == left


NAMES = ("-m a", "-m b", "-m c")
atoms = st.builds(lambda name, holds: name if holds else f"not {name}", st.sampled_from(NAMES), st.booleans())
clauses = st.lists(atoms, min_size=2, max_size=3, unique_by=lambda each: each[-1]).map(
    lambda parts: "not all of: " + "; ".join(parts)
)


def is_true(text: str, world: dict[str, bool]) -> bool:
    several = text.removeprefix("not all of: ")
    if several != text:
        return not all(is_true(part, world) for part in several.split("; "))
    return world[text.removeprefix("not ")] != text.startswith("not ")


@given(st.lists(atoms | clauses, max_size=6))
def test_what_is_left_says_the_same(depends: list[str]) -> None:
    left = simplify(depends)
    assert len(left or ()) <= len(depends)
    for values in product((True, False), repeat=len(NAMES)):
        world = dict(zip(NAMES, values, strict=True))
        assert (left is not None and all(is_true(text, world) for text in left)) == all(
            is_true(text, world) for text in depends
        )


def test_ways_to_one_end_that_one_condition_tells_apart_are_one() -> None:
    held = Outcome(0.5, Untouched(), (RULE, OTHER), ("-m a", "-o b"))
    failed = Outcome(0.5, Untouched(), (OTHER,), ("not -m a", "-o b"))
    assert merge([held, failed]) == [Outcome(0.5, Untouched(), (OTHER,), ("-o b",))]


@pytest.mark.parametrize(
    "other",
    [
        Outcome(0.5, Dropped(), (RULE,), ("not -m a",)),
        Outcome(0.25, Untouched(), (RULE,), ("not -m a",)),
        Outcome(0.5, Untouched(), (OTHER,), ("not -m a",)),  # another rule ended it
        Outcome(0.5, Untouched(), (RULE,), ("not -m b",)),
        Outcome(0.5, Untouched(), (RULE,), ("not all of: -m a; -m b",)),
    ],
)
def test_others_are_not(other: Outcome) -> None:
    one = Outcome(0.5, Untouched(), (RULE,), ("-m a",))
    assert merge([one, other]) == [one, other]
