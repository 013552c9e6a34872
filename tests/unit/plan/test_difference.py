"""Differences of mappings by identity, whatever moved."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kproxy.plan.difference import difference

KEYS = st.tuples(st.integers(0, 8))
VALUES = [[0], [0], [1]]  # three objects, two of them equal
MAPPINGS = st.dictionaries(KEYS, st.sampled_from(VALUES))
Mapping = dict[tuple[int], list[int]]


def expected(old: Mapping, new: Mapping) -> tuple[set[tuple[int]], set[tuple[int]]]:
    return set(old) - set(new), {key for key in new if old.get(key) is not new[key]}


@settings(deadline=None)
@given(MAPPINGS, MAPPINGS)
def test_is_what_looking_everything_up_would_find(old: Mapping, new: Mapping) -> None:
    gone, put = difference(old, new)
    assert (set(gone), set(put)) == expected(old, new)
    assert (len(gone), len(put)) == (len(set(gone)), len(set(put)))


@settings(deadline=None)
@given(MAPPINGS, st.lists(st.tuples(KEYS, st.sampled_from([*VALUES, None]))))
def test_follows_edits_of_a_copy(old: Mapping, edits: list[tuple[tuple[int], list[int] | None]]) -> None:
    new = old.copy()
    for key, value in edits:
        if value is None:
            new.pop(key, None)
        else:
            new[key] = value
    gone, put = difference(old, new)
    assert (set(gone), set(put)) == expected(old, new)


def test_equal_values_that_are_other_objects_count_as_changed() -> None:
    key, old, new = ("a",), [1], [1]
    assert difference({key: old}, {key: new}) == ([], [key])


def test_equal_keys_that_are_other_objects_are_the_same() -> None:
    value, twins = [1], [tuple(text) for text in ("ab", "ab")]
    assert difference({twins[0]: value}, {twins[1]: value}) == ([], [])
