"""Each match by itself; what whole chains do with it is for test_trace.py, and whether the kernel agrees for
tests/netns/test_differential.py.
"""

from __future__ import annotations

from typing import Any, get_args

import pytest
from msgspec.structs import replace

from kproxy.backend.iptables import rules as r
from kproxy.backend.iptables.judge import JUDGES, judge, words
from kproxy.backend.iptables.parse import parse_rule
from kproxy.backend.iptables.state import Host, State, Tracked
from kproxy.model.enums import Protocol
from kproxy.model.packet import Packet

PACKET = Packet("10.244.1.9", "10.96.0.1", 80, source_port=40000, in_interface="cni0")
PACKET_V6 = Packet("fd00:10:244::9", "fd00:10:96::1", 80)
HOST = Host(addresses=frozenset({"192.168.0.2", "fd00::2"}))
TRACKED = frozenset({"NEW"})
DEPENDS = "depends"


def asked(text: str, packet: Packet = PACKET, host: Host = HOST, **state: Any) -> bool | float | str:
    """The last match of a rule's text, of which it may be one of several; DEPENDS where that is the answer."""
    _, rule = parse_rule(f"-A X {text} -j ACCEPT")
    known = {"way_in": packet.in_interface, "way_out": None, "states": TRACKED, "hook": "FORWARD", **state}
    answer = judge(rule.matches[-1], State(packet, packet, **known), host)
    if isinstance(answer, str):
        assert answer == words(rule.matches[-1])
        assert answer in f"-A X {text}".replace("--syn", "--tcp-flags FIN,SYN,RST,ACK SYN")
        return DEPENDS
    return answer


def test_every_noun_has_a_judge() -> None:
    assert set(JUDGES) == set(get_args(r.Match))


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("-s 10.244.0.0/16", True),
        ("! -s 10.244.0.0/16", False),
        ("-s 10.245.0.0/16", False),
        ("-d 10.96.0.1/32", True),
        ("! -d 10.96.0.2/32", True),
        ("-s fd00::/8", False),  # of the other family
        ("-s nowhere/32", DEPENDS),  # nothing that iptables-save prints
        ("-m iprange --src-range 10.244.1.0-10.244.1.9", True),
        ("-m iprange ! --src-range 10.244.1.0-10.244.1.9", False),
        ("-m iprange --src-range 10.244.1.0-10.244.1.9 --dst-range 10.96.0.2-10.96.0.9", False),
        ("-m iprange --dst-range 10.96.0.0-10.96.0.1", True),
        ("-i cni0", True),
        ("-i cni+", True),
        ("-i +", True),
        ("! -i cni+", False),
        ("-i eth0", False),
        ("-o eth0", DEPENDS),
    ],
)
def test_addresses_and_interfaces(text: str, answer: object) -> None:
    assert asked(text) == answer


def test_a_mask_may_have_any_bits() -> None:
    state = State(PACKET, PACKET)
    assert judge(r.Destination("10.96.1.1/255.255.0.255"), state, HOST) is True
    assert judge(r.Destination("10.96.0.2/255.255.0.255"), state, HOST) is False


def test_values_that_no_program_prints_decide_nothing() -> None:
    state = State(PACKET, PACKET)
    for match in (
        r.Source("nowhere/32"),
        r.IpRange(("nowhere", "10.0.0.1")),
        r.Conntrack((), criteria=(r.Criterion("--ctproto", "tcp"),)),
    ):
        assert judge(match, replace(state, states=TRACKED), HOST) == words(match)


def test_an_interface_that_is_not_there_has_no_name() -> None:
    here = {"way_in": "", "way_out": "eth0"}
    assert asked("-i cni0", **here) is False
    assert asked("! -i cni0", **here) is True
    assert asked("-i +", **here) is True
    assert asked("-o eth+", **here) is True
    assert asked("! -o eth0", **here) is False


def test_an_address_that_the_kernel_chooses_is_in_no_network_for_certain() -> None:
    hidden = replace(PACKET, source="0.0.0.0", destination="0.0.0.0")
    assert asked("-s 10.0.0.0/8", hidden) == DEPENDS
    assert asked("-d 10.0.0.0/8", hidden) == DEPENDS
    assert asked("-m iprange --dst-range 10.0.0.1-10.0.0.2", hidden) == DEPENDS
    assert asked("-m addrtype --dst-type LOCAL", hidden) is True  # but it is one of the node's
    unread = replace(PACKET, destination="")
    assert asked("-m addrtype --dst-type LOCAL", unread) == DEPENDS


LOCAL = replace(PACKET, destination="192.168.0.2")


