"""How ways part, and when they are one again."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from kproxy.backend.iptables.parse import parse_rule
from kproxy.backend.iptables.state import Host, State
from kproxy.backend.iptables.ways import MOST_ALIKE, Condition, Met, Way, join, split
from kproxy.model.packet import Packet

PACKET = Packet("10.244.1.9", "10.96.0.1", 80)
WAY = Way(State(PACKET, PACKET), trail=(None, Met("nat", "X", 0)))
MARKED = replace(WAY, state=replace(WAY.state, packet=replace(PACKET, mark=1)))
IF_A, UNLESS_A = Condition(("A",), holds=True), Condition(("A",), holds=False)
IF_B, UNLESS_B = Condition(("B",), holds=True), Condition(("B",), holds=False)


def parted(text: str, way: Way = WAY) -> tuple[list[Way], list[Way]]:
    taken: list[Way] = []
    missed: list[Way] = []
    split(parse_rule(f"-A X {text} -j ACCEPT")[1], way, Host(), taken, missed)
    return taken, missed


def test_a_rule_takes_a_way_or_misses_it() -> None:
    assert parted("-d 10.96.0.1/32") == ([WAY], [])
    assert parted("-d 10.96.0.2/32 -m set --match-set a src") == ([], [WAY])


def test_chance_parts_a_way() -> None:
    taken, missed = parted("-m statistic --mode random --probability 0.25")
    assert ([way.probability for way in taken], [way.probability for way in missed]) == ([0.25], [0.75])


def test_what_is_unknown_parts_a_way_whose_halves_are_as_likely() -> None:
    taken, missed = parted("-m set --match-set a src")
    assert [way.depends() for way in taken] == [("-m set --match-set a src",)]
    assert [way.depends() for way in missed] == [("not -m set --match-set a src",)]
    assert [way.probability for way in (*taken, *missed)] == [1.0, 1.0]


def test_two_unknown_matches_of_a_rule_fail_together() -> None:
    taken, missed = parted("-m set --match-set a src -m time --weekdays Mon")
    assert taken[0].depends() == ("-m set --match-set a src", "-m time --weekdays Mon")
    assert missed[0].depends() == ("not all of: -m set --match-set a src; -m time --weekdays Mon",)


def test_chance_and_the_unknown_part_a_way_in_three() -> None:
    taken, missed = parted("-m set --match-set a src -m statistic --mode random --probability 0.25")
    assert [(way.probability, len(way.conditions)) for way in taken] == [(0.25, 1)]
    assert [(way.probability, way.conditions[0].holds) for way in missed] == [(1.0, False), (0.75, True)]


def test_a_rule_that_records_the_source_changes_what_is_remembered() -> None:
    taken, _ = parted("-m recent --set --name A --rsource")
    assert taken[0].state.recorded == {"A"}


def test_ways_of_chance_in_one_state_are_one_way_again() -> None:
    some, others = (replace(WAY, probability=each).meeting(Met("nat", "X", at)) for at, each in ((1, 0.25), (2, 0.75)))
    assert join([some, others]) == [WAY]  # its path is what both had met
    assert len(join([some, replace(MARKED, probability=0.75)])) == 2


def test_what_makes_no_difference_is_no_condition() -> None:
    assert join([WAY.given(IF_A), WAY.given(UNLESS_A)]) == [WAY]
    assert join([WAY.given(UNLESS_A), WAY.given(IF_A)]) == [WAY]
    assert join([WAY.given(IF_A), WAY.given(UNLESS_A).given(IF_B), WAY.given(UNLESS_A).given(UNLESS_B)]) == [WAY]


@pytest.mark.parametrize(
    "other", [WAY.given(UNLESS_B), MARKED.given(UNLESS_A), replace(WAY, probability=0.5).given(UNLESS_A)]
)
def test_what_makes_a_difference_stays(other: Way) -> None:
    assert len(join([WAY.given(IF_A), other])) == 2


def test_a_way_met_twice_under_a_rule_is_met_twice() -> None:
    twice = WAY.meeting(Met("nat", "MARK", 0)).meeting(Met("nat", "MARK", 0))
    once = WAY.meeting(Met("nat", "MARK", 0))
    assert join([twice.given(IF_A), once.given(UNLESS_A)]) == [once]


def test_many_conditions_of_one_way_are_told_as_many() -> None:
    way = WAY.given(IF_A)
    for number in range(MOST_ALIKE + 1):
        way = way.given(Condition((f"match {number}",), holds=False))
    assert way.depends() == ("A", "none of 9 conditions, such as: match 0; match 1; match 2")


def test_many_conditions_for_one_place_are_told_as_many() -> None:
    ways = [WAY.given(UNLESS_B).given(Condition((f"match {number}",), holds=True)) for number in range(MOST_ALIKE + 1)]
    (way,) = join(ways)
    assert way.depends() == (
        "not B",
        "any of 9 conditions, such as: match 0; or match 1; or match 2",
    )
    assert len(join(ways[:-1])) == MOST_ALIKE


# --- what is known by now -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("known", "holds", "asked", "expected"),
    [
        ("-i cali+", True, "-i cali+", True),
        ("-i cali+", True, "-i cali1", None),
        ("-i cali+", True, "-i eth0", False),
        ("-i cali+", True, "! -i eth0", True),
        ("-i cali1", True, "-i cali+", True),
        ("-i cali1", True, "-i cali2", False),
        ("-i cali+", False, "-i cali1", False),
        ("-i cali1", False, "-i cali+", None),
        ("-i cali1", False, "-i cali2", None),
        ("! -i lo", True, "-i lo", False),
        ("! -i lo", False, "-i lo", True),
        ("-i cali+", True, "-o cali+", None),
        ("-o eth0", True, "-o eth0", True),
        ("-m set --match-set a src", False, "-m set --match-set a src", False),
        ("-m set --match-set a src", True, "-m set --match-set b src", None),
        ("-m limit --limit 1/sec", True, "-m limit --limit 1/sec", None),  # each rule has a bucket of its own
    ],
)
def test_what_a_way_has_found_out_decides_later_rules(
    known: str, holds: bool, asked: str, expected: bool | None
) -> None:
    ends = f"{PACKET.source} {PACKET.destination}"
    somewhere = replace(WAY, state=replace(WAY.state, way_in=None, way_out=None))
    taken, missed = parted(asked, somewhere.given(Condition((known,), holds=holds, ends=ends)))
    assert (bool(taken), bool(missed)) == {True: (True, False), False: (False, True), None: (True, True)}[expected]


@pytest.mark.parametrize("asked", ["-o eth0", "-m set --match-set a dst"])
def test_where_a_packet_goes_is_asked_anew_when_it_goes_elsewhere(asked: str) -> None:
    before = replace(WAY, state=replace(WAY.state, way_out=None)).given(Condition((asked,), holds=True, ends="a b"))
    assert list(map(len, parted(asked, before))) == [1, 1]
