"""Chunks to lines."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.source.lines import LineTooLong, Splitter


@given(st.lists(st.binary(min_size=1, max_size=20).filter(lambda line: b"\n" not in line and line.strip())), st.data())
def test_lines_do_not_depend_on_where_chunks_end(lines: list[bytes], data: st.DataObject) -> None:
    text = b"".join(line + b"\n" for line in lines)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=5)))
    splitter, found = Splitter(), []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        found += splitter.feed(text[start:end])
    assert found == lines
    assert splitter.rest() == b""


def test_an_unfinished_line_is_held_back() -> None:
    splitter = Splitter()
    assert splitter.feed(b"one\ntw") == [b"one"]
    assert splitter.rest() == b"tw"


def test_empty_lines_are_left_out() -> None:
    assert Splitter().feed(b"\n\r\none\n\n") == [b"one"]


def test_an_endless_line_is_refused() -> None:
    splitter = Splitter(longest=10)
    splitter.feed(b"12345678")
    with pytest.raises(LineTooLong):
        splitter.feed(b"9abcdef")


def test_many_long_lines_are_no_endless_line() -> None:
    assert len(Splitter(longest=10).feed(b"12345678\n" * 100)) == 100
