"""Which sightings are one packet's, and when it is through."""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kproxy.explain.watch.passages import PATIENCE, SILENCE, Passage, Passages
from kproxy.model.enums import IPFamily
from kproxy.model.sighting import Header, Kind, Sighting

OWN = "kproxy-trace"
DIALLED = Header("10.0.0.1", 40000, "10.96.0.10", 80, "TCP", (60, 99, 7))
REWRITTEN = Header("10.0.0.1", 40000, "10.244.0.7", 8080, "TCP", (60, 99, 7))


def other(number: int) -> Header:
    return Header("10.0.0.2", number, "10.96.0.10", 80, "TCP", (60, 99, 7))


def mark(packet: int = 1, header: Header | None = DIALLED, **more: Any) -> Sighting:
    return Sighting("nft", IPFamily.IPV4, OWN, "pace", Kind.RULE, 3, "continue", packet, header, is_mark=True, **more)


def nft(chain: str, packet: int = 1, header: Header | None = None, **more: Any) -> Sighting:
    return Sighting("nft", IPFamily.IPV4, "nat", chain, Kind.RULE, 5, "jump", packet, header, **more)


def legacy(chain: str, header: Header = DIALLED, rule: int = 1) -> Sighting:
    return Sighting("legacy", IPFamily.IPV4, "nat", chain, Kind.RULE, rule, header=header)


def after(*sightings: Sighting, rate: float = 10.0) -> list[Passage]:
    passages = Passages(OWN, rate=rate, now=0.0)
    for sighting in sightings:
        passages.add(sighting, 0.0)
    return list(passages.over(SILENCE))


def chains(passage: Passage) -> list[str]:
    return [each.chain for each in passage.sightings]


def test_a_number_keeps_a_packet_together_and_headers_are_those_of_the_moment() -> None:
    (passage,) = after(
        mark(in_interface="eth0"), nft("A", header=DIALLED), nft("B"), nft("C", header=REWRITTEN), nft("D")
    )
    assert chains(passage) == ["A", "B", "C", "D"]
    assert [each.header for each in passage.sightings] == [DIALLED, DIALLED, REWRITTEN, REWRITTEN]
    assert (passage.in_interface, passage.header) == ("eth0", DIALLED)
    assert passage.flow == ("TCP", "10.0.0.1", 40000, "10.96.0.10", 80)


def test_packets_that_are_under_way_together_are_told_apart() -> None:
    marks = [mark(2, other(1)), mark(3, other(2))]
    first, second = after(*marks, nft("A", 3), nft("B", 2), legacy("C", other(1)), nft("D", 3))
    assert (chains(first), chains(second)) == (["B", "C"], ["A", "D"])


def test_legacy_sightings_belong_to_the_sender() -> None:
    (passage,) = after(mark(), legacy("A"), legacy("B", REWRITTEN))
    assert chains(passage) == ["A", "B"]


def test_what_our_rule_did_not_mark_is_somebody_elses() -> None:
    assert after(nft("A", header=DIALLED), legacy("B"), nft("C", 7)) == []
    (passage,) = after(mark(), nft("A", 9, header=other(5)), legacy("B", other(6)))
    assert chains(passage) == []


def test_a_packet_that_others_trace_too_is_known_by_what_was_told_before() -> None:
    before = Sighting("nft", IPFamily.IPV4, OWN, "prerouting", Kind.RULE, 8, "jump", 1, DIALLED, "eth0")
    (passage,) = after(before, mark(header=None), nft("A"))
    assert (passage.header, passage.in_interface, chains(passage)) == (DIALLED, "eth0", ["A"])
    assert after(mark(header=None), nft("A")) == []


def test_a_packet_that_comes_back_through_lo_is_the_same() -> None:
    again = nft("B", 2, header=REWRITTEN, in_interface="lo")
    (passage,) = after(mark(), nft("A"), again, nft("C", 2))
    assert chains(passage) == ["A", "B", "C"]
    (passage,) = after(mark(in_interface="lo"), nft("A"), mark(2, in_interface="lo"), nft("B", 2))
    assert chains(passage) == ["A", "B"]


