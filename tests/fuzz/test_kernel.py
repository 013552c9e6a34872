"""Restore inputs made of objects of which something is wrong, read by the real programs and held by the real kernel."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kproxy.backend.iptables.rules import Chain, Comment, Rule, Table, Verdict
from kproxy.config import IptablesVariant
from kproxy.model.enums import IPFamily
from tests.fuzz.examples import Example, examples
from tests.fuzz.hostile import NAMES
from tests.fuzz.laws import check_example
from tests.fuzz.programs import Programs, Refused, abilities

pytestmark = pytest.mark.root
ENCODABLE = st.characters(codec="utf-8")
COMMENTS = [text for text in NAMES if text.isascii() or text.isprintable()]
VARIANTS = (IptablesVariant.LEGACY, IptablesVariant.NFT)
All = dict[tuple[IptablesVariant, IPFamily], Programs]


@pytest.fixture(scope="module")
def programs() -> Iterator[All]:
    if os.geteuid() != 0:
        pytest.skip("needs root: makes network namespaces")
    with ExitStack() as walls:
        every = product(VARIANTS, IPFamily)
        yield {each: walls.enter_context(Programs(*each)) for each in every}


@settings(max_examples=50, derandomize=True)
@given(example=examples(), variant=st.sampled_from(VARIANTS))
def test_the_kernel_takes_every_restore_input(programs: All, example: Example, variant: IptablesVariant) -> None:
    trip = check_example(example, abilities(variant))
    for family, rounds in trip.rounds.items():
        programs[variant, family].check(rounds)


def test_the_parsers_take_what_is_left(programs: All) -> None:
    """One program reads many inputs; this is for the last of them, after the test above."""
    for each in programs.values():
        if each.committed:
            each.test()


@settings(max_examples=25, derandomize=True)
@given(texts=st.lists(st.sampled_from(COMMENTS) | st.text(ENCODABLE, max_size=300), min_size=1, max_size=50))
def test_any_text_in_a_comment_stays_in_its_quotes(programs: All, texts: list[str]) -> None:
    """No name with such text in it gets past the converter. Should one ever do, this is the next wall."""
    rules = tuple(Rule((Comment(text),), Verdict.RETURN) for text in texts)
    chain = Chain(Table.NAT, "KUBE-SVC-TEXTS", rules)
    for variant in VARIANTS:
        programs[variant, IPFamily.IPV4].check_chain(chain)


@pytest.mark.parametrize(
    "text", [b"*nat\n-A NOWHERE -j ACCEPT\nCOMMIT\n", b"*nat\n:A - [0:0]\n-A A --dport 1\nCOMMIT\n"]
)
def test_a_wrong_input_is_noticed(text: bytes) -> None:
    """Or the tests above would say nothing."""
    with Programs(IptablesVariant.LEGACY, IPFamily.IPV4) as programs, pytest.raises(Refused):
        programs.restore(text, "--noflush", "--test")
