"""DNS messages as bytes; the servers that send them: test_workload.py."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.sandbox import dns

NAMES = {"web.example": {"A": ["192.0.2.1", "192.0.2.2"], "AAAA": ["2001:db8::1"], "TXT": ["hello"]}}


def lookup(name: str, kind: str) -> list[str] | None:
    found = NAMES.get(name)
    return None if found is None else found.get(kind, [])


@pytest.mark.parametrize("kind", ["A", "AAAA", "TXT"])
def test_a_question_is_answered_under_its_number(kind: str) -> None:
    reply = dns.read(dns.answer(dns.ask(4711, "Web.Example.", kind), lookup))
    assert reply == dns.Reply(4711, 0, tuple(NAMES["web.example"][kind]))


def test_a_name_without_such_records_is_not_an_unknown_name() -> None:
    def none_of_it(_name: str, _kind: str) -> list[str]:
        return []

    assert dns.read(dns.answer(dns.ask(1, "web.example", "A"), none_of_it)) == dns.Reply(1, 0, ())
    assert dns.read(dns.answer(dns.ask(1, "other.example", "A"), lookup)) == dns.Reply(1, 3, ())


def test_the_bytes_are_those_of_the_standard() -> None:
    question = bytes.fromhex("0001 0100 0001 0000 0000 0000 03777777 076578616d706c65 00 0001 0001")
    assert dns.ask(1, "www.example", "A") == question
    answered = dns.answer(question, lambda _name, _kind: ["192.0.2.1"])
    header, record = "0001 8500 0001 0001 0000 0000", "c00c 0001 0001 00000005 0004 c0000201"
    assert answered == bytes.fromhex(header) + question[12:] + bytes.fromhex(record)


def test_what_is_no_question_is_refused() -> None:
    question = dns.ask(7, "web.example", "A")
    with pytest.raises(dns.Malformed):
        dns.answer(b"\0\1", lookup)
    with pytest.raises(dns.Malformed):
        dns.answer(dns.answer(question, lookup), lookup)
    with pytest.raises(dns.Malformed):
        dns.read(question)
    status_request = question[:2] + b"\x10" + question[3:]
    assert dns.read(dns.answer(status_request, lookup)).code == 4
    two_questions = question[:5] + b"\2" + question[6:]
    assert dns.read(dns.answer(two_questions, lookup)).code == 1
    points_to_itself = question[:12] + b"\xc0\x0c" + question[-4:]
    assert dns.read(dns.answer(points_to_itself, lookup)).code == 1


def test_a_name_that_does_not_fit_cannot_be_asked() -> None:
    with pytest.raises(dns.Malformed, match="more than 63 bytes"):
        dns.ask(1, "a" * 64 + ".example", "A")


@given(st.binary(max_size=200))
def test_no_bytes_do_harm(message: bytes) -> None:
    for work in (lambda: dns.answer(message, lookup), lambda: dns.read(message)):
        try:
            work()
        except dns.Malformed:
            continue


@given(st.integers(0, 100), st.sampled_from(["A", "AAAA", "TXT"]))
def test_an_answer_that_is_cut_off_is_noticed(missing: int, kind: str) -> None:
    whole = dns.answer(dns.ask(9, "web.example", kind), lookup)
    if 0 < missing < len(whole):
        with pytest.raises(dns.Malformed):
            dns.read(whole[:-missing])
