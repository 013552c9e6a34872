"""The messages of the trace rule. That the kernel takes them, and marks what is meant, is in tests/netns."""

from __future__ import annotations

from kproxy.kernel import netlink
from kproxy.kernel.trace_table import NEW_CHAIN, NEW_RULE, NEW_TABLE, Request, Selector, process_of, requests
from kproxy.model.enums import IPFamily, Protocol

V4 = IPFamily.IPV4


def expressions(request: Request) -> list[str]:
    """The names of a rule's expressions."""
    body = request[3]
    (listed,) = [body[first:last] for number, first, last in netlink.attributes(body, 0, len(body)) if number == 4]
    return [
        netlink.text(netlink.find(listed, first, last, 1))
        for _, first, last in netlink.attributes(listed, 0, len(listed))
    ]


def made(*selectors: Selector, every: bool = False) -> list[Request]:
    return requests(selectors, rate=10, every=every, process=4711)


def rules_of(chain: str, found: list[Request]) -> list[Request]:
    return [
        each
        for each in found
        if each[0] == NEW_RULE and netlink.text(netlink.find(each[3], 0, len(each[3]), 2)) == chain
    ]


def test_the_table_belongs_to_the_socket_and_says_whose_it_is() -> None:
    table, *rest = made(Selector(V4))
    kind, flags, family, body = table
    assert (kind, family, flags & netlink.EXCL) == (NEW_TABLE, 1, netlink.EXCL)
    assert netlink.find(body, 0, len(body), 2) == b"\0\0\0\2"
    assert process_of(netlink.find(body, 0, len(body), 6) or b"") == "4711"
    assert process_of(b"\0\x05mine\0") == ""
    assert {each[0] for each in rest} == {NEW_CHAIN, NEW_RULE}


def test_one_rule_marks_and_one_limit_holds_for_all() -> None:
    found = made(*(Selector(V4, destination=f"10.96.0.{n}", port=80, protocol=Protocol.TCP) for n in range(1, 9)))
    assert [expressions(each) for each in rules_of("pace", found)] == [["limit", "immediate", "meta"]]
    assert len(rules_of("scope", found)) == 8
    assert sum(body.count(b"limit\0") for _, _, _, body in found) == 1


def test_every_condition_is_asked() -> None:
    (rule,) = rules_of(
        "scope",
        made(Selector(V4, "10.0.0.1", "10.96.0.10", 53, Protocol.UDP, "eth0")),
    )
    pairs = ["meta", "cmp", "meta", "cmp", "payload", "cmp", "payload", "cmp", "meta", "cmp", "payload", "cmp"]
    assert expressions(rule) == [*pairs, "immediate"]
    for value in (b"eth0" + bytes(12), bytes([10, 0, 0, 1]), bytes([10, 96, 0, 10]), b"\x00\x35"):
        assert value in rule[3]
    (local,) = rules_of("scope", made(Selector(V4, port=30080, protocol=Protocol.TCP, local=True)))
    assert "fib" in expressions(local)


def test_all_packets_are_seen_before_anybody_asks_conntrack() -> None:
    first = [expressions(each) for each in rules_of("prerouting", made(Selector(V4)))]
    assert first == [["ct", "bitwise", "cmp", "meta", "cmp", "immediate"]]
    assert [expressions(each) for each in rules_of("output", made(Selector(V4), every=True))] == [["immediate"]]
    assert (-350).to_bytes(4, "big", signed=True) in b"".join(each[3] for each in made(Selector(V4), every=True))


def test_what_comes_in_through_lo_counts_once_unless_it_is_asked_for() -> None:
    found = made(Selector(V4, interface="lo"))
    assert [expressions(each) for each in rules_of("prerouting", found)] == [["ct", "bitwise", "cmp", "immediate"]]
