"""Whether the end of a packet's way was seen; what is said then is in test_traced.py."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.backend.iptables import rules as r
from kproxy.explain.watch.arrival import Chains, is_through
from kproxy.model.enums import IPFamily
from kproxy.model.sighting import Header, Kind, Sighting

V4 = IPFamily.IPV4
HEADER = Header("10.244.1.5", 41234, "10.96.0.20", 80, "TCP", (60, 99, 7))


def tables(variant: str, **chains: str) -> Chains:
    """``chains``: by table, built-in chains with their policies: "INPUT=ACCEPT FORWARD=DROP"."""
    told = [(table, *each.split("=")) for table, policies in chains.items() for each in policies.split()]
    return {(V4, variant): {(table, chain): policy for table, chain, policy in told}}


USUAL = {
    "filter": "INPUT=ACCEPT FORWARD=ACCEPT OUTPUT=ACCEPT",
    "nat": "PREROUTING=ACCEPT INPUT=ACCEPT OUTPUT=ACCEPT POSTROUTING=ACCEPT",
}
NFT, LEGACY = tables("nft", **USUAL), tables("legacy", **USUAL)


def let(place: str, kind: Kind = Kind.POLICY, verdict: str = "accept", variant: str = "nft", out: str = "") -> Sighting:
    table, chain = place.split()
    said = verdict if variant == "nft" else ""
    return Sighting(variant, V4, table, chain, kind, 1, said, 1, HEADER, out_interface=out)


def way(*places: str, variant: str = "nft", out: str = "") -> list[Sighting]:
    return [let(place, variant=variant, out=out) for place in places]


def through(sightings: list[Sighting], known: Chains = NFT, target: r.Target | None = None) -> bool:
    return is_through(sightings, HEADER, known, lambda _: target)


FORWARDED = ("nat PREROUTING", "filter FORWARD", "nat POSTROUTING")
RECEIVED = ("nat PREROUTING", "filter INPUT")
SENT = ("nat OUTPUT", "filter OUTPUT", "nat POSTROUTING")
TO_ITSELF = (*SENT, "filter INPUT")


@pytest.mark.parametrize("places", [FORWARDED, RECEIVED, SENT, TO_ITSELF], ids=["on", "in", "out", "lo"])
@pytest.mark.parametrize("variant", ["nft", "legacy"])
def test_all_that_was_told_is_needed(places: tuple[str, ...], variant: str) -> None:
    out = "lo" if places is TO_ITSELF else ""
    known = NFT if variant == "nft" else LEGACY
    assert through(way(*places, variant=variant, out=out), known)
    for length in range(len(places)):
        assert not through(way(*places[:length], variant=variant, out=out), known)


def test_a_known_flow_is_not_asked_about_by_nat() -> None:
    assert through(way("filter FORWARD"))
    assert not through(way("filter FORWARD"), tables("nft", mangle="FORWARD=ACCEPT POSTROUTING=ACCEPT", **USUAL))
    assert not through([])
    assert not through(way("mangle PREROUTING"), tables("nft", mangle="PREROUTING=ACCEPT"))


def test_every_table_of_the_last_hook_is_asked() -> None:
    known = tables("nft", mangle="PREROUTING=ACCEPT INPUT=ACCEPT", **USUAL)
    assert not through(way("nat PREROUTING", "mangle INPUT"), known)
    assert through(way("nat PREROUTING", "mangle INPUT", "filter INPUT"), known)


def test_of_both_variants_nat_one_may_decide_alone() -> None:
    both = {**NFT, **tables("legacy", nat="PREROUTING=ACCEPT POSTROUTING=ACCEPT")}
    assert through(way(*FORWARDED), both)


@pytest.mark.parametrize(
    ("last", "is_end"),
    [
        (let("nat KUBE-POSTROUTING", Kind.RULE, "accept"), True),
        (let("nat KUBE-POSTROUTING", Kind.RULE, "jump"), False),
        (let("nat KUBE-POSTROUTING", Kind.RETURN, "return"), False),
        (let("nat POSTROUTING", Kind.RULE, "continue"), False),
    ],
)
def test_the_last_word_lets_it_through(last: Sighting, *, is_end: bool) -> None:
    assert through([*way(*FORWARDED[:2]), let("nat POSTROUTING", Kind.RULE, "jump"), last]) is is_end


@pytest.mark.parametrize(
    ("table", "target", "is_end"),
    [
        ("nat", r.Masquerade(random_fully=True), True),
        ("nat", r.Jump("KUBE-POSTROUTING"), False),
        ("nat", None, True),  # the table has changed; nothing is dropped there
        ("filter", r.Verdict.ACCEPT, True),
        ("filter", r.PassOn("-j LOG"), False),
        ("filter", None, False),
    ],
)
def test_legacy_rules_are_known_by_their_targets(table: str, target: r.Target | None, *, is_end: bool) -> None:
    place = "nat POSTROUTING" if table == "nat" else "filter INPUT"
    before = way(*(FORWARDED if table == "nat" else RECEIVED)[:-1], variant="legacy")
    assert through([*before, let(place, Kind.RULE, variant="legacy")], LEGACY, target) is is_end


def test_a_legacy_policy_is_the_tables() -> None:
    dropping = tables("legacy", filter="INPUT=DROP", nat="PREROUTING=ACCEPT")
    assert not through(way(*RECEIVED, variant="legacy"), dropping)


@given(st.lists(st.sampled_from(sorted({*FORWARDED, *RECEIVED, *TO_ITSELF})), max_size=8), st.booleans())
def test_nobody_arrives_without_the_last_hook(places: list[str], lo: bool) -> None:
    if through(way(*places, out="lo" if lo else "")):
        chains = {place.split()[1] for place in places}
        assert chains & {"INPUT", "POSTROUTING"} or chains & {"FORWARD", "OUTPUT"}
        assert "INPUT" in chains or not lo
