"""One packet through rules that kube-proxy wrote: fate, odds, source, and the reasons for them.

That answers are right for any plan is test_meaning.py's, sentences about what nobody takes are test_nearest.py's, what
other programs' rules do is test_packet_strangers.py's.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from msgspec.structs import replace

from kproxy.errors import InvalidConfig
from kproxy.explain.answer import Fate, FrontendKind
from kproxy.explain.read.dump import dumps_of
from kproxy.explain.read.facts import HostFacts
from kproxy.explain.services.survey import Survey, survey
from tests.unit.explain.dumps import FILTER, NAT, WEB, survey_of, table
from tests.unit.explain.questions import NODE, OPEN, RECORDED, SERVICES, TO_WEB, ask, recorded, web

IN_RANGE = "the source is within the pod range 10.244.0.0/16"
STRANGER = "the source is outside of the pod range 10.244.0.0/16"
OUTSIDE = "it comes to an external address of traffic policy Cluster"
OUT_OF_ETL = "the node itself sends it to an external address of traffic policy Local"
HAIRPIN = "the endpoint is the sender itself (hairpin)"
LOCAL = "external traffic policy Local keeps it"


@pytest.mark.parametrize(
    ("name", "source", "to", "ends"),
    [
        ("etp-local-with-endpoints", "10.244.1.7", "10.96.3.1:80", {("10", 0.5, IN_RANGE), ("20", 0.5, IN_RANGE)}),
        ("etp-local-with-endpoints", "10.244.1.10", "10.96.3.1:80", {("10", 0.5, HAIRPIN), ("20", 0.5, IN_RANGE)}),
        ("etp-local-with-endpoints", "192.0.2.9", "10.96.3.1:80", {("10", 0.5, STRANGER), ("20", 0.5, STRANGER)}),
        ("etp-local-with-endpoints", "192.0.2.9", "203.0.113.31:80", {("10", 1.0, LOCAL)}),
        ("etp-local-with-endpoints", "192.0.2.9", f"{NODE}:30301", {("10", 1.0, LOCAL)}),
        ("etp-local-with-endpoints", "10.244.1.7", "203.0.113.31:80", {("10", 0.5, IN_RANGE), ("20", 0.5, IN_RANGE)}),
        (
            "etp-local-with-endpoints",
            "host",
            "203.0.113.31:80",
            {("10", 0.5, OUT_OF_ETL), ("20", 0.5, OUT_OF_ETL)},
        ),
        ("lb-source-ranges", "192.168.100.9", "203.0.113.12:80", {("10", 0.5, OUTSIDE), ("20", 0.5, OUTSIDE)}),
        (
            "masquerade-all",
            "10.244.1.7",
            "default/kubernetes:https",
            {("192.168.100.5:6443", 1.0, "all traffic to cluster IPs is masqueraded (masqueradeAll)")},
        ),
    ],
)
def test_every_end_has_its_odds_and_the_reason_for_what_becomes_of_the_source(
    name: str, source: str, to: str, ends: set[tuple[str, float, str]]
) -> None:
    short = {"10.244.1.10:8080": "10", "10.244.2.10:8080": "20"}
    said = ask(recorded(name), source, to)
    assert said.fate is Fate.DELIVERED
    found = {(short.get(way.endpoint, way.endpoint), way.probability, way.masquerade.why) for way in said.ways}
    assert found == ends
    assert {each.probability for each in said.endpoints} == {odds for _, odds, _ in ends}
    for way in said.ways:
        assert way.masquerade.wanted == (way.masquerade.why not in {IN_RANGE, LOCAL})
        assert (way.masquerade.line in {line.number for line in way.path}) == way.masquerade.wanted
        assert not way.depends


def test_the_service_its_frontend_and_the_rules_are_named() -> None:
    said = ask(recorded("etp-local-with-endpoints"), "192.0.2.9", "203.0.113.31:80")
    assert said.service == "default/etl"
    assert said.frontend is not None
    assert (said.frontend.kind, said.frontend.line) == (FrontendKind.LOAD_BALANCER_IP, 45)
    (way,) = said.ways
    assert [line.chain for line in way.path[:5]] == [
        "PREROUTING", "KUBE-SERVICES", "KUBE-EXT-LAHWZBDITIGHFEYH", "KUBE-SVL-LAHWZBDITIGHFEYH",
        "KUBE-SEP-JMINAOAMINB4SGIX",
    ]  # fmt: skip
    assert way.path[4].text.endswith("-j DNAT --to-destination 10.244.1.10:8080")
    assert said.endpoints[0].chain == "KUBE-SEP-JMINAOAMINB4SGIX"
    assert said.nearest is None


STRANGE_INTERFACE = "it does not come in by the pods' interface cni0"


@pytest.mark.parametrize(
    ("interface", "expected"),
    [
        ("cni0", {(False, "it comes in by the pods' interface cni0", ())}),
        ("eth1", {(True, STRANGE_INTERFACE, ())}),
        (
            "",
            {
                (True, STRANGE_INTERFACE, ("it does not come in by interface cni0",)),
                (False, "it comes in by the pods' interface cni0", ("it comes in by interface cni0",)),
            },
        ),
    ],
)
def test_pods_may_be_told_by_their_interface(interface: str, expected: set[tuple[bool, str, tuple[str, ...]]]) -> None:
    said = ask(recorded("detect-local-bridge"), "10.244.1.7", "default/kubernetes:https", interface=interface)
    assert {(way.masquerade.wanted, way.masquerade.why, way.depends) for way in said.ways} == expected
    assert [each.probability for each in said.endpoints] == [1.0]


def test_nothing_comes_from_elsewhere_by_lo() -> None:
    from_lo = table("filter", "-A FORWARD -i lo -j ACCEPT", "-A FORWARD ! -i lo -p tcp -j DROP")
    said = ask(web(filtering=from_lo), "10.244.1.7", TO_WEB)
    assert [(way.fate, way.depends) for way in said.ways] == [(Fate.DROPPED, ())]


@pytest.mark.parametrize(
    ("name", "source", "to", "fate", "why"),
    [
        (
            "lb-source-ranges", "192.0.2.9", "203.0.113.12:80", Fate.DROPPED,
            ("192.0.2.9 is in none of the source ranges of default/lbr: "
            "192.168.100.0/24, 10.244.0.0/16, 203.0.113.12/32"),
        ),
        ("no-endpoints", "192.0.2.9", "203.0.113.37:80/udp", Fate.REFUSED, "default/empty:u has no endpoints"),
        ("no-endpoints", "host", "default/empty:t", Fate.REFUSED, "default/empty:t has no endpoints"),
    ],
)  # fmt: skip
def test_who_is_turned_away_is_told_why(name: str, source: str, to: str, fate: Fate, why: str) -> None:
    said = ask(recorded(name), source, to)
    assert said.fate is fate
    assert [way.why for way in said.ways] == [why]
    assert said.service in why
    assert not said.endpoints


def test_a_client_that_is_remembered_goes_where_it_went_before() -> None:
    surveys = recorded("affinity-client-ip")
    new = ask(surveys, "10.244.1.7", "default/aff")
    assert [each.probability for each in new.endpoints] == pytest.approx([0.25] * 4)
    unknown = "the client did not use default/aff in the last 10800 s (session affinity)"
    assert {way.depends for way in new.ways} == {(unknown,)}
    second = new.endpoints[1]
    known = ask(surveys, "10.244.1.7", "default/aff", facts=HostFacts(remembered=frozenset({second.chain})))
    assert known.endpoints == (replace(second, probability=1.0),)
    assert known.ways[0].depends == ()


def test_where_a_process_sends_from_matters_only_where_it_changes_something() -> None:
    facts = HostFacts(addresses=frozenset({NODE, "192.168.100.12", "10.244.1.1"}))
    surveys = recorded("etp-local-with-endpoints")
    said = ask(surveys, "host", "10.96.3.1:80", facts=facts)
    assert {(way.masquerade.why, way.depends) for way in said.ways} == {
        (IN_RANGE, ("it is sent from 10.244.1.1",)),
        (STRANGER, (f"it is sent from {NODE} or 192.168.100.12",)),
    }
    assert [each.probability for each in said.endpoints] == [0.5, 0.5]
    outside = HostFacts(addresses=frozenset({NODE, "192.168.100.12"}))
    assert {way.depends for way in ask(surveys, "host", "10.96.3.1:80", facts=outside).ways} == {()}
    assert {way.depends for way in ask(surveys, NODE, "10.96.3.1:80", facts=facts).ways} == {()}


def test_that_the_nodes_address_is_not_known_is_said_where_it_matters() -> None:
    surveys = recorded("etp-local-with-endpoints")
    said = ask(surveys, "host", "10.96.3.1:80", facts=HostFacts())
    assert {(way.masquerade.why, way.depends) for way in said.ways} == {
        (STRANGER, ("the address of the node is outside of the pod range 10.244.0.0/16 (--local tells it)",))
    }
    said = ask(surveys, "host", "203.0.113.31:80", facts=HostFacts())
    assert {(way.masquerade.why, way.depends) for way in said.ways} == {(OUT_OF_ETL, ())}


# --- kube-proxy 1.18, whose rules for external traffic are others ---------------------------------------------

OLD = Path(__file__).parent / "data" / "kube-proxy-1.18.txt"


@pytest.mark.parametrize(
    ("source", "to", "reasons"),
    [
        ("10.244.1.9", "10.96.7.1:80", {IN_RANGE}),
        ("192.0.2.9", "10.96.7.1:80", {STRANGER}),
        ("192.0.2.9", "198.51.100.7:80", {OUTSIDE}),
        ("192.0.2.9", f"{NODE}:30080", {LOCAL}),
        ("192.0.2.9", "203.0.113.7:80", {LOCAL}),
        ("10.244.1.9", f"{NODE}:30080", {IN_RANGE}),
        (NODE, f"{NODE}:30080", {OUT_OF_ETL}),
    ],
)
def test_old_rules_have_the_same_reasons(source: str, to: str, reasons: set[str]) -> None:
    said = ask([survey(dump) for dump in dumps_of(OLD.read_bytes())], source, to)
    assert {way.masquerade.why for way in said.ways if way.endpoint} == reasons
    assert said.service == "shop/web:http"


def test_old_rules_mark_what_is_to_be_dropped_and_may_not_drop_it() -> None:
    surveys = [survey(dump) for dump in dumps_of(OLD.read_bytes())]
    outside = ask(surveys, "10.0.0.9", "203.0.113.7:80")
    assert outside.fate is Fate.UNTOUCHED
    assert outside.nearest is not None
    assert outside.nearest.message == "10.0.0.9 is in none of the source ranges of shop/web:http: 192.0.2.0/24"
    nowhere = ask(surveys, "10.0.0.9", "203.0.113.8:81")
    assert nowhere.nearest is not None
    assert nowhere.nearest.message == "shop/old has no local endpoints"
    here = HostFacts(addresses=frozenset({NODE, "203.0.113.8"}))
    dropped = ask(surveys, "10.0.0.9", "203.0.113.8:81", facts=here)
    assert dropped.fate is Fate.DROPPED
    assert "kubernetes firewall for dropping marked packets" in dropped.ways[0].why


@pytest.mark.parametrize("to", ["203.0.113.7:80", "203.0.113.8:81"])
def test_old_rules_drop_only_at_the_node_which_is_said_as_the_summary_says_dropped(to: str) -> None:
    surveys = [survey(dump) for dump in dumps_of(OLD.read_bytes())]
    said = ask(surveys, "10.0.0.9", to, facts=HostFacts())
    address = to.partition(":")[0]
    assert [(way.fate, way.depends) for way in said.ways] == [
        (Fate.DROPPED, (f"{address} is an address of this node",)),
        (Fate.UNTOUCHED, (f"{address} is no address of this node",)),
    ]
    assert said.frontend is not None
    assert said.frontend.kind is FrontendKind.LOAD_BALANCER_IP


# --- which rules ----------------------------------------------------------------------------------------------


def test_rules_of_another_family_are_told_apart() -> None:
    with pytest.raises(InvalidConfig, match="a dump of iptables-save; give the output of ip6tables-save for an IPv6"):
        ask(web(), "host", "[fd00::1]:80")


def without(survey: Survey, chain: str) -> list[Survey]:
    """As by hand: a chain is cut out, and what leads to it is left."""
    return [
        survey_of("\n".join(line for line in survey.dump.lines if not line.startswith((f":{chain} ", f"-A {chain} "))))
    ]


def test_a_chain_that_is_missing_matters_to_those_whose_service_it_is() -> None:
    (whole,) = recorded("etp-local-with-endpoints")
    pool = next(each for each in whole.services if each.service == "default/etl").frontends[0].chain
    cut_out = without(whole, pool)
    with pytest.raises(InvalidConfig, match=f"chain {pool} of nat, which decides about this packet, is missing"):
        ask(cut_out, "10.244.1.7", "10.96.3.1:80")
    said = ask(cut_out, "10.244.1.7", "10.96.0.1:443")
    assert (said.fate, said.ways[0].endpoint, said.ways[0].depends) == (Fate.DELIVERED, "192.168.100.5:6443", ())


def test_where_one_endpoints_chain_is_missing_the_others_are_told() -> None:
    (whole,) = recorded("etp-local-with-endpoints")
    said = ask(without(whole, "KUBE-SEP-JMINAOAMINB4SGIX"), "10.244.1.7", "10.96.3.1:80")
    (way,) = said.ways
    assert (way.fate, way.endpoint, way.probability) == (Fate.DELIVERED, "10.244.2.10:8080", 0.5)
    assert way.depends == ("it does not come to chain KUBE-SEP-JMINAOAMINB4SGIX of nat, which this dump lacks",)


@pytest.mark.parametrize("chain", ["KUBE-NODEPORTS", "KUBE-MARK-MASQ", "KUBE-POSTROUTING", "KUBE-FORWARD"])
def test_a_chain_that_all_packets_meet_leaves_their_answer_provided_it_does_nothing(chain: str) -> None:
    (whole,) = recorded("etp-local-with-endpoints")
    said = ask(without(whole, chain), "192.0.2.9", "10.96.3.1:80")
    assert {way.fate for way in said.ways} == {Fate.DELIVERED}
    lacking = {text for way in said.ways for text in way.depends}
    where = "filter" if chain == "KUBE-FORWARD" else "nat"
    met = chain != "KUBE-NODEPORTS"  # which stands last, behind what takes the packet
    assert lacking == ({f"chain {chain} of {where}, which this dump lacks, lets it go on"} if met else set())


def test_chains_that_lead_in_a_circle_are_told() -> None:
    circle = survey_of(table("nat", "-A PREROUTING -j KUBE-A", "-A KUBE-A -j KUBE-B", "-A KUBE-B -j KUBE-A"))
    with pytest.raises(InvalidConfig, match="the dump is broken: nat chain KUBE-A leads back to itself"):
        ask([circle], "10.244.1.1", TO_WEB)


def test_the_other_variant_is_asked_too() -> None:
    dropping = survey_of(table("filter", "-A FORWARD -d 10.96.0.1/32 -j DROP"), variant="legacy")
    quiet = survey_of(table("filter", "-A FORWARD -d 10.9.9.9/32 -j DROP"), variant="legacy")
    nft = survey_of(table("nat", *SERVICES) + OPEN, variant="nft")
    said = ask([dropping, nft], "10.244.1.7", TO_WEB)
    assert said.fate is Fate.DELIVERED
    (warning,) = said.warnings
    assert warning.code == "other-variant"
    assert "legacy" in warning.message
    assert ask([quiet, nft], "10.244.1.7", TO_WEB).warnings == ()


# --- what nobody told of the node -----------------------------------------------------------------------------

NOBODY_TOLD = HostFacts()


def test_whether_a_node_port_is_asked_at_this_node_is_not_guessed() -> None:
    said = ask(recorded("etp-local-with-endpoints"), "192.0.2.9", f"{NODE}:30301", facts=NOBODY_TOLD)
    assert {(way.fate, way.endpoint, way.depends) for way in said.ways} == {
        (Fate.DELIVERED, "10.244.1.10:8080", (f"{NODE} is an address of this node",)),
        (Fate.UNTOUCHED, "", (f"{NODE} is no address of this node",)),
    }
    assert said.service == "default/etl"
    assert said.frontend is not None
    assert said.frontend.kind is FrontendKind.NODE_PORT
    assert said.fate is Fate.UNTOUCHED
    assert said.nearest is not None
    assert f"add --local {NODE}" in said.nearest.message


@pytest.mark.parametrize("to", [f"{NODE}:30999", "10.96.3.1:80", "192.0.2.1:443"])
def test_where_it_is_asked_does_not_matter_elsewhere(to: str) -> None:
    said = ask(recorded("etp-local-with-endpoints"), "192.0.2.9", to, facts=NOBODY_TOLD)
    assert not any(way.depends for way in said.ways)


def test_who_may_come_is_not_decided_for_an_address_that_is_not_known() -> None:
    said = ask(recorded("lb-source-ranges"), "host", "203.0.113.12:80", facts=NOBODY_TOLD)
    assert {way.fate for way in said.ways} == {Fate.DELIVERED, Fate.DROPPED}
    assert all(way.depends for way in said.ways)
    (dropped,) = (way for way in said.ways if way.fate is Fate.DROPPED)
    assert dropped.why.startswith("the node's address is in none of the source ranges of default/lbr: ")
    assert "its source is outside of 192.168.100.0/24" in dropped.depends
    assert ask(recorded("lb-source-ranges"), "host", "203.0.113.12:80").fate is Fate.DELIVERED


def test_of_two_variants_that_answers_to_which_the_packet_belongs() -> None:
    busy = [line.replace("default/web", "default/other").replace("10.96.0.1/", "10.96.0.2/") for line in WEB[:1]]
    more = [line.replace("default/web", "default/more").replace("10.96.0.1/", "10.96.0.3/") for line in WEB[:1]]
    legacy = survey_of(table("nat", *NAT, *busy, *more, *WEB[1:]), variant="legacy")
    serving = survey_of(table("nat", *NAT, *WEB), variant="nft")
    assert len(legacy.services) >= len(serving.services)
    said = ask([legacy, serving], "10.244.1.7", "10.96.0.1:80")
    assert (said.fate, said.service) == (Fate.DELIVERED, "default/web")


# --- why a source is kept -------------------------------------------------------------------------------------


def cut(name: str, *words: str) -> list[Survey]:
    """A recorded node without the rules that hold all the words."""
    parts = (RECORDED / f"{name}.iptables-{part}.txt" for part in ("nat", "filter"))
    lines = "".join(part.read_text() for part in parts).splitlines(keepends=True)
    return [survey(dump) for dump in dumps_of("".join(x for x in lines if not all(y in x for y in words)).encode())]


@pytest.mark.parametrize(
    ("words", "source", "why"),
    [
        (
            ("-A KUBE-MARK-MASQ",),
            "192.0.2.9",
            "it is led to KUBE-MARK-MASQ, which does not mark it for nat POSTROUTING",
        ),
        (("-A KUBE-MARK-MASQ",), "10.244.1.7", IN_RANGE),
        (("-A POSTROUTING",), "host", "it is marked, but no rule of nat POSTROUTING masquerades it"),
        (("-A POSTROUTING",), "192.0.2.9", "it is marked, but no rule of nat POSTROUTING masquerades it"),
        (("MASQUERADE",), "192.0.2.9", "it is marked, but no rule of nat POSTROUTING masquerades it"),
    ],
)
def test_rules_that_lack_something_keep_a_source_for_that_reason(words: tuple[str, ...], source: str, why: str) -> None:
    said = ask(cut("etp-local-with-endpoints", *words), source, "10.96.3.1:80")
    assert {(way.masquerade.wanted, way.masquerade.why) for way in said.ways} == {(False, why)}


def test_only_a_services_own_rule_is_masquerade_all() -> None:
    foreign = table("nat", "-A PREROUTING -m u32 --u32 0x0 -j KUBE-MARK-MASQ", *NAT, *WEB)
    said = ask([survey_of(foreign)], "10.244.1.7", "10.96.0.1:80")
    assert {way.masquerade.why for way in said.ways if way.masquerade.wanted} == {
        "a rule of nat PREROUTING marks it so"
    }


def test_whether_another_program_serves_the_node_is_not_guessed() -> None:
    host_port = (
        "-A PREROUTING -p tcp -m addrtype --dst-type LOCAL -m tcp --dport 8080 -j DNAT --to-destination 10.9.9.9:80"
    )
    rules = table("nat", host_port, *NAT, *WEB) + table("filter", *FILTER)
    said = ask([survey_of(rules)], "192.0.2.9", f"{NODE}:8080", facts=NOBODY_TOLD)
    assert {(way.fate, way.endpoint, way.depends) for way in said.ways} == {
        (Fate.DELIVERED, "10.9.9.9:80", (f"{NODE} is an address of this node",)),
        (Fate.UNTOUCHED, "", (f"{NODE} is no address of this node",)),
    }
