"""The lists that all services share: flat or tree, they lead every frontend home and nobody else."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from kproxy.backend.iptables import dispatch, names
from kproxy.backend.iptables.compile import Ruleset, compile_plan
from kproxy.backend.iptables.rules import Jump, Table
from kproxy.backend.iptables.trace import Delivered, Dropped, Fate, Host, Refused, Untouched, fates, trace
from kproxy.config import Config
from kproxy.model.enums import IPFamily, Protocol
from kproxy.model.keys import ServicePortKey
from kproxy.model.packet import Packet
from kproxy.plan.masquerade import external, internal
from kproxy.plan.plan import Frontend, FrontendKind, NodePorts, Pool, ServicePlan, Target
from tests.unit.backend.iptables.examples import COUNTED, PLAIN, PODS, plan_of, service_sets, simple, tables_of, targets

FLAT = replace(PODS, tree_threshold=10**9)
TREE = replace(PODS, tree_threshold=0)
NODE = Host(addresses=frozenset({"192.168.0.2", "fd00::2"}))
NODE_IP = {IPFamily.IPV4: "192.168.0.2", IPFamily.IPV6: "fd00::2"}


def asked(rules: Ruleset, packet: Packet) -> dict[Fate, float]:
    return {fate: round(chance, 6) for fate, chance in fates(trace(tables_of(rules), packet, NODE)).items()}


@settings(max_examples=25, deadline=None)
@given(st.data(), st.sampled_from(IPFamily))
def test_a_tree_sends_every_packet_where_the_flat_list_sends_it(data: st.DataObject, family: IPFamily) -> None:
    services = data.draw(service_sets(family))
    plan = plan_of(*services, family=family)
    flat, tree = (compile_plan(plan, config, COUNTED) for config in (FLAT, TREE))
    frontends = [(each.key.protocol, frontend) for each in services for frontend in each.frontends]
    source = "10.1.2.3" if family is IPFamily.IPV4 else "fd00:1::3"
    for protocol, frontend in frontends[:12]:
        for port in (frontend.port, frontend.port % 65535 + 1):
            to = frontend.ip or NODE_IP[family]
            packet = Packet(source, to, port, protocol)
            assert asked(tree, packet) == asked(flat, packet)


def many(count: int) -> list[ServicePlan]:
    return [simple(number, targets(1), node_port=30000 + number) for number in range(count)]


def comparisons(rules: Ruleset, packet: Packet) -> int:
    """Rules of nat that a packet is compared with on its way through the lists."""
    tables = tables_of(rules)
    (way,) = trace(tables, packet, NODE)
    lists = {chain.name for chain in rules.dispatch_chains() if chain.table is Table.NAT}
    met = {step.chain: step.position + 1 for step in way.path if step.table == Table.NAT and step.chain in lists}
    targets_met = (tables[step.table, step.chain][step.position].target for step in way.path if step.chain in met)
    entered = {names.SERVICES, *(target.chain for target in targets_met if isinstance(target, Jump))}
    return sum(met.get(chain, len(tables[Table.NAT, chain])) for chain in entered & lists)


@pytest.mark.parametrize("number", [0, 1000, 1999])
def test_in_a_tree_every_service_is_a_few_comparisons_away(number: int) -> None:
    rules = compile_plan(plan_of(*many(2000)), PODS, PLAIN)
    packet = Packet("10.244.9.9", f"10.96.{number // 256}.{number % 256}", 80)
    assert comparisons(rules, packet) <= 40


def test_in_a_tree_a_packet_for_no_service_is_compared_with_two_rules() -> None:
    rules = compile_plan(plan_of(*many(2000)), PODS, PLAIN)
    assert comparisons(rules, Packet("10.244.9.9", "10.244.5.5", 80)) == 2


def test_up_to_the_threshold_a_list_is_flat_and_in_the_order_of_keys() -> None:
    services = many(20)
    rules = compile_plan(plan_of(*reversed(services)), replace(PODS, tree_threshold=20), PLAIN)
    ours = tables_of(rules)[Table.NAT, names.SERVICES]
    order = [names.pool_chain(Pool.CLUSTER, names.service_hash(each.key)) for each in services]
    assert [rule.target.chain for rule in ours[:-1]] == order  # type: ignore[union-attr]


def test_one_list_is_a_tree_while_another_is_flat() -> None:
    services = [simple(number, targets(1), node_port=30000 + number if number < 3 else 0) for number in range(50)]
    rules = compile_plan(plan_of(*services), replace(PODS, tree_threshold=10), PLAIN)
    trees = {listing.chain for listing in rules.dispatch if dispatch.is_tree(listing, rules.dialect)}
    assert trees == {names.SERVICES}


def test_the_jump_to_node_ports_stays_last() -> None:
    for config in (FLAT, TREE):
        rules = tables_of(compile_plan(plan_of(*many(30)), config, PLAIN))[Table.NAT, names.SERVICES]
        assert [rule.target for rule in rules].index(Jump(names.NODE_PORTS)) == len(rules) - 1


@pytest.mark.parametrize("config", [FLAT, TREE])
def test_many_ports_of_one_address_all_lead_home(config: Config) -> None:
    def one(number: int) -> ServicePlan:
        to = external(local=False, served_here=True, detected=True)
        key = ServicePortKey("default", "gw", f"p{number}", (Protocol.TCP, Protocol.UDP)[number % 2])
        frontend = Frontend(FrontendKind.EXTERNAL_IP, "192.0.2.1", 1000 + number * 7, to)
        return ServicePlan(key, (frontend,), cluster=(Target("10.244.0.9", 1000 + number, local=True),))

    ports = [one(number) for number in range(300)]
    rules = compile_plan(plan_of(*ports, *many(5)), config, PLAIN)
    for number in range(0, 300, 37):
        packet = Packet("10.9.9.9", "192.0.2.1", 1000 + number * 7, ports[number].key.protocol)
        assert asked(rules, packet) == {Delivered("10.244.0.9", 1000 + number, masquerade=True): 1}
    assert asked(rules, Packet("10.9.9.9", "192.0.2.1", 1001)) == {Untouched(): 1}


def test_addresses_chosen_to_make_jumps_deep_stay_within_what_nf_tables_takes() -> None:
    to = internal(local=False, masquerade_all=False, detected=True)

    def at(bit: int, extra: int) -> ServicePlan:
        key = ServicePortKey("evil", f"s{bit}-{extra}", "", Protocol.TCP)
        ip = f"fd00::{(1 << bit | extra) >> 96 & 0xFFFF:x}:{bit:x}:{extra:x}"
        return ServicePlan(key, (Frontend(FrontendKind.EXTERNAL_IP, ip, 80, to),), cluster=targets(1))

    rules = compile_plan(
        plan_of(*(at(bit, extra) for bit in range(100) for extra in range(5)), family=IPFamily.IPV6), TREE, PLAIN
    )
    assert deepest(rules, Table.NAT, "PREROUTING") <= 15


def deepest(rules: Ruleset, table: Table, chain: str) -> int:
    tables = tables_of(rules)
    known: dict[str, int] = {}

    def below(name: str) -> int:
        if name not in known:
            jumps = (rule.target.chain for rule in tables[table, name] if isinstance(rule.target, Jump))
            known[name] = 1 + max(map(below, jumps), default=-1)
        return known[name]

    return below(chain)


def test_a_large_cluster_with_everything_in_it_stays_within_what_nf_tables_takes() -> None:
    services = [simple(n, targets(2), node_port=30000 + n % 2700) for n in range(3000)]
    services.append(simple(4000, targets(1000), node_port=32760))
    assert deepest(compile_plan(plan_of(*services), PODS, PLAIN), Table.NAT, "PREROUTING") <= 15


def test_refusals_are_a_tree_too() -> None:
    services = [simple(number, (), node_port=30000 + number) for number in range(300)]
    rules = compile_plan(plan_of(*services), PODS, PLAIN)
    assert asked(rules, Packet("10.244.1.1", "10.96.0.200", 80)) == {Refused(): 1}
    assert asked(rules, Packet("10.9.9.9", "192.168.0.2", 30299)) == {Refused(): 1}
    assert max(len(held) for (table, _), held in tables_of(rules).items() if table == Table.FILTER) < 30


@pytest.mark.parametrize(("listeners", "refused"), [(True, False), (False, True)])
@pytest.mark.parametrize(("family", "loopback"), [(IPFamily.IPV4, "127.0.0.1"), (IPFamily.IPV6, "::1")])
def test_refusals_of_node_ports_leave_our_own_listeners_on_loopback_alone(
    family: IPFamily, loopback: str, listeners: bool, refused: bool
) -> None:
    node_port = Frontend(FrontendKind.NODE_PORT, "", 30080, external(local=True, served_here=False, detected=True))
    plan = ServicePlan(ServicePortKey("default", "web", "", Protocol.TCP), (node_port,), cluster=targets(1))
    rules = compile_plan(plan_of(plan, family=family, node_ports=NodePorts((), listeners=listeners)), PODS, PLAIN)
    here = Host(addresses=frozenset({loopback, NODE_IP[family]}))
    outside = "192.168.0.9" if family is IPFamily.IPV4 else "fd00::9"

    def fate(source: str, to: str) -> Fate:
        (way,) = trace(tables_of(rules), Packet(source, to, 30080, Protocol.TCP), here)
        return way.fate

    assert isinstance(fate(loopback, loopback), Dropped) is refused
    assert isinstance(fate(outside, NODE_IP[family]), Dropped)