@pytest.mark.parametrize(
    ("packet", "text", "answer"),
    [
        (PACKET, "--dst-type LOCAL", False),
        (PACKET, "! --dst-type LOCAL", True),
        (LOCAL, "--dst-type LOCAL", True),
        (LOCAL, "--dst-type UNICAST", False),  # in IPv4 a route is of one type
        (LOCAL, "--src-type UNICAST --dst-type LOCAL", True),
        (LOCAL, "--src-type LOCAL --dst-type LOCAL", False),
        (LOCAL, "--dst-type LOCAL --limit-iface-in", DEPENDS),
        (PACKET, "--dst-type LOCAL --limit-iface-in", False),
        (replace(PACKET, destination="127.0.0.1"), "--dst-type LOCAL", True),
        (PACKET, "--dst-type UNICAST", True),
        (PACKET, "--dst-type UNICAST,LOCAL", True),
        (PACKET, "--dst-type MULTICAST", False),
        (PACKET, "--dst-type BLACKHOLE", DEPENDS),
        (replace(PACKET, destination="224.0.0.1"), "--dst-type MULTICAST", True),
        (replace(PACKET, destination="255.255.255.255"), "--dst-type BROADCAST", True),
        (PACKET_V6, "--dst-type UNICAST", True),
        (PACKET_V6, "--dst-type MULTICAST", False),
        (PACKET_V6, "--dst-type LOCAL", False),
        (PACKET_V6, "--dst-type ANYCAST", DEPENDS),
        (replace(PACKET_V6, destination="fd00::2"), "--dst-type UNICAST", True),  # by its address alone
        (replace(PACKET_V6, destination="fd00::2"), "--dst-type LOCAL,MULTICAST", False),  # both at once
        (replace(PACKET_V6, destination="fd00::2"), "--dst-type LOCAL,UNICAST", True),
    ],
)
def test_types_of_addresses(packet: Packet, text: str, answer: object) -> None:
    assert asked(f"-m addrtype {text}", packet) == answer


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("-p tcp", True),
        ("! -p tcp", False),
        ("-p udp", False),
        ("-p icmp", False),
        ("! -p icmp", True),
        ("-f", False),
        ("! -f", True),
        ("-m tcp", True),
        ("-m udp", False),
        ("-m tcp --dport 80", True),
        ("-m tcp ! --dport 80", False),
        ("-m tcp --dport 81:90", False),
        ("-m tcp --dport 0:80", True),
        ("-m tcp --sport 40000:50000 --dport 80", True),
        ("-m tcp ! --sport 40000 --dport 80", False),
        ("-m udp --dport 80", False),
        ("-m tcp --tcp-flags FIN,SYN,RST,ACK SYN", True),
        ("-m tcp ! --tcp-flags FIN,SYN,RST,ACK SYN", False),
        ("-m tcp --dport 80 --tcp-flags SYN,ACK SYN,ACK", False),
        ("-m tcp --tcp-flags RST RST", False),
        ("-m multiport --dports 22,80:90", True),
        ("-m multiport ! --dports 22,80:90", False),
        ("-m multiport --sports 22,80:90", False),
        ("-m multiport --ports 22,40000", True),
        ("-m multiport ! --ports 22,443", True),
    ],
)
def test_protocols_and_ports(text: str, answer: object) -> None:
    assert asked(text) == answer


def test_ports_that_are_not_known() -> None:
    anyone = replace(PACKET, source_port=0)
    assert asked("-m tcp --sport 1024:65535", anyone) == DEPENDS
    assert asked("-m tcp --sport 1024:65535 --dport 81", anyone) is False
    assert asked("-m multiport --ports 80,443", anyone) is True
    assert asked("-m multiport --ports 443", anyone) == DEPENDS
    assert asked("-m tcp --dport 80", replace(PACKET, port=0)) == DEPENDS
    assert asked("-m udp --dport 80", replace(PACKET, port=0)) is False


def test_flags_of_a_flow_that_goes_on() -> None:
    later = {"states": frozenset({"ESTABLISHED"})}
    assert asked("-m tcp --tcp-flags FIN,SYN,RST,ACK SYN", **later) is False
    assert asked("-m tcp --tcp-flags SYN,ACK ACK", **later) is True
    assert asked("-m tcp --tcp-flags PSH,ACK ACK", **later) == DEPENDS
    assert asked("-m tcp ! --tcp-flags SYN SYN", **later) is True


