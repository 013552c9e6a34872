"""Netlink messages to sightings, byte for byte; that the kernel sends such bytes is in tests/netns/test_trace.py."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.kernel import netlink
from kproxy.kernel.netlink import attribute, nested
from kproxy.kernel.sightings import LOGGED, NFT_TRACE, read_header, read_legacy, read_nft, read_packet
from kproxy.model.enums import IPFamily
from kproxy.model.sighting import Header, Kind

NAMES = {3: "eth0", 4: "cali1"}
TCP = struct.pack(">HHI", 40000, 80, 7) + bytes(12)
V4 = struct.pack(">BBHHHBBH4s4s", 0x45, 0, 60, 99, 0, 64, 6, 0, b"\x0a\0\0\1", b"\x0a\x60\0\x0a")
V6 = struct.pack(">IHBB16s16s", 6 << 28, 24, 17, 64, b"\xfd" + bytes(14) + b"\1", b"\xfd" + bytes(14) + b"\2")
PACKET = Header("10.0.0.1", 40000, "10.96.0.10", 80, "TCP", (60, 99, 7))


def name_of(index: int) -> str:
    return NAMES.get(index, "")


def text(number: int, value: str) -> bytes:
    return attribute(number, value.encode() + b"\0")


def number(which: int, value: int) -> bytes:
    return attribute(which, struct.pack(">I", value))


def trace(*fields: bytes, family: int = socket.AF_INET) -> bytes:
    return netlink.message(NFT_TRACE, 0, family, b"".join(fields))


def rule(verdict: int, handle: int = 9) -> tuple[bytes, ...]:
    said = nested(5, attribute(1, struct.pack(">i", verdict)))
    return (text(1, "nat"), text(2, "KUBE-SERVICES"), attribute(3, struct.pack(">Q", handle)), number(4, 3), said)


def test_a_rule_of_nft() -> None:
    seen = read_nft(
        trace(
            *rule(-3), number(6, 77), attribute(8, V4), attribute(9, TCP), number(10, 3), number(12, 4), number(15, 2)
        ),
        name_of,
    )
    assert seen is not None
    assert (seen.table, seen.chain, seen.rule, seen.verdict) == ("nat", "KUBE-SERVICES", 9, "jump")
    assert (seen.kind, seen.family, seen.packet, seen.header) == (Kind.RULE, IPFamily.IPV4, 77, PACKET)
    assert (seen.in_interface, seen.out_interface, seen.is_mark) == ("eth0", "cali1", False)


@pytest.mark.parametrize(
    ("code", "verdict"), [(0, "drop"), (1, "accept"), (-1, "continue"), (-4, "goto"), (-5, "return"), (7, "")]
)
def test_verdicts(code: int, verdict: str) -> None:
    seen = read_nft(trace(*rule(code), number(15, 10)), name_of)
    assert seen is not None
    assert (seen.family, seen.verdict) == (IPFamily.IPV6, verdict)


def test_the_end_of_a_chain_is_no_rule_and_a_policy_decides() -> None:
    end = read_nft(trace(*rule(-1, handle=0), number(15, 2)), name_of)
    policy = read_nft(trace(text(1, "filter"), text(2, "FORWARD"), number(4, 1), number(16, 0), number(15, 2)), name_of)
    assert end is not None
    assert policy is not None
    assert end.kind is Kind.RETURN
    assert (policy.kind, policy.verdict) == (Kind.POLICY, "drop")


@pytest.mark.parametrize(("family", "is_mark"), [(1, True), (socket.AF_INET, False)], ids=["inet", "ip"])
def test_our_own_rule_is_the_mark(family: int, is_mark: bool) -> None:
    own = trace(text(1, "kproxy-trace"), text(2, "pace"), *rule(-1)[2:], number(15, 2), family=family)
    seen = read_nft(own, name_of)
    assert seen is not None
    assert seen.is_mark is is_mark


def test_what_legacy_tables_log() -> None:
    message = netlink.message(
        LOGGED, 0, socket.AF_INET, text(10, "TRACE: nat:KUBE-SEP-X:rule:2 ") + attribute(9, V4 + TCP) + number(4, 3)
    )
    seen = read_legacy(message, name_of)
    assert seen is not None
    assert (seen.variant, seen.table, seen.chain, seen.kind, seen.rule) == ("legacy", "nat", "KUBE-SEP-X", Kind.RULE, 2)
    assert (seen.header, seen.in_interface) == (PACKET, "eth0")
    assert read_legacy(message.replace(b"TRACE: ", b"HELLO: "), name_of) is None


def test_ipv6_headers_are_found_behind_others() -> None:
    udp = struct.pack(">HHHH", 5, 53, 8, 0)
    plain = read_packet(IPFamily.IPV6, V6 + udp)
    assert plain == Header("fd00::1", 5, "fd00::2", 53, "UDP", (24, 0))
    options = V6[:6] + bytes([0]) + V6[7:] + bytes([17, 0]) + bytes(6) + udp
    fragment = V6[:6] + bytes([44]) + V6[7:] + bytes([17, 0]) + bytes(6) + udp
    for longer in (options, fragment):
        assert read_packet(IPFamily.IPV6, longer) == plain


def test_protocols_without_ports() -> None:
    icmp = V4[:9] + bytes([1]) + V4[10:]
    header = read_header(IPFamily.IPV4, icmp, TCP)
    assert header == Header("10.0.0.1", 0, "10.96.0.10", 0, "ICMP", (60, 99, 7 << 64))


@given(st.binary(max_size=120), st.sampled_from([NFT_TRACE, LOGGED]), st.sampled_from([0, 1, 2, 10]))
def test_no_bytes_are_too_odd(body: bytes, kind: int, family: int) -> None:
    message = netlink.message(kind, 0, family, body)
    for cut in (message, message[: len(body)]):
        read_nft(cut, name_of)
        read_legacy(cut, name_of)


@given(st.binary(max_size=90), st.sampled_from(list(IPFamily)))
def test_no_packet_is_too_short(data: bytes, family: IPFamily) -> None:
    read_packet(family, data)
    read_packet(family, bytes([0x4F if family is IPFamily.IPV4 else 0x60]) + data)
