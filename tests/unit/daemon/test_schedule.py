"""When a round may begin. How the event loop waits for it is in test_runner.py."""

import math

from hypothesis import given
from hypothesis import strategies as st

from kproxy.daemon.schedule import HEALING_GAP, Schedule

WEB = frozenset({"default/web"})


def schedule(*, minimum: float = 1.0, retry: float = 30.0, idle: float = 3600.0) -> Schedule:
    return Schedule(minimum=minimum, retry=retry, idle=idle)


def synced_at(now: float, **periods: float) -> Schedule:
    made = schedule(**periods)
    made.request()
    made.begin(now)
    made.finish(now, succeeded=True)
    return made


def test_nothing_is_due_before_somebody_asks() -> None:
    assert schedule().due() is None


def test_the_first_round_is_due_at_once_and_compares_with_the_kernel() -> None:
    made = schedule()
    made.request()
    assert made.due() == -math.inf
    assert made.begin(0.0) is True


def test_the_minimum_counts_from_the_end_of_a_round_not_from_its_beginning() -> None:
    made = schedule()
    made.request()
    made.begin(0.0)
    made.request()
    made.finish(7.0, succeeded=True)
    assert made.due() == 8.0


def test_requests_coalesce() -> None:
    made = synced_at(0.0)
    for _ in range(100):
        made.request()
    made.begin(1.0)
    made.finish(1.0, succeeded=True)
    assert made.due() == 3601.0


def test_a_round_for_a_change_trusts_memory() -> None:
    made = synced_at(0.0)
    made.request()
    assert made.begin(1.0) is False


def test_the_idle_round_compares_with_the_kernel() -> None:
    made = synced_at(10.0, idle=60.0)
    assert made.due() == 70.0
    assert made.begin(70.0) is True


def test_healing_does_not_wait_for_a_long_minimum_and_compares_with_the_kernel() -> None:
    made = synced_at(0.0, minimum=20.0)
    made.request(healing=True)
    assert made.due() == HEALING_GAP
    assert made.begin(HEALING_GAP) is True


def test_healing_asked_for_during_a_round_is_not_lost() -> None:
    made = schedule()
    made.request()
    made.begin(0.0)
    made.request(healing=True)
    made.finish(1.0, succeeded=True)
    assert made.begin(2.0) is True


def test_a_failure_is_retried_with_doubling_waits_up_to_the_sync_period() -> None:
    made = schedule()
    made.request()
    waits, now = [], 0.0
    for _ in range(8):
        made.begin(now)
        made.finish(now, succeeded=False)
        due = made.due()
        assert due is not None
        waits.append(due - now)
        now = due
    assert waits == [1, 2, 4, 8, 16, 30, 30, 30]


def test_a_round_after_a_failure_compares_with_the_kernel() -> None:
    made = synced_at(0.0)
    made.request()
    made.begin(1.0)
    made.finish(1.0, succeeded=False)
    assert made.begin(2.0) is True


def test_a_change_does_not_wait_for_the_retry() -> None:
    made = schedule()
    made.request()
    for now in range(6):
        made.begin(float(now))
        made.finish(float(now), succeeded=False)
    made.request()
    assert made.due() == 6.0


def test_success_ends_the_retries() -> None:
    made = schedule(idle=100.0)
    made.request()
    made.begin(0.0)
    made.finish(0.0, succeeded=False)
    made.begin(1.0)
    made.finish(1.0, succeeded=True)
    assert made.due() == 101.0


def test_what_was_left_out_is_tried_again_ever_more_rarely_and_never_more_rarely_than_idle() -> None:
    made, now = schedule(), 0.0
    made.request()
    waits = []
    for _ in range(12):
        assert made.begin(now)
        made.finish(now, succeeded=True, omitted=WEB)
        due = made.due()
        assert due is not None
        waits.append(due - now)
        now = due
    assert waits[:4] == [30.0, 60.0, 120.0, 240.0]
    assert waits[-1] == 3600.0
    made.begin(now)
    made.finish(now, succeeded=True)
    assert made.due() == now + 3600.0


