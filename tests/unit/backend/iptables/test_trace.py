"""The tracer itself, on small hand-written tables; tests/netns shows that the kernel agrees."""

import pytest

from kproxy.backend.iptables.parse import parse_save
from kproxy.backend.iptables.trace import (
    DanglingJump,
    Delivered,
    Dropped,
    Host,
    Refused,
    Tables,
    Untouched,
    fates,
    trace,
)
from kproxy.model.enums import Protocol
from kproxy.model.packet import Packet

HOST = Host(addresses=frozenset({"192.168.0.2"}))
NAT = """\
*nat
:PREROUTING ACCEPT [0:0]
:OUTPUT ACCEPT [0:0]
:POSTROUTING ACCEPT [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-POSTROUTING - [0:0]
:KUBE-MARK-MASQ - [0:0]
:KUBE-SVC-A - [0:0]
:KUBE-SEP-1 - [0:0]
:KUBE-SEP-2 - [0:0]
-A PREROUTING -j KUBE-SERVICES
-A OUTPUT -j KUBE-SERVICES
-A POSTROUTING -j KUBE-POSTROUTING
-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment x -m tcp --dport 80 -j KUBE-SVC-A
-A KUBE-SERVICES -m addrtype --dst-type LOCAL -m set --match-set odd src -j KUBE-SVC-A
-A KUBE-SVC-A ! -s 10.244.0.0/16 -j KUBE-MARK-MASQ
-A KUBE-SVC-A -m recent --rcheck --seconds 10 --reap --name KUBE-SEP-1 --rsource -j KUBE-SEP-1
-A KUBE-SVC-A -m statistic --mode random --probability 0.25000000000 -j KUBE-SEP-1
-A KUBE-SVC-A -j KUBE-SEP-2
-A KUBE-SEP-1 -p tcp -m tcp -j DNAT --to-destination 10.244.1.1:8080
-A KUBE-SEP-2 -s 10.244.1.2/32 -j KUBE-MARK-MASQ
-A KUBE-SEP-2 -p tcp -m tcp -j DNAT --to-destination 10.244.1.2:8080
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0
-A KUBE-POSTROUTING -j MASQUERADE --random-fully
COMMIT
"""


def tables(text: str = NAT) -> Tables:
    return {
        (table, name): [saved.rule for saved in chain.rules]
        for table, chains in parse_save(text.splitlines()).items()
        for name, chain in chains.items()
    }


def test_chance_is_followed_both_ways() -> None:
    assert fates(trace(tables(), Packet("10.244.1.9", "10.96.0.1", 80), HOST)) == {
        Delivered("10.244.1.1", 8080, masquerade=False): 0.25,
        Delivered("10.244.1.2", 8080, masquerade=False): 0.75,
    }


def test_a_mark_set_before_dnat_masquerades_after_it() -> None:
    for packet in (Packet("192.168.0.9", "10.96.0.1", 80), Packet("192.168.0.2", "10.96.0.1", 80, from_host=True)):
        assert all(isinstance(fate, Delivered) and fate.masquerade for fate in fates(trace(tables(), packet, HOST)))


def test_a_pod_that_meets_itself_is_masqueraded() -> None:
    found = fates(trace(tables(), Packet("10.244.1.2", "10.96.0.1", 80), HOST))
    assert found[Delivered("10.244.1.2", 8080, masquerade=True)] == pytest.approx(0.75)


def test_a_remembered_client_keeps_its_endpoint() -> None:
    host = Host(addresses=HOST.addresses, remembered=frozenset({"KUBE-SEP-1"}))
    assert fates(trace(tables(), Packet("10.244.1.9", "10.96.0.1", 80), host)) == {
        Delivered("10.244.1.1", 8080, masquerade=False): 1.0
    }


def test_other_traffic_is_left_alone() -> None:
    for packet in (
        Packet("10.244.1.9", "10.96.0.1", 81),
        Packet("10.244.1.9", "10.96.0.1", 80, Protocol.UDP),
        Packet("10.244.1.9", "10.244.1.1", 80),
    ):
        assert fates(trace(tables(), packet, HOST)) == {Untouched(): 1.0}


def test_what_rules_cannot_show_is_said() -> None:
    outcomes = trace(tables(), Packet("10.244.1.9", "192.168.0.2", 80), HOST)
    assert {outcome.depends for outcome in outcomes} == {
        ("-m set --match-set odd src",),
        ("not -m set --match-set odd src",),
    }


def test_filter_rules_see_the_rewritten_destination() -> None:
    text = NAT + (
        "*filter\n:FORWARD ACCEPT [0:0]\n:INPUT ACCEPT [0:0]\n:OUTPUT ACCEPT [0:0]\n"
        "-A FORWARD -d 10.244.1.2/32 -m conntrack --ctstate NEW -j DROP\n"
        "-A INPUT -p tcp -m tcp --dport 31000 -j REJECT --reject-with icmp-port-unreachable\n"
        "-A OUTPUT -m conntrack ! --ctstate DNAT -j ACCEPT\n-A OUTPUT -j DROP\nCOMMIT\n"
    )
    forwarded = fates(trace(tables(text), Packet("10.244.1.9", "10.96.0.1", 80), HOST))
    assert forwarded[Dropped()] == pytest.approx(0.75)
    assert fates(trace(tables(text), Packet("10.0.0.9", "192.168.0.2", 31000), Host(HOST.addresses)))[Refused()] > 0
    assert fates(trace(tables(text), Packet("192.168.0.2", "10.96.0.1", 80, from_host=True), HOST)) == {Dropped(): 1.0}


def test_a_jump_to_nowhere_is_an_error() -> None:
    with pytest.raises(DanglingJump, match="KUBE-SVC-A"):
        trace(tables(NAT.replace(":KUBE-SVC-A - [0:0]\n", "").split("-A KUBE-SVC-A")[0] + "COMMIT\n"),
              Packet("10.244.1.9", "10.96.0.1", 80), HOST)  # fmt: skip
