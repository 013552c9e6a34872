"""Restore inputs made of objects of which something is wrong, read by the real programs and held by the real kernel."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kproxy.config import IptablesVariant
from kproxy.model.enums import IPFamily
from tests.fuzz.examples import Example, examples
from tests.fuzz.laws import check_example
from tests.fuzz.programs import Programs, Refused, abilities, private_network

pytestmark = pytest.mark.root
VARIANTS = (IptablesVariant.LEGACY, IptablesVariant.NFT)
All = dict[tuple[IptablesVariant, IPFamily], Programs]


@pytest.fixture(scope="module")
def programs() -> Iterator[All]:
    if os.geteuid() != 0:
        pytest.skip("needs root: makes network namespaces")
    made = {(variant, family): Programs(variant, family) for variant in VARIANTS for family in IPFamily}
    with private_network():
        yield made


@settings(max_examples=100, derandomize=True)
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


@pytest.mark.parametrize(
    "text", [b"*nat\n-A NOWHERE -j ACCEPT\nCOMMIT\n", b"*nat\n:A - [0:0]\n-A A --dport 1\nCOMMIT\n"]
)
def test_a_wrong_input_is_noticed(text: bytes) -> None:
    """Or the tests above would say nothing."""
    with private_network(), pytest.raises(Refused):
        Programs(IptablesVariant.LEGACY, IPFamily.IPV4)._restore(text, "--noflush", "--test")
