"""What is written: nothing too much, nothing too little, from memory and from the kernel's own words.

Transactions and their order are in test_stages.py, failures in test_apply.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from kproxy.backend.iptables import names
from kproxy.backend.iptables.compile import Ruleset, compile_plan
from kproxy.backend.iptables.dialect import Dialect
from kproxy.backend.iptables.diff import Delta, Saved, diff, read_save, repair
from kproxy.backend.iptables.rules import Rule, Table
from kproxy.backend.iptables.service import service_chains
from kproxy.backend.iptables.text import render_rule
from kproxy.config import Config
from kproxy.plan.plan import ServicePlan
from tests.unit.backend.iptables.examples import (
    COUNTED,
    PLAIN,
    PODS,
    Tables,
    plan_of,
    service_sets,
    simple,
    tables_of,
    targets,
    with_entries,
)

SMALL_TREES = replace(PODS, tree_threshold=3, endpoint_tree_threshold=2, large_cluster_endpoints=25)
CONFIGURATIONS = st.sampled_from((PODS, SMALL_TREES))
RECORDED = Path(__file__).parent / "recorded"


def performed(delta: Delta, tables: Tables) -> Tables:
    """The tables after a delta, as the kernel would have them."""
    after = dict(tables)
    chains = [*delta.fixed, *delta.lists, *(chain for patch in delta.patches for chain in patch.chains(delta.dialect))]
    for declared in delta.declare:
        after[declared] = []
    for chain in chains:
        after[chain.table, chain.name] = list(chain.rules)
    for patch in delta.patches:
        for name in patch.gone:
            del after[Table.NAT, name]
    for table, name in delta.gone:
        del after[table, name]
    done = with_entries(after, delta.entries)
    return performed(delta.then, done) if delta.then else done


def plain(tables: Tables) -> dict[tuple[str, str], list[Rule]]:
    return {key: list(rules) for key, rules in tables.items()}


def saved(tables: Tables) -> Saved:
    """As iptables-save would print them."""
    lines: list[str] = []
    for table in Table:
        mine = {name: rules for (owner, name), rules in tables.items() if owner == table}
        lines.append(f"*{table}")
        lines += (f":{name} {'-' if name.startswith('KUBE') else 'ACCEPT'} [0:0]" for name in mine)
        lines += (render_rule(name, rule) for name, rules in mine.items() for rule in rules)
        lines.append("COMMIT")
    return read_save(lines)


def chains_written(delta: Delta) -> set[str]:
    patches = {chain.name for patch in delta.patches for chain in patch.chains(delta.dialect)}
    return {chain.name for chain in (*delta.fixed, *delta.lists)} | patches


# --- laws -----------------------------------------------------------------------------------------------------


@settings(max_examples=80, deadline=None)
@given(st.data(), CONFIGURATIONS, CONFIGURATIONS)
def test_a_delta_turns_what_was_applied_into_what_is_wanted(data: st.DataObject, config: Config, other: Config) -> None:
    before = compile_plan(plan_of(*data.draw(service_sets())), config, COUNTED)
    wanted = compile_plan(plan_of(*data.draw(service_sets())), other, COUNTED, before)
    assert plain(performed(diff(before, wanted), tables_of(before))) == plain(tables_of(wanted))


@settings(max_examples=50, deadline=None)
@given(st.data(), CONFIGURATIONS)
def test_a_repair_turns_any_tables_into_what_is_wanted(data: st.DataObject, config: Config) -> None:
    tables = tables_of(compile_plan(plan_of(*data.draw(service_sets())), config, COUNTED))
    if tables and data.draw(st.booleans()):
        tables[data.draw(st.sampled_from([key for key in tables if key[1].startswith("KUBE")]))] = []
    wanted = compile_plan(plan_of(*data.draw(service_sets())), config, COUNTED)
    assert plain(performed(repair(saved(tables), wanted), tables)) == plain(tables_of(wanted))


@settings(max_examples=40, deadline=None)
@given(st.data(), CONFIGURATIONS)
def test_nothing_is_written_where_nothing_differs(data: st.DataObject, config: Config) -> None:
    services = data.draw(service_sets())
    rules = compile_plan(plan_of(*services), config, COUNTED)
    assert repair(saved(tables_of(rules)), rules).is_empty
    assert diff(rules, compile_plan(plan_of(*services), config, COUNTED)).is_empty


# --- what one change writes -----------------------------------------------------------------------------------


def applied_and(config: Config, before: Sequence[ServicePlan], after: Sequence[ServicePlan]) -> Delta:
    first = compile_plan(plan_of(*before), config, PLAIN)
    return diff(first, compile_plan(plan_of(*after), config, PLAIN, first))


def test_an_endpoint_more_writes_the_services_chain_and_the_endpoints() -> None:
    web, db = simple(1, targets(3)), simple(2, targets(5))
    more = replace(web, cluster=targets(4))
    service = names.service_hash(web.key)
    written = chains_written(applied_and(PODS, [web, db], [more, db]))
    assert written == {f"KUBE-SVC-{service}", names.endpoint_chain(web.key, targets(4)[-1])}


def test_an_endpoint_less_deletes_its_chain() -> None:
    web = simple(1, targets(3))
    delta = applied_and(PODS, [web], [replace(web, cluster=targets(2))])
    (patch,) = delta.patches
    assert patch.gone == (names.endpoint_chain(web.key, targets(3)[-1]),)


def test_a_service_port_less_deletes_all_its_chains_and_no_others() -> None:
    web, db = simple(1, targets(3)), simple(2, targets(5))
    delta = applied_and(PODS, [web, db], [db])
    (patch,) = delta.patches
    assert set(patch.gone) == {chain.name for chain in service_chains(web, compile_dialect())}
    assert chains_written(delta) == {names.SERVICES}


def compile_dialect() -> Dialect:
    return compile_plan(plan_of(), PODS, PLAIN).dialect


def big(count: int) -> list[ServicePlan]:
    return [simple(number, targets(2, remote=True), node_port=30000 + number) for number in range(count)]


def test_in_a_large_cluster_an_endpoint_more_writes_one_chain() -> None:
    services = big(1000)
    changed = replace(services[500], cluster=targets(3, remote=True))
    delta = applied_and(PODS, services, [*services[:500], changed, *services[501:]])
    assert chains_written(delta) == {f"KUBE-SVC-{names.service_hash(changed.key)}"}


def test_in_a_large_cluster_a_service_more_writes_its_chains_and_one_branch_of_each_list() -> None:
    services = big(1000)
    delta = applied_and(PODS, services, [*services, simple(1200, targets(2, remote=True), node_port=31500)])
    assert len(delta.lists) <= 8
    assert sum(len(chain.rules) for chain in delta.lists) <= 60
    assert [chain.name for patch in delta.patches for chain in patch.chains(delta.dialect)] != []


def test_a_node_address_that_appears_writes_one_chain() -> None:
    config = replace(PODS, tree_threshold=10**9)
    services = big(50)
    nodes = [replace(plan_of().node_ports, addresses=ips) for ips in (("10.0.0.1",), ("10.0.0.1", "10.0.0.2"))]
    first = compile_plan(plan_of(*services, node_ports=nodes[0]), config, PLAIN)
    then = compile_plan(plan_of(*services, node_ports=nodes[1]), config, PLAIN, first)
    assert chains_written(diff(first, then)) == {names.SERVICES}


# --- against what others wrote --------------------------------------------------------------------------------


def some_rules() -> Ruleset:
    return compile_plan(plan_of(simple(1, targets(2)), simple(2, ())), PODS, COUNTED)


def test_chains_and_rules_of_others_are_left_alone() -> None:
    rules = some_rules()
    tables = tables_of(rules)
    tables[Table.NAT, "KUBE-HOSTPORTS"] = tables[Table.NAT, "KUBE-MARK-MASQ"]
    tables[Table.FILTER, "DOCKER-USER"] = []
    tables[Table.FILTER, "FORWARD"] = [*tables[Table.FILTER, "FORWARD"], *tables[Table.FILTER, "KUBE-FORWARD"]]
    assert repair(saved(tables), rules).is_empty


def test_what_the_kubelet_has_in_the_shared_chain_stays() -> None:
    rules = some_rules()
    tables = tables_of(rules)
    (guard,) = tables[Table.FILTER, names.FIREWALL]
    foreign = Rule((), tables[Table.FILTER, names.FORWARD][0].target)
    tables[Table.FILTER, names.FIREWALL] = [foreign, guard]
    assert repair(saved(tables), rules).is_empty
    tables[Table.FILTER, names.FIREWALL] = [foreign]
    delta = repair(saved(tables), rules)
    assert [entry.rule for entry in delta.entries] == [guard]
    assert (delta.declare, delta.fixed, delta.lists) == ((), (), ())


@pytest.mark.parametrize("removed", ["KUBE-SERVICES", "KUBE-PROXY-CANARY", "KUBE-MARK-MASQ"])
def test_a_chain_that_somebody_emptied_or_removed_is_written_again(removed: str) -> None:
    rules = some_rules()
    tables = tables_of(rules)
    del tables[Table.NAT, removed]
    assert chains_written(repair(saved(tables), rules)) == {removed}


def test_a_fresh_host_gets_entry_rules_in_kube_proxys_order() -> None:
    delta = repair(Saved({}), some_rules())
    after = with_entries({(entry.table, entry.hook): [] for entry in delta.entries}, delta.entries)

    def order(table: Table, hook: str) -> list[str]:
        return [rule.target.chain for rule in after[table, hook]]  # type: ignore[union-attr]  # all are jumps

    assert order(Table.FILTER, "INPUT") == [
        "KUBE-FIREWALL", "KUBE-PROXY-FIREWALL", "KUBE-NODEPORTS", "KUBE-EXTERNAL-SERVICES",
    ]  # fmt: skip
    assert order(Table.FILTER, "FORWARD") == [
        "KUBE-PROXY-FIREWALL", "KUBE-FORWARD", "KUBE-SERVICES", "KUBE-EXTERNAL-SERVICES",
    ]  # fmt: skip
    assert order(Table.FILTER, "OUTPUT") == ["KUBE-FIREWALL", "KUBE-PROXY-FIREWALL", "KUBE-SERVICES"]
    assert order(Table.NAT, "PREROUTING") == order(Table.NAT, "OUTPUT") == ["KUBE-SERVICES"]
    assert order(Table.NAT, "POSTROUTING") == ["KUBE-POSTROUTING"]


def test_on_a_node_where_kube_proxy_ran_only_what_differs_is_written() -> None:
    lines: list[str] = ["*mangle", ":KUBE-PROXY-CANARY - [0:0]", "COMMIT"]
    for table in ("nat", "filter"):
        lines += (RECORDED / f"no-endpoints.iptables-{table}.txt").read_text(encoding="utf-8").splitlines()
    rules = compile_plan(plan_of(), PODS, COUNTED)
    delta = repair(read_save(lines), rules)
    assert chains_written(delta) == {names.SERVICES, names.EXTERNAL_SERVICES}
    assert delta.entries == delta.declare == ()
    assert {name for _, name in delta.gone} == {
        "KUBE-SEP-KAINN7AQENZQ266G", "KUBE-SEP-RBZZZJ643P5S64RI",
        "KUBE-SVC-HS5W6NYECBDLSSMX", "KUBE-SVC-NPX46M4PTMTKRN6Y",
    }  # fmt: skip
