"""A whole ruleset: the same as kube-proxy's in a small cluster, equal however it came about, and counted.

Where packets go is asked in test_service.py and test_dispatch.py; what is written in test_diff.py.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from kproxy.backend.iptables import names
from kproxy.backend.iptables.compile import Ruleset, compile_plan
from kproxy.backend.iptables.dialect import Abilities
from kproxy.backend.iptables.rules import Jump, RecentCheck, RecentSet, Table
from kproxy.backend.iptables.text import canonical, render_rule
from kproxy.config import Config, DetectLocalMode
from kproxy.model.enums import IPFamily, Protocol, ServiceType, TrafficPolicy
from kproxy.model.keys import ServicePortKey
from kproxy.model.service import Service
from kproxy.plan.plan import ServicePlan
from tests.builders import node, port, service, slice_of, udp
from tests.unit.backend.iptables.examples import (
    COUNTED,
    PLAIN,
    PODS,
    compiled,
    plan_of,
    service_sets,
    simple,
    tables_of,
    targets,
)

RECORDED = Path(__file__).parent / "recorded"
P1A, P1B, P2A, P2B = "10.244.1.10 @n1", "10.244.1.11 @n1", "10.244.2.10 @n2", "10.244.2.11 @n2"
LOCAL = TrafficPolicy.LOCAL
BALANCER = ServiceType.LOAD_BALANCER
# Chains whose rules kube-proxy writes in the order of a Go map.
LISTS = {names.SERVICES, names.NODE_PORTS, names.EXTERNAL_SERVICES, names.PROXY_FIREWALL}


def sctp(number: int, node_port: int) -> Any:
    return port(number, protocol=Protocol.SCTP, node_port=node_port)


def service_of(name: str, ip: str, node_port: int, **rest: Any) -> Service:
    return service(name, ip, ports=[port(80, node_port=node_port)], **rest)


SCENARIOS: dict[str, tuple[Any, ...]] = {
    "lb-source-ranges": (
        service_of("lbr", "10.96.2.12", 30212, type=BALANCER, load_balancer_vips=("203.0.113.12",),
                   source_ranges=("192.168.100.0/24", "10.244.0.0/16")),
        slice_of("lbr", P1A, P2A),
    ),
    "etp-local-with-endpoints": (
        service_of("etl", "10.96.3.1", 30301, type=BALANCER, load_balancer_vips=("203.0.113.31",),
                   external_policy=LOCAL, health_check_node_port=30391),
        slice_of("etl", P1A, P2A),
    ),
    "etp-local-without-endpoints": (
        service_of("etn", "10.96.3.2", 30302, type=BALANCER, load_balancer_vips=("203.0.113.32",),
                   external_policy=LOCAL, health_check_node_port=30392),
        slice_of("etn", P1B, P2B),
    ),
    "itp-local": (
        service_of("itl", "10.96.3.3", 30303, type=ServiceType.NODE_PORT, internal_policy=LOCAL),
        slice_of("itl", P1A, P1B, P2A),
        service_of("itn", "10.96.3.4", 30304, type=ServiceType.NODE_PORT, internal_policy=LOCAL),
        slice_of("itn", P2A),
    ),
    "affinity-client-ip": (
        service_of("aff", "10.96.3.5", 30305, affinity_seconds=10800),
        slice_of("aff", P1A, P1B, P2A, P2B),
    ),
    "no-endpoints": (
        service("empty", "10.96.3.7", ports=[port(80, "t", node_port=30307), udp(80, "u", node_port=30307)],
                type=BALANCER, load_balancer_vips=("203.0.113.37",), external_ips=("198.51.100.37",)),
        service("noslice", "10.96.3.8"),
    ),
    "sctp-clusterip": (
        service("sc", "10.96.4.1", ports=[sctp(9000, 30401)], type=ServiceType.NODE_PORT),
        slice_of("sc", P1A, P2A, protocol=Protocol.SCTP, number=9000),
    ),
    "nodeport-addresses-cidr": (service_of("npa", "10.96.2.6", 30206), slice_of("npa", P1A)),
    "detect-local-bridge": (
        service_of("dl", "10.96.5.11", 30511, type=BALANCER, load_balancer_vips=("203.0.113.51",),
                   external_policy=LOCAL, health_check_node_port=30591),
        slice_of("dl", P1A, P2A),
    ),
    "masquerade-all": (service_of("masq", "10.96.2.13", 30213), slice_of("masq", P1A, P2A)),
}  # fmt: skip
CONFIGS = {
    "nodeport-addresses-cidr": replace(PODS, nodeport_addresses=("192.168.101.0/24",)),
    "detect-local-bridge": replace(
        PODS, detect_local_mode=DetectLocalMode.BRIDGE_INTERFACE, pod_bridge_interface="cni0"
    ),
    "masquerade-all": replace(PODS, masquerade_all=True),
}
ENDPOINTS = "hx-system/hx-sentinel", "default/kubernetes:https"


@pytest.mark.parametrize("name", SCENARIOS)
def test_a_small_clusters_rules_are_those_that_kube_proxy_was_recorded_to_write(name: str) -> None:
    rules = compiled(
        *SCENARIOS[name],
        service("kubernetes", "10.96.0.1", ports=[port(443, "https")]),
        slice_of("kubernetes", "192.168.100.5", port_name="https", number=6443),
        node(addresses=("192.168.100.11",)),
        config=CONFIGS.get(name, PODS),
        addresses=("192.168.100.11", "192.168.101.11", "127.0.0.1"),
    )
    for table in (Table.NAT, Table.FILTER):
        assert written(rules, table) == recorded(RECORDED / f"{name}.iptables-{table}.txt")


def test_ipv6_rules_are_those_that_kube_proxy_was_recorded_to_write() -> None:
    rules = compiled(
        service("dual", "fd00:10:96::105", ports=[port(80, "t", node_port=30104), udp(90, "u", node_port=30105)]),
        slice_of("dual", "fd00:10:244:1::10 @n1", "fd00:10:244:2::10 @n2", port_name="t", number=8080),
        slice_of("dual", "fd00:10:244:1::10 @n1", "fd00:10:244:2::10 @n2", port_name="u", number=9090,
                 protocol=Protocol.UDP, suffix="2"),
        family=IPFamily.IPV6,
    )  # fmt: skip
    assert written(rules, Table.NAT) == recorded(RECORDED / "dual-stack-service.ip6tables-nat.txt")


def written(rules: Ruleset, table: Table) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for (owner, chain), held in tables_of(rules).items():
        if owner == table:
            found[chain] += (render_rule(chain, rule) for rule in held)
    return ordered(found)


def recorded(path: Path) -> dict[str, list[str]]:
    """A dump by chain, without the service that the recorder used to know when kube-proxy had caught up."""
    found: dict[str, list[str]] = defaultdict(list)
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("-A ") and "hx-sentinel" not in line:
            found[line.split()[1]].append(canonical(line))
    return ordered(found)


def ordered(chains: dict[str, list[str]]) -> dict[str, list[str]]:
    result = {name: sorted(lines) if name in LISTS else lines for name, lines in chains.items() if lines}
    tail = [line for line in chains.get(names.SERVICES, ()) if "NOTE: this must be the last" in line]
    assert chains.get(names.SERVICES, [])[len(chains.get(names.SERVICES, ())) - len(tail) :] == tail
    return result


# --- laws -----------------------------------------------------------------------------------------------------

SMALL_TREES = replace(PODS, tree_threshold=3, endpoint_tree_threshold=2, large_cluster_endpoints=25)
CONFIGURATIONS = st.sampled_from((PODS, SMALL_TREES))
FAMILIES = st.sampled_from(IPFamily)


@settings(max_examples=60, deadline=None)
@given(st.data(), CONFIGURATIONS, FAMILIES)
def test_a_ruleset_made_from_the_one_before_equals_one_made_from_scratch(
    data: st.DataObject, config: Config, family: IPFamily
) -> None:
    rules: Ruleset | None = None
    for services in (data.draw(service_sets(family)) for _ in range(3)):
        plan = plan_of(*services, family=family)
        rules = compile_plan(plan, config, COUNTED, rules)
        assert rules == compile_plan(plan, config, COUNTED)


@settings(max_examples=60, deadline=None)
@given(st.data(), CONFIGURATIONS, FAMILIES)
def test_chain_names_are_unique_and_fit_and_every_jump_leads_to_an_earlier_chain(
    data: st.DataObject, config: Config, family: IPFamily
) -> None:
    rules = compile_plan(plan_of(*data.draw(service_sets(family)), family=family), config, COUNTED)
    known: set[tuple[Table, str]] = set()
    later: list[tuple[Table, str]] = []
    for chain in rules.chains():
        assert len(chain.name) <= names.LONGEST
        assert names.is_ours(chain.table, chain.name)
        assert (chain.table, chain.name) not in known
        known.add((chain.table, chain.name))
        later += [(chain.table, rule.target.chain) for rule in chain.rules if isinstance(rule.target, Jump)]
    assert known.issuperset(later)


@settings(max_examples=60, deadline=None)
@given(st.data(), CONFIGURATIONS, FAMILIES)
def test_the_number_of_rules_is_known_without_writing_them(
    data: st.DataObject, config: Config, family: IPFamily
) -> None:
    services = data.draw(service_sets(family))
    rules = compile_plan(plan_of(*services, family=family), config, COUNTED)
    counted: dict[str, int] = {Table.NAT: 0, Table.FILTER: 0}
    for chain in rules.chains():
        if chain.rules:
            counted[chain.table] += len(chain.rules)
    assert rules.rules_total() == counted


@settings(max_examples=40, deadline=None)
@given(st.data(), CONFIGURATIONS)
def test_leaving_service_ports_out_equals_never_having_had_them(data: st.DataObject, config: Config) -> None:
    services = data.draw(service_sets())
    out = data.draw(st.sets(st.sampled_from([each.key for each in services]))) if services else set()
    all_of_them = plan_of(*services)
    rules = compile_plan(all_of_them, config, COUNTED)
    kept = plan_of(*(each for each in services if each.key not in out))
    # the switch to large-cluster mode counts all endpoints, served or not
    unswitched = replace(config, large_cluster_endpoints=10**6 * (not rules.dialect.large))
    assert rules.without(out) == compile_plan(kept, unswitched, COUNTED) or not kept.endpoints_total


# --- what is kept, and what cannot be expressed ---------------------------------------------------------------


def test_a_list_that_no_change_concerns_is_the_same_object() -> None:
    web, db = simple(1, targets(2)), simple(2, targets(3))
    before = compile_plan(plan_of(web, db), PODS, PLAIN)
    after = compile_plan(plan_of(web, replace(db, cluster=targets(4))), PODS, PLAIN, before)
    assert all(new is old for new, old in zip(after.dispatch, before.dispatch, strict=True))


def test_an_sctp_port_is_left_out_and_said_where_the_kernel_has_no_match_for_it() -> None:
    key = ServicePortKey("default", "sc", "", Protocol.SCTP)
    rules = compile_plan(plan_of(simple(1, targets(1)), ServicePlan(key, ())), PODS, Abilities(sctp=False))
    assert key not in rules.services
    assert [(each.key, "xt_sctp" in each.why) for each in rules.unsupported] == [(key, True)]


def test_without_xt_recent_a_service_with_affinity_is_balanced_without_it_and_that_is_said() -> None:
    sticky = simple(1, targets(2), affinity_seconds=60)
    rules = compile_plan(plan_of(sticky), PODS, Abilities(recent=False))
    assert sticky.key in rules.services
    assert [each.key for each in rules.unsupported] == [sticky.key]
    matches = {type(match) for chain in rules.chains() for rule in chain.rules for match in rule.matches}
    assert not matches & {RecentCheck, RecentSet}
