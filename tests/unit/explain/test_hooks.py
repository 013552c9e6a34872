"""The ways into a proxy's chains; whose chains stand before them is test_strangers.py's."""

from __future__ import annotations

import pytest

from kproxy.explain.answer import Severity
from kproxy.explain.answer import Warning as Said
from kproxy.explain.health import hooks
from tests.unit.explain.dumps import FILTER, NAT, WEB, graph_of, table

GUARD = "-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate DNAT -j DROP"


def said(*tables: str) -> list[Said]:
    return list(hooks.look(graph_of("".join(tables))))


def test_nothing_is_said_where_every_way_in_is_there() -> None:
    assert said(table("nat", *NAT, *WEB), table("filter", *FILTER)) == []


@pytest.mark.parametrize("hook", ["PREROUTING", "OUTPUT", "POSTROUTING"])
def test_without_a_way_into_nat_traffic_fails(hook: str) -> None:
    lines = [line for line in (*NAT, *WEB) if not line.startswith(f"-A {hook} ")]
    (each,) = said(table("nat", f":{hook} ACCEPT [0:0]", *lines))
    assert (each.code, each.severity, each.line) == ("entry-missing", Severity.ERROR, 2)
    assert f"nat {hook} does not lead to KUBE-" in each.message


def test_a_hook_that_the_dump_lacks_leads_nowhere() -> None:
    assert [each.code for each in said(table("nat", *NAT[1:], *WEB))] == ["entry-missing"]


def test_a_way_through_somebody_elses_chain_is_a_way() -> None:
    assert said(table("nat", "-A PREROUTING -j MINE", "-A MINE -j KUBE-SERVICES", *NAT[1:], *WEB)) == []


@pytest.mark.parametrize(
    "chain", ["KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES", "KUBE-NODEPORTS", "KUBE-PROXY-FIREWALL", "KUBE-FIREWALL"]
)
def test_without_a_way_into_a_chain_of_filter_that_holds_rules_something_is_lost(chain: str) -> None:
    found = said(table("filter", f"-A {chain} -d 10.96.0.1/32 -j DROP"))
    assert {(each.code, each.severity) for each in found} == {("entry-missing", Severity.WARNING)}
    assert all(chain in each.message for each in found)


def test_a_chain_without_rules_needs_no_way_in() -> None:
    assert said("*filter\n:KUBE-PROXY-FIREWALL - [0:0]\n:KUBE-EXTERNAL-SERVICES - [0:0]\nCOMMIT\n") == []


def test_an_old_kube_proxys_filter_table_is_not_measured_by_a_new_ones() -> None:
    old = "*nat\n:KUBE-MARK-DROP - [0:0]\nCOMMIT\n"
    assert said(old, table("filter", "-A KUBE-EXTERNAL-SERVICES -j DROP")) == []


@pytest.mark.parametrize(
    "rule",
    [
        "-A PREROUTING -j ACCEPT",
        "-A PREROUTING -j RETURN",
        '-A PREROUTING -m comment --comment "all" -j DNAT --to-destination 192.0.2.1',
        "-A PREROUTING -j TAKES-ALL",
        "-A PREROUTING -j BY-WAY",
    ],
)
def test_a_rule_that_ends_every_packets_walk_before_the_jump_is_told(rule: str) -> None:
    chains = (
        "-A TAKES-ALL -s 192.0.2.7/32 -j RETURN",
        "-A TAKES-ALL -j ACCEPT",
        "-A BY-WAY -j TAKES-ALL",
    )
    (each,) = said(table("nat", rule, *NAT, *WEB, *chains))
    assert (each.code, each.severity) == ("entry-cut-off", Severity.ERROR)
    assert "nat PREROUTING ends every packet's walk before its jump to KUBE-SERVICES" in each.message


@pytest.mark.parametrize(
    "rule",
    [
        "-A PREROUTING -s 192.0.2.0/24 -j ACCEPT",
        "-A PREROUTING -j SPARES",
        "-A PREROUTING -s 192.0.2.0/24 -j TAKES-ALL",
        "-A PREROUTING -j LOG",
        "-A PREROUTING -j CIRCLE",
    ],
)
def test_a_rule_that_lets_some_packets_pass_cuts_nothing_off(rule: str) -> None:
    chains = ("-A TAKES-ALL -j ACCEPT", "-A SPARES -j RETURN", "-A SPARES -j ACCEPT", "-A CIRCLE -j CIRCLE")
    assert said(table("nat", rule, *NAT, *WEB, *chains)) == []


# --- policies -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("hook", ["INPUT", "FORWARD", "OUTPUT"])
def test_a_policy_that_drops_is_told_with_who_accepts(hook: str) -> None:
    (each,) = said(table("filter", f":{hook} DROP [0:0]", *FILTER))
    assert (each.code, each.severity, each.line) == (f"{hook.lower()}-drop", Severity.WARNING, 2)
    assert "nobody else accepts any" in each.message
    helped = (f"-A {hook} -j cali-{hook}", f"-A cali-{hook} -s 10.244.0.0/16 -j ACCEPT")
    (each,) = said(table("filter", f":{hook} DROP [0:0]", *FILTER, *helped))
    assert each.severity is Severity.NOTE
    assert f"others accept some, in chain cali-{hook}" in each.message


def test_a_last_rule_for_everything_is_as_good_as_a_policy() -> None:
    rules = ("-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT", "-A FORWARD -i lo -j ACCEPT")
    (each,) = said(table("filter", *FILTER, *rules, "-A FORWARD -j REJECT --reject-with icmp-host-prohibited"))
    assert (each.code, each.severity) == ("forward-drop", Severity.WARNING)
    assert "a rule there has no condition: REJECT" in each.message


def test_what_everything_is_accepted_by_drops_nothing() -> None:
    assert said(table("filter", ":FORWARD DROP [0:0]", *FILTER, "-A FORWARD -j ACCEPT")) == []


def test_a_table_without_a_proxy_may_drop_what_it_likes() -> None:
    assert said("*filter\n:FORWARD DROP [0:0]\nCOMMIT\n") == []


def test_a_guard_that_only_leads_from_input_is_enough() -> None:
    assert said(table("filter", "-A INPUT -j KUBE-FIREWALL", GUARD)) == []
