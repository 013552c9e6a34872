"""Sums over workers that come and go."""

from __future__ import annotations

import pytest

from kproxy.backend.userspace.counts import LIMIT, Tally
from kproxy.backend.userspace.messages import BadMessage
from kproxy.backend.userspace.totals import Totals
from kproxy.model.keys import ServicePortKey
from tests.unit.backend.userspace.sockets import TCP

KEY = ServicePortKey("default", "web", "", TCP)
OTHER = ServicePortKey("default", "db", "", TCP)


def test_workers_add_up() -> None:
    totals = Totals()
    totals.add(0, [(KEY, Tally(flows=3, active=2, received=10))])
    totals.add(1, [(KEY, Tally(flows=1, active=1, refused={LIMIT: 1}))])
    totals.add(0, [(KEY, Tally(active=-1, sent=5))])
    assert totals.tallies[KEY] == Tally(flows=4, active=2, received=10, sent=5, refused={LIMIT: 1})


def test_of_a_worker_that_ended_the_counters_stay() -> None:
    totals = Totals()
    totals.add(0, [(KEY, Tally(flows=3, active=2, ejected=1))])
    totals.add(1, [(KEY, Tally(flows=1, active=1))])
    totals.leave(0)
    assert totals.tallies[KEY] == Tally(flows=4, active=1)
    totals.leave(0)
    totals.add(0, [(KEY, Tally(flows=1, active=1))])  # its successor
    assert totals.tallies[KEY] == Tally(flows=5, active=2)


def test_what_is_over_is_forgotten_at_the_second_look() -> None:
    totals = Totals()
    totals.add(0, [(KEY, Tally(flows=1, active=1)), (OTHER, Tally(flows=1))])
    totals.sweep(served={OTHER})
    totals.add(0, [(KEY, Tally(active=-1))])
    totals.sweep(served={OTHER})
    assert totals.tallies.keys() == {KEY, OTHER}
    totals.sweep(served={OTHER})
    assert totals.tallies.keys() == {OTHER}
    totals.leave(0)
    totals.add(0, [(KEY, Tally(flows=1))])
    totals.sweep(served=())
    totals.sweep(served={KEY})  # it is there again
    totals.sweep(served=())
    assert totals.tallies.keys() == {KEY}


@pytest.mark.parametrize("wrong", [Tally(connects=[1]), Tally(refused={"because": 1})])
def test_a_tally_that_cannot_be_one_is_refused(wrong: Tally) -> None:
    with pytest.raises(BadMessage, match="default/web"):
        Totals().add(0, [(KEY, wrong)])
