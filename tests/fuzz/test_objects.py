"""From API JSON to restore input, one cluster at a time; what the kernel says to it is test_kernel.py's.

Each example is a few Services and slices that are right and one or two objects of which something is wrong.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from kproxy.model.change import Rejection
from kproxy.model.enums import Kind
from kproxy.source.convert import Converter
from tests.fuzz.examples import Example, examples, spoilt_objects
from tests.fuzz.journey import check_sentence
from tests.fuzz.laws import check_example

FUZZ = settings(max_examples=100, derandomize=True)


@FUZZ
@given(examples())
def test_what_is_wrong_is_named_and_spoils_nothing_else(example: Example) -> None:
    check_example(example)


@FUZZ
@given(st.sampled_from(Kind), spoilt_objects())
def test_bytes_that_are_no_object_are_rejected_by_name(kind: Kind, data: bytes) -> None:
    outcome = Converter().convert(kind, data)
    if isinstance(outcome, Rejection):
        check_sentence(outcome.problem)
        assert outcome.problem.kind == kind.value
