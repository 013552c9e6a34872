"""One fragment to a match. That all which iptables prints comes back as it was: test_parse.py."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.backend.iptables import rules as r
from kproxy.backend.iptables.matches import read_match
from kproxy.backend.iptables.rules import Match, Rule
from kproxy.backend.iptables.text import render_rule
from kproxy.model.enums import Protocol

TCP, UDP, SCTP = Protocol.TCP, Protocol.UDP, Protocol.SCTP
SYN = r.TcpFlags(("FIN", "SYN", "RST", "ACK"), ("SYN",))

READ: list[tuple[str, Match]] = [
    ("-s 10.0.0.0/8", r.Source("10.0.0.0/8")),
    ("-d 10.0.0.1", r.Destination("10.0.0.1")),
    ("! -d fd00::1/128", r.Destination("fd00::1/128", negated=True)),
    ("-d ::ffff:10.0.0.1/128", r.Destination("::ffff:10.0.0.1/128")),
    ("! -i eth+", r.InInterface("eth+", negated=True)),
    ("-o lo", r.OutInterface("lo")),
    ("! -f", r.Fragment(negated=True)),
    ("-p tcp", r.OfProtocol(TCP)),
    ("! -p sctp", r.OfProtocol(SCTP, negated=True)),
    ("-p icmp", r.OtherProtocol("icmp", 1)),
    ("! -p ipv6-icmp", r.OtherProtocol("ipv6-icmp", 58, negated=True)),
    ("-p 200", r.OtherProtocol("200", 200)),
    ("-p l2tp", r.OtherProtocol("l2tp")),
    ('-m comment --comment "it\\\'s \\"a\\" \\\\ -j"', r.Comment('it\'s "a" \\ -j')),
    ('-m comment --comment ""', r.Comment("")),
    ("-m comment --comment plain", r.Comment("plain")),
    ("-m tcp", r.Ports(TCP)),
    ("-m udp --dport 53", r.Ports(UDP, 53, 53)),
    ("-m sctp --sport 1:9 ! --dport 80:90", r.Ports(SCTP, 80, 90, 1, 9, negated=True)),
    ("-m tcp ! --sport 1024:65535", r.Ports(TCP, 0, 0, 1024, 65535, source_negated=True)),
    ("-m tcp --dport 0:80", r.Ports(TCP, 0, 80)),
    ("-m tcp --tcp-flags FIN,SYN,RST,ACK SYN", r.Ports(TCP, flags=SYN)),
    ("-m tcp --dport 80 ! --tcp-flags SYN NONE", r.Ports(TCP, 80, 80, flags=r.TcpFlags(("SYN",), (), negated=True))),
    ("-m multiport ! --dports 80,8000:8080", r.Multiport("dports", ((80, 80), (8000, 8080)), negated=True)),
    ("-m multiport --ports 80", r.Multiport("ports", ((80, 80),))),
    (
        "-m iprange --src-range 1.2.3.4-1.2.3.9 ! --dst-range 10.0.0.1-10.0.0.2",
        r.IpRange(("1.2.3.4", "1.2.3.9"), ("10.0.0.1", "10.0.0.2"), destination_negated=True),
    ),
    ("-m iprange --dst-range fd00::1-fd00::9", r.IpRange(None, ("fd00::1", "fd00::9"))),
    ("-m conntrack ! --ctstate NEW,DNAT", r.Conntrack(("NEW", "DNAT"), negated=True)),
    (
        "-m conntrack --ctproto 6 ! --ctorigdst 10.0.0.0/8 --ctorigdstport 80:90 --ctstatus SEEN_REPLY --ctdir REPLY",
        r.Conntrack(
            (),
            criteria=(
                r.Criterion("--ctproto", "6"),
                r.Criterion("--ctorigdst", "10.0.0.0/8", negated=True),
                r.Criterion("--ctorigdstport", "80:90"),
                r.Criterion("--ctstatus", "SEEN_REPLY"),
                r.Criterion("--ctdir", "REPLY"),
            ),
        ),
    ),
    ("-m state ! --state NEW,ESTABLISHED", r.State(("NEW", "ESTABLISHED"), negated=True)),
    ("-m mark ! --mark 0x4000/0x4000", r.Mark(0x4000, 0x4000, negated=True)),
    ("-m mark --mark 0x1", r.Mark(1, 0xFFFF_FFFF)),
    ("-m connmark --mark 0x0/0xff", r.ConnMark(0, 0xFF)),
    (
        "-m addrtype ! --src-type LOCAL,BROADCAST --limit-iface-in",
        r.AddressType("LOCAL,BROADCAST", "", True, False, "in"),
    ),
    ("-m addrtype ! --dst-type LOCAL", r.AddressType(destination="LOCAL", destination_negated=True)),
    ("-m statistic --mode random --probability 0.50000000000", r.Statistic(0.5)),
    ("-m statistic --mode nth ! --every 3 --packet 2", r.Nth(3, 2, negated=True)),
    ("-m recent --rcheck --seconds 10800 --reap --name A --rsource", r.RecentCheck("A", 10800)),
    ("-m recent --rcheck --seconds 5 --name A --rsource", r.RecentCheck("A", 5, reap=False)),
    ("-m recent --set --name A --rsource", r.RecentSet("A")),
    ("-m nfacct --nfacct-name dropped", r.Nfacct("dropped")),
]


@pytest.mark.parametrize(("text", "match"), READ)
def test_a_match_is_read_and_printed(text: str, match: Match) -> None:
    assert read_match(text) == match
    assert render_rule("X", Rule((match,), None)) == f"-A X {text}"


@pytest.mark.parametrize(
    ("text", "match"),
    [
        ("-m recent --set --name A --mask 255.255.255.255 --rsource", r.RecentSet("A")),
        ("-m mark --mark 16384/16384", r.Mark(0x4000, 0x4000)),
        ("-m statistic --mode random --probability 0.333330", r.Statistic(0.33333)),
    ],
)
def test_other_spellings_are_read(text: str, match: Match) -> None:
    assert read_match(text) == match


@pytest.mark.parametrize(
    "text",
    [
        "-s 10.0.0.0/33",
        "-s 256.0.0.1/32",
        "-s 10.0.0.0/255.0.255.0",
        "-d 1.2.3.04/32",
        "-d fd00::/129",
        "-d fe80::1%eth0/128",
        "-d :",
        "-d nowhere",
        "-d 10.0.0.1/32 more",
        "-p TCP",
        "-p 6",
        "-p 0",
        "-p 256",
        "-p all",
        "-f 1",
        "-x 1",
        "--dport 80",
        "word",
        "! -m tcp",
        "-m tcp [unsupported revision]",
        "-m tcp --dport 0",
        "-m tcp --dport 65536",
        "-m tcp --dport 90:80",
        "-m tcp --dport \u0663",
        "-m tcp --dport http",
        "-m tcp --dport",
        "-m tcp --dport 80 --dport 90",
        "-m tcp --dport 80 90",
        "-m tcp ! ! --dport 80",
        "-m tcp --dport 80 !",
        "-m tcp ! 80",
        "-m tcp --tcp-option 7",
        "-m tcp --tcp-flags SYN,FOO SYN",
        "-m tcp --tcp-flags SYN",
        "-m udp --tcp-flags SYN SYN",
        "-m multiport",
        "-m multiport --dports 80,",
        "-m multiport --dports 80 --sports 80",
        "-m multiport --xports 80",
        "-m iprange",
        "-m iprange --src-range 1.2.3.4",
        "-m iprange --src-range 1.2.3.0/24-1.2.4.0/24",
        "-m conntrack [unsupported revision]",
        "-m conntrack",
        "-m conntrack --ctstate NEW,LATER",
        "-m conntrack --ctstate NEW --ctlater 1",
        "-m conntrack --ctproto tcp",
        "-m conntrack --ctdir BOTH",
        "-m state",
        "-m mark --mark 0x1ffffffff",
        "-m mark --mark x",
        "-m mark",
        "-m addrtype",
        "-m addrtype --src-type local",
        "-m addrtype --limit-iface-in",
        "-m addrtype --src-type LOCAL --limit-iface-in --limit-iface-out",
        "-m statistic --mode random ! --probability 0.5",
        "-m statistic --mode random --probability 1.5",
        "-m statistic --mode random --probability nan",
        "-m statistic --mode later",
        "-m statistic --mode nth --every 0 --packet 0",
        "-m recent --rcheck --name A --rsource",
        "-m recent ! --rcheck --seconds 5 --name A --rsource",
        "-m recent --rcheck --seconds 5 --name A --mask 255.255.0.0 --rsource",
        "-m recent --rcheck --seconds 5 --hitcount 2 --name A --rsource",
        "-m recent --set --name A --rdest",
        "-m recent --set yes --name A --rsource",
        "-m nfacct",
        "-m comment [unsupported revision]",
        "-m comment",
        '-m comment --comment "a" b',
        "-m set ! --match-set foo src,dst",
        "-m later --option",
    ],
)
def test_what_is_not_understood_to_the_last_word_stays_as_it_was_printed(text: str) -> None:
    assert read_match(text) == r.Unknown(text)


@pytest.mark.parametrize("text", ["-m", "-p", "! -s", "-i"])
def test_an_option_that_ends_too_early_is_no_match(text: str) -> None:
    with pytest.raises(ValueError, match="nothing after -"):
        read_match(text)


PORT = st.integers(1, 65535)
RANGES = st.tuples(PORT, PORT).map(lambda pair: (min(pair), max(pair)))
MARKS = st.integers(0, 0xFFFF_FFFF)
NOUNS: st.SearchStrategy[Match] = st.one_of(
    st.builds(r.Source, st.ip_addresses().map(lambda ip: f"{ip}/{ip.max_prefixlen}"), st.booleans()),
    st.builds(
        lambda protocol, ports, sources, *negated: r.Ports(protocol, *ports, *sources, *negated),
        st.sampled_from(Protocol),
        RANGES,
        RANGES,
        st.booleans(),
        st.booleans(),
    ),
    st.builds(
        r.Multiport,
        st.sampled_from(("dports", "sports", "ports")),
        st.lists(RANGES, min_size=1).map(tuple),
        st.booleans(),
    ),
    st.builds(r.Mark, MARKS, MARKS, st.booleans()),
    st.builds(r.ConnMark, MARKS, MARKS, st.booleans()),
    st.builds(r.Nth, st.integers(1, 1 << 31), st.integers(0, 1 << 31), st.booleans()),
    st.builds(r.RecentCheck, st.just("KUBE-SEP-A"), st.integers(1, 86400), st.booleans()),
    st.builds(r.Comment, st.text(st.characters(codec="utf-8", exclude_categories=["Cc"]), max_size=60)),
)


@given(NOUNS)
def test_reading_undoes_printing(match: Match) -> None:
    assert read_match(render_rule("X", Rule((match,), None)).removeprefix("-A X ")) == match
