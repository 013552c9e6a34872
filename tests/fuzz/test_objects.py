"""From API JSON to restore input, one cluster at a time; what the kernel says to it is test_kernel.py's.

Each example is a few Services and slices that are right and one or two objects of which something is wrong.
"""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kproxy.model.change import Rejection
from kproxy.model.enums import Kind
from kproxy.source.convert import Converter
from tests.fuzz.examples import Example, examples, spoilt_objects
from tests.fuzz.hostile import put
from tests.fuzz.journey import CONFIG, check_sentence
from tests.fuzz.laws import check_example
from tests.fuzz.objects import HUGE, Document

FUZZ = settings(max_examples=50, derandomize=True)


@FUZZ
@given(examples())
def test_what_is_wrong_is_named_and_spoils_nothing_else(example: Example) -> None:
    check_example(example)


@pytest.mark.parametrize("number", range(len(HUGE)))
def test_huge_objects_pass_like_small_ones(number: int) -> None:
    """A thousand endpoints, 500 ports, 200 addresses, 100 slices; beside them one that is refused."""
    refused = Document(Kind.SERVICE, put(HUGE[0][0].json, ("spec", "ports", 0, "port"), 0), good=False)
    check_example(Example(CONFIG, HUGE[number], [refused]))


@FUZZ
@given(st.sampled_from(Kind), spoilt_objects())
def test_bytes_that_are_no_object_are_rejected_by_name(kind: Kind, data: bytes) -> None:
    outcome = Converter().convert(kind, data)
    if isinstance(outcome, Rejection):
        check_sentence(outcome.problem)
        assert outcome.problem.kind == kind.value
