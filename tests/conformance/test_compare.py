"""Conditions of ``want``; the rest of the judging is shown by the recorded scenarios."""

from typing import Any

import pytest

from tests.conformance.compare import fits, is_expected


@pytest.mark.parametrize(
    ("wanted", "got", "result"),
    [
        (1, 1, True),
        (["a"], ["a", "b"], False),
        ({"has": "b"}, ["a", "b"], True),
        ({"has": ["a", "z"]}, "a b", False),
        ({"lacks": "z", "has": "a"}, "a b", True),
        ({"like": "^b$"}, "a", False),
        ({"min": 1, "max": 2}, 2, True),
        ({"min": 1}, None, False),
        ({"max": 2}, 3, False),
        ({"part": {"a": {"min": 1}}}, {"a": 1, "b": 2}, True),
        ({"part": {"c": 1}}, {"a": 1}, False),
        ({"part": {"c": 1}}, None, False),
        ({"a": {"has": "x"}}, {"a": "xy"}, True),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({}, {}, True),
    ],
)
def test_values_and_conditions(wanted: Any, got: Any, result: bool) -> None:
    assert fits(wanted, got) is result


def test_what_is_expected_and_what_is_wanted_must_both_hold() -> None:
    probe = {"expect": "ok=p1a", "want": {"source_seen": ["client"]}}
    assert is_expected(probe, {"outcome": "ok", "backends": ["p1a"], "source_seen": ["client"]})
    assert not is_expected(probe, {"outcome": "ok", "backends": ["p1a"], "source_seen": ["n1-lan"]})
    assert not is_expected(probe, {"outcome": "timeout", "source_seen": ["client"]})
