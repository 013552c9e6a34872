"""Transactions: one where one will do, stages that never leave a jump without its chain where one is too much."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from kproxy.backend.iptables import names
from kproxy.backend.iptables.compile import Ruleset, compile_plan
from kproxy.backend.iptables.diff import Delta, diff, read_save, repair
from kproxy.backend.iptables.parse import parse_rule
from kproxy.backend.iptables.rules import Rule, Table
from kproxy.backend.iptables.stages import Stage, Written, stage_input, stages
from kproxy.backend.iptables.trace import Delivered, Dropped, Refused, trace
from kproxy.kernel.fake import FakeIptables
from kproxy.model.packet import Packet
from kproxy.plan.plan import Drop
from tests.unit.backend.iptables.examples import COUNTED, PLAIN, PODS, plan_of, service_sets, simple, targets

TREES = replace(PODS, tree_threshold=10, endpoint_tree_threshold=4, large_cluster_endpoints=60)


def door() -> FakeIptables:
    return FakeIptables(counters={"ct_state_invalid_dropped_pkts", "localhost_nps_accepted_pkts"})


async def write(kernel: FakeIptables, delta: Delta, chunk: int | None) -> Written:
    """Every stage is checked by the twin, which refuses a jump to a chain that is not there."""
    written = Written()
    for stage in stages(delta, chunk):
        await kernel.restore(stage_input(stage, written))
    return written


async def difference(kernel: FakeIptables, wanted: Ruleset) -> Delta:
    text = b"".join([await kernel.save(table.value) for table in Table])
    return repair(read_save(text.decode().splitlines()), wanted)


@pytest.mark.parametrize("chunk", [None, 1, 7])
async def test_the_first_sync_ends_with_what_is_wanted_whatever_the_stages(chunk: int | None) -> None:
    services = [simple(n, targets(n % 9), node_port=30000 + n) for n in range(60)]
    rules = compile_plan(plan_of(*services), TREES, COUNTED)
    kernel = door()
    await write(kernel, await difference(kernel, rules), chunk)
    assert (await difference(kernel, rules)).is_empty


@settings(max_examples=25, deadline=None)
@given(st.data(), st.sampled_from((None, 2)))
async def test_every_stage_of_any_change_is_accepted(data: st.DataObject, chunk: int | None) -> None:
    kernel = door()
    rules: Ruleset | None = None
    for services in (data.draw(service_sets()) for _ in range(3)):
        config = data.draw(st.sampled_from((PODS, TREES)))
        wanted = compile_plan(plan_of(*services), config, COUNTED, rules)
        delta = diff(rules, wanted) if rules else await difference(kernel, wanted)
        await write(kernel, delta, chunk)
        rules = wanted
        assert (await difference(kernel, wanted)).is_empty


def test_a_small_change_is_one_transaction() -> None:
    before = compile_plan(plan_of(*(simple(n, targets(2)) for n in range(20))), PODS, PLAIN)
    after = compile_plan(plan_of(*(simple(n, targets(3)) for n in range(20))), PODS, PLAIN, before)
    assert len(list(stages(diff(before, after), 200))) == 1


def kind(stage: Stage) -> str:
    if stage.patches:
        return "changed" if all(patch.write and patch.write <= patch.had for patch in stage.patches) else "new"
    return "delete" if stage.delete else "lists"


def test_stages_go_from_new_chains_to_lists_to_changed_chains_and_delete_last() -> None:
    before = compile_plan(plan_of(*(simple(n, targets(3)) for n in range(40))), TREES, PLAIN)
    after = compile_plan(plan_of(*(simple(n + 20, targets(2)) for n in range(40))), TREES, PLAIN)
    kinds = [kind(stage) for stage in stages(diff(before, after), 5) if stage.patches or stage.delete or stage.chains]
    assert kinds == sorted(kinds, key=["new", "lists", "changed", "delete"].index)
    assert set(kinds) == {"new", "lists", "changed", "delete"}


async def test_who_was_there_does_not_run_ahead_of_who_comes() -> None:
    services = [simple(n, targets(2)) for n in range(20)]
    old = simple(99, targets(1))
    before = compile_plan(plan_of(old), TREES, PLAIN)
    after = compile_plan(plan_of(*services, simple(99, targets(3, first=3))), TREES, PLAIN)
    kernel = FakeIptables()
    await write(kernel, await difference(kernel, before), None)
    (outcome,) = trace(parsed(kernel), Packet("10.244.9.9", "10.96.0.99", 80))
    was, moved = outcome.fate, []
    for stage in stages(diff(before, after), 4):
        await kernel.restore(stage_input(stage, Written()))
        (first, *_) = trace(parsed(kernel), Packet("10.244.9.9", "10.96.0.99", 80))
        if first.fate != was:
            moved.append([trace(parsed(kernel), Packet("10.244.9.9", f"10.96.0.{n}", 80)) for n in range(20)])
    assert moved
    assert all(isinstance(outcomes[0].fate, Delivered) for outcomes in moved[0])


def test_many_chains_that_go_do_not_take_a_small_change_apart() -> None:
    before = compile_plan(plan_of(simple(1, targets(30)), simple(2, targets(1))), PODS, PLAIN)
    after = compile_plan(plan_of(simple(1, targets(1)), simple(2, ())), PODS, PLAIN)
    first, *rest = stages(diff(before, after), 5)
    assert first.tables == (Table.FILTER, Table.NAT)
    assert not first.delete
    assert all(stage.delete or stage.declare for stage in rest)
    assert sum(len(stage.delete) for stage in rest) == 31


def test_no_stage_has_many_more_rules_than_usual_when_services_are_big() -> None:
    services = [simple(n, targets(100)) for n in range(20)]
    rules = compile_plan(plan_of(*services), replace(PODS, large_cluster_endpoints=10**6), PLAIN)
    delta = repair(read_save(()), rules)
    for stage in stages(delta, 10):
        written = Written()
        list(stage_input(stage, written))
        assert sum(written.rules.values()) <= 320


async def test_traffic_never_stops_while_stages_are_written() -> None:
    before = compile_plan(plan_of(*(simple(n, targets(3)) for n in range(30))), TREES, PLAIN)
    after = compile_plan(plan_of(*(simple(n, targets(5)) for n in range(45))), TREES, PLAIN)
    kernel = FakeIptables()
    await write(kernel, await difference(kernel, before), None)
    packet = Packet("10.244.9.9", "10.96.0.7", 80)
    for stage in stages(diff(before, after), 4):
        await kernel.restore(stage_input(stage, Written()))
        outcomes = trace(parsed(kernel), packet)
        assert all(isinstance(outcome.fate, Delivered) for outcome in outcomes)


@pytest.mark.parametrize("chunk", [None, 3])
@pytest.mark.parametrize("few", [(0, 2), (2, 0)], ids=["first endpoints", "last endpoints"])
async def test_between_two_tables_a_client_is_served_or_refused_but_never_left_alone(
    few: tuple[int, int], chunk: int | None
) -> None:
    before, after = (
        compile_plan(plan_of(*(simple(n, targets(count)) for n in range(20))), TREES, PLAIN) for count in few
    )
    kernel = FakeIptables()
    await write(kernel, await difference(kernel, before), None)
    fates = []
    for stage in stages(diff(before, after), chunk):
        text = b"".join(stage_input(stage, Written())).decode()
        for table in text.split("COMMIT\n")[:-1]:
            await kernel.restore([f"{table}COMMIT\n".encode()])
            fates += [type(outcome.fate) for outcome in trace(parsed(kernel), Packet("10.244.9.9", "10.96.0.7", 80))]
    assert set(fates) <= {Delivered, Refused}


async def test_once_nat_is_committed_every_packet_has_its_last_fate() -> None:
    dropped = simple(2, targets(1))
    dropped = replace(dropped, frontends=(replace(dropped.frontends[0], action=Drop()),))
    before = compile_plan(plan_of(simple(1, ()), simple(2, ()), simple(3, targets(1))), PODS, PLAIN)
    after = compile_plan(plan_of(simple(1, targets(1)), dropped, simple(3, ())), PODS, PLAIN)
    kernel = FakeIptables()
    await write(kernel, await difference(kernel, before), None)
    (stage,) = stages(diff(before, after), None)
    text = b"".join(stage_input(stage, Written())).decode()
    fates = []
    for table in text.split("COMMIT\n")[:-1]:
        await kernel.restore([f"{table}COMMIT\n".encode()])
        met = [trace(parsed(kernel), Packet("10.244.9.9", f"10.96.0.{number}", 80)) for number in (1, 2, 3)]
        fates.append([type(outcome.fate) for (outcome,) in met])
    assert fates == [[Refused, Dropped, Delivered], *2 * [[Delivered, Dropped, Refused]]]


def parsed(kernel: FakeIptables) -> dict[tuple[str, str], list[Rule]]:
    return {
        (table, chain): [parse_rule(f"-A {chain} {rule}")[1] for rule in rules]
        for table, chains in kernel.tables.items()
        for chain, rules in chains.items()
    }


@pytest.mark.parametrize("chunk", [None, 1])
def test_a_refusal_that_goes_late_goes_also_where_no_list_changes_before(chunk: int | None) -> None:
    refused = compile_plan(plan_of(simple(1, ()), simple(2, ())), PODS, PLAIN)
    served = compile_plan(plan_of(simple(1, targets(2)), simple(2, targets(2))), PODS, PLAIN, refused)
    delta = replace(diff(refused, served), lists=())  # as under external policy Local: the VIP was dispatched already
    assert delta.then is not None
    written = [chain for stage in stages(delta, chunk) if stage.then for chain in stage.then.chains]
    assert written == list(delta.then.lists) != []
    assert not replace(delta, patches=()).is_empty
    assert [stage.then is not None for stage in stages(replace(delta, patches=()), chunk)] == [True]


def test_what_is_written_is_counted() -> None:
    rules = compile_plan(plan_of(simple(1, targets(2)), simple(2, ())), PODS, PLAIN)
    delta = repair(read_save(()), rules)
    written = Written()
    text = b"".join(block for stage in stages(delta, None) for block in stage_input(stage, written)).decode()
    assert written.bytes == len(text)
    assert written.transactions == 1
    assert written.rules["nat"] == rules.rules_total()["nat"] + 3  # entry rules
    assert written.chains == sum(line.startswith(":") for line in text.splitlines()) - 1  # KUBE-FIREWALL is shared
    assert written.deleted == 0
    assert f":{names.MARK_MASQ} - [0:0]" in text


def test_a_change_names_only_the_tables_that_it_concerns() -> None:
    before = compile_plan(plan_of(simple(1, targets(2))), PODS, PLAIN)
    after = compile_plan(plan_of(simple(1, targets(3))), PODS, PLAIN, before)
    (stage,) = stages(diff(before, after), None)
    assert stage.tables == (Table.NAT,)
