"""Finding the service ports that the kernel refuses. What the backend then does is in test_apply.py."""

from __future__ import annotations

import itertools

import pytest
from msgspec.structs import replace

from kproxy.backend.iptables import names
from kproxy.backend.iptables.compile import compile_plan
from kproxy.backend.iptables.diff import read_save, repair
from kproxy.backend.iptables.rules import Table
from kproxy.backend.iptables.stages import Written
from kproxy.backend.iptables.trial import Trial
from kproxy.errors import RestoreRefused
from kproxy.kernel.fake import FakeIptables
from kproxy.model.keys import ServicePortKey
from kproxy.plan.plan import Target
from tests.unit.backend.iptables.examples import PLAIN, PODS, Ailing, plan_of, simple, targets


async def offenders(
    kernel: FakeIptables, bad: set[int], count: int = 40, chunk: int = 16
) -> tuple[dict[ServicePortKey, str], int]:
    """Those found among service ports 0 to ``count``, and the number of restores."""
    services = [
        replace(plan, cluster=(Target("10.0.0.1", 70000, local=False),)) if number in bad else plan
        for number, plan in enumerate(simple(n, targets(2)) for n in range(count))
    ]
    rules = compile_plan(plan_of(*services), PODS, PLAIN)
    written = Written()
    trial = Trial(kernel, chunk, rules, repair(read_save(()), rules), written)
    await trial.run([plan.key for plan in services])
    return trial.offenders, written.transactions


async def test_nobody_is_found_where_nobody_is_to_blame() -> None:
    assert (await offenders(FakeIptables(), set()))[0] == {}


async def test_all_offenders_are_found_with_the_programs_words() -> None:
    found, _ = await offenders(FakeIptables(), {3, 4, 39})
    assert {key.name for key in found} == {"s00003", "s00004", "s00039"}
    assert all("70000" in why for why in found.values())


async def test_one_offender_costs_few_trials() -> None:
    _, transactions = await offenders(FakeIptables(), {7}, count=64, chunk=64)
    assert transactions <= 2 * 6 + 2 + 2  # and two controls


async def test_where_the_plainest_rule_is_refused_no_suspect_is_tried() -> None:
    kernel = Ailing()
    kernel.ails = lambda text: names.TRIAL in text
    with pytest.raises(RestoreRefused, match="allocate memory"):
        await offenders(kernel, set())
    assert not any("KUBE-SEP-" in text for text in kernel.restored)


async def test_a_kernel_that_falls_ill_between_the_trials_makes_nobody_an_offender() -> None:
    kernel = Ailing()
    restores = itertools.count(
        1
    )  # what every node has, the control, both suspects, the first of them, the control again
    kernel.ails = lambda _text: next(restores) in {3, 4, 5}
    with pytest.raises(RestoreRefused, match="allocate memory"):
        await offenders(kernel, set(), count=2)


async def test_nothing_that_is_live_is_touched() -> None:
    kernel = FakeIptables()
    await offenders(kernel, {1})
    assert names.SERVICES not in kernel.tables["nat"]
    assert not any(kernel.tables["nat"][hook] for hook in ("PREROUTING", "OUTPUT"))


async def test_dispatch_rules_were_tried_where_nothing_leads() -> None:
    kernel = FakeIptables()
    await offenders(kernel, set(), count=3)
    assert len(kernel.tables["nat"][names.TRIAL]) == 3
    assert names.is_perishable(Table.NAT, names.TRIAL)
