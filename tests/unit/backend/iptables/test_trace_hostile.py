"""No rules, however wrong, make the tracer crash or hang: a dump is read because something in it is wrong."""

from __future__ import annotations

from typing import Any, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import fields

from kproxy.backend.iptables import rules as r
from kproxy.backend.iptables.rules import Rule, Verdict
from kproxy.backend.iptables.state import Host, Tracked
from kproxy.backend.iptables.trace import BrokenTables, Walk, walk
from kproxy.model.enums import Protocol
from kproxy.model.packet import Packet

CHAINS = ("A", "B", "C", "FORWARD")
TEXTS = st.sampled_from([
    *("10.96.0.1/32", "10.96.0.1", "10.0.0.0/8", "10.0.0.1/255.0.0.255", "fd00::1/128", "fd00::1", "0.0.0.0/0", "::"),
    *("", "nowhere", "10.96.0.1/99", "256.0.0.1", "1", "LOCAL", "LOCAL,UNICAST", "NEW", "eth0", "eth+", "+", "dports"),
    *("--ctorigdst", "--ctproto", "--ctorigsrcport", "1:x", "-j DNAT [unsupported revision]", "-j", *CHAINS),
])  # fmt: skip
NUMBERS = st.sampled_from([0, 1, 80, 40000, 65535, 0x4000, 0xFFFF_FFFF, -1, 1 << 40])


PLAIN: dict[Any, st.SearchStrategy[Any]] = {
    str: TEXTS,
    int: NUMBERS,
    float: st.floats(-1, 2, allow_nan=False),
    bool: st.booleans(),
    type(None): st.none(),
    Protocol: st.sampled_from(Protocol),
    Verdict: st.sampled_from(Verdict),
}


def of_type(kind: Any) -> st.SearchStrategy[Any]:
    if kind in PLAIN:
        return PLAIN[kind]
    if get_origin(kind) is tuple:
        first, *rest = get_args(kind)
        if rest == [...]:
            return st.lists(of_type(first), max_size=2).map(tuple)
        return st.tuples(*map(of_type, (first, *rest)))
    return st.one_of(*map(of_type, get_args(kind))) if get_args(kind) else noun(kind)


def noun(kind: Any) -> st.SearchStrategy[Any]:
    return (
        PLAIN[kind]
        if kind in PLAIN
        else st.builds(kind, **{field.encode_name: of_type(field.type) for field in fields(kind)})
    )


MATCHES = st.one_of(*map(noun, get_args(r.Match)))
JUMPS = st.builds(r.Jump, st.sampled_from(CHAINS)) | st.builds(r.Goto, st.sampled_from(CHAINS))
TARGETS = st.none() | JUMPS | st.one_of(*map(noun, get_args(r.Target)))
RULES = st.builds(Rule, st.lists(MATCHES, max_size=2).map(tuple), TARGETS)
HOOKS = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
TABLES = st.dictionaries(
    st.tuples(st.sampled_from(["raw", "mangle", "nat", "filter", "security"]), st.sampled_from([*HOOKS, *CHAINS])),
    st.lists(RULES, max_size=4),
    max_size=8,
)
PACKETS = st.builds(
    Packet,
    source=st.sampled_from(["10.244.1.9", "192.168.0.2"]),
    destination=st.sampled_from(["10.96.0.1", "192.168.0.2", "127.0.0.1"]),
    port=st.sampled_from([80, 0]),
    protocol=st.sampled_from(Protocol),
    source_port=st.sampled_from([40000, 0]),
    in_interface=st.sampled_from(["eth0", ""]),
    from_host=st.booleans(),
)
HOSTS = st.builds(
    Host,
    addresses=st.just(frozenset({"192.168.0.2"})),
    routes=st.sampled_from([(), (("0.0.0.0/0", "eth0"),)]),
    flow=st.none() | st.builds(Tracked, destination=st.sampled_from(["", "10.244.1.1"]), port=st.just(8080)),
)


@settings(max_examples=200)
@given(tables=TABLES, packet=PACKETS, host=HOSTS, drops=st.sampled_from(HOOKS))
def test_any_rules_have_an_answer(tables: Any, packet: Packet, host: Host, drops: str) -> None:
    try:
        found = walk(tables, packet, host, {("filter", drops): "DROP"})
    except BrokenTables:
        return
    assert isinstance(found, Walk)
    assert found.outcomes
    for outcome in found.outcomes:
        assert outcome.probability > 0 or any(isinstance(match, r.Statistic) for each in tables.values()
                                              for rule in each for match in rule.matches)  # fmt: skip
        assert len(set(outcome.depends)) <= 60


def test_entering_a_chain_costs_more_than_asking_a_rule(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two jumps in each of forty chains are 2^40 ways of which none is long."""

    class Opened(dict[tuple[str, str], list[Rule]]):
        times = 0

        def get(self, *of: Any) -> Any:
            self.times += 1
            return super().get(*of)

    monkeypatch.setattr("kproxy.backend.iptables.trace.MOST_STEPS", 30_000)
    twice = {("filter", f"C{at}"): [Rule((), r.Jump(f"C{at + 1}"))] * 2 for at in range(40)}
    tables = Opened(twice | {("filter", "FORWARD"): [Rule((), r.Jump("C0"))], ("filter", "C40"): []})
    assert walk(tables, Packet("10.0.0.9", "10.96.0.1", 80)).left_out
    assert tables.times < 1200