def test_steady_changes_do_not_put_off_what_was_left_out() -> None:
    made = schedule()
    made.request()
    made.begin(0.0)
    made.finish(0.0, succeeded=True, omitted=WEB)
    full = []
    for second in range(1, 95):
        made.request()
        assert made.due() == second
        full.append(made.begin(float(second)))
        made.finish(float(second), succeeded=True, omitted=WEB)
    assert [second for second, each in enumerate(full, 1) if each] == [30, 90]


def test_what_is_left_out_newly_does_not_wait_for_what_is_left_out_for_long() -> None:
    made, now = synced_at(0.0), 1.0
    for _ in range(6):
        made.begin(now)
        made.finish(now, succeeded=True, omitted=WEB)
        now = made.due() or 0.0
    waiting = now - 900.0
    made.request()
    assert not made.begin(waiting)
    made.finish(waiting, succeeded=True, omitted=WEB | {"default/dns"})
    assert made.due() == waiting + 30.0
    made.begin(waiting + 30.0)
    made.finish(waiting + 30.0, succeeded=True, omitted=WEB | {"default/dns"})
    assert made.due() == waiting + 90.0


def test_ever_new_omissions_do_not_put_off_the_next_try() -> None:
    made = synced_at(0.0)
    full = []
    for second in range(1, 61):
        made.request()
        full.append(made.begin(float(second)))
        made.finish(float(second), succeeded=True, omitted=frozenset({second}))
    assert [second for second, each in enumerate(full, 1) if each] == [31]


def test_a_program_that_makes_us_heal_all_the_time_does_not_use_up_the_tries() -> None:
    made = synced_at(0.0)
    for now in range(1, 20):
        made.request(healing=True)
        made.begin(float(now))
        made.finish(float(now), succeeded=True, omitted=WEB)
    assert made.due() == 31.0


def test_failures_while_something_is_left_out_keep_their_growing_distance() -> None:
    made, now = schedule(), 0.0
    made.request()
    made.begin(now)
    made.finish(now, succeeded=True, omitted=WEB)
    waits = []
    for _ in range(8):
        due = made.due()
        assert due is not None
        waits.append(due - now)
        now = due
        assert made.begin(now)
        made.finish(now, succeeded=False)
    assert waits == [30, 1, 2, 4, 8, 16, 30, 30]


def test_a_failure_keeps_what_was_left_out_in_mind() -> None:
    made = synced_at(0.0)
    made.request()
    made.begin(1.0)
    made.finish(1.0, succeeded=True, omitted=WEB)
    made.request()
    made.begin(2.0)
    made.finish(2.0, succeeded=False)
    assert made.due() == 3.0
    assert made.begin(3.0)
    made.finish(3.0, succeeded=True)
    assert made.due() == 3603.0


@given(
    st.lists(st.sampled_from(["request", "heal", "succeed", "fail", "omit"]), max_size=60),
    st.integers(0, 10),  # whole seconds: sums of floats would blur the limits
    st.integers(10, 60),
    st.integers(60, 4000),
)
def test_rounds_keep_their_distance_and_none_is_forgotten(
    steps: list[str], minimum: int, retry: int, idle: int
) -> None:
    made, now, ended = schedule(minimum=minimum, retry=retry, idle=idle), 0.0, None
    for step in steps:
        if step in {"request", "heal"}:
            made.request(healing=step == "heal")
            assert made.due() is not None
            continue
        due = made.due()
        if due is None:
            continue
        now = max(now, due)
        if ended is not None:
            assert now - ended >= min(minimum, HEALING_GAP) - 1e-9
            assert due - ended <= idle
        made.begin(now)
        made.finish(now, succeeded=step != "fail", omitted=WEB if step == "omit" else frozenset())
        ended = now
        due = made.due()
        assert due is not None
        assert due - ended <= (retry if step == "fail" else idle) + 1e-9
