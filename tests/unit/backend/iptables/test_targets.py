"""A rule's end to a target. That all which iptables prints comes back as it was: test_parse.py."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.backend.iptables import rules as r
from kproxy.backend.iptables.rules import Rule, Target, Verdict
from kproxy.backend.iptables.targets import read_target
from kproxy.backend.iptables.text import render_rule

READ: list[tuple[str, Target]] = [
    ("-j KUBE-SVC-10.96.0.0/16", r.Jump("KUBE-SVC-10.96.0.0/16")),
    ("-j KUBE-MARK-DROP", r.Jump("KUBE-MARK-DROP")),
    ("-g KUBE-XLB-A", r.Goto("KUBE-XLB-A")),
    ("-j ACCEPT", Verdict.ACCEPT),
    ("-j RETURN", Verdict.RETURN),
    ("-j REJECT --reject-with tcp-reset", r.RejectWith("tcp-reset")),
    ("-j DNAT --to-destination 10.0.0.1:8080", r.Dnat("10.0.0.1", 8080)),
    ("-j DNAT --to-destination 10.0.0.1:65535", r.Dnat("10.0.0.1", 65535)),
    ("-j DNAT --to-destination [fd00::1]:53 --persistent", r.Dnat("fd00::1", 53, persistent=True)),
    ("-j DNAT --to-destination 10.0.0.1:80 --random", r.Dnat("10.0.0.1", 80, random=True)),
    ("-j DNAT --to-destination 10.0.0.1", r.DnatRange("10.0.0.1", "10.0.0.1")),
    ("-j DNAT --to-destination fd00::1", r.DnatRange("fd00::1", "fd00::1")),
    ("-j DNAT --to-destination :80", r.DnatRange("", "", 80, 80)),
    (
        "-j DNAT --to-destination 10.0.0.1-10.0.0.9:80-90 --random --persistent",
        r.DnatRange("10.0.0.1", "10.0.0.9", 80, 90, random=True, persistent=True),
    ),
    ("-j DNAT --to-destination [fd00::1-fd00::9]:80-90", r.DnatRange("fd00::1", "fd00::9", 80, 90)),
    ("-j DNAT --to-destination fd00::1-fd00::9", r.DnatRange("fd00::1", "fd00::9")),
    ("-j SNAT --to-source 10.0.0.1", r.Snat("10.0.0.1", "10.0.0.1")),
    (
        "-j SNAT --to-source 10.0.0.1-10.0.0.2:100-200 --random-fully --persistent",
        r.Snat("10.0.0.1", "10.0.0.2", 100, 200, random_fully=True, persistent=True),
    ),
    ("-j MASQUERADE", r.Masquerade(random_fully=False)),
    ("-j MASQUERADE --random-fully", r.Masquerade(random_fully=True)),
    ("-j MASQUERADE --to-ports 100-200 --random", r.Masquerade(False, 100, 200, random=True)),
    ("-j REDIRECT", r.Redirect()),
    ("-j REDIRECT --to-ports 8080 --random", r.Redirect(8080, 8080, random=True)),
    ("-j TPROXY --on-port 15001 --on-ip 127.0.0.1 --tproxy-mark 0x1/0xf", r.Tproxy(15001, "127.0.0.1", 1, 0xF)),
    ("-j MARK --set-xmark 0x4000/0x0", r.SetMark(0x4000, 0)),
    ("-j CONNMARK --set-xmark 0x1/0xffffffff", r.SetConnMark(1, 0xFFFF_FFFF)),
    ("-j CONNMARK --save-mark --nfmask 0xf --ctmask 0xff", r.SaveMark(0xF, 0xFF)),
    ("-j CONNMARK --restore-mark --nfmask 0xf --ctmask 0xff", r.RestoreMark(0xF, 0xFF)),
    ("-j CT --notrack", r.Notrack("-j CT --notrack")),
    ("-j NOTRACK", r.Notrack("-j NOTRACK")),
    ("-j CT --zone 3", r.PassOn("-j CT --zone 3")),
    ('-j LOG --log-prefix "a -j b: " --log-level 7', r.PassOn('-j LOG --log-prefix "a -j b: " --log-level 7')),
    ("-j LOG --log-prefix -j", r.PassOn("-j LOG --log-prefix -j")),
    ("-j TRACE", r.PassOn("-j TRACE")),
    ("-j TCPMSS --clamp-mss-to-pmtu", r.PassOn("-j TCPMSS --clamp-mss-to-pmtu")),
    ("-j SET --add-set foo src", r.PassOn("-j SET --add-set foo src")),
    ("-j NFQUEUE --queue-num 0 --queue-bypass", r.Queue("-j NFQUEUE --queue-num 0 --queue-bypass")),
    ("-j QUEUE", r.Queue("-j QUEUE")),
]


@pytest.mark.parametrize(("text", "target"), READ)
def test_a_target_is_read_and_printed(text: str, target: Target) -> None:
    assert read_target(text) == target
    assert render_rule("X", Rule((), target)) == f"-A X {text}"


@pytest.mark.parametrize(
    ("text", "target"),
    [
        ("-j MARK --set-mark 0x1", r.SetMark(1, 0xFFFF_FFFF)),
        ("-j MARK --set-mark 0x1/0x2", r.SetMark(1, 3)),
        ("-j MARK --or-mark 0x4000", r.SetMark(0x4000, 0x4000)),
        ("-j MARK --and-mark 0xffffbfff", r.SetMark(0, 0x4000)),
        ("-j MARK --xor-mark 0x4000", r.SetMark(0x4000, 0)),
        ("-j CONNMARK --set-mark 0x1", r.SetConnMark(1, 0xFFFF_FFFF)),
        ("-j CONNMARK --save-mark", r.SaveMark(0xFFFF_FFFF, 0xFFFF_FFFF)),
        ("-j REJECT", r.RejectWith("icmp-port-unreachable")),
    ],
)
def test_other_spellings_are_read(text: str, target: Target) -> None:
    assert read_target(text) == target


@pytest.mark.parametrize(
    "text",
    [
        "-g KUBE-A --option",
        "-j KUBE-A --option",
        "-j ACCEPT --option",
        "-j DNAT",
        "-j DNAT [unsupported revision]",
        "-j DNAT --to-destination",
        "-j DNAT --to-destination :",
        "-j DNAT --to-destination 10.0.0.1:0",
        "-j DNAT --to-destination 10.0.0.1:65536",
        "-j DNAT --to-destination 10.0.0.1:90-80",
        "-j DNAT --to-destination 10.0.0.1:80-90/5",
        "-j DNAT --to-destination 10.0.0.1/32:80",
        "-j DNAT --to-destination nowhere:80",
        "-j DNAT --to-destination -10.0.0.1:80",
        "-j DNAT --to-destination [fd00::1]",
        "-j DNAT --to-destination 10.0.0.1:80 --later",
        "-j SNAT",
        "-j MASQUERADE [unsupported revision]",
        "-j REDIRECT --to-ports 0",
        "-j REJECT --reject-with two words",
        "-j MARK",
        "-j MARK --set-xmark 0x1/0x1 --or-mark 0x2",
        "-j MARK ! --set-xmark 0x1/0x1",
        "-j MARK --later 0x1",
        "-j CONNMARK --save-mark --restore-mark",
        "-j CONNMARK [unsupported revision]",
        "-j TPROXY --on-port 1 --on-ip x --tproxy-mark 0x0/0x0",
        "-j CT [unsupported revision]",
        "-j SET --map-set foo src --map-mark",
        "-j NETMAP --to 10.0.0.0/8",
        "-j NETMAP",
        "-j SYNPROXY --sack-perm",
    ],
)
def test_what_is_not_understood_to_the_last_word_stays_as_it_was_printed(text: str) -> None:
    assert read_target(text) == r.UnknownTarget(text)


@pytest.mark.parametrize("text", ["-j", "-g", "-j "])
def test_a_target_needs_a_name(text: str) -> None:
    with pytest.raises(ValueError, match="nothing after -"):
        read_target(text)


ADDRESS = st.ip_addresses().map(str)
PORT = st.integers(1, 65535)
RANGES = st.just((0, 0)) | st.tuples(PORT, PORT).map(lambda pair: (min(pair), max(pair)))
MARKS = st.integers(0, 0xFFFF_FFFF)
NOUNS: st.SearchStrategy[Target] = st.one_of(
    st.builds(r.Dnat, ADDRESS, PORT, st.booleans(), st.booleans()),
    st.builds(
        lambda ip, ports, *flags: r.Snat(ip, ip, *ports, *flags), ADDRESS, RANGES, *[st.booleans() for _ in range(3)]
    ),
    st.builds(lambda ports, random: r.Redirect(ports[0], ports[1], random), RANGES, st.booleans()),
    st.builds(r.SetMark, MARKS, MARKS),
    st.builds(r.SaveMark, MARKS, MARKS),
    st.builds(r.Tproxy, PORT, ADDRESS, MARKS, MARKS),
)


@given(NOUNS)
def test_reading_undoes_printing(target: Target) -> None:
    assert read_target(render_rule("X", Rule((), target)).removeprefix("-A X ")) == target
