"""Whole walks: every table in its order, policies, chains that call and go, flows, and dumps without an end."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from kproxy.backend.iptables.parse import SavedChain, parse_save
from kproxy.backend.iptables.trace import (
    MOST_DEEP,
    BrokenTables,
    Delivered,
    Dropped,
    EndlessJump,
    Host,
    Met,
    Outcome,
    Refused,
    Tracked,
    Untouched,
    Walk,
    chains_of,
    fates,
    policies_of,
    walk,
)
from kproxy.model.packet import Packet

HOST = Host(frozenset({"192.168.0.2"}), routes=(("0.0.0.0/0", "eth0"), ("10.244.0.0/16", "cni0")))
TO_SERVICE = Packet("203.0.113.7", "10.96.0.1", 80)
TO_NODE = Packet("203.0.113.7", "192.168.0.2", 80)
FROM_NODE = Packet("192.168.0.2", "10.96.0.1", 80, from_host=True)
DNAT = "-p tcp -d 10.96.0.1/32 -j DNAT --to-destination 10.244.1.1:8080"
POD = Delivered("10.244.1.1", 8080, masquerade=False)


def dump(*lines: str, policies: str = "") -> list[str]:
    """``*table`` and rules; chains are declared by being used. ``policies``: built-in chains that drop."""
    built_in = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
    made: list[str] = []
    for line in lines:
        if not line.startswith("*"):
            continue
        following = lines[lines.index(line) + 1 :]
        rules = following[: next((at for at, each in enumerate(following) if each.startswith("*")), None)]
        own = dict.fromkeys(each.split()[0] for each in rules if each.split()[0] not in built_in)
        made += [line, *(f":{each} {'DROP' if each in policies.split() else 'ACCEPT'} [0:0]" for each in built_in)]
        made += [*(f":{each} - [0:0]" for each in own), *(f"-A {each}" for each in rules), "COMMIT"]
    return made


def walked(packet: Packet, *lines: str, host: Host = HOST, policies: str = "") -> Walk:
    saved = parse_save(dump(*lines, policies=policies))
    return walk(chains_of(saved), packet, host, policies_of(saved))


def only(packet: Packet, *lines: str, host: Host = HOST, policies: str = "") -> Outcome:
    (outcome,) = walked(packet, *lines, host=host, policies=policies).outcomes
    assert outcome.depends == ()
    return outcome


# --- tables and hooks -----------------------------------------------------------------------------------------

EVERYWHERE = [
    line
    for table in ("security", "filter", "nat", "mangle", "raw")
    for line in (f"*{table}", *(f"{hook} -m comment --comment x" for hook in
                               ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")))
]  # fmt: skip


@pytest.mark.parametrize(
    ("packet", "order"),
    [
        (
            TO_SERVICE,
            (
                "raw PREROUTING, mangle PREROUTING, nat PREROUTING, mangle FORWARD, filter FORWARD, security FORWARD, "
                "mangle POSTROUTING, nat POSTROUTING"
            ),
        ),
        (
            TO_NODE,
            (
                "raw PREROUTING, mangle PREROUTING, nat PREROUTING, mangle INPUT, filter INPUT, security INPUT, "
                "nat INPUT"
            ),
        ),
        (
            FROM_NODE,
            (
                "raw OUTPUT, mangle OUTPUT, nat OUTPUT, filter OUTPUT, security OUTPUT, mangle POSTROUTING, "
                "nat POSTROUTING"
            ),
        ),
        (
            replace(FROM_NODE, destination="127.0.0.1"),
            (
                "raw OUTPUT, mangle OUTPUT, nat OUTPUT, filter OUTPUT, security OUTPUT, mangle POSTROUTING, "
                "nat POSTROUTING, raw PREROUTING, mangle PREROUTING, mangle INPUT, filter INPUT, security INPUT"
            ),
        ),
    ],
)
def test_the_order_is_netfilters(packet: Packet, order: str) -> None:
    assert ", ".join(f"{met.table} {met.chain}" for met in only(packet, *EVERYWHERE).path) == order


def test_nat_decides_which_way_a_packet_goes() -> None:
    host = replace(HOST, addresses=HOST.addresses | {"10.244.1.1"})
    outcome = only(TO_SERVICE, "*nat", f"PREROUTING {DNAT}", "*filter", "INPUT -j DROP", "FORWARD -j REJECT", host=host)
    assert outcome.fate == Dropped()
    assert (
        only(TO_SERVICE, "*nat", f"PREROUTING {DNAT}", "*filter", "INPUT -j DROP", "FORWARD -j REJECT").fate
        == Refused()
    )


def test_a_mark_of_mangle_is_seen_by_nat() -> None:
    lines = ["*mangle", "PREROUTING -j MARK --set-xmark 0x4000/0x4000", "*nat", f"PREROUTING {DNAT}"]
    masquerade = "POSTROUTING -m mark --mark 0x4000/0x4000 -j MASQUERADE"
    outcome = only(TO_SERVICE, *lines, masquerade)
    assert outcome.fate == replace(POD, masquerade=True)
    assert outcome.path[0] == Met("mangle", "PREROUTING", 0)
    assert outcome.path[-1] == Met("nat", "POSTROUTING", 0)


def test_a_packet_that_is_not_tracked_meets_no_nat() -> None:
    lines = ["*nat", f"PREROUTING {DNAT}", "POSTROUTING -j MASQUERADE"]
    untracked = ["*raw", "PREROUTING -j CT --notrack", "*filter", "FORWARD -m conntrack --ctstate UNTRACKED"]
    outcome = only(TO_SERVICE, *lines, *untracked)
    assert outcome.fate == Untouched()
    assert [met.table for met in outcome.path] == ["raw", "filter"]


def test_interfaces_are_those_of_the_hook() -> None:
    lines = ["*filter", "FORWARD -i eth0 -o cni0 -j DROP", "*nat", f"PREROUTING {DNAT}", f"OUTPUT {DNAT}"]
    assert only(TO_SERVICE, *lines).fate == Dropped()
    assert only(FROM_NODE, *lines).fate == POD
    # In OUTPUT the way out is still that of the first destination, for routes are asked again only afterwards.
    outputs = ["*filter", "OUTPUT -o cni0 -j DROP", "*nat", f"OUTPUT {DNAT}", "POSTROUTING -o cni0 -j MASQUERADE"]
    assert only(FROM_NODE, *outputs).fate == replace(POD, masquerade=True)
    here = replace(FROM_NODE, destination="192.168.0.2")
    assert only(here, "*filter", "OUTPUT -o lo", "INPUT -i lo -j DROP").fate == Dropped()


def test_a_way_out_that_is_not_known_is_followed_both_ways() -> None:
    outcomes = walked(TO_SERVICE, "*filter", "FORWARD -o cni0 -j DROP", host=Host()).outcomes
    assert {(outcome.fate, outcome.depends) for outcome in outcomes} == {
        (Dropped(), ("-o cni0",)),
        (Untouched(), ("not -o cni0",)),
    }


# --- policies, RETURN, goto -----------------------------------------------------------------------------------


def test_a_policy_is_the_last_rule() -> None:
    outcome = only(TO_SERVICE, "*filter", "FORWARD -d 10.0.0.1/32 -j ACCEPT", policies="FORWARD")
    assert outcome == Outcome(1.0, Dropped(), (Met("filter", "FORWARD", -1),))
    assert only(TO_SERVICE, "*filter", "FORWARD -j ACCEPT", policies="FORWARD").fate == Untouched()
    assert only(TO_SERVICE, "*filter", "FORWARD -j RETURN", "FORWARD -j ACCEPT", policies="FORWARD").fate == Dropped()
    assert only(TO_SERVICE, "*filter", "INPUT -j ACCEPT", policies="INPUT").fate == Untouched()


def test_a_chain_returns_to_its_caller() -> None:
    lines = ["*filter", "FORWARD -j A", "FORWARD -j DROP", "A -j B", "A -j REJECT", "B -j RETURN", "B -j ACCEPT"]
    outcome = only(TO_SERVICE, *lines)
    assert outcome.fate == Refused()
    assert [(met.chain, met.position) for met in outcome.path] == [("FORWARD", 0), ("A", 0), ("B", 0), ("A", 1)]


def test_goto_returns_to_the_callers_caller() -> None:
    lines = ["*filter", "FORWARD -j A", "FORWARD -j DROP", "A -g B", "A -j REJECT", "B -m comment --comment x"]
    outcome = only(TO_SERVICE, *lines)
    assert outcome.fate == Dropped()
    assert [(met.chain, met.position) for met in outcome.path] == [("FORWARD", 0), ("A", 0), ("B", 0), ("FORWARD", 1)]
    assert only(TO_SERVICE, "*filter", "FORWARD -g A", "FORWARD -j REJECT", "A -j RETURN", policies="FORWARD").path[
        -1
    ] == (Met("filter", "FORWARD", -1))
    assert (
        only(TO_SERVICE, "*filter", "FORWARD -g A", "FORWARD -j REJECT", "A -j ACCEPT", policies="FORWARD").fate
        == Untouched()
    )


# --- targets of others ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["LOG --log-prefix x", "NFLOG --nflog-group 1", "TRACE", "MARK --set-xmark 0x1/0x1"])
def test_what_passes_on_passes_on(target: str) -> None:
    assert only(TO_SERVICE, "*filter", f"FORWARD -j {target}", "FORWARD -j DROP").fate == Dropped()


def test_a_program_that_decides_may_drop() -> None:
    outcomes = walked(TO_SERVICE, "*filter", "FORWARD -j NFQUEUE --queue-num 0", "FORWARD -j REJECT").outcomes
    assert {(outcome.fate, outcome.depends) for outcome in outcomes} == {
        (Dropped(), ("-j NFQUEUE --queue-num 0 drops it",)),
        (Untouched(), ("-j NFQUEUE --queue-num 0 accepts it",)),
    }


def test_an_unknown_target_may_do_anything() -> None:
    outcomes = walked(TO_SERVICE, "*filter", "FORWARD -j NEWTHING --now", "FORWARD -j REJECT").outcomes
    assert {(outcome.fate, outcome.depends) for outcome in outcomes} == {
        (Dropped(), ("-j NEWTHING --now drops it",)),
        (Untouched(), ("-j NEWTHING --now accepts it",)),
        (Refused(), ("-j NEWTHING --now lets it go on",)),
    }


def test_redirected_a_packet_comes_to_the_node() -> None:
    lines = [
        "*nat",
        "PREROUTING -p tcp -j REDIRECT --to-ports 8080",
        "*filter",
        "INPUT -p tcp -m tcp --dport 80 -j DROP",
    ]
    assert only(TO_SERVICE, *lines).fate == Delivered("0.0.0.0", 8080, masquerade=False)


def test_a_source_that_others_write_is_told() -> None:
    outcome = only(TO_SERVICE, "*nat", f"PREROUTING {DNAT}", "POSTROUTING -j SNAT --to-source 192.0.2.1")
    assert outcome == Outcome(1.0, replace(POD, masquerade=True), outcome.path, source="192.0.2.1")


def test_a_destination_that_cannot_be_read_is_not_guessed() -> None:
    lines = ["*nat", "PREROUTING -p tcp -j DNAT [unsupported revision]", "*filter", "FORWARD -d 10.244.0.0/16 -j DROP"]
    where = "where -j DNAT [unsupported revision] leads"
    outcomes = walked(TO_SERVICE, *lines).outcomes
    assert {(outcome.fate, outcome.depends) for outcome in outcomes} == {
        (Dropped(), (where, "-d 10.244.0.0/16")),
        (Delivered("", 0, masquerade=False), (where, "not -d 10.244.0.0/16")),
    }


def test_a_packet_for_a_transparent_socket_needs_one() -> None:
    rule = "-p tcp -j TPROXY --on-port 15001 --on-ip 0.0.0.0 --tproxy-mark 0x1/0x1"
    lines = ["*mangle", f"PREROUTING {rule}", "*filter", "INPUT -m mark --mark 0x1 -j ACCEPT"]
    outcomes = walked(TO_SERVICE, *lines, "INPUT -j REJECT", "FORWARD -j REJECT").outcomes
    assert {outcome.fate for outcome in outcomes} == {Dropped(), Untouched()}
    assert all(
        "a socket listens" in outcome.depends[0] or "no socket listens" in outcome.depends[0] for outcome in outcomes
    )


# --- flows ----------------------------------------------------------------------------------------------------

FLOW_RULES = [
    "*nat",
    "PREROUTING -j DNAT --to-destination 10.244.9.9:9",
    "POSTROUTING -j MASQUERADE",
    "*filter",
    "FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
    "FORWARD -j REJECT",
]


def test_a_flow_goes_where_it_went() -> None:
    host = replace(HOST, flow=Tracked("10.244.1.1", 8080))
    outcome = only(TO_SERVICE, *FLOW_RULES, host=host)
    assert outcome.fate == POD
    assert {met.table for met in outcome.path} == {"filter"}
    masked = replace(HOST, flow=Tracked("10.244.1.1", 8080, source="192.168.0.2"))
    outcome = only(TO_SERVICE, *FLOW_RULES, host=masked)
    assert (outcome.fate, outcome.source) == (replace(POD, masquerade=True), "192.168.0.2")


def test_a_flow_that_nobody_answered_is_new() -> None:
    host = replace(HOST, flow=Tracked("10.244.1.1", 8080, states=("NEW",)))
    assert only(TO_SERVICE, *FLOW_RULES, host=host).fate == Refused()


def test_a_flow_that_was_not_translated_goes_where_it_was_sent() -> None:
    lines = ["*filter", "FORWARD -m conntrack --ctstate DNAT -j DROP", "FORWARD -m connmark --mark 0x8 -j ACCEPT"]
    assert only(
        TO_SERVICE, *FLOW_RULES[:3], *lines, "FORWARD -j DROP", host=replace(HOST, flow=Tracked(mark=8))
    ).fate == (Untouched())


# --- too many, too deep, broken -------------------------------------------------------------------------------


def test_unknown_matches_without_consequence_are_forgotten() -> None:
    rules = [f"FORWARD -m set --match-set s{number} src" for number in range(500)]
    assert only(TO_SERVICE, "*filter", *rules).fate == Untouched()


def test_five_hundred_unknown_matches_make_few_ways() -> None:
    rules = [f"-m set --match-set s{number} src" for number in range(500)]
    lines = ["*mangle", *(f"PREROUTING {each} -j ACCEPT" for each in rules)]
    lines += ["*filter", *(f"FORWARD {each} -j ACCEPT" for each in rules), "FORWARD -j DROP"]
    found = walked(TO_SERVICE, *lines)
    assert found.left_out == 0
    assert set(fates(found.outcomes)) == {Untouched(), Dropped()}
    assert len(found.outcomes) < 10


def test_unknown_matches_that_drop_are_told_as_many() -> None:
    rules = [f"FORWARD -m set --match-set s{number} src -j DROP" for number in range(3000)]
    found = walked(TO_SERVICE, "*filter", *rules)
    assert found.left_out == 0
    told = [(type(outcome.fate).__name__, len(outcome.depends), outcome.depends[0]) for outcome in found.outcomes]
    assert [(fate, count, said.partition(",")[0]) for fate, count, said in sorted(told)] == [
        ("Dropped", 1, "any of 3000 conditions"),
        ("Untouched", 1, "none of 3000 conditions"),
    ]


def test_marks_that_double_the_ways_are_followed_as_far_as_can_be(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kproxy.backend.iptables.trace.MOST_WAYS", 200)
    marks = [f"{1 << bit:#x}/{1 << bit:#x}" for bit in range(20)]
    rules = [f"PREROUTING -m set --match-set s{mark} src -j MARK --set-xmark {mark}" for mark in marks]
    found = walked(TO_SERVICE, "*mangle", *rules)
    assert found.left_out > 0
    assert set(fates(found.outcomes)) == {Untouched()}


def test_thousands_of_endpoints_keep_their_odds() -> None:
    count = 3000
    rules = [
        f"POOL -p tcp -m statistic --mode random --probability {1 / (count - at):.11f} "
        f"-j DNAT --to-destination 10.{at >> 16}.{at >> 8 & 255}.{at & 255}:80"
        for at in range(count)
    ]
    found = walked(
        TO_SERVICE, "*nat", "PREROUTING -j POOL", *rules, "*filter", "FORWARD -m set --match-set s src -j DROP"
    )
    assert found.left_out == 0
    delivered = [outcome for outcome in found.outcomes if isinstance(outcome.fate, Delivered)]
    assert len(delivered) == count
    assert sum(outcome.probability for outcome in delivered) == pytest.approx(1, abs=1e-4)
    (dropped,) = (outcome for outcome in found.outcomes if outcome.fate == Dropped())
    assert dropped.probability == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("how", ["-j", "-g"])
def test_chains_that_lead_back_to_themselves_are_told(how: str) -> None:
    with pytest.raises(EndlessJump, match="A leads back to itself: FORWARD > A > B > A"):
        walked(TO_SERVICE, "*filter", "FORWARD -j A", f"A {how} B", f"B {how} A")


def test_chains_in_chains_in_chains_are_told() -> None:
    deep = [f"C{number} -j C{number + 1}" for number in range(MOST_DEEP + 50)]
    with pytest.raises(BrokenTables, match="nested more than 150 deep"):
        walked(TO_SERVICE, "*filter", "FORWARD -j C0", *deep, f"C{MOST_DEEP + 50} -j DROP")


def test_chains_that_call_each_other_twice_and_twice_again_do_not_take_for_ever(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("kproxy.backend.iptables.trace.MOST_STEPS", 20_000)
    doubled = [f"C{number} -j C{number + 1}" for number in range(60) for _ in range(2)]
    found = walked(TO_SERVICE, "*filter", "FORWARD -j C0", *doubled, "C60 -m comment --comment x")
    assert found.left_out == 1


def test_chains_that_many_ways_meet_are_opened_once() -> None:
    met: list[str] = []

    class Counting(dict[str, SavedChain]):
        def __getitem__(self, chain: str) -> SavedChain:
            met.append(chain)
            return super().__getitem__(chain)

    names = ("KUBE-SVC-A", "KUBE-SVC-B")
    tables = chains_of({"nat": Counting({name: SavedChain(name, "-", 1, []) for name in names})})
    assert [tables.get(("nat", name)) for name in ("KUBE-SVC-A", "KUBE-SVC-A", "KUBE-SVC-C")] == [[], [], None]
    assert met == ["KUBE-SVC-A", "KUBE-SVC-C"]
    assert list(tables) == [("nat", "KUBE-SVC-A"), ("nat", "KUBE-SVC-B")]
    assert len(tables) == 2
