"""Framing and checking; that both ends understand each other is shown by test_crew, with processes."""

from __future__ import annotations

import struct

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.backend.userspace import messages
from kproxy.backend.userspace.counts import Tally
from kproxy.backend.userspace.messages import BadMessage, Frames, frame
from kproxy.backend.userspace.rules import Listener
from kproxy.backend.userspace.share import Share
from kproxy.config import Config
from kproxy.model.keys import ServicePortKey
from kproxy.plan.plan import Target
from tests.unit.backend.userspace.sockets import TCP, UDP, rule

KEY = ServicePortKey("default", "web", "http", TCP)
ONE = Listener("fd00::1", 4000, UDP)
RULE = rule(4000, Target("10.0.0.1", 80, local=True), protocol=UDP, ip="fd00::1", affinity=10)
ORDERS = [
    messages.Begin(Config(relay_connect_deadlines=(0.1,), nodeport_addresses=("primary",)), seat=1, workers=2),
    messages.Serve(3, (RULE, msgspec.structs.replace(RULE, serving=frozenset({("10.0.0.1", 80)}))), (1,), (ONE,)),
    messages.Serve(4, rows=((KEY, 7),)),
    messages.Ask(5),
    messages.Stop(1.0, 5.0),
]
REPORTS = [
    messages.Ready(Share(1, 2, 3)),
    messages.Served(3, ((ONE, 24),)),
    messages.Counted(((KEY, Tally(flows=3, refused={"limit": 2})),)),
    messages.Told(5),
    messages.Failed("failed: ValueError()"),
]


def said(framed: bytes) -> bytes:
    ((message, files),) = Frames().feed(framed)
    assert files == 0
    return message


@pytest.mark.parametrize("message", ORDERS, ids=lambda each: type(each).__name__)
def test_orders_arrive_as_they_were_said(message: messages.Order) -> None:
    assert messages.order(said(frame(message))) == message
    with pytest.raises(BadMessage):
        messages.report(said(frame(message)))


@pytest.mark.parametrize("message", REPORTS, ids=lambda each: type(each).__name__)
def test_reports_arrive_as_they_were_said(message: messages.Report) -> None:
    assert messages.report(said(frame(message))) == message
    with pytest.raises(BadMessage):
        messages.order(said(frame(message)))


@given(st.lists(st.tuples(st.integers(0, 99), st.integers(0, 250)), max_size=5), st.data())
def test_frames_are_found_however_they_are_cut(wanted: list[tuple[int, int]], data: st.DataObject) -> None:
    stream = b"".join(frame(messages.Ask(number), files) for number, files in wanted)
    frames, found, at = Frames(), [], 0
    while at < len(stream):
        end = data.draw(st.integers(at + 1, len(stream)))
        found += [(messages.order(message), files) for message, files in frames.feed(stream[at:end])]
        at = end
    assert found == [(messages.Ask(number), files) for number, files in wanted]


@pytest.mark.parametrize(("length", "files"), [(messages.MOST_BYTES + 1, 0), (1, messages.MOST_FILES + 1)])
def test_a_frame_that_is_too_large_is_refused_before_it_has_come(length: int, files: int) -> None:
    with pytest.raises(BadMessage, match="a frame of"):
        list(Frames().feed(struct.pack("!IH", length, files)))


@given(st.binary(max_size=200))
def test_whatever_comes_is_understood_or_refused(garbage: bytes) -> None:
    for read in (messages.order, messages.report):
        try:
            read(garbage)
        except BadMessage as error:
            assert "not understood" in str(error)  # noqa: PT017 -- most garbage is refused, some is not


@pytest.mark.parametrize("value", [{"type": "Told", "number": "5"}, {"type": "Told"}, [1], "Told", {"type": "Gone"}])
def test_what_only_looks_like_a_report_is_refused(value: object) -> None:
    with pytest.raises(BadMessage):
        messages.report(msgspec.msgpack.encode(value))
