"""One service port's chains: where its packets go, with which chance, and how many rules that takes."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from kproxy.backend.iptables import names
from kproxy.backend.iptables.compile import compile_plan
from kproxy.backend.iptables.dialect import Dialect
from kproxy.backend.iptables.rules import Comment, Dnat, Jump, RecentCheck, RecentSet, Table
from kproxy.backend.iptables.service import rule_count, service_chains
from kproxy.backend.iptables.trace import Delivered, Dropped, Fate, Host, Refused, fates, trace
from kproxy.config import Config
from kproxy.model.enums import IPFamily, Protocol
from kproxy.model.keys import ServicePortKey
from kproxy.model.packet import Packet
from kproxy.plan.masquerade import external, internal
from kproxy.plan.plan import Drop, FromCIDR, Frontend, FrontendKind, Pool, Reject, ServicePlan, Target
from tests.unit.backend.iptables.examples import PLAIN, PODS, plan_of, simple, tables_of, targets

DIALECT = Dialect(IPFamily.IPV4, FromCIDR("10.244.0.0/16"))
LARGE = replace(DIALECT, large=True)
KEY = ServicePortKey("default", "web", "", Protocol.TCP)
LOCAL, REMOTE = Target("10.244.1.10", 8080, local=True), Target("10.244.2.10", 8080, local=False, remote=True)
NODE = Host(addresses=frozenset({"192.168.0.2"}))
POD, HOST, OUTSIDE = "10.244.1.20", "192.168.0.2", "203.0.113.9"


def web(*, outer: bool = False, inner: bool = False, ranges: tuple[str, ...] = (), **rest: object) -> ServicePlan:
    """Four frontends, two endpoints. ``outer``, ``inner``: the external and the internal policy are Local."""
    served = rest.get("local", (LOCAL,) if outer or inner else ())
    out = external(local=outer, served_here=bool(served), detected=True)
    within = Drop() if inner and not served else internal(local=inner, masquerade_all=False, detected=True)
    frontends = (
        Frontend(FrontendKind.CLUSTER_IP, "10.96.0.1", 80, within),
        Frontend(FrontendKind.EXTERNAL_IP, "198.51.100.1", 80, out),
        Frontend(FrontendKind.LOAD_BALANCER_VIP, "203.0.113.1", 80, out, ranges),
        Frontend(FrontendKind.NODE_PORT, "", 30080, out),
    )
    fields = {"cluster": (LOCAL, REMOTE), "local": served, "endpoints_total": 2, **rest}
    return ServicePlan(KEY, frontends, **fields)  # type: ignore[arg-type]


def ask(
    plan: ServicePlan, source: str, to: str, port: int = 80, config: Config = PODS, host: Host = NODE
) -> dict[Fate, float]:
    tables = tables_of(compile_plan(plan_of(plan), config, PLAIN))
    packet = Packet(source, to, port, from_host=source == HOST, in_interface="eth0")
    return {fate: pytest.approx(chance, abs=1e-9) for fate, chance in fates(trace(tables, packet, host)).items()}


def both(masquerade: bool) -> dict[Fate, float]:
    return {Delivered(each.ip, each.port, masquerade): 0.5 for each in (LOCAL, REMOTE)}


# --- where packets go -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("source", "masquerade"), [(POD, False), (HOST, True), (OUTSIDE, True)])
def test_a_cluster_ip_balances_and_hides_everybody_but_pods_of_this_node(source: str, masquerade: bool) -> None:
    assert ask(web(), source, "10.96.0.1") == both(masquerade)


@pytest.mark.parametrize(("to", "port"), [("198.51.100.1", 80), ("203.0.113.1", 80), ("192.168.0.2", 30080)])
@pytest.mark.parametrize("source", [POD, OUTSIDE])
def test_under_external_policy_cluster_everybody_is_balanced_and_hidden(to: str, port: int, source: str) -> None:
    assert ask(web(), source, to, port) == both(masquerade=True)


@pytest.mark.parametrize(("to", "port"), [("198.51.100.1", 80), ("203.0.113.1", 80), ("192.168.0.2", 30080)])
def test_under_external_policy_local_outsiders_stay_on_this_node_and_keep_their_address(to: str, port: int) -> None:
    assert ask(web(outer=True), OUTSIDE, to, port) == {Delivered(LOCAL.ip, 8080, masquerade=False): 1}
    assert ask(web(outer=True), POD, to, port) == both(masquerade=False)
    assert ask(web(outer=True), HOST, to, port) == both(masquerade=True)


def test_under_external_policy_local_without_an_endpoint_here_outsiders_hear_nothing() -> None:
    plan = web(outer=True, local=())
    assert ask(plan, OUTSIDE, "203.0.113.1") == {Dropped(): 1}
    assert ask(plan, POD, "203.0.113.1") == both(masquerade=False)


def test_under_internal_policy_local_the_cluster_ip_stays_on_this_node() -> None:
    assert ask(web(inner=True), POD, "10.96.0.1") == {Delivered(LOCAL.ip, 8080, masquerade=False): 1}
    assert ask(web(inner=True, local=()), POD, "10.96.0.1") == {Dropped(): 1}


def test_source_ranges_let_in_whom_they_name_and_drop_the_rest_at_the_balancers_address_only() -> None:
    plan = web(ranges=("203.0.113.0/28",))
    assert ask(plan, "203.0.113.9", "203.0.113.1") == both(masquerade=True)
    assert ask(plan, "203.0.113.99", "203.0.113.1") == {Dropped(): 1}
    assert ask(plan, "203.0.113.99", "198.51.100.1") == both(masquerade=True)


def test_without_endpoints_clients_are_told() -> None:
    nobody = [replace(frontend, action=Reject()) for frontend in web().frontends]
    plan = ServicePlan(KEY, tuple(nobody))
    assert ask(plan, POD, "10.96.0.1") == {Refused(): 1}
    assert ask(plan, OUTSIDE, "192.168.0.2", 30080) == {Refused(): 1}


@pytest.mark.parametrize("large", [0, 1000])
def test_a_pod_that_reaches_itself_is_hidden(large: int) -> None:
    config = replace(PODS, large_cluster_endpoints=large)
    found = ask(web(), LOCAL.ip, "10.96.0.1", config=config)
    assert found == {Delivered(LOCAL.ip, 8080, masquerade=True): 0.5, Delivered(REMOTE.ip, 8080, masquerade=False): 0.5}


def test_a_client_with_affinity_goes_where_it_went_before() -> None:
    chain = names.endpoint_chain(KEY, REMOTE)
    host = Host(remembered=frozenset({chain}))
    for config in (PODS, replace(PODS, large_cluster_endpoints=0)):
        found = ask(web(affinity_seconds=60), POD, "10.96.0.1", config=config, host=host)
        assert found == {Delivered(REMOTE.ip, 8080, masquerade=False): 1}


@pytest.mark.parametrize("count", [1, 2, 3, 7, 16, 17, 128, 129, 257, 1000])
@pytest.mark.parametrize("threshold", [4, 128])
def test_every_endpoint_has_the_same_chance(count: int, threshold: int) -> None:
    config = replace(PODS, endpoint_tree_threshold=threshold)
    found = ask(simple(1, targets(count)), POD, "10.96.0.1", config=config)
    assert len(found) == count
    assert found == dict.fromkeys(found, 1 / count)


# --- what the chains look like --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("plan", "dialect", "rules"),
    [
        (simple(1, targets(1)), DIALECT, 1 + 1 + 2),
        (simple(1, targets(2)), DIALECT, 1 + 2 + 4),
        (simple(1, targets(10)), DIALECT, 1 + 10 + 20),
        (simple(1, targets(10)), LARGE, 1 + 10 + 20),
        (simple(1, targets(10, remote=True)), LARGE, 1 + 10),
        (simple(1, targets(10, remote=True), affinity_seconds=9), LARGE, 1 + 20 + 20),
        (web(), DIALECT, 1 + 2 + 4 + 2),
        (web(), LARGE, 1 + 2 + 2 + 2),
        (web(outer=True), DIALECT, 1 + 2 + 1 + 4 + 4),
        (web(ranges=("10.0.0.0/8",)), DIALECT, 1 + 2 + 4 + 2 + 2),
        (simple(1, targets(200)), DIALECT, 1 + 200 + 13 + 400),
        (simple(1, targets(1000, remote=True)), LARGE, 1 + 1000 + 16 + 64),
        (ServicePlan(KEY, ()), DIALECT, 0),
    ],
)
def test_the_number_of_rules_of_a_service_port_is_a_decision(plan: ServicePlan, dialect: Dialect, rules: int) -> None:
    assert rule_count(plan, dialect) == rules
    assert sum(len(chain.rules) for chain in service_chains(plan, dialect)) == rules


def test_in_a_large_cluster_rules_that_name_endpoints_carry_no_comments_and_others_do() -> None:
    for chain in service_chains(web(), LARGE):
        for rule in chain.rules:
            about_endpoint = isinstance(rule.target, Dnat) or (
                isinstance(rule.target, Jump) and rule.target.chain.startswith("KUBE-SEP-")
            )
            commented = any(isinstance(match, Comment) for match in rule.matches)
            assert commented or about_endpoint or chain.name.startswith(("KUBE-SEP-", "KUBE-EXT-"))
            assert not (commented and about_endpoint)


def test_in_a_large_cluster_only_what_can_hairpin_or_must_be_remembered_has_a_chain() -> None:
    unknown = Target("10.244.3.10", 8080, local=False)
    plan = web(cluster=(LOCAL, REMOTE, unknown))
    chains = {chain.name for chain in service_chains(plan, LARGE)}
    assert {names.endpoint_chain(KEY, each) in chains for each in (LOCAL, unknown)} == {True}
    assert names.endpoint_chain(KEY, REMOTE) not in chains
    sticky = {chain.name for chain in service_chains(replace(plan, affinity_seconds=5), LARGE)}
    assert names.endpoint_chain(KEY, REMOTE) in sticky


def test_affinity_is_checked_and_recorded_once_for_each_endpoint() -> None:
    matches = [
        match
        for chain in service_chains(web(affinity_seconds=7), DIALECT)
        for rule in chain.rules
        for match in rule.matches
    ]
    assert sorted(match.name for match in matches if isinstance(match, RecentCheck)) == sorted(
        match.name for match in matches if isinstance(match, RecentSet)
    )
    assert {match.seconds for match in matches if isinstance(match, RecentCheck)} == {7}


@pytest.mark.parametrize("count", [129, 300, 4096, 5000, 20000])
def test_a_tree_of_endpoints_is_two_levels_deep_at_most_and_has_names_to_spare(count: int) -> None:
    plan = simple(
        1,
        tuple(Target(f"10.{n // 65536}.{n // 256 % 256}.{n % 256}", 1, local=False, remote=True) for n in range(count)),
    )
    chains = {chain.name: chain for chain in service_chains(plan, LARGE)}
    assert len(chains) <= names.MOST_PARTS
    root = chains[names.pool_chain(Pool.CLUSTER, names.service_hash(plan.key))]

    def depth(name: str) -> int:
        below = (rule.target.chain for rule in chains[name].rules if isinstance(rule.target, Jump))
        return 1 + max((depth(part) for part in below if part in chains), default=0)

    assert depth(root.name) <= 3
    assert all(len(chain.rules) <= max(17, count // 250) for chain in chains.values())


def test_all_chains_are_in_the_nat_table() -> None:
    assert {chain.table for chain in service_chains(web(), DIALECT)} == {Table.NAT}
