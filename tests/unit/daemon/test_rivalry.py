"""When a rival is told, and how long healing gives way to it."""

from __future__ import annotations

from kproxy.daemon.rivalry import Rivalry


def rivalry() -> Rivalry:
    return Rivalry(longest=30.0, calm=3600.0)


def test_a_rewrite_or_two_are_chance_and_the_third_is_told_once() -> None:
    rival = rivalry()
    assert [rival.found(now) for now in (0.0, 10.0, 20.0, 30.0, 40.0)] == [False, False, True, False, False]


def test_healing_does_not_wait_before_that() -> None:
    rival = rivalry()
    rival.found(0.0)
    rival.found(0.5)
    assert rival.wait(0.5) == 0


def test_healing_waits_twice_as_long_each_time_and_never_longer_than_the_longest() -> None:
    rival = rivalry()
    waits = []
    for _ in range(9):
        rival.found(100.0)
        waits.append(rival.wait(100.0))
    assert waits == [0, 0, 1, 2, 4, 8, 16, 30, 30]


def test_the_wait_counts_from_the_last_rewrite() -> None:
    rival = rivalry()
    for _ in range(4):
        rival.found(100.0)
    assert rival.wait(101.5) == 0.5
    assert rival.wait(103.0) == 0


def test_after_a_calm_all_is_forgotten() -> None:
    rival = rivalry()
    for _ in range(6):
        rival.found(0.0)
    assert rival.wait(3601.0) == 0
    assert [rival.found(now) for now in (3601.0, 3602.0, 3603.0)] == [False, False, True]
