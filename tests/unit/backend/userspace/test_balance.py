"""Turns and affinity. Whether an endpoint answers is found out by test_streams and test_datagrams."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from kproxy.backend.userspace.balance import Balancer
from kproxy.plan.plan import Target

A, B, C = (Target(f"10.0.0.{n}", 80, local=False) for n in (1, 2, 3))


def ask(balancer: Balancer, targets: Sequence[Target] = (A, B, C), client: str = "c", **rest: float) -> Target:
    """One flow that is served by the endpoint tried first."""
    affinity, now = rest.get("affinity", 0.0), rest.get("now", 0.0)
    first = balancer.order(targets, affinity=affinity, client=client, now=now)[0]
    if affinity:
        balancer.served(client, first, now)
    return first


def test_endpoints_take_turns_from_wherever_chance_says() -> None:
    assert [ask(Balancer(first=4, clients=9)) for _ in range(1)] == [B]
    balancer = Balancer(first=0, clients=9)
    assert [ask(balancer) for _ in range(4)] == [A, B, C, A]


@given(st.lists(st.integers(1, 5), min_size=1), st.integers(0, 1 << 16))
def test_every_order_holds_every_endpoint_once(sizes: list[int], first: int) -> None:
    balancer = Balancer(first=first, clients=9)
    for size in sizes:
        targets = [Target(f"10.0.0.{n}", 80, local=False) for n in range(size)]
        order = balancer.order(targets, affinity=0, client="c", now=0)
        assert Counter(order) == Counter(targets)


def test_a_client_keeps_its_endpoint_until_the_timeout_has_passed_since_its_latest_flow() -> None:
    balancer = Balancer(first=0, clients=9)
    assert [ask(balancer, affinity=10, now=now) for now in (0, 9, 18)] == [A, A, A]
    assert ask(balancer, affinity=10, now=20, client="other") == B
    assert ask(balancer, affinity=10, now=28) == C  # at ten seconds sharp it is over


def test_a_client_is_given_another_endpoint_when_its_own_left_did_not_answer_or_was_not_the_one() -> None:
    balancer = Balancer(first=0, clients=9)
    assert ask(balancer, affinity=10) == A
    assert ask(balancer, (B, C), affinity=10) == C
    assert balancer.order((A, B, C), affinity=10, client="c", now=0) == (C, A, B)
    balancer.served("c", A, 0)  # C and all before it could not be reached
    assert ask(balancer, affinity=10) == A
    balancer.forget("c")
    assert ask(balancer, affinity=10) == C
    balancer.forget("nobody")


def test_no_more_clients_are_remembered_than_allowed() -> None:
    balancer = Balancer(first=0, clients=2)
    for client in ("x", "y", "x", "z"):
        ask(balancer, affinity=10, client=client)
    assert [ask(balancer, affinity=10, client=client) for client in ("x", "z")] == [A, C]
    assert len(balancer._had) == 2
