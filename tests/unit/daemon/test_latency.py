"""Which moments become samples."""

from msgspec.structs import replace

from kproxy.daemon.latency import Triggers
from kproxy.model.change import Change, Listed, Put, Removed
from kproxy.model.enums import IPFamily, Kind
from tests.builders import slice_of


def changed(triggered: float, name: str = "web", suffix: str = "1") -> Change:
    slice_ = replace(slice_of(name, "10.0.0.1", suffix=suffix), triggered=triggered)
    return Put(Kind.ENDPOINT_SLICE, slice_)


def noted(*changes: Change) -> Triggers:
    triggers = Triggers(IPFamily.IPV4, since=100.0)
    for change in changes:
        triggers.note(change)
    return triggers


def test_each_change_is_a_sample_once_its_round_is_done() -> None:
    triggers = noted(changed(110), changed(112))
    triggers.take()
    triggers.note(changed(118))
    assert triggers.arrived(120) == [10, 8]
    assert triggers.arrived(121) == []
    triggers.take()
    assert triggers.arrived(121) == [3]


def test_a_failed_round_keeps_its_moments_for_the_next() -> None:
    triggers = noted(changed(110))
    triggers.take()
    triggers.take()
    assert triggers.arrived(130) == [20]


def test_what_waits_for_ever_is_bounded() -> None:
    triggers = noted(*(changed(110 + moment) for moment in range(1000)))
    triggers.take()
    for moment in range(1000):
        triggers.note(changed(2000 + moment))
        triggers.take()
    waited = triggers.arrived(5000)
    assert len(waited) == 100
    assert max(waited) == 5000 - 110


def test_what_happened_before_we_began_is_not_ours() -> None:
    triggers = noted(changed(99), changed(0), Listed(Kind.ENDPOINT_SLICE, ()))
    triggers.take()
    assert triggers.arrived(130) == []


def test_a_deleted_slice_discards_its_services_moments() -> None:
    first = changed(110)
    assert isinstance(first, Put)
    triggers = noted(first, changed(111, suffix="2"), changed(112, "other"))
    triggers.note(Removed(Kind.ENDPOINT_SLICE, first.object.key))
    triggers.take()
    assert triggers.arrived(120) == [8]


def test_the_other_family_is_not_ours() -> None:
    triggers = Triggers(IPFamily.IPV6, since=100.0)
    triggers.note(changed(110))
    triggers.take()
    assert triggers.arrived(120) == []


def test_a_clock_that_went_back_is_no_negative_latency() -> None:
    triggers = noted(changed(110))
    triggers.take()
    assert triggers.arrived(105) == [0]
