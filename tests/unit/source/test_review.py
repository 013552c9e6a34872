"""The checks that all kinds share."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.model.enums import Protocol
from kproxy.source.review import (
    Review,
    Unusable,
    is_label,
    is_subdomain,
    optional_port,
    port_name,
    port_number,
    protocol,
    show,
    show_number,
)


@pytest.mark.parametrize("name", ["a", "1", "web-1", "1web", "a" * 63])
def test_labels(name: str) -> None:
    assert is_label(name)
    assert is_subdomain(name)


@pytest.mark.parametrize(
    "name", ["", "-a", "a-", "A", "a_b", "a" * 64, "a.b", 'a"', "a\n", "a'b", "a b", "ä", "a\x00", "\u0663"]
)
def test_what_is_no_label(name: str) -> None:
    assert not is_label(name)


def test_subdomains_have_dots_and_253_characters_at_most() -> None:
    assert is_subdomain("node-1.example.com")
    assert is_subdomain(".".join(["a" * 62] * 4))
    assert not is_subdomain(".".join(["a" * 63] * 4))
    assert not is_subdomain("a..b")
    assert not is_subdomain("a.b\n")


@pytest.mark.parametrize("value", [None, 0, -1, 65536, 10**30])
def test_a_port_lies_between_1_and_65535(value: int | None) -> None:
    with pytest.raises(Unusable):
        port_number(value, "spec.port")


def test_no_optional_port_is_0() -> None:
    assert optional_port(None, "f") == optional_port(0, "f") == 0
    assert optional_port(30000, "f") == 30000


def test_no_protocol_is_tcp() -> None:
    assert protocol(None, "f") is protocol("", "f") is protocol("TCP", "f") is Protocol.TCP


@pytest.mark.parametrize("value", ["tcp", "ICMP", "TCP\n"])
def test_an_unknown_protocol_is_refused(value: str) -> None:
    with pytest.raises(Unusable):
        protocol(value, "f")


def test_a_port_name_is_a_label_or_nothing() -> None:
    assert port_name(None, "f") == port_name("", "f") == ""
    assert port_name("1http", "f") == "1http"
    with pytest.raises(Unusable):
        port_name('http" -j ACCEPT', "f")


@pytest.mark.parametrize(
    ("number", "shown"),
    [
        (0, "0"),
        (-(2**63), "-9223372036854775808"),
        (10**40, "a number of 41 digits"),
        (-(10**4000), "a number of 4001 digits"),
    ],
)
def test_foreign_numbers_are_shown_shortly(number: int, shown: str) -> None:
    assert show_number(number) == shown


@given(st.text())
def test_foreign_text_is_shown_on_one_short_line(text: str) -> None:
    shown = show(text)
    assert shown.isprintable()
    assert len(shown) < 1000


def test_a_thousand_notes_are_a_few() -> None:
    review = Review("Service", "default/web")
    for index in range(1000):
        review.note(f"field[{index}]", "is wrong", "repair it")
    notes = review.notes()
    assert len(notes) == 6
    assert "995 more" in str(notes[-1])
