"""Tallies as values: what several processes count adds up. Who counts what is test_streams' and test_datagrams'."""

from __future__ import annotations

import errno

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from kproxy.backend.userspace.counts import (
    BUCKETS,
    ENDPOINTS,
    FILES,
    REASONS,
    Deltas,
    Tally,
    difference,
    merge,
    reason,
)
from kproxy.model.enums import Protocol
from kproxy.model.keys import ServicePortKey

WEB, DNS = (ServicePortKey("default", name, "", Protocol.TCP) for name in ("web", "dns"))

numbers = st.integers(0, 1 << 40)
tallies = st.builds(
    Tally,
    flows=numbers,
    active=numbers,
    received=numbers,
    sent=numbers,
    connects=st.lists(numbers, min_size=len(BUCKETS) + 1, max_size=len(BUCKETS) + 1),
    connect_seconds=st.integers(0, 1000).map(float),
    retries=numbers,
    ejections=numbers,
    ejected=numbers,
    refused=st.dictionaries(st.sampled_from(REASONS), st.integers(1, 1 << 40)),
    evicted=numbers,
    dropped=numbers,
    hidden=numbers,
)


@given(tallies, tallies, tallies)
def test_tallies_add_up_in_any_order(one: Tally, two: Tally, three: Tally) -> None:
    assert merge(one, two) == merge(two, one)
    assert merge(merge(one, two), three) == merge(one, merge(two, three))
    assert merge(one, Tally()) == one


@given(tallies, tallies)
def test_a_difference_undoes_a_sum_also_on_its_way_to_another_process(one: Tally, two: Tally) -> None:
    told = msgspec.msgpack.decode(msgspec.msgpack.encode(difference(merge(one, two), one)), type=Tally)
    assert told == two
    assert merge(one, told) == merge(one, two)


def test_a_state_that_has_become_less_is_told_as_less() -> None:
    assert difference(Tally(flows=5, active=1), Tally(flows=4, active=3)) == Tally(flows=1, active=-2)


def test_a_connection_is_in_the_bucket_that_ends_no_earlier() -> None:
    tally = Tally()
    for seconds in (0.0005, 0.001, 0.0011, 5.0, 5.1):
        tally.connect(seconds)
    assert (tally.flows, tally.connects[0], tally.connects[1]) == (5, 2, 1)
    assert tally.connects[-2:] == [1, 1]
    assert round(tally.connect_seconds, 4) == 10.1026


def test_refusals_are_counted_by_what_went_wrong() -> None:
    tally = Tally()
    for code in (errno.ECONNREFUSED, errno.ETIMEDOUT, errno.EMFILE):
        tally.refuse(reason(OSError(code, "")))
    assert tally.refused == {ENDPOINTS: 2, FILES: 1}


def test_what_is_told_bit_by_bit_adds_up_and_is_told_once() -> None:
    deltas, heard = Deltas(), Tally()
    tally = Tally(active=1)
    for _ in range(3):
        tally.connect(0.3)
        tally.refuse(FILES)
        heard = merge(heard, deltas.take({WEB: tally})[WEB])
        assert deltas.take({WEB: tally}) == {}
        assert heard == tally
    tally.active = 0
    assert deltas.take({WEB: tally, DNS: Tally(sent=1)}) == {WEB: Tally(active=-1), DNS: Tally(sent=1)}


def test_a_service_port_that_was_gone_begins_anew() -> None:
    deltas = Deltas()
    assert deltas.take({WEB: Tally(flows=3)}) == {WEB: Tally(flows=3)}
    assert deltas.take({}) == {}
    assert deltas.take({WEB: Tally(flows=2)}) == {WEB: Tally(flows=2)}
