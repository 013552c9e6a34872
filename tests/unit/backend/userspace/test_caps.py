"""A cap that several processes keep, here in one."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from kproxy.backend.userspace.board import ROWS, Board, create_board
from kproxy.backend.userspace.caps import Caps, columns, columns_of
from kproxy.backend.userspace.counts import Tally
from kproxy.backend.userspace.rules import Rule
from kproxy.model.enums import IPFamily
from kproxy.model.keys import ServicePortKey
from tests.unit.backend.userspace.sockets import TCP, rule

V4, V6 = IPFamily.IPV4, IPFamily.IPV6
KEY = ServicePortKey("default", "web", "", TCP)
LAST = ROWS - 1


def capped(cap: int) -> Rule:
    return rule(1, connections=cap)


@pytest.fixture
def file() -> Iterator[int]:
    made = create_board(columns(2))
    yield made
    os.close(made)


@pytest.fixture
def board(file: int) -> Iterator[Board]:
    made = Board(file)
    yield made
    made.close()


def test_all_see_the_same_board_and_nobody_can_take_it_away(file: int, board: Board) -> None:
    other = Board(file)
    for row in (0, LAST):
        other.write(row, 3, 5)
        other.write(row, 0, 2)
        assert [board.elsewhere(row, column) for column in range(4)] == [5, 7, 7, 2]
        board.wipe([row], columns_of(1))
        assert other.elsewhere(row, 0) == 0
    other.close()
    with pytest.raises(PermissionError):
        os.ftruncate(file, 0)


def test_who_asks_is_seen_by_the_others_unless_the_cap_is_reached(board: Board) -> None:
    tallies = {V4: {KEY: Tally(active=1)}, V6: {KEY: Tally(active=1)}}
    one, other = Caps(board, 0), Caps(board, 1)
    asks = [each.elsewhere(family, tallies[family].copy) for each in (one, other) for family in (V4, V6)]
    assert asks[0](KEY) == 0  # no cap that it knows of
    for each in (one, other):
        each.keep([capped(4)], {KEY: LAST})
    assert asks[0](KEY) == 0
    assert asks[3](KEY) == 2  # the first has one and wants another
    assert asks[1](KEY) == 4  # the third will have another: no room here, so nothing is promised
    assert asks[0](KEY) == 3 == board.elsewhere(LAST, 0)


def test_flows_that_ended_are_seen_at_the_next_look_and_forgotten_keys_are_not_written(board: Board) -> None:
    tallies = {KEY: Tally(active=3)}
    caps = Caps(board, 0)
    caps.keep([capped(10)], {KEY: 0})
    caps.follow(V4, tallies)
    caps.publish()
    assert board.elsewhere(0, 3) == 3
    tallies[KEY].active = 1
    caps.publish()
    assert board.elsewhere(0, 3) == 1
    caps.forget({KEY})  # not while there are flows
    tallies[KEY].active = 2
    caps.publish()
    assert board.elsewhere(0, 3) == 2
    caps.follow(V4, {})
    caps.forget({KEY})
    caps.follow(V4, tallies)
    tallies[KEY].active = 9
    caps.publish()
    assert board.elsewhere(0, 3) == 2


def test_a_cap_ends_with_the_rule_that_has_it(board: Board) -> None:
    caps = Caps(board, 0)
    ask = caps.elsewhere(V4, lambda: {KEY: Tally(active=3)})
    board.write(0, 3, 5)
    caps.keep([capped(10)], {KEY: 0})
    assert ask(KEY) == 5
    assert caps.are_any
    caps.keep([capped(0)], {})
    assert ask(KEY) == 0
    assert not caps.are_any
    caps.keep([capped(10)], {})  # no row was left
    assert ask(KEY) == 0