@pytest.mark.parametrize(
    ("states", "text", "answer"),
    [
        ({"NEW"}, "-m conntrack --ctstate NEW", True),
        ({"NEW"}, "-m conntrack ! --ctstate RELATED,ESTABLISHED", True),
        ({"NEW", "DNAT"}, "-m conntrack --ctstate DNAT", True),
        ({"NEW"}, "-m conntrack ! --ctstate DNAT", True),
        ({"NEW"}, "-m state --state NEW", True),
        ({"NEW"}, "-m state ! --state NEW", False),
        ({"UNTRACKED"}, "-m state --state UNTRACKED", True),
        ({"INVALID"}, "-m conntrack --ctstate INVALID", True),
        ({"NEW"}, "-m conntrack --ctproto 6", True),
        ({"NEW"}, "-m conntrack --ctproto 17", False),
        ({"NEW"}, "-m conntrack --ctdir ORIGINAL", True),
        ({"NEW"}, "-m conntrack --ctdir REPLY", False),
        ({"NEW"}, "-m conntrack --ctorigdst 10.96.0.0/12", True),
        ({"NEW"}, "-m conntrack ! --ctorigdst 10.96.0.0/12", False),
        ({"NEW"}, "-m conntrack --ctorigdstport 80:90", True),
        ({"NEW"}, "-m conntrack --ctorigsrcport 1", False),
        ({"NEW"}, "-m conntrack --ctreplsrc 10.244.1.1", True),
        ({"NEW"}, "-m conntrack --ctrepldst 10.244.1.9", True),
        ({"NEW"}, "-m conntrack --ctreplsrcport 8080", True),
        ({"NEW"}, "-m conntrack --ctstate NEW --ctorigdst 10.96.0.9", False),
        ({"NEW"}, "-m conntrack --ctexpire 10:20", DEPENDS),
        ({"NEW"}, "-m conntrack --ctstatus CONFIRMED", False),
        ({"NEW"}, "-m conntrack ! --ctstatus CONFIRMED,ASSURED", True),
        # Without a flow the kernel asks for nothing but the state.
        ({"INVALID"}, "-m conntrack --ctorigdst 10.96.0.0/12", False),
        ({"INVALID"}, "-m conntrack --ctstate INVALID --ctorigdst 1.2.3.4", True),
        ({"NEW"}, "-m connmark --mark 0x8", True),
        ({"NEW"}, "-m connmark ! --mark 0x8/0xff", False),
        ({"UNTRACKED"}, "-m connmark ! --mark 0x8", False),
    ],
)
def test_flows(states: set[str], text: str, answer: object) -> None:
    _, rule = parse_rule(f"-A X {text} -j ACCEPT")
    rewritten = replace(PACKET, destination="10.244.1.1", port=8080)
    state = State(rewritten, PACKET, states=frozenset(states), flow_mark=8)
    found = judge(rule.matches[-1], state, HOST)
    assert found == (words(rule.matches[-1]) if answer == DEPENDS else answer)


def test_the_status_of_a_flow_that_goes_on() -> None:
    later = replace(HOST, flow=Tracked())
    states = frozenset({"ESTABLISHED"})
    assert asked("-m conntrack --ctstatus SEEN_REPLY", host=later, states=states) is True
    assert asked("-m conntrack --ctstatus ASSURED", host=later, states=states) == DEPENDS
    assert asked("-m conntrack --ctstatus CONFIRMED", states=TRACKED, way_in="lo") is True  # it came round by lo


def test_marks() -> None:
    marked = replace(PACKET, mark=0x4001)
    assert asked("-m mark --mark 0x4000/0x4000", marked) is True
    assert asked("-m mark ! --mark 0x4000/0x4000", marked) is False
    assert asked("-m mark --mark 0x4000", marked) is False


def test_chance() -> None:
    assert asked("-m statistic --mode random --probability 0.25000000000") == 0.25
    assert asked("-m statistic --mode nth --every 4 --packet 0") == 0.25
    assert asked("-m statistic --mode nth ! --every 4 --packet 0") == 0.75
    assert asked("-m statistic --mode nth --every 1 --packet 0") is True


def test_memory() -> None:
    known = replace(HOST, remembered=frozenset({"A"}))
    assert asked("-m recent --rcheck --seconds 10 --reap --name A --rsource", host=known) is True
    assert asked("-m recent --rcheck --seconds 10 --reap --name B --rsource", host=known) is False
    assert asked("-m recent --rcheck --seconds 10 --reap --name B --rsource", recorded=frozenset({"B"})) is True


@pytest.mark.parametrize(
    "text", ["-m comment --comment x", "-m nfacct --nfacct-name x", "-m recent --set --name x --rsource"]
)
def test_what_is_always_true(text: str) -> None:
    assert asked(text) is True


def test_what_nobody_can_tell() -> None:
    assert asked("-m set --match-set blocked src") == DEPENDS
    assert asked("-m limit --limit 1/sec") == DEPENDS


def test_sctp_has_ports_too() -> None:
    assert asked("-p sctp -m sctp --dport 80", replace(PACKET, protocol=Protocol.SCTP)) is True
