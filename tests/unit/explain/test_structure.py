"""How chains hang together; which service has trouble is test_warnings.py's."""

from __future__ import annotations

import pytest

from kproxy.explain.answer import Severity
from kproxy.explain.answer import Warning as Said
from kproxy.explain.health import structure
from tests.unit.explain.dumps import graph_of, table


def said(text: str) -> list[Said]:
    return list(structure.look(graph_of(text)))


def codes(text: str) -> list[str]:
    return [each.code for each in said(text)]


def test_a_jump_to_a_chain_that_the_dump_lacks_is_told_once_for_each_chain() -> None:
    text = """
*nat
:KUBE-SVC-A - [0:0]
:KUBE-SERVICES - [0:0]
-A KUBE-SERVICES -d 10.96.0.1/32 -j KUBE-SVC-GONE
-A KUBE-SERVICES -d 10.96.0.2/32 -j KUBE-SVC-GONE
-A KUBE-SERVICES -d 10.96.0.3/32 -j KUBE-SVC-A
COMMIT
"""
    (each,) = (each for each in said(text) if each.code == "dangling-jump")
    assert each.severity is Severity.ERROR
    assert "nat KUBE-SERVICES and 1 more rule lead to chain KUBE-SVC-GONE" in each.message
    assert each.line == 4


def test_a_target_that_may_be_a_kernel_modules_is_not_called_missing_for_sure() -> None:
    (each,) = said("*filter\n:INPUT ACCEPT [0:0]\n-A INPUT -j TARPIT\nCOMMIT\n")
    assert (each.code, each.severity) == ("dangling-jump", Severity.WARNING)
    assert "unless it is a target of the kernel" in each.message


def test_chains_in_a_circle_are_told_with_their_way() -> None:
    text = table("nat", "-A A -j B", "-A B -j C", "-A C -j B", "-A OUTPUT -j A", "-A D -j D")
    found = [each.message for each in said(text) if each.code == "chain-loop"]
    assert len(found) == 2
    assert "B → C → B" in found[0]
    assert "D → D" in found[1]


def test_a_chain_reached_by_two_ways_is_no_circle() -> None:
    assert "chain-loop" not in codes(table("nat", ":C - [0:0]", "-A A -j B", "-A A -j C", "-A B -j C"))


def test_a_long_way_needs_no_long_stack() -> None:
    lines = [f"-A C{number} -j C{number + 1}" for number in range(5000)]
    (each,) = said(table("nat", *lines, "-A C5000 -j C0"))
    assert "in a circle: C0 → C1 → C2 → C3 → C4 → C5 → C6 → C7 → … → C0" in each.message


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("KUBE-SVC-XPGD46QRK7WJZT7O", "hash XPGD46QRK7WJZT7O"),
        ("KUBE-SVL-XPGD46QRK7WJZT7O", "hash XPGD46QRK7WJZT7O"),
        ("KUBE-EXT-XPGD46QRK7WJZT7O", "hash XPGD46QRK7WJZT7O"),
        ("KUBE-FW-XPGD46QRK7WJZT7O", "hash XPGD46QRK7WJZT7O"),
        ("KUBE-XLB-XPGD46QRK7WJZT7O", "hash XPGD46QRK7WJZT7O"),
        ("KUBE-SEP-XPGD46QRK7WJZT7O", "the chain of an endpoint"),
        ("KUBE-SVC-10.96.0.0/24", "a branch of kproxy's tree"),
    ],
)
def test_a_chain_of_a_service_that_nothing_leads_to_is_orphaned(name: str, kind: str) -> None:
    (each,) = said(f"*nat\n:{name} - [0:0]\nCOMMIT\n")
    assert (each.code, each.severity, each.line) == ("orphaned-chain", Severity.NOTE, 2)
    assert kind in each.message


def test_an_orphan_counts_what_it_leads_to() -> None:
    text = table("nat", "-A KUBE-SVC-XPGD46QRK7WJZT7O -j KUBE-SEP-A", "-A KUBE-SVC-XPGD46QRK7WJZT7O -j KUBE-SEP-B")
    (each,) = said(text)
    assert "nor by this way 2 that it leads to" in each.message


def test_canaries_and_other_peoples_chains_are_no_orphans() -> None:
    assert codes("*nat\n:KUBE-PROXY-CANARY - [0:0]\n:MINE - [0:0]\n:KUBE-SVC-TRIAL - [0:0]\nCOMMIT\n") == []


@pytest.mark.parametrize(("given", "lost"), [("nat", "filter"), ("filter", "nat")])
def test_a_dump_of_one_table_alone_is_told(given: str, lost: str) -> None:
    (each,) = said(f"*{given}\n:KUBE-SERVICES - [0:0]\nCOMMIT\n")
    assert (each.code, each.severity) == ("table-missing", Severity.WARNING)
    assert f"has no table {lost}" in each.message


def test_a_table_that_shows_no_proxy_needs_no_other() -> None:
    assert codes("*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n") == []


def test_what_iptables_save_could_not_print_is_told() -> None:
    text = table(
        "nat", ":KUBE-SEP-A - [0:0]", "-A OUTPUT -j KUBE-SEP-A", "-A KUBE-SEP-A -j DNAT [unsupported revision]"
    )
    assert [each.code for each in said(text)] == ["unsupported-revision"]


def test_a_rule_that_cannot_be_evaluated_is_told_in_a_proxys_chain_alone() -> None:
    text = table("filter", "-A KUBE-FORWARD -m mystery --depth 3 -j ACCEPT", "-A MINE -m mystery --depth 3 -j ACCEPT")
    (each,) = said(text)
    assert each.code == "unknown-rule"
    assert "KUBE-FORWARD" in each.message
    assert "-m mystery --depth 3" in each.message


def test_what_old_kube_proxies_ask_of_bridges_is_no_stranger() -> None:
    rule = "-A KUBE-SERVICES -d 192.0.2.7/32 -m physdev ! --physdev-is-in -m addrtype ! --src-type LOCAL -j KUBE-SVC-A"
    chains = ":KUBE-SERVICES - [0:0]\n:KUBE-SVC-A - [0:0]\n"
    assert "unknown-rule" not in codes(f"*nat\n{chains}{rule}\nCOMMIT\n*filter\nCOMMIT\n")
