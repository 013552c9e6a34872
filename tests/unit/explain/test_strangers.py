"""Who else writes rules; what their rules end is test_hooks.py's."""

from __future__ import annotations

import pytest

from kproxy.explain.answer import Severity
from kproxy.explain.answer import Warning as Said
from kproxy.explain.health import strangers
from kproxy.explain.services.graph import Graph
from kproxy.model.enums import IPFamily
from tests.unit.explain.dumps import FILTER, NAT, WEB, dump_of, graph_of, table


def said(*tables: str) -> list[Said]:
    return list(strangers.look([graph_of("".join(tables))]))


@pytest.mark.parametrize(
    ("chain", "owner", "severity"),
    [
        ("cali-FORWARD", "Calico", Severity.NOTE),
        ("CILIUM_FORWARD", "Cilium", Severity.NOTE),
        ("FLANNEL-FWD", "flannel", Severity.NOTE),
        ("CNI-FORWARD", "the standard CNI plugins", Severity.NOTE),
        ("KUBE-ROUTER-FORWARD", "kube-router", Severity.NOTE),
        ("WEAVE-NPC", "Weave Net", Severity.NOTE),
        ("DOCKER-USER", "Docker", Severity.NOTE),
        ("ISTIO_FORWARD", "Istio", Severity.NOTE),
        ("ANTREA-FORWARD", "Antrea", Severity.NOTE),
        ("LIBVIRT_FWI", "libvirt", Severity.NOTE),
        ("FWDI_public", "firewalld", Severity.WARNING),
        ("FORWARD_direct", "firewalld", Severity.WARNING),
        ("ufw-before-forward", "ufw", Severity.WARNING),
        ("f2b-sshd", "fail2ban", Severity.WARNING),
    ],
)
def test_whose_chains_stand_before_a_proxys_and_what_they_can_do(chain: str, owner: str, severity: Severity) -> None:
    (each,) = said(table("filter", f"-A FORWARD -j {chain}", *FILTER, f"-A {chain} -s 192.0.2.0/24 -j DROP"))
    assert (each.code, each.severity) == ("foreign-chain-ahead", severity)
    assert f"chains of {owner}" in each.message
    assert chain in each.message
    assert "in filter FORWARD and can drop packets first" in each.message


def test_amazons_chain_in_nat_can_change_the_source() -> None:
    rules = ("-A POSTROUTING -j AWS-SNAT-CHAIN-0", "-A AWS-SNAT-CHAIN-0 -j SNAT --to-source 192.0.2.1")
    (each,) = said(table("nat", *rules, *NAT, *WEB))
    assert "the Amazon VPC CNI (AWS-SNAT-CHAIN-0)" in each.message
    assert "can change packets' source first" in each.message
    assert each.severity is Severity.NOTE


def test_a_chain_of_nobody_known_is_named() -> None:
    (each,) = said(table("nat", "-A PREROUTING -j MYAPP", "-A MYAPP -d 192.0.2.1/32 -j REDIRECT", *NAT, *WEB))
    assert each.severity is Severity.WARNING
    assert "chain MYAPP, whose owner is not known, stands before the proxy's in nat PREROUTING" in each.message
    assert "redirect packets first" in each.message


def test_one_owner_is_told_once_with_all_places() -> None:
    text = table("filter", *FILTER, "-A INPUT -j KUBE-FIREWALL")
    text = text.replace("-A FORWARD", "-A FORWARD -j cali-A\n-A FORWARD", 1).replace(
        "-A INPUT", "-A INPUT -j cali-B\n-A INPUT", 1
    )
    text = text.replace("*filter\n", "*filter\n:cali-A - [0:0]\n:cali-B - [0:0]\n")
    text = text.replace("COMMIT", "-A cali-A -j ACCEPT\n-A cali-B -j DROP\nCOMMIT")
    (each,) = said(text)
    assert "filter FORWARD, filter INPUT" in each.message or "filter INPUT, filter FORWARD" in each.message
    assert "accept or drop" in each.message


@pytest.mark.parametrize(
    "rule",
    [
        "-A FORWARD -j HARMLESS",
        "-A FORWARD -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        "-A FORWARD -i lo -j ACCEPT",
        "-A FORWARD -j LOG",
    ],
)
def test_what_cannot_touch_a_service_is_not_told(rule: str) -> None:
    assert said(table("filter", rule, *FILTER, "-A HARMLESS -s 192.0.2.1/32 -j RETURN")) == []


def test_what_stands_behind_a_proxys_chains_is_not_ahead() -> None:
    assert said(table("filter", *FILTER, "-A FORWARD -j MINE", "-A MINE -j DROP")) == []


