"""Words and values. Which of them a match or a target needs is in test_matches.py and test_targets.py."""

from __future__ import annotations

import re

import pytest

from kproxy.backend.iptables.options import (
    ALL,
    Options,
    read_address,
    read_cidr,
    read_mark,
    read_number,
    read_places,
    read_range,
    unquote,
)


def test_every_word_must_be_taken_once() -> None:
    options = Options("tcp", "-m tcp ! --dport 80 --flag", "! --dport 80 --flag")
    assert options.take("--dport") == ("80", True)
    before = options.finished
    assert options.flag("--flag")
    assert (before, options.finished) == (False, True)
    assert (options.take("--dport"), options.text("--sport"), options.flag("--flag")) == (("", False), "", False)


@pytest.mark.parametrize(
    "words", ["word", "--a 1 --a 2", "! ! --a 1", "--a 1 !", "--a ! 1", "[unsupported revision]", "! 80"]
)
def test_strange_words_are_never_finished(words: str) -> None:
    options = Options("tcp", "", words)
    options.rest()
    assert not options.finished


def test_what_cannot_be_negated_or_needs_a_value_is_strange_otherwise() -> None:
    for words in ("! --a 1", "--a"):
        options = Options("tcp", "", words)
        options.text("--a")
        assert not options.finished
    for words in ("! --a", "--a 1"):
        options = Options("tcp", "", words)
        assert options.flag("--a")
        assert not options.finished


def test_values_are_read() -> None:
    assert (read_cidr("10.0.0.0/8"), read_address("fd00::1")) == ("10.0.0.0/8", "fd00::1")
    assert (read_number("80"), read_number("300", 300)) == (80, 300)
    assert (read_range(""), read_range("80"), read_range("80-90", "-")) == ((0, 0), (80, 80), (80, 90))
    assert (read_mark("0x4000/0x1"), read_mark("1")) == ((0x4000, 1), (1, ALL))
    assert read_places("[fd00::1-fd00::2]:80-90") == ("fd00::1", "fd00::2", 80, 90)
    assert (unquote('"a \\"b\\""'), unquote("a\\b")) == ('a "b"', "a\\b")


@pytest.mark.parametrize("text", ["0x1ffffffff", "4294967296", "1/4294967296", "-1", "", "0x", "1/"])
def test_a_mark_has_32_bits(text: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        read_mark(text)


@pytest.mark.parametrize("text", ["10.0.0.1/8", "", "10.0.0", "::1%lo", "1.2.3.4.5"])
def test_an_address_is_one(text: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        read_address(text)
