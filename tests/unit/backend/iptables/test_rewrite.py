"""Each target that changes a packet, by itself."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from kproxy.backend.iptables import rules as r
from kproxy.backend.iptables.rewrite import change, steer, translate, translations
from kproxy.backend.iptables.state import State, Tracked
from kproxy.model.packet import Packet

PACKET = Packet("10.244.1.9", "10.96.0.1", 80, mark=0x0F)
STATE = State(PACKET, PACKET, hook="PREROUTING", states=frozenset({"NEW"}), flow_mark=0xF0)
PACKET_V6 = Packet("fd00::9", "fd00::1", 80)


@pytest.mark.parametrize(
    ("target", "mark", "flow_mark"),
    [
        (r.SetMark(0x4000, 0x4000), 0x400F, 0xF0),  # --or-mark
        (r.SetMark(0x1, 0x0), 0x0E, 0xF0),  # --xor-mark
        (r.SetMark(0x0, 0xFFFFFFF3), 0x0C, 0xF0),  # --and-mark 0xc
        (r.SetMark(0x2, 0xFFFFFFFF), 0x02, 0xF0),
        (r.SetConnMark(0x1, 0xF0), 0x0F, 0x01),
        (r.SaveMark(0x03, 0xFF), 0x0F, 0x03),
        (r.RestoreMark(0x0F, 0xFF), 0xF0, 0xF0),
        (r.PassOn("-j LOG"), 0x0F, 0xF0),
        (None, 0x0F, 0xF0),
    ],
)
def test_marks(target: r.Target, mark: int, flow_mark: int) -> None:
    after = change(target, STATE)
    assert (after.packet.mark, after.flow_mark) == (mark, flow_mark)


def test_a_packet_without_a_flow_has_no_mark_of_it() -> None:
    untracked = replace(STATE, states=frozenset({"UNTRACKED"}))
    for target in (r.SetConnMark(1, 0xFF), r.SaveMark(1, 1), r.RestoreMark(1, 0xFF)):
        assert change(target, untracked) == untracked


def test_a_packet_can_stay_untracked_only_until_conntrack_has_seen_it() -> None:
    unseen = replace(STATE, states=frozenset({"INVALID"}))
    assert change(r.Notrack("-j NOTRACK"), unseen).states == {"UNTRACKED"}
    assert change(r.Notrack("-j NOTRACK"), STATE).states == {"NEW"}


@pytest.mark.parametrize(
    ("target", "places"),
    [
        (r.Dnat("10.244.1.1", 8080), [("10.244.1.1", 8080, False)]),
        (r.Dnat("nowhere", 8080), [("", 0, True)]),
        (r.DnatRange("10.244.1.1", "10.244.1.1"), [("10.244.1.1", 80, False)]),
        (r.DnatRange("", "", 8080, 8080), [("10.96.0.1", 8080, False)]),
        (r.DnatRange("10.244.1.1", "10.244.1.2", 8080, 8080), [("10.244.1.1", 8080, True), ("10.244.1.2", 8080, True)]),
        (r.DnatRange("10.244.1.1", "10.244.1.1", 8000, 9000), [("10.244.1.1", 0, False)]),
        (r.DnatRange("10.0.0.0", "10.255.255.255"), [("", 80, True)]),  # too many to follow one by one
        (r.DnatRange("nowhere", "nowhere"), [("", 80, True)]),
        (r.Redirect(8080, 8080), [("0.0.0.0", 8080, False)]),
        (r.Redirect(), [("0.0.0.0", 80, False)]),
        (r.Redirect(8000, 9000), [("0.0.0.0", 0, False)]),
        (r.UnknownTarget("-j DNAT [unsupported revision]"), [("", 0, True)]),
    ],
)
def test_destinations(target: r.Target, places: list[tuple[str, int, bool]]) -> None:
    choices = translations(target, STATE)
    assert choices is not None
    assert [(state.packet.destination, state.packet.port, bool(said)) for state, said in choices] == places
    assert all(state.rewritten and "DNAT" in state.states for state, _ in choices)


def test_redirected_on_the_node_it_comes_to_loopback() -> None:
    for packet, ip in ((PACKET, "127.0.0.1"), (PACKET_V6, "::1")):
        ((state, _),) = translations(r.Redirect(), State(packet, packet, hook="OUTPUT")) or []
        assert state.packet.destination == ip


def test_conntrack_does_not_call_it_dnat_where_nothing_has_changed() -> None:
    ((state, _),) = translations(r.Dnat("10.96.0.1", 80), STATE) or []
    assert state.rewritten
    assert state.states == {"NEW"}


@pytest.mark.parametrize(
    ("target", "source", "masquerade", "said"),
    [
        (r.Masquerade(random_fully=True), "0.0.0.0", True, ""),
        (r.Snat("192.0.2.1", "192.0.2.1"), "192.0.2.1", True, "192.0.2.1"),
        (r.Snat("192.0.2.1", "192.0.2.9"), "", True, "192.0.2.1-192.0.2.9"),
        (r.Snat("", "", 1024, 2048), "10.244.1.9", False, ""),  # another port alone
        (r.UnknownTarget("-j SNAT [unsupported revision]"), "", True, ""),
    ],
)
def test_sources(target: r.Target, source: str, masquerade: bool, said: str) -> None:
    ((state, _),) = translations(target, STATE) or []
    assert (state.packet.source, state.masquerade, state.source) == (source, masquerade, said)
    assert state.packet.source_port == 0


def test_other_targets_translate_nothing() -> None:
    for target in (r.SetMark(1, 1), r.Verdict.ACCEPT, r.UnknownTarget("-j NEWTHING"), r.UnknownTarget("-j")):
        assert translations(target, STATE) is None


def test_a_flow_repeats_what_was_done_to_its_first_packet() -> None:
    flow = Tracked("10.244.1.1", 8080, source="192.168.0.2")
    after = translate(STATE, flow)
    assert (after.packet.destination, after.packet.port, after.rewritten) == ("10.244.1.1", 8080, True)
    left = translate(replace(after, hook="POSTROUTING"), flow)
    assert (left.source, left.masquerade) == ("192.168.0.2", True)
    for hook in ("PREROUTING", "POSTROUTING"):
        untouched = replace(STATE, hook=hook)
        assert translate(untouched, Tracked()) == untouched


def test_tproxy_gives_the_packet_to_a_socket() -> None:
    after = steer(r.Tproxy(15001, "0.0.0.0", 0x1, 0x1), STATE)
    assert after.steered
    assert after.packet == PACKET