def test_a_packet_that_gets_another_number_at_a_bridge_is_the_same() -> None:
    """Two that are under way together: each gets its own second half, and whatever comes behind that."""
    marks = [mark(1), mark(2, other(2))]
    halves = [nft("FORWARD", 8, other(2)), nft("FORWARD", 9, REWRITTEN), nft("B", 9), nft("C", 8)]
    first, second = after(*marks, nft("A", 1), nft("A", 2), *halves)
    assert (chains(first), chains(second)) == (["A", "FORWARD", "B"], ["A", "FORWARD", "C"])
    assert first.now == REWRITTEN


def test_of_two_equal_packets_each_gets_one_half() -> None:
    marks = [mark(1), mark(2)]
    halves = [nft("FORWARD", 8, REWRITTEN), nft("B", 8), nft("FORWARD", 9, REWRITTEN), nft("B", 9)]
    for passage in after(*marks, *halves):
        assert chains(passage) == ["FORWARD", "B"]
    for passage in after(*marks, legacy("A"), legacy("A"), legacy("B"), legacy("B")):
        assert chains(passage) == ["A", "B"]


def test_what_comes_back_through_lo_with_another_source_is_known_by_its_destination() -> None:
    hidden = replace(REWRITTEN, source="10.0.0.254")
    (passage,) = after(mark(), nft("A", header=REWRITTEN), nft("B", 2, header=hidden, in_interface="lo"))
    assert chains(passage) == ["A", "B"]
    (passage,) = after(mark(), nft("A", header=REWRITTEN), nft("B", 2, header=hidden, in_interface="eth0"))
    assert chains(passage) == ["A"]


def test_a_packet_is_through_when_it_was_silent() -> None:
    passages = Passages(OWN, rate=10, now=0.0)
    passages.add(mark(1), 0.0)
    passages.add(mark(2, other(2)), SILENCE / 2)
    assert len(passages) == 2
    assert [each.header for each in passages.over(SILENCE)] == [DIALLED]
    passages.add(nft("late"), SILENCE)
    assert [(each.header, each.sightings) for each in passages.over(SILENCE * 2)] == [(other(2), [])]
    assert len(passages) == 0


def test_more_than_the_rate_is_left_out_whatever_the_kernel_does() -> None:
    many = [mark(n, other(n)) for n in range(1, 500)]
    assert len(after(*many, rate=2)) == 2 * PATIENCE


def test_headers_of_others_are_not_kept_for_ever() -> None:
    passages = Passages(OWN, rate=10, now=0.0)
    for number in range(5000):
        passages.add(Sighting("nft", IPFamily.IPV4, OWN, "x", Kind.RULE, 1, "", number + 1, other(number)), 0.0)
    assert len(passages._told) <= 1000
    assert len(passages) == 0


@given(st.lists(st.integers(0, 3), max_size=30))
def test_no_order_of_sightings_loses_one_or_gives_it_to_another(order: list[int]) -> None:
    """Four packets, each with its own senders; their sightings interleave in any way."""
    steps = itertools.count()
    told = [mark(n + 1, other(n)) for n in range(4)]
    told += [nft(f"{next(steps)}-{n}", n + 1) if n % 2 else legacy(f"{next(steps)}-{n}", other(n)) for n in order]
    for number, passage in enumerate(after(*told)):
        assert chains(passage) == [f"{step}-{n}" for step, n in enumerate(order) if n == number]


@given(st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=30))
def test_no_renumbering_loses_a_sighting_or_gives_it_to_another(order: list[tuple[int, bool]]) -> None:
    """Four packets whose numbers change at any moment, each time to one that nobody had."""
    fresh = itertools.count(100)
    numbers = {n: n + 1 for n in range(4)}
    told = [mark(numbers[n], other(n)) for n in range(4)]
    for step, (n, is_renumbered) in enumerate(order):
        if is_renumbered:
            numbers[n] = next(fresh)
        told.append(nft(f"{step}-{n}", numbers[n], other(n) if is_renumbered else None))
    for number, passage in enumerate(after(*told)):
        assert chains(passage) == [f"{step}-{n}" for step, (n, _) in enumerate(order) if n == number]
