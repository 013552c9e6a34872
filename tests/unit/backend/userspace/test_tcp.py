"""The relay machine, by itself. With sockets: test_streams."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kproxy.backend.userspace.tcp import (
    Broken,
    Close,
    Command,
    Drained,
    Ended,
    EndWrites,
    Event,
    Expired,
    Filled,
    Pause,
    Received,
    Relay,
    Reset,
    Resume,
    Send,
    Side,
)

CLIENT, ENDPOINT = Side.CLIENT, Side.ENDPOINT


def play(*events: Event) -> list[Command]:
    relay = Relay()
    return [command for event in events for command in relay.handle(event)]


def test_what_one_side_sends_goes_to_the_other() -> None:
    assert play(Received(CLIENT, b"q"), Received(ENDPOINT, b"a")) == [Send(ENDPOINT, b"q"), Send(CLIENT, b"a")]


def test_each_direction_ends_by_itself() -> None:
    relay = Relay()
    assert list(relay.handle(Ended(CLIENT))) == [EndWrites(ENDPOINT)]
    assert relay.is_half_closed
    assert list(relay.handle(Received(ENDPOINT, b"late"))) == [Send(CLIENT, b"late")]
    assert list(relay.handle(Ended(ENDPOINT))) == [EndWrites(CLIENT), Close(CLIENT), Close(ENDPOINT)]
    assert relay.is_over


def test_a_side_that_takes_no_more_stops_the_other_one() -> None:
    assert play(Filled(ENDPOINT), Drained(ENDPOINT)) == [Pause(CLIENT), Resume(CLIENT)]


def test_a_side_that_has_ended_is_neither_paused_nor_resumed() -> None:
    assert play(Ended(CLIENT), Filled(ENDPOINT), Drained(ENDPOINT)) == [EndWrites(ENDPOINT)]


def test_a_broken_side_resets_the_other() -> None:
    assert play(Broken(ENDPOINT)) == [Reset(CLIENT)]
    assert play(Ended(ENDPOINT), Broken(CLIENT)) == [EndWrites(CLIENT), Reset(ENDPOINT)]


def test_a_deadline_resets_both() -> None:
    assert play(Expired()) == [Reset(CLIENT), Reset(ENDPOINT)]


_SIDES = st.sampled_from(Side)
_EVENTS = st.one_of(
    st.builds(Received, _SIDES, st.binary(max_size=4)),
    *(st.builds(kind, _SIDES) for kind in (Ended, Broken, Filled, Drained)),
    st.just(Expired()),
)


@given(st.lists(_EVENTS))
def test_no_byte_is_lost_or_changed_before_the_end_and_nothing_is_done_after_it(events: list[Event]) -> None:
    relay = Relay()
    sent, got = dict.fromkeys(Side, b""), dict.fromkeys(Side, b"")
    for event in events:
        over = relay.is_over
        if isinstance(event, Received) and not over:
            sent[event.side] += event.data
        commands = list(relay.handle(event))
        assert not (over and commands)
        for command in commands:
            if isinstance(command, Send):
                got[command.side.peer] += command.data
            if isinstance(command, Reset | Close):
                assert relay.is_over
    assert sent == got
