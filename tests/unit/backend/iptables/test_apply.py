"""The backend against a kernel in memory: rounds, healing, refusals, quarantine. The real one is in tests/netns."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest
from msgspec.structs import replace

from kproxy.backend.iptables import names
from kproxy.backend.iptables.apply import IptablesBackend
from kproxy.backend.iptables.compile import Ruleset
from kproxy.backend.iptables.rules import Table
from kproxy.backend.iptables.text import render_rule
from kproxy.config import Config, IptablesVariant
from kproxy.errors import NotPermitted, RestoreRefused, XtablesLocked
from kproxy.kernel.doors import Capabilities
from kproxy.kernel.fake import FakeIptables, Faulty
from kproxy.model.enums import Protocol
from kproxy.model.flow import Destination
from kproxy.model.keys import ServicePortKey
from kproxy.plan.plan import FrontendKind, ServicePlan, Target
from tests.unit.backend.iptables.examples import PODS, Ailing, plan_of, simple, targets

TREES = replace(PODS, tree_threshold=10, endpoint_tree_threshold=4, large_cluster_endpoints=60, restore_chunk=8)


def backend(door: FakeIptables, config: Config = PODS) -> IptablesBackend:
    return IptablesBackend(config, door, Capabilities(nfacct=False))


def services(count: int, endpoints: int = 2) -> list[ServicePlan]:
    return [simple(n, targets(endpoints), node_port=30000 + n) for n in range(count)]


def poisoned(plan: ServicePlan) -> ServicePlan:
    """An endpoint that no kernel takes: as a defect of ours would make it."""
    return replace(plan, cluster=(*plan.cluster, Target("999.0.0.1", 8080, local=False)))


def poisoned_frontend(plan: ServicePlan) -> ServicePlan:
    cluster_ip, *rest = plan.frontends
    return replace(plan, frontends=(cluster_ip, *(replace(each, port=70000) for each in rest)))


def bearing(kernel: FakeIptables) -> set[str]:
    """Which services KUBE-SERVICES, or its tree, leads to."""
    text = "\n".join(rule for chain in kernel.tables["nat"].values() for rule in chain)
    return {word.strip('"') for word in text.split() if word.strip('"').startswith("default/")}


def rendered(rules: Ruleset) -> set[tuple[str, str]]:
    return {(chain.table, chain.name) for chain in rules.chains()}


def held(kernel: FakeIptables) -> set[tuple[str, str]]:
    found = {(table, chain) for table, chains in kernel.tables.items() for chain in chains if chain.startswith("KUBE")}
    return found - {("filter", "KUBE-FIREWALL")}


@pytest.mark.parametrize("variant", [IptablesVariant.NFT, IptablesVariant.LEGACY])
@pytest.mark.parametrize("config", [PODS, TREES])
async def test_after_a_round_the_tables_hold_the_ruleset(variant: IptablesVariant, config: Config) -> None:
    kernel = FakeIptables(variant=variant)
    proxy = backend(kernel, config)
    rules = proxy.compile(plan_of(*services(40)))
    report = await proxy.apply(rules)
    assert held(kernel) == rendered(rules)
    assert report.full
    assert report.rules_total == rules.rules_total()
    assert not report.quarantined
    staged = variant is IptablesVariant.NFT and config is TREES
    assert (report.transactions > 1) == staged


async def test_a_round_without_a_change_starts_no_program() -> None:
    kernel = FakeIptables()
    proxy = backend(kernel)
    await proxy.apply(proxy.compile(plan_of(*services(3))))
    before = len(kernel.restored)
    report = await proxy.apply(proxy.compile(plan_of(*services(3)), proxy.applied))
    assert len(kernel.restored) == before
    assert (report.transactions, report.full, report.rules_written) == (0, False, {})


async def test_a_restart_on_an_unchanged_cluster_writes_nothing() -> None:
    kernel = FakeIptables()
    first, second = backend(kernel), backend(kernel)
    await first.apply(first.compile(plan_of(*services(3))))
    report = await second.apply(second.compile(plan_of(*services(3))))
    assert report.full
    assert report.transactions == 0


async def test_healing_puts_back_what_somebody_flushed() -> None:
    kernel = FakeIptables()
    proxy = backend(kernel)
    rules = proxy.compile(plan_of(*services(3)))
    await proxy.apply(rules)
    kernel.flush()
    await proxy.apply(rules, full=True)
    assert held(kernel) == rendered(rules)


async def test_a_held_lock_is_waited_for_once_more() -> None:
    kernel = FakeIptables()
    proxy = backend(kernel)
    rules = proxy.compile(plan_of(*services(3)))
    kernel.fail_next(XtablesLocked("held by a test"))
    report = await proxy.apply(rules)
    assert report.refused == 1
    assert not report.became_full  # it was full from the start
    assert held(kernel) == rendered(rules)


async def test_a_partial_round_that_fails_says_that_it_became_a_full_one() -> None:
    kernel = FakeIptables()
    proxy = backend(kernel)
    await proxy.apply(proxy.compile(plan_of(*services(3))))
    kernel.fail_next(XtablesLocked("held by a test"))
    report = await proxy.apply(proxy.compile(plan_of(*services(4))))
    assert (report.full, report.became_full, report.refused) == (True, True, 1)


async def test_after_a_failure_the_next_round_reads_the_kernel() -> None:
    kernel = FakeIptables()
    proxy = backend(kernel)
    await proxy.apply(proxy.compile(plan_of(*services(3))))
    wanted = proxy.compile(plan_of(*services(4)), proxy.applied)
    kernel.fail_next(NotPermitted("a test took CAP_NET_ADMIN away"))
    with pytest.raises(NotPermitted):
        await proxy.apply(wanted)
    assert proxy.applied is None
    report = await proxy.apply(wanted)
    assert report.full
    assert held(kernel) == rendered(wanted)


Poison = Callable[[ServicePlan], ServicePlan]


@pytest.mark.parametrize(
    ("poison", "warm"),
    # The addresses that were served before are somebody else's now: what was there cannot stay.
    [(poisoned, False), (poisoned_frontend, False), (poisoned_frontend, True)],
)
@pytest.mark.parametrize("config", [PODS, TREES])
async def test_a_service_that_the_kernel_refuses_is_named_and_all_others_are_served(
    poison: Poison, config: Config, warm: bool
) -> None:
    kernel = FakeIptables()
    proxy = backend(kernel, config)
    good = services(20)
    if warm:
        await proxy.apply(proxy.compile(plan_of(*good)))
    bad = {5: poison(good[5]), 17: poison(good[17])}
    mixed = [bad.get(number, replace(plan, affinity_seconds=60)) for number, plan in enumerate(good)]
    rules = proxy.compile(plan_of(*mixed), proxy.applied)
    report = await proxy.apply(rules)
    assert {each.key for each in report.quarantined} == {good[5].key, good[17].key}
    assert all("restore" in each.why for each in report.quarantined)
    assert report.refused > 0
    assert held(kernel) == rendered(rules.without({good[5].key, good[17].key}))
    assert bearing(kernel).isdisjoint({str(good[5].key), str(good[17].key)})


async def test_a_service_in_quarantine_is_left_out_quietly_until_its_plan_changes() -> None:
    kernel = FakeIptables()
    proxy = backend(kernel)
    good = services(5)
    bad = [*good[:4], poisoned(good[4])]
    await proxy.apply(proxy.compile(plan_of(*bad)))
    again = await proxy.apply(proxy.compile(plan_of(*bad, simple(9, targets(1)))))
    assert (again.refused, len(again.quarantined)) == (0, 1)
    healed = await proxy.apply(proxy.compile(plan_of(*good)))
    assert not healed.quarantined
    assert str(good[4].key) in bearing(kernel)


async def test_a_full_round_tries_those_in_quarantine_again() -> None:
    kernel = FakeIptables()
    proxy = backend(kernel)
    rules = proxy.compile(plan_of(*services(3), poisoned(simple(7, targets(1)))))
    await proxy.apply(rules)
    report = await proxy.apply(rules, full=True)
    assert report.refused > 0
    assert len(report.quarantined) == 1


@pytest.mark.parametrize("config", [PODS, TREES])
@pytest.mark.parametrize("full", [False, True])
async def test_a_service_whose_change_is_refused_goes_on_with_its_rules_from_before(config: Config, full: bool) -> None:
    kernel = FakeIptables()
    proxy = backend(kernel, config)
    good = services(20)
    await proxy.apply(proxy.compile(plan_of(*good)))
    mixed = [poisoned(good[0]), *(replace(plan, affinity_seconds=60) for plan in good[1:])]
    rules = proxy.compile(plan_of(*mixed), proxy.applied)
    for _ in range(2):
        report = await proxy.apply(rules, full=full)
        (offender,) = report.quarantined
        assert offender.key == good[0].key
        assert offender.why.endswith("its rules from before stay")
        assert held(kernel) == rendered(proxy.compile(plan_of(good[0], *mixed[1:])))
    healed = await proxy.apply(proxy.compile(plan_of(*good)))
    assert not healed.quarantined
    assert held(kernel) == rendered(proxy.compile(plan_of(*good)))


async def test_rules_from_before_that_the_kernel_does_not_take_any_more_are_given_up() -> None:
    kernel = Ailing()
    proxy = backend(kernel)
    good = services(6)
    await proxy.apply(proxy.compile(plan_of(*good)))
    kernel.flush()
    kernel.ails = lambda text: f"KUBE-SVC-{names.service_hash(good[0].key)}" in text
    mixed = [poisoned(good[0]), *good[1:]]
    report = await proxy.apply(proxy.compile(plan_of(*mixed)), full=True)
    assert [(each.key, "from before" in each.why) for each in report.quarantined] == [(good[0].key, False)]
    assert held(kernel) == rendered(proxy.compile(plan_of(*good[1:])))


# --- a kernel that is unwell accuses nobody -------------------------------------------------------------------


@pytest.mark.parametrize("config", [PODS, TREES])
async def test_while_the_kernel_refuses_everything_the_round_fails_and_nobody_is_quarantined(config: Config) -> None:
    kernel = Ailing()
    proxy = backend(kernel, config)
    rules = proxy.compile(plan_of(*services(20)))
    await proxy.apply(rules)
    kernel.flush()
    kernel.ails = lambda _text: True
    with pytest.raises(RestoreRefused, match="allocate memory"):
        await proxy.apply(rules, full=True)
    assert proxy.applied is None
    kernel.ails = lambda _text: False
    report = await proxy.apply(rules)
    assert not report.quarantined
    assert held(kernel) == rendered(rules)


async def test_a_module_that_comes_late_serves_everybody_at_the_next_full_round() -> None:
    kernel = Ailing()
    proxy = backend(kernel)
    plain = services(4)
    changed = [replace(plan, affinity_seconds=60) for plan in plain[:2]]
    await proxy.apply(proxy.compile(plan_of(*plain)))
    kernel.ails = lambda text: "-m recent" in text
    rules = proxy.compile(plan_of(*changed, simple(9, targets(1)), *plain[2:]), proxy.applied)
    assert len((await proxy.apply(rules)).quarantined) == 2
    assert str(plain[0].key) in bearing(kernel)
    kernel.ails = lambda _text: False
    assert len((await proxy.apply(rules)).quarantined) == 2
    assert not (await proxy.apply(rules, full=True)).quarantined
    assert held(kernel) == rendered(rules)


# --- a table that cannot be read ------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [PODS, TREES])
@pytest.mark.parametrize("table", ["filter", "nat"])
async def test_a_table_that_cannot_be_read_is_programmed_all_the_same(config: Config, table: str) -> None:
    kernel = FakeIptables()
    kernel.unreadable.add(table)
    firewall = b"*filter\n:KUBE-FIREWALL - [0:0]\n-A KUBE-FIREWALL -j RETURN\nCOMMIT\n"
    await kernel.restore(firewall)
    proxy = backend(kernel, config)
    rules = proxy.compile(plan_of(*services(20)))
    for _ in range(3):
        report = await proxy.apply(rules, full=True)
        assert [each.table for each in report.unread] == [table]
        assert held(kernel) == rendered(rules)
    for entry in rules.entries:
        assert sum(names.FIREWALL in rule for rule in kernel.tables["filter"]["INPUT"]) == 1
        assert kernel.tables[entry.table][entry.hook].count(render_rule("", entry.rule)[4:]) == 1
    assert kernel.tables["filter"]["KUBE-FIREWALL"][-1] == "-j RETURN"
    fewer = proxy.compile(plan_of(*services(5)), rules)
    await proxy.apply(fewer)
    assert held(kernel) == rendered(fewer)
    kernel.unreadable.clear()
    assert (await proxy.apply(fewer, full=True)).unread == ()
    assert (await proxy.apply(fewer, full=True)).transactions == 0


async def test_the_way_into_an_unreadable_table_is_looked_at_rule_by_rule() -> None:
    kernel = FakeIptables()
    kernel.unreadable.add("filter")
    proxy = backend(kernel)
    await proxy.apply(proxy.compile(plan_of(*services(2))))
    assert await proxy.is_entered("filter")
    await kernel.restore(b"*filter\n-F INPUT\nCOMMIT\n")
    assert not await proxy.is_entered("filter")


async def test_where_nothing_can_be_read_offenders_are_still_found() -> None:
    kernel = FakeIptables()
    kernel.unreadable.update(Table)
    proxy = backend(kernel)
    good = services(8)
    report = await proxy.apply(proxy.compile(plan_of(*good[1:], poisoned(good[0]))))
    assert [each.key for each in report.quarantined] == [good[0].key]
    assert held(kernel) == rendered(proxy.compile(plan_of(*good[1:])))


async def test_a_foreign_comment_with_a_carriage_return_is_one_line() -> None:
    kernel = FakeIptables()
    proxy = backend(kernel)
    rules = proxy.compile(plan_of(*services(3)))
    await proxy.apply(rules)
    odd = b'-A INPUT -m comment --comment "one\r-A KUBE-SERVICES -j RETURN\rthree" -j ACCEPT'
    await kernel.restore(b"*filter\n" + odd + b"\nCOMMIT\n")
    assert (await proxy.apply(rules, full=True)).transactions == 0


# --- what nobody wants any more -------------------------------------------------------------------------------


async def test_datagrams_that_the_tables_still_dispatch_and_nobody_wants_are_reported_once() -> None:
    kernel = FakeIptables()
    first, second = backend(kernel, TREES), backend(kernel)
    plans = [replace(plan, key=plan.key._replace(protocol=Protocol.UDP)) for plan in services(20)]
    await first.apply(first.compile(plan_of(*plans)))
    rules = second.compile(plan_of(*plans[2:]))
    kernel.fail_next(XtablesLocked("held by a test"))
    report = await second.apply(rules)
    gone = [Destination(Protocol.UDP, each.ip, each.port) for plan in plans[:2] for each in plan.frontends]
    assert report.orphans == tuple(sorted(gone))
    assert (await second.apply(rules, full=True)).orphans == ()


async def test_a_chain_that_somebody_else_refers_to_stays_and_blocks_nothing() -> None:
    kernel = FakeIptables()
    proxy = backend(kernel)
    keep, drop = services(2)
    await proxy.apply(proxy.compile(plan_of(keep, drop)))
    chain = f"KUBE-SVC-{names.service_hash(drop.key)}"
    await kernel.restore(f"*nat\n:MINE - [0:0]\n-A MINE -j {chain}\nCOMMIT\n".encode())
    wanted = proxy.compile(plan_of(keep, simple(8, targets(1))), proxy.applied)
    report = await proxy.apply(wanted)
    assert not report.quarantined
    assert rendered(wanted) <= held(kernel)
    assert chain in kernel.tables["nat"]


async def test_a_refusal_that_no_service_is_to_blame_for_is_raised() -> None:
    kernel = FakeIptables(capabilities=Capabilities(random_fully=False))
    proxy = backend(kernel)
    with pytest.raises(RestoreRefused):
        await proxy.apply(proxy.compile(plan_of(*services(3))))
    assert proxy.applied is None


async def test_what_the_node_cannot_do_is_reported() -> None:
    kernel = FakeIptables(capabilities=Capabilities(recent=False, nfacct=False))
    proxy = IptablesBackend(PODS, kernel, await kernel.probe())
    sticky = simple(1, targets(2), affinity_seconds=60)
    report = await proxy.apply(proxy.compile(plan_of(sticky)))
    assert [each.key for each in report.quarantined] == [sticky.key]
    assert str(sticky.key) in bearing(kernel)


@pytest.mark.parametrize("seed", range(6))
async def test_under_faults_the_tables_converge(seed: int) -> None:
    random = Random(seed)
    kernel = FakeIptables()
    proxy = IptablesBackend(TREES, Faulty(kernel, 4, random), Capabilities(nfacct=False))
    rules: Ruleset | None = None
    for _ in range(12):
        rules = proxy.compile(plan_of(*random.sample(services(30, random.randrange(6)), 25)), rules)
        try:
            await proxy.apply(rules)
        except XtablesLocked:
            continue
        assert held(kernel) == rendered(rules)


def test_a_service_ports_key_is_what_the_examples_think_it_is() -> None:
    assert simple(1, ()).frontends[0].kind is FrontendKind.CLUSTER_IP
    assert isinstance(simple(1, ()).key, ServicePortKey)


async def test_a_look_at_the_built_in_chains_tells_whether_packets_still_find_us() -> None:
    kernel = FakeIptables()
    proxy = backend(kernel)
    assert not await proxy.is_entered("nat")  # nothing was applied yet
    await proxy.apply(proxy.compile(plan_of(*services(2))))
    assert await proxy.is_entered("nat")
    assert await proxy.is_entered("filter")
    await kernel.restore(b"*nat\n-F PREROUTING\nCOMMIT\n")
    assert not await proxy.is_entered("nat")
    assert await proxy.is_entered("filter")
    kernel.fail_next(XtablesLocked("busy"))
    kernel.flush()
    assert not await proxy.is_entered("filter")
