"""JSON cut into pieces without the decoder's help. What becomes of the pieces: test_wire.py."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.source.pieces import Unscannable, elements, members

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text() | st.sampled_from(['"', "\\", "]", "}", ",", ":", "[{"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=30,
)
SPACED = st.sampled_from([(",", ":"), (" , ", " : "), (",\n\t", ":\n")])


@given(st.lists(JSON, max_size=5), SPACED)
def test_elements_are_those_of_the_array(array: list[Any], separators: tuple[str, str]) -> None:
    text = json.dumps(array, separators=separators).encode()
    assert [json.loads(element) for element in elements(text)] == array


@given(st.dictionaries(st.text(), JSON, max_size=5), SPACED)
def test_members_are_those_of_the_object(value: dict[str, Any], separators: tuple[str, str]) -> None:
    text = json.dumps(value, separators=separators).encode()
    assert {name: json.loads(member) for name, member in members(text).items()} == value


@given(st.lists(JSON, min_size=1), st.data())
def test_nothing_that_is_cut_off_has_pieces(array: list[Any], data: st.DataObject) -> None:
    text = json.dumps(array).encode()
    with pytest.raises(Unscannable):
        elements(text[: data.draw(st.integers(0, len(text) - 1))])


@pytest.mark.parametrize(
    "text",
    [
        *(
            b"",
            b"1",
            b"null",
            b'"[]"',
            b"{}",
            b"[",
            b"[1",
            b"[1,",
            b'["',
            b'["\\',
            b"[}",
            b"[[}]",
            b"[]]",
            b"[] x",
            b"][[",
        ),
        *(b"[" * 100_000, b'["' * 100_000, b'[{"a":' * 100_000),
    ],
)
def test_what_is_no_array_has_no_elements(text: bytes) -> None:
    with pytest.raises(Unscannable):
        elements(text)


@pytest.mark.parametrize(
    "text", [b"[]", b"{1:2}", b'{"a"}', b'{"a":}', b'{"a",}', b'{"a":1,}', b"{,}", b'{"a" 1}', b"{a:1}"]
)
def test_what_is_no_object_has_no_members(text: bytes) -> None:
    with pytest.raises(Unscannable):
        members(text)


def test_any_depth_is_one_piece() -> None:
    deep = b"[" * 50_000 + b"]" * 50_000
    assert elements(b"[1," + deep + b"]") == [b"1", deep]


def test_a_name_that_is_no_text_is_left_out() -> None:
    assert members(b'{"a\\ud800":1,"b":2}') == {"b": b"2"}


def test_of_two_members_with_one_name_the_last_counts() -> None:
    assert members(b'{"a":1,"a":2}') == {"a": b"2"}
