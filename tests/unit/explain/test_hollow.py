"""Chains that do nothing; those that a dump lacks are test_structure.py's."""

from __future__ import annotations

import pytest

from kproxy.explain.answer import Severity
from kproxy.explain.health import hollow
from tests.unit.explain.dumps import FILTER, NAT, WEB, graph_of, table

WHOLE = (
    *NAT,
    "-A KUBE-SEP-AAAAAAAAAAAAAAAA -s 10.244.0.1/32 -j KUBE-MARK-MASQ",
    *WEB,
)


def without(*words: str) -> str:
    """The rules but those that hold all the words; the chains stay."""
    chains = dict.fromkeys(rule.split()[1] for rule in WHOLE if rule.split()[1].startswith("KUBE-"))
    left = [rule for rule in WHOLE if not all(word in rule for word in words)]
    return table("nat", *(f":{chain} - [0:0]" for chain in chains), *left) + table("filter", *FILTER)


def test_of_whole_rules_nothing_is_said() -> None:
    assert not list(hollow.look(graph_of(without("nothing of that kind"))))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("-A KUBE-SVC-LOLE4ISW44XBNF3G",),
            "nat KUBE-SVC-LOLE4ISW44XBNF3G holds no rule: what comes to it goes on as if no Service were there",
        ),
        (
            ("-A KUBE-SEP-BBBBBBBBBBBBBBBB",),
            "nat KUBE-SEP-BBBBBBBBBBBBBBBB holds no rule: packets for that endpoint stay as they are",
        ),
        (
            ("-A KUBE-SEP-AAAAAAAAAAAAAAAA", "DNAT"),
            "nat KUBE-SEP-AAAAAAAAAAAAAAAA does not do what it is for: packets for that endpoint stay as they are",
        ),
        (
            ("-A KUBE-MARK-MASQ",),
            "nat KUBE-MARK-MASQ holds no rule: nothing marks what is to be masqueraded, and answers miss the node",
        ),
        (
            ("MASQUERADE",),
            "nat KUBE-POSTROUTING does not do what it is for: nothing is masqueraded, and answers miss the node",
        ),
    ],
)
def test_a_chain_that_lacks_what_it_is_for_is_told(words: tuple[str, ...], message: str) -> None:
    (said,) = hollow.look(graph_of(without(*words)))
    assert (said.code, said.severity) == ("hollow-chain", Severity.ERROR)
    assert said.message == message
    assert said.line


def test_what_nothing_leads_to_is_not_missed() -> None:
    assert not list(hollow.look(graph_of("*nat\n:KUBE-MARK-MASQ - [0:0]\n:KUBE-SVC-X - [0:0]\nCOMMIT\n")))
