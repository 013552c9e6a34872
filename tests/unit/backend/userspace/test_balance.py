"""Who is chosen and who is passed over. In any order of events: test_balance_machine."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.backend.userspace.balance import Balancer
from kproxy.backend.userspace.endpoints import Endpoint, ServicePort
from kproxy.backend.userspace.rules import Rule
from kproxy.config import Balance
from kproxy.plan.plan import Target
from tests.unit.backend.userspace.sockets import key, rule, settings

A, B, C = (Target(f"10.0.0.{n}", 80, local=False) for n in (1, 2, 3))
MANY = tuple(Target(f"10.0.1.{n}", 80, local=False) for n in range(10))
LEAST, RANDOM = Balance.LEAST_CONNECTIONS, Balance.RANDOM


def serving(
    *targets: Target, first: int = 0, clients: int = 9, service: ServicePort | None = None, **asked: Any
) -> Balancer:
    """Turns begin with ``first``; then chance is a fair one, and the same each time."""
    dice, affinity = random.Random(1), asked.pop("affinity", 0)
    draws = [first]
    made = Balancer(
        service or ServicePort(key(), settings(**asked)),
        chance=lambda: draws.pop() if draws else dice.getrandbits(16),
        clients=clients,
    )
    made.follow(by(*(targets or (A, B, C)), affinity=affinity, **asked), 0)
    return made


def by(*targets: Target, **asked: Any) -> Rule:
    return rule(1, *targets, **asked)


def ask(balancer: Balancer, now: float = 0, client: str = "c") -> Target:
    """One flow that is served by the endpoint tried first."""
    endpoint = balancer.choose(client, now)
    balancer.reached(endpoint, client, now)
    return endpoint.target


def find(balancer: Balancer, target: Target) -> Endpoint:
    return next(each for each in balancer.endpoints if each.target == target)


def fail(balancer: Balancer, *targets: Target, times: int = 3, now: float = 0) -> None:
    for target in targets:
        for _ in range(times):
            balancer.failed(find(balancer, target), now)


def shares(balancer: Balancer, now: float, flows: int = 3000) -> dict[Target, float]:
    counted = Counter(ask(balancer, now) for _ in range(flows))
    return {each.target: counted[each.target] / flows for each in balancer.endpoints}


# --- choice -------------------------------------------------------------------------------------------------------


def test_endpoints_take_turns_from_wherever_chance_says() -> None:
    assert ask(serving(first=4)) == B
    balancer = serving()
    assert [ask(balancer) for _ in range(4)] == [A, B, C, A]


def test_by_lot_all_get_about_as_much() -> None:
    assert all(abs(share - 0.1) < 0.03 for share in shares(serving(*MANY, balance=RANDOM), 0).values())


def test_of_two_drawn_by_lot_the_one_with_fewer_flows_gets_the_next_one() -> None:
    balancer = serving(*MANY, balance=LEAST)
    for each in balancer.endpoints:
        each.active = 5
    find(balancer, MANY[3]).active = 9  # always worse than any other
    find(balancer, MANY[4]).active = 0  # always better
    share = shares(balancer, 0)
    assert share[MANY[3]] == 0
    assert abs(share[MANY[4]] - 0.2) < 0.03  # whenever it is one of two


def test_flows_that_end_unevenly_are_levelled_by_least_connections() -> None:
    balancer, dice = serving(*MANY, balance=LEAST), random.Random(2)
    for _ in range(2000):
        balancer.choose("c", 0).active += 1
        if dice.random() < 0.5:  # flows of the first one never end
            some = dice.choice(balancer.endpoints[1:])
            some.active = max(0, some.active - 1)
    most, least = max(e.active for e in balancer.endpoints), min(e.active for e in balancer.endpoints)
    assert most - least <= 4


def test_where_there_is_one_endpoint_it_is_the_one() -> None:
    for balance in Balance:
        assert ask(serving(A, balance=balance)) == A


@pytest.mark.parametrize("balance", Balance)
@given(st.lists(st.integers(1, 5), min_size=1), st.integers(0, 1 << 16))
def test_a_flow_tries_every_endpoint_once(balance: Balance, sizes: list[int], first: int) -> None:
    balancer = serving(first=first, balance=balance)
    for size in sizes:
        balancer.follow(by(*MANY[:size], balance=balance), 0)
        order = [each.target for each in balancer.attempts("c", 0)]
        assert Counter(order) == Counter(MANY[:size])


def test_those_who_meet_the_same_dead_endpoint_go_on_to_different_ones() -> None:
    balancer = serving(*MANY)
    seconds = []
    for _ in range(3):
        attempts = balancer.attempts("c", 0)
        next(attempts)
        seconds.append(next(attempts).target)
    assert seconds == list(MANY[1:4])


def test_the_newest_rule_says_how_is_chosen_and_endpoints_that_stay_keep_their_flows() -> None:
    balancer = serving(A, B)
    had = find(balancer, A)
    had.active = 7
    balancer.follow(by(A, C, balance=LEAST), 1)
    assert find(balancer, A) is had
    assert {ask(balancer, 1) for _ in range(10)} == {C}


# --- affinity -----------------------------------------------------------------------------------------------------


def test_a_client_keeps_its_endpoint_until_the_timeout_has_passed_since_its_latest_flow() -> None:
    balancer = serving(affinity=10)
    assert [ask(balancer, now) for now in (0, 9, 18)] == [A, A, A]
    assert ask(balancer, 20, "other") == B
    assert ask(balancer, 28) == C  # at ten seconds sharp it is over


def test_a_client_is_given_another_endpoint_when_its_own_left_did_not_answer_or_is_ejected() -> None:
    balancer = serving(affinity=10)
    assert ask(balancer) == A
    balancer.follow(by(B, C, affinity=10), 0)
    assert ask(balancer) == C
    balancer.follow(by(A, B, C, affinity=10), 0)
    assert next(balancer.attempts("c", 0)).target == C
    balancer.reached(find(balancer, A), "c", 0)  # C could not be reached
    assert ask(balancer) == A
    balancer.forget("c")
    assert ask(balancer) == C
    balancer.forget("nobody")
    fail(balancer, C)
    assert ask(balancer) in {A, B}


def test_a_client_has_its_endpoint_back_that_was_gone_for_a_while() -> None:
    balancer = serving(affinity=10)
    assert ask(balancer) == A
    for targets in ((B, C), (A, B, C)):
        balancer.follow(by(*targets, affinity=10), 1)
    assert ask(balancer, 2) == A


def test_a_client_keeps_its_endpoint_by_whichever_listener_of_its_service_port_it_comes() -> None:
    one = serving(affinity=10)
    other = Balancer(one.service, chance=lambda: 1, clients=100)
    other.follow(by(A, B, C, affinity=10), 0)
    for client in "abcdef":
        first = one.choose(client, 0)
        one.reached(first, client, 0)
        assert other.choose(client, 1) is first


def test_no_more_clients_are_remembered_than_allowed() -> None:
    balancer = serving(affinity=10, clients=2)
    for client in ("x", "y", "x", "z"):
        ask(balancer, client=client)
    assert [ask(balancer, client=client) for client in ("x", "z")] == [A, C]
    assert len(balancer.service.had) == 2


# --- ejection -----------------------------------------------------------------------------------------------------


def seen(balancer: Balancer, now: float) -> set[Target]:
    return {ask(balancer, now, f"{n}") for n in range(40)}


def test_an_endpoint_that_fails_so_many_times_in_a_row_is_passed_over_for_a_while() -> None:
    balancer = serving(eject_after=3)
    fail(balancer, A, times=2)
    assert seen(balancer, 0) == {A, B, C}  # and A's success is the end of that row
    fail(balancer, A, times=2)
    balancer.failed(find(balancer, A), 0)
    assert seen(balancer, 0) == {B, C}
    assert seen(balancer, 4.9) == {B, C}
    assert seen(balancer, 5) == {A, B, C}
    assert balancer.service.tally.ejections == 1


def test_each_time_that_it_fails_again_it_is_for_twice_as_long_and_one_success_ends_that() -> None:
    balancer, now = serving(eject_seconds=(5, 30)), 0.0
    fail(balancer, A)
    for seconds in (5, 10, 20, 30, 30):
        assert find(balancer, A).ejected_until == now + seconds
        now += seconds
        fail(balancer, A, times=1, now=now)
    for _ in range(2000):
        now += 30
        fail(balancer, A, times=1, now=now)
    assert find(balancer, A).ejected_until == now + 30
    balancer.reached(find(balancer, A), "c", now)  # somebody who had nobody else
    assert A in seen(balancer, now)
    fail(balancer, A, now=now)
    assert find(balancer, A).ejected_until == now + 5


@pytest.mark.parametrize(("floor", "stay"), [(0.0, 1), (0.1, 1), (0.5, 5), (0.55, 6), (0.7, 7), (1.0, 10)])
def test_so_many_always_stay(floor: float, stay: int) -> None:
    balancer = serving(*MANY, eject_floor=floor)
    fail(balancer, *MANY)
    assert len(seen(balancer, 0)) == stay
    balancer.service.count_ejected(0)
    assert balancer.service.tally.ejected == 10 - stay


def test_when_a_rule_leaves_too_few_those_that_return_soonest_are_back() -> None:
    balancer = serving(*MANY, eject_floor=0.5)
    for now, target in enumerate(MANY[:5]):
        fail(balancer, target, now=now / 10)
    balancer.follow(by(*MANY[:6]), 1)
    assert seen(balancer, 1) == {MANY[0], MANY[1], MANY[5]}


@pytest.mark.parametrize("balance", Balance)
def test_ejected_endpoints_are_tried_when_no_other_is_left(balance: Balance) -> None:
    balancer = serving(*MANY, balance=balance)
    fail(balancer, *MANY[2:5])
    for _ in range(20):
        order = [each.target for each in balancer.attempts("c", 1)]
        assert set(order[-3:]) == set(MANY[2:5])


def test_those_who_meet_a_dead_endpoint_go_on_to_the_one_with_fewest_flows() -> None:
    balancer = serving(*MANY, balance=LEAST)
    for number, each in enumerate(balancer.endpoints):
        each.active = number * 7 % 10
    order = [each.active for each in balancer.attempts("c", 0)]
    assert order[1:] == sorted(order[1:])


def test_nobody_is_ejected_where_the_service_does_not_want_it_nor_from_a_rule_that_it_has_left() -> None:
    balancer = serving(eject_after=0)
    fail(balancer, A, times=100)
    assert seen(balancer, 0) == {A, B, C}
    gone = find(balancer, A)
    balancer.follow(by(B, C, eject_after=1), 0)
    balancer.failed(gone, 0)
    assert balancer.service.tally.ejections == 0


def test_listeners_of_one_service_port_know_of_each_others_failures() -> None:
    one = serving()
    other = serving(service=one.service)
    fail(one, A)
    assert seen(other, 1) == {B, C}
    assert seen(other, 5) == {A, B, C}
    fail(other, B, now=6)
    assert seen(one, 6) == {A, C}
    other.reached(find(other, B), "c", 7)
    assert seen(one, 7) == {A, B, C}


# --- slow start ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("balance", Balance)
def test_a_new_endpoint_gets_more_and_more_and_then_as_much_as_others(balance: Balance) -> None:
    balancer = serving(*MANY[:9], balance=balance, slow_start=100)
    new = MANY[9]
    balancer.follow(by(*MANY, balance=balance, slow_start=100), 1000)
    full = 0.1
    for age, part in ((0, 0.1), (25, 0.25), (50, 0.5), (100, 1.0)):
        assert abs(shares(balancer, 1000 + age)[new] / full - part) < 0.25, age
    early, late = (shares(balancer, 1000 + age)[new] for age in (5, 95))
    assert early < late


def test_who_is_passed_over_makes_no_neighbour_busier() -> None:
    balancer = serving(*MANY[:9], slow_start=100)
    balancer.follow(by(*MANY, slow_start=100), 1000)
    share = shares(balancer, 1010)
    assert max(share[each] for each in MANY[:9]) - min(share[each] for each in MANY[:9]) < 0.005


def test_the_endpoints_of_a_first_rule_are_not_new_and_where_all_are_new_all_get_as_much() -> None:
    balancer = serving(slow_start=100)
    assert [ask(balancer) for _ in range(4)] == [A, B, C, A]
    balancer.follow(by(*MANY, slow_start=100), 1)
    assert all(abs(share - 0.1) < 0.03 for share in shares(balancer, 2).values())


def test_an_endpoint_that_returns_from_ejection_begins_slowly() -> None:
    balancer = serving(*MANY, slow_start=100, eject_seconds=(5, 1000))
    fail(balancer, one := MANY[0])
    assert shares(balancer, 4)[one] == 0
    assert 0 < shares(balancer, 6)[one] < 0.03
    assert abs(shares(balancer, 105)[one] - 0.1) < 0.01
    fail(balancer, one, now=200)
    assert find(balancer, one).ejected_until == 205
    fail(balancer, one, times=1, now=205)
    balancer.reached(find(balancer, one), "c", 206)  # somebody who had nobody else
    assert 0 < shares(balancer, 207)[one] < 0.03
    assert shares(balancer, 306)[one] == 0.1


# --- what a choice costs ------------------------------------------------------------------------------------------


class Counted(Sequence[Endpoint]):
    """Knows how often it was asked."""

    def __init__(self, endpoints: Sequence[Endpoint]) -> None:
        self.endpoints = endpoints
        self.asked = 0

    def __getitem__(self, at: Any) -> Any:
        self.asked += 1
        return self.endpoints[at]

    def __len__(self) -> int:
        return len(self.endpoints)


@pytest.mark.parametrize("balance", Balance)
def test_a_choice_looks_at_two_endpoints_at_most(balance: Balance) -> None:
    balancer = serving(*(Target(f"10.1.{n // 250}.{n % 250}", 80, local=False) for n in range(1000)), balance=balance)
    balancer._ready = ready = Counted(balancer.endpoints)
    balancer.endpoints = ()
    balancer.choose("c", 0)
    assert ready.asked <= 2
