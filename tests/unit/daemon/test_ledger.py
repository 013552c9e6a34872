"""What is counted and what is shown of it. Whose flow it is was decided before (plan/attribution.py)."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kproxy.daemon.ledger import Ledger
from kproxy.model.enums import Protocol
from kproxy.model.flow import NO_TRAFFIC, Traffic
from kproxy.model.keys import ServicePortKey


def key(name: str) -> ServicePortKey:
    return ServicePortKey("default", name, "", Protocol.TCP)


WEB, DNS, API = key("web"), key("dns"), key("api")


def totals(ledger: Ledger) -> dict[str, Traffic]:
    return {row.key.name if row.key else "other": row.total for row in ledger.rows()}


def connections(ledger: Ledger) -> dict[str, int]:
    return {name: total.flows for name, total in totals(ledger).items()}


def test_a_total_is_what_ended_and_what_lives() -> None:
    ledger = Ledger(10)
    ledger.end({WEB: Traffic(2, 100, 1000)})
    ledger.settle({WEB: Traffic(1, 10, 20)}, {})
    assert totals(ledger) == {"web": Traffic(3, 110, 1020)}
    assert [row.active for row in ledger.rows()] == [1]


def test_a_flow_that_ends_is_not_counted_twice() -> None:
    ledger = Ledger(10)
    ledger.settle({WEB: Traffic(1, 10, 20)}, {})
    ledger.end({WEB: Traffic(1, 30, 50)})
    ledger.settle({}, {})
    assert totals(ledger) == {"web": Traffic(1, 30, 50)}
    assert [row.active for row in ledger.rows()] == [0]


def test_a_flow_that_ends_while_the_table_is_read_makes_no_total_fall() -> None:
    ledger = Ledger(10)
    ledger.settle({WEB: Traffic(2, 20, 40)}, {})
    # One of the two had left the table before the reading came to it.
    meanwhile = {WEB: Traffic(1, 15, 30)}
    ledger.settle({WEB: Traffic(1, 10, 20)}, meanwhile)
    assert totals(ledger)["web"] == Traffic(2, 20, 40)
    ledger.end(meanwhile)
    ledger.settle({WEB: Traffic(1, 10, 20)}, {})
    assert totals(ledger)["web"] == Traffic(2, 25, 50)


def test_flows_that_vanish_untold_stay_counted_and_others_go_on_from_there() -> None:
    ledger = Ledger(10)
    ledger.settle({WEB: Traffic(3, 300, 3000)}, {})
    ledger.settle({WEB: Traffic(1, 100, 1000)}, {})
    assert totals(ledger)["web"] == Traffic(3, 300, 3000)
    ledger.settle({WEB: Traffic(2, 150, 1500)}, {})
    assert totals(ledger)["web"] == Traffic(4, 350, 3500)


def test_what_was_carried_before_we_came_is_not_told() -> None:
    ledger = Ledger(10)
    ledger.discount(WEB, Traffic(2, 1000, 2000))
    ledger.settle({WEB: Traffic(3, 1010, 2010)}, {})
    assert totals(ledger)["web"] == Traffic(1, 10, 10)
    ledger.end({WEB: Traffic(2, 1020, 2020)})
    ledger.settle({WEB: Traffic(1, 5, 5)}, {})
    assert totals(ledger)["web"] == Traffic(1, 25, 25)


def test_old_flows_that_vanish_untold_take_nothing_along() -> None:
    ledger = Ledger(10)
    ledger.discount(WEB, Traffic(1, 1000, 1000))
    ledger.settle({WEB: Traffic(1, 1300, 1300)}, {})
    ledger.settle({}, {})
    assert totals(ledger)["web"] == Traffic(0, 300, 300)


def test_the_busiest_are_shown_and_the_others_are_one_sum() -> None:
    ledger = Ledger(2)
    ledger.settle({WEB: Traffic(5, 1, 1), DNS: Traffic(9, 2, 2), API: Traffic(3, 4, 4)}, {})
    assert totals(ledger) == {"dns": Traffic(9, 2, 2), "web": Traffic(5, 1, 1), "other": Traffic(3, 4, 4)}
    assert [row.active for row in ledger.rows()] == [9, 5, 3]


def test_of_equals_the_same_are_shown_whatever_came_first() -> None:
    one, two = Ledger(1), Ledger(1)
    one.settle({WEB: Traffic(1), API: Traffic(1)}, {})
    two.settle({API: Traffic(1), WEB: Traffic(1)}, {})
    assert connections(one) == connections(two) == {"api": 1, "other": 1}


def test_a_newcomer_needs_a_quarter_more_and_takes_no_past_along() -> None:
    ledger = Ledger(1)
    ledger.settle({WEB: Traffic(100), API: Traffic(90)}, {})
    ledger.settle({WEB: Traffic(100), API: Traffic(124)}, {})
    assert connections(ledger) == {"web": 100, "other": 124}
    ledger.settle({WEB: Traffic(100), API: Traffic(126)}, {})
    assert connections(ledger) == {"api": 2, "other": 124}
    ledger.settle({WEB: Traffic(110), API: Traffic(130)}, {})
    assert connections(ledger) == {"api": 6, "other": 134}


def test_a_deleted_service_port_is_gone_at_once_and_a_new_one_of_its_name_begins_anew() -> None:
    ledger = Ledger(10)
    ledger.end({WEB: Traffic(2, 100, 100)})
    ledger.settle({WEB: Traffic(1, 10, 10), DNS: Traffic(1, 1, 1)}, {})
    ledger.forget([WEB, API])
    assert totals(ledger) == {"dns": Traffic(1, 1, 1)}
    ledger.settle({DNS: Traffic(1, 1, 1)}, {})
    assert totals(ledger) == {"dns": Traffic(1, 1, 1)}
    ledger.settle({WEB: Traffic(1, 10, 10)}, {})
    assert totals(ledger)["web"] == Traffic(1, 10, 10)


def test_the_sum_of_the_others_keeps_what_deleted_ones_had_in_it() -> None:
    ledger = Ledger(1)
    ledger.settle({WEB: Traffic(5), DNS: Traffic(3)}, {})
    ledger.forget([DNS])
    assert connections(ledger) == {"web": 5, "other": 3}


def test_a_place_that_becomes_free_is_taken() -> None:
    ledger = Ledger(1)
    ledger.settle({WEB: Traffic(5), DNS: Traffic(3)}, {})
    ledger.forget([WEB])
    ledger.settle({DNS: Traffic(4)}, {})
    assert connections(ledger) == {"dns": 1, "other": 3}


def test_service_ports_without_traffic_are_shown_where_asked() -> None:
    ledger = Ledger(2)
    ledger.settle({WEB: Traffic(1)}, {})
    rows = {row.key: row.total for row in ledger.rows([DNS, WEB])}
    assert rows == {DNS: NO_TRAFFIC, WEB: Traffic(1)}


STEPS = st.lists(
    st.tuples(st.sampled_from([WEB, DNS, API]), st.integers(0, 9), st.sampled_from(["begin", "end", "read"]))
)


@given(STEPS, st.integers(1, 3))
def test_every_byte_is_in_exactly_one_place(steps: list[tuple[ServicePortKey, int, str]], shown: int) -> None:
    ledger = Ledger(shown)
    living: dict[ServicePortKey, list[int]] = {WEB: [], DNS: [], API: []}
    truth = others = 0

    def read() -> None:
        ledger.settle({name: Traffic(len(sizes), sum(sizes), 0) for name, sizes in living.items() if sizes}, {})

    for name, size, what in steps:
        if what == "begin":
            living[name].append(size)
            truth += size
        elif what == "end" and living[name]:
            ledger.end({name: Traffic(1, living[name].pop(), 0)})
        else:
            read()
            others, before = totals(ledger).get("other", NO_TRAFFIC).bytes_in, others
            assert others >= before
    read()
    # A series that made room for another one is no longer told; its part is kept.
    untold = sum(
        account.total.bytes_in - account.elsewhere.bytes_in
        for name, account in ledger._accounts.items()
        if name not in ledger._shown
    )
    assert sum(total.bytes_in for total in totals(ledger).values()) + untold == truth
