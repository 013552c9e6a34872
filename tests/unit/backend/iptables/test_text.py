"""Rendering and reading back. That real programs print the same is shown by tests/netns/test_iptables_*.py."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.backend.iptables import rules as r
from kproxy.backend.iptables.parse import parse_rule, parse_save
from kproxy.backend.iptables.rules import Chain, Entry, Rule, Table, Verdict
from kproxy.backend.iptables.text import (
    canonical,
    digest_chain,
    digest_save,
    quantise,
    quote,
    render_rule,
    restore_text,
)
from kproxy.errors import UnreadableDump
from kproxy.model.enums import Protocol

# As printed by iptables-save 1.8.9 for rules that kube-proxy 1.36.2 wrote (spec: iptables.md 5, 18).
SAVED = [
    (
        "-A KUBE-SERVICES -d 172.30.0.41/32 -p tcp -m comment --comment "
        '"ns1/svc1:p80 cluster IP" -m tcp --dport 80 -j KUBE-SVC-XPGD46QRK7WJZT7O'
    ),
    (
        "-A KUBE-SVC-XPGD46QRK7WJZT7O ! -s 10.0.0.0/8 -d 172.30.0.41/32 -p tcp -m comment --comment "
        '"ns1/svc1:p80 cluster IP" -m tcp --dport 80 -j KUBE-MARK-MASQ'
    ),
    (
        '-A KUBE-SVC-X -m comment --comment "ns1/svc1:p80 -> 10.180.0.11:8080" '
        "-m statistic --mode random --probability 0.33333333349 -j KUBE-SEP-7X2C7NCZHTIYWIS6"
    ),
    '-A KUBE-SEP-C -p tcp -m comment --comment "ns1/svc1:p80" -m tcp -j DNAT --to-destination 10.180.0.1:8080',
    "-A KUBE-SEP-C -p udp -m udp -j DNAT --to-destination [fd00::1]:53",
    "-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN",
    "-A KUBE-POSTROUTING -j MARK --set-xmark 0x4000/0x0",
    '-A KUBE-POSTROUTING -m comment --comment "kubernetes service traffic requiring SNAT" -j MASQUERADE --random-fully',
    (
        "-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m comment --comment "
        '"block incoming localnet connections" -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP'
    ),
    (
        "-A KUBE-EXTERNAL-SERVICES -p tcp -m addrtype --dst-type LOCAL -m tcp --dport 30000 "
        "-j REJECT --reject-with icmp-port-unreachable"
    ),
    "-A KUBE-SVC-X -d 10.0.0.1/32 ! -i cni0 -p tcp -m tcp --dport 80:90 -j KUBE-MARK-MASQ",
    "-A KUBE-FORWARD -m conntrack --ctstate INVALID -m nfacct --nfacct-name ct_state_invalid_dropped_pkts -j DROP",
    "-A KUBE-SVC-X -m recent --rcheck --seconds 10800 --reap --name KUBE-SEP-A --rsource -j KUBE-SEP-A",
    "-A KUBE-SEP-A -p tcp -m recent --set --name KUBE-SEP-A --rsource -m tcp -j DNAT --to-destination 10.0.0.1:80",
    '-A KUBE-FW-X -m comment --comment "other traffic to a/b will be dropped by KUBE-PROXY-FIREWALL"',
    "-A X -m set ! --match-set foo src,dst -m comment --comment -j -j LOG --log-prefix dropped --log-level 4",
    "-A X -p icmp -m icmp --icmp-type 8 -j ACCEPT",
    "-A X -p tcp -m multiport --dports 80,443 -g Y",
]


@pytest.mark.parametrize("line", SAVED)
def test_reading_undoes_rendering(line: str) -> None:
    chain, rule = parse_rule(line)
    assert render_rule(chain, rule) == line


def test_what_is_not_understood_stays_as_text() -> None:
    _, rule = parse_rule("-A X -m set --match-set foo src -m later --option -j NETMAP --to 10.0.0.0/8")
    assert rule.matches == (r.Unknown("-m set --match-set foo src"), r.Unknown("-m later --option"))
    assert rule.target == r.UnknownTarget("-j NETMAP --to 10.0.0.0/8")


def test_a_saved_line_is_compared_without_the_program_s_own_habits() -> None:
    mask = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"
    line = f"-A C -m recent --set --name X --mask {mask} --rsource -m nfacct --nfacct-name  n -j RETURN\n"
    assert canonical(line) == "-A C -m recent --set --name X --rsource -m nfacct --nfacct-name n -j RETURN"


def test_probabilities_are_those_that_the_kernel_holds() -> None:
    assert [f"{quantise(1 / n):.11f}" for n in (3, 6, 7)] == ["0.33333333349", "0.16666666651", "0.14285714272"]


@given(st.text(max_size=300))
def test_no_comment_leaves_its_argument(text: str) -> None:
    line = render_rule("C", Rule((r.Comment(text),), Verdict.DROP))
    assert "\n" not in line
    assert len(line.splitlines()) == 1 or any(c in text for c in "\x1c\x1d\x1e\x85\u2028\u2029")
    _, rule = parse_rule(line)
    assert rule.target is Verdict.DROP
    assert len(rule.matches) == 1


def test_quoting_follows_iptables() -> None:
    assert [quote("plain-word_1"), quote("a/b"), quote('a"b'), quote("")] == ["plain-word_1", '"a/b"', '"a\\"b"', '""']


RULE = Rule((r.Destination("10.0.0.1/32"), r.OfProtocol(Protocol.TCP)), r.Jump("KUBE-SVC-A"))


def test_a_restore_input_empties_what_it_deletes_and_ends_with_commit() -> None:
    entry = Entry(Table.NAT, "PREROUTING", Rule((), r.Jump("KUBE-SERVICES")))
    text = "".join(
        restore_text(
            Table.NAT, write=[Chain(Table.NAT, "KUBE-SERVICES", (RULE,))], delete=["KUBE-SVC-B"], insert=[entry]
        )
    )
    assert text.splitlines() == [
        "*nat",
        ":KUBE-SERVICES - [0:0]",
        ":KUBE-SVC-B - [0:0]",
        "-I PREROUTING -j KUBE-SERVICES",
        "-A KUBE-SERVICES -d 10.0.0.1/32 -p tcp -j KUBE-SVC-A",
        "-X KUBE-SVC-B",
        "COMMIT",
    ]


def test_digests_of_text_and_of_values_agree() -> None:
    chain = Chain(Table.NAT, "KUBE-SERVICES", (RULE, Rule((r.Nfacct("n"),), Verdict.RETURN)))
    text = "".join(restore_text(Table.NAT, write=[chain])).replace("--nfacct-name n", "--nfacct-name  n")
    assert digest_save(text.splitlines(keepends=True)) == {("nat", "KUBE-SERVICES"): digest_chain(chain)}


def test_a_dump_keeps_line_numbers_policies_and_counters() -> None:
    dump = parse_save(
        ["# x", "*filter", ":INPUT DROP [1:2]", ":MINE - [0:0]", "[5:60] -A INPUT -j MINE", "COMMIT", "*nat", "COMMIT"]
    )
    saved = dump["filter"]["INPUT"]
    assert (saved.policy, saved.line, saved.rules[0].line, saved.rules[0].packets) == ("DROP", 3, 5, 5)
    assert dump["nat"] == {}


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["hello"], "line 1: 'hello' stands before any \\*table"),
        (["*nat", "\0\1"], "line 2: .* is neither a chain nor a rule"),
        (["*nat", "-A X -j ACCEPT"], "line 2: a rule of chain 'X', which was not declared"),
        (["*nat", ":X - [0:0]", "-A X -p"], "line 3: .* nothing after -p"),
        (["*nat", ":"], "line 2: .* is not a chain line"),
        (["*nat", ":X - [0:0]", "[1:1] -X Y"], "no -A CHAIN"),
    ],
)
def test_an_unreadable_dump_is_named_by_its_line(lines: list[str], said: str) -> None:
    with pytest.raises(UnreadableDump, match=said):
        parse_save(lines)