def test_a_single_rule_ahead_is_a_note() -> None:
    (each,) = said(table("filter", "-A FORWARD -s 192.0.2.9/32 -j DROP", *FILTER))
    assert (each.code, each.severity) == ("foreign-rule-ahead", Severity.NOTE)
    assert "a rule stands before the proxy's in filter FORWARD and can drop" in each.message


def test_a_rule_is_its_comments_authors() -> None:
    skip = '-A PREROUTING -d 169.254.20.10/32 -m comment --comment "NodeLocal DNS Cache: skip conntrack" -j NOTRACK'
    (each,) = said(table("raw", skip), table("nat", *NAT, *WEB))
    assert "a rule of NodeLocal DNSCache stands before the proxy's in raw PREROUTING" in each.message
    assert "can keep packets from connection tracking first" in each.message


def test_tables_that_are_asked_before_nat_matter_if_they_take_packets_away() -> None:
    raw = table("raw", "-A PREROUTING -j cali-P", "-A cali-P -s 10.0.0.0/8 -j DROP", "-A OUTPUT -j ACCEPT")
    (each,) = said(raw, table("nat", *NAT, *WEB))
    assert "Calico (cali-P) stand before the proxy's in raw PREROUTING and can drop" in each.message


# --- variants -------------------------------------------------------------------------------------------------


def both(nft: str, legacy: str) -> list[Said]:
    graphs = [
        Graph(dump_of(text, IPFamily.IPV4, variant)) for text, variant in ((nft, "nft"), (legacy, "legacy")) if text
    ]
    return [each for each in strangers.look(graphs) if "variant" in each.code or "legacy" in each.code]


SERVING = table("nat", *NAT, *WEB)


def test_services_in_both_variants_are_an_error() -> None:
    (each,) = both(SERVING, SERVING)
    assert (each.code, each.severity) == ("rules-in-both-variants", Severity.ERROR)
    assert "IPv4" in each.message
    assert "nft (" in each.message
    assert "legacy (" in each.message


def test_a_kubelet_in_the_other_variant_is_a_warning() -> None:
    (each,) = both(SERVING, "*mangle\n:KUBE-KUBELET-CANARY - [0:0]\nCOMMIT\n")
    assert (each.code, each.severity) == ("rules-in-both-variants", Severity.WARNING)


def test_other_programs_may_use_the_other_variant() -> None:
    assert both(SERVING, "*nat\n:DOCKER - [0:0]\nCOMMIT\n") == []


def test_families_are_not_variants() -> None:
    graphs = [Graph(dump_of(SERVING, family)) for family in IPFamily]
    assert [each for each in strangers.look(graphs) if each.code == "rules-in-both-variants"] == []


def test_what_iptables_save_remarked_counts_unless_the_other_variant_was_given() -> None:
    remark = ("Warning: iptables-legacy tables present, use iptables-legacy-save to see them",)
    graph = Graph(dump_of(SERVING, IPFamily.IPV4, "nft", remark))
    (each,) = strangers.look([graph])
    assert (each.code, each.severity) == ("legacy-tables-present", Severity.NOTE)
    legacy = Graph(dump_of("*nat\n:OUTPUT ACCEPT [0:0]\nCOMMIT\n", IPFamily.IPV4, "legacy"))
    assert list(strangers.look([graph, legacy])) == []


# --- eras -----------------------------------------------------------------------------------------------------


def test_chains_of_an_old_kube_proxy_tell_its_age() -> None:
    text = table("nat", ":KUBE-MARK-DROP - [0:0]", "-A KUBE-FW-A -j KUBE-XLB-A", "-A KUBE-XLB-A -j KUBE-MARK-DROP")
    found = [each.message for each in said(text) if each.code == "old-chains"]
    assert len(found) == 2
    assert "before 1.24" in found[0]
    assert "rules use it" in found[1]


def test_an_old_kubelets_chain_that_nothing_uses_does_no_harm() -> None:
    (each,) = said("*nat\n:KUBE-MARK-DROP - [0:0]\nCOMMIT\n")
    assert each.severity is Severity.NOTE
    assert "nothing uses it any more" in each.message


def test_chains_of_ipvs_mode_are_told() -> None:
    (each,) = said("*filter\n:KUBE-IPVS-FILTER - [0:0]\nCOMMIT\n")
    assert each.code == "ipvs-chains"


def test_a_tree_that_its_list_does_not_lead_into_is_somebody_elses_doing() -> None:
    (each,) = said(table("nat", *NAT, *WEB, "-A KUBE-SVC-10.96.0.0/24 -d 10.96.0.7/32 -j KUBE-SVC-B"))
    assert (each.code, each.severity) == ("two-proxies", Severity.WARNING)
    led = table("nat", *NAT, *WEB, "-A KUBE-SERVICES -j KUBE-SVC-10.96.0.0/24", "-A KUBE-SVC-10.96.0.0/24 -j ACCEPT")
    assert said(led) == []
