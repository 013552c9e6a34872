"""The iptables backend against the real programs and kernel: both variants, both families.

That iptables-save prints what we render is asked by a fresh backend, which compares every chain by its digest and must
find nothing to write. Where packets go is in the end-to-end tests; failures on purpose are in tests/unit.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from msgspec.structs import replace

from kproxy.backend.iptables import names
from kproxy.backend.iptables.apply import IptablesBackend
from kproxy.backend.iptables.cleanup import cleanup
from kproxy.backend.iptables.rules import Table
from kproxy.config import Config, IptablesVariant
from kproxy.errors import RestoreRefused
from kproxy.kernel.iptables import Iptables
from kproxy.kernel.nfacct import Nfacct
from kproxy.model.enums import IPFamily, Protocol
from kproxy.model.keys import ServicePortKey
from kproxy.plan.masquerade import external, internal
from kproxy.plan.plan import FromCIDR, Frontend, FrontendKind, NodePorts, Plan, Reject, ServicePlan, Target
from tests.netns.conftest import Namespace

pytestmark = pytest.mark.root

NFT, LEGACY = IptablesVariant.NFT, IptablesVariant.LEGACY
COUNTERS = ("ct_state_invalid_dropped_pkts", "localhost_nps_accepted_pkts")
RECORDED = Path(__file__).parents[1] / "unit/backend/iptables/recorded"
PODS = Config(cluster_cidr=("10.244.0.0/16", "fd00:10:244::/56"))
TREES = replace(PODS, tree_threshold=8, endpoint_tree_threshold=4, large_cluster_endpoints=20, restore_chunk=25)
PREFIX = {IPFamily.IPV4: "10.96.", IPFamily.IPV6: "fd00:10:96::"}
OUTSIDE = {IPFamily.IPV4: "203.0.113.", IPFamily.IPV6: "fd00:113::"}
POD = {IPFamily.IPV4: "10.244.1.", IPFamily.IPV6: "fd00:10:244:1::"}
RANGE = {IPFamily.IPV4: "192.0.2.0/24", IPFamily.IPV6: "fd00:2::/64"}


@pytest.fixture(params=[NFT, LEGACY], ids=lambda variant: variant.value)
def variant(request: pytest.FixtureRequest) -> IptablesVariant:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(params=list(IPFamily), ids=lambda family: family.value)
def door(request: pytest.FixtureRequest, variant: IptablesVariant, inside: Namespace) -> Iptables:
    assert inside
    for counter in COUNTERS:
        Nfacct().ensure(counter)
    return Iptables(request.param, variant, wait=5, deadline=20, restore=60)


async def backend(door: Iptables, config: Config = PODS) -> IptablesBackend:
    return IptablesBackend(config, door, await door.probe(), counters=COUNTERS)


def service(number: int, family: IPFamily, endpoints: int) -> ServicePlan:
    """A service port that has a bit of everything."""
    key = ServicePortKey("default", f"s{number:04}", "p" * (number % 2), list(Protocol)[number % 3])
    local = number % 4 == 1
    low = f"{number + 1:x}" if family is IPFamily.IPV6 else f"{number // 200}.{number % 200 + 1}"
    out = external(local=local, served_here=number % 8 == 1, detected=True) if endpoints else Reject()
    within = internal(local=False, masquerade_all=False, detected=True) if endpoints else Reject()
    ranges = (RANGE[family],) if number % 5 == 0 else ()
    vip = f"{OUTSIDE[family]}{number % 250 + 1}"
    targets = tuple(Target(f"{POD[family]}{n + 1}", 8080, local=n == 0, remote=n > 1) for n in range(endpoints))
    return ServicePlan(
        key,
        (
            Frontend(FrontendKind.CLUSTER_IP, PREFIX[family] + low, 80 + number, within),
            Frontend(FrontendKind.LOAD_BALANCER_VIP, vip, 80 + number, out, ranges),
            Frontend(FrontendKind.NODE_PORT, "", 30000 + number, out),
        ),
        cluster=tuple(sorted(targets, key=str)),
        local=targets[:1] if local and number % 8 == 1 else (),
        affinity_seconds=10800 if number % 7 == 0 else 0,
        endpoints_total=endpoints,
        health_check_port=20000 + number if local else 0,
    )


def plan_of(family: IPFamily, services: Sequence[ServicePlan]) -> Plan:
    return Plan(
        family=family,
        services={each.key: each for each in sorted(services, key=lambda each: each.key)},
        node_ports=NodePorts(localhost=family is IPFamily.IPV4),
        detector=FromCIDR("10.244.0.0/16" if family is IPFamily.IPV4 else "fd00:10:244::/56"),
    )


def some(family: IPFamily, count: int, more: int = 0) -> Plan:
    return plan_of(family, [service(number, family, (number + more) % 7) for number in range(count)])


async def perishable(door: Iptables) -> set[str]:
    return {name for table in Table for name in await door.chains(table.value) if names.is_perishable(table, name)}


@pytest.mark.parametrize("config", [PODS, TREES], ids=["flat", "tree"])
async def test_what_was_applied_is_found_again_word_for_word(door: Iptables, config: Config) -> None:
    proxy = await backend(door, config)
    plan = some(door.family, 40)
    report = await proxy.apply(proxy.compile(plan))
    assert not report.quarantined
    assert report.refused == 0
    fresh = await backend(door, config)
    again = await fresh.apply(fresh.compile(plan))
    assert again.full
    assert (again.transactions, again.chains_written, again.chains_deleted) == (0, 0, 0)


@pytest.mark.parametrize("config", [PODS, TREES], ids=["flat", "tree"])
async def test_after_changes_the_kernel_holds_what_a_fresh_start_would_write(door: Iptables, config: Config) -> None:
    proxy = await backend(door, config)
    rules = proxy.compile(some(door.family, 40))
    await proxy.apply(rules)
    for count, more in ((40, 1), (12, 1), (45, 3)):
        rules = proxy.compile(some(door.family, count, more), rules)
        report = await proxy.apply(rules)
        assert (report.full, report.refused) == (False, 0)
    fresh = await backend(door, config)
    assert (await fresh.apply(fresh.compile(some(door.family, 45, 3)))).transactions == 0


async def test_when_the_last_service_goes_no_chain_of_services_stays(door: Iptables) -> None:
    proxy = await backend(door, TREES)
    await proxy.apply(proxy.compile(some(door.family, 30)))
    assert await perishable(door)
    await proxy.apply(proxy.compile(some(door.family, 0), proxy.applied))
    assert await perishable(door) == set()


async def test_healing_puts_back_what_somebody_removed(door: Iptables, inside: Namespace) -> None:
    proxy = await backend(door)
    rules = proxy.compile(some(door.family, 6))
    await proxy.apply(rules)
    program = ("iptables" if door.family is IPFamily.IPV4 else "ip6tables") + f"-{door.variant.value}"
    for table in Table:
        inside.run((program, "-t", table.value, "-F"))
        inside.run((program, "-t", table.value, "-X"))
    assert (await proxy.apply(rules, full=True)).chains_written > 0
    assert (await proxy.apply(rules, full=True)).transactions == 0


async def test_a_service_that_the_kernel_refuses_is_named_and_all_others_are_served(door: Iptables) -> None:
    proxy = await backend(door)
    good = [service(number, door.family, 2) for number in range(10)]
    bad = replace(good[4], cluster=(*good[4].cluster, Target("256.0.0.1", 8080, local=False)))
    mixed = plan_of(door.family, [*good[:4], bad, *good[5:]])
    report = await proxy.apply(proxy.compile(mixed))
    assert [each.key for each in report.quarantined] == [bad.key]
    assert "restore" in report.quarantined[0].why
    others = {f"KUBE-SVC-{names.service_hash(each.key)}" for each in good if each is not good[4]}
    assert others <= await perishable(door)
    assert f"KUBE-SVC-{names.service_hash(bad.key)}" not in await perishable(door)
    healed = await proxy.apply(proxy.compile(plan_of(door.family, good), proxy.applied))
    assert not healed.quarantined


# --- when the machine is not as it should be ------------------------------------------------------------------


@contextmanager
def refusing(door: Iptables, folder: Path, pattern: str) -> Iterator[None]:
    """Until the block ends, restores whose text matches fail as they do for want of memory."""
    program = folder / f"{door.restore_name}"
    real = shutil.which(door.restore_name, path=os.environ["PATH"] + ":/usr/sbin:/sbin")
    program.write_text(
        f"#!/bin/sh\ntext=$(mktemp) && cat >$text\n"
        f"if grep -qe '{pattern}' $text; then rm $text; echo 'Cannot allocate memory' >&2; exit 4; fi\n"
        f'{real} "$@" <$text; status=$?; rm $text; exit $status\n',
        encoding="utf-8",
    )
    program.chmod(0o755)
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PATH", str(folder), prepend=os.pathsep)
        yield


async def test_a_kernel_without_memory_for_a_while_accuses_nobody(
    door: Iptables, inside: Namespace, tmp_path: Path
) -> None:
    proxy = await backend(door)
    rules = proxy.compile(some(door.family, 10))
    await proxy.apply(rules)
    program = door.restore_name.removesuffix("-restore")
    for table in Table:
        inside.run((program, "-t", table.value, "-F"))
    with refusing(door, tmp_path, "COMMIT"), pytest.raises(RestoreRefused, match="allocate memory"):
        await proxy.apply(rules, full=True)
    assert not (await proxy.apply(rules)).quarantined
    assert (await proxy.apply(rules, full=True)).transactions == 0


async def test_a_service_whose_change_is_refused_goes_on_with_its_rules_from_before(
    door: Iptables, tmp_path: Path
) -> None:
    proxy = await backend(door)
    plans = [service(number, door.family, 2) for number in range(8)]
    before = proxy.compile(plan_of(door.family, plans))
    await proxy.apply(before)
    changed = [replace(plans[1], affinity_seconds=60), *plans[:1], *plans[2:], service(9, door.family, 2)]
    rules = proxy.compile(plan_of(door.family, changed), before)
    with refusing(door, tmp_path, "--seconds 60 "):
        (offender,) = (await proxy.apply(rules)).quarantined
    assert offender.key == plans[1].key
    assert offender.why.endswith("its rules from before stay")
    fresh = await backend(door)
    kept = fresh.compile(plan_of(door.family, [*plans, changed[-1]]))
    assert (await fresh.apply(kept)).transactions == 0
    assert not (await proxy.apply(rules, full=True)).quarantined
    assert (await fresh.apply(fresh.compile(plan_of(door.family, changed)), full=True)).transactions == 0


@pytest.mark.parametrize("where", ["add", "insert"])
async def test_a_rule_that_iptables_cannot_print_leaves_no_family_unprogrammed(inside: Namespace, where: str) -> None:
    door = Iptables(IPFamily.IPV4, NFT, wait=5, deadline=20, restore=60)
    for counter in COUNTERS:
        Nfacct().ensure(counter)
    await door.restore(b"*filter\n:KUBE-FIREWALL - [0:0]\n-A KUBE-FIREWALL -j RETURN\n-A INPUT -j RETURN\nCOMMIT\n")
    proxy = await backend(door, TREES)
    rules = proxy.compile(some(door.family, 20))
    foreign = ("rule", "ip", "filter", "INPUT", "meta", "time", "5", "accept")
    inside.run(("nft", where, *foreign))
    for _ in range(3):
        assert [each.table for each in (await proxy.apply(rules, full=True)).unread] == ["filter"]
        await proxy.apply(proxy.compile(some(door.family, 15), rules))
    await proxy.apply(rules)
    lines = inside.run(("nft", "-a", "list", "chain", "ip", "filter", "INPUT")).stdout.splitlines()
    assert sum("jump KUBE-FIREWALL" in line for line in lines) == 1
    assert sum("jump KUBE-NODEPORTS" in line for line in lines) == 1
    (handle,) = (
        line.rpartition(" ")[2] for line in lines if "jump" not in line and "accept" in line and "meta" in line
    )
    inside.run(("nft", "delete", "rule", "ip", "filter", "INPUT", "handle", handle))
    kubelets = (await door.rules("filter", [names.FIREWALL]))[names.FIREWALL]
    assert (len(kubelets), kubelets[-1]) == (2, "-A KUBE-FIREWALL -j RETURN")
    assert (await proxy.apply(rules, full=True)).unread == ()
    assert (await proxy.apply(rules, full=True)).transactions == 0


async def test_datagrams_that_nobody_wants_any_more_are_found_in_the_rules(door: Iptables) -> None:
    first = await backend(door, TREES)
    await first.apply(first.compile(some(door.family, 30)))
    second = await backend(door)
    left = [plan for plan in some(door.family, 30).services.values() if plan.key.name != "s0001"]
    report = await second.apply(second.compile(plan_of(door.family, left)))
    gone = service(1, door.family, 1)
    assert gone.key.protocol is Protocol.UDP
    assert {(at.protocol, at.ip, at.port) for at in report.orphans} == {
        (Protocol.UDP, frontend.ip, frontend.port) for frontend in gone.frontends
    }


async def test_cleanup_leaves_nothing_but_what_is_shared_with_the_kubelet(door: Iptables) -> None:
    proxy = await backend(door, TREES)
    await proxy.apply(proxy.compile(some(door.family, 30)))
    await cleanup(door)
    left = {name for table in Table for name in await door.chains(table.value) if name.startswith("KUBE")}
    assert left == {"KUBE-FIREWALL"}


async def test_addresses_chosen_to_make_jumps_deep_are_taken(door: Iptables) -> None:
    proxy = await backend(door, replace(TREES, tree_threshold=1))
    bits = door.family.bits
    bases = {bits - 1 - level: level for level in range(bits - 4)}
    to = internal(local=False, masquerade_all=False, detected=True)

    def evil(bit: int, extra: int) -> ServicePlan:
        number = 1 << bit | extra
        ip = (
            ".".join(str(byte) for byte in number.to_bytes(4, "big"))
            if bits == 32
            else ":".join(f"{number >> shift & 0xFFFF:x}" for shift in range(112, -1, -16))
        )
        key = ServicePortKey("evil", f"s{bit}-{extra}", "", Protocol.TCP)
        frontend = Frontend(FrontendKind.EXTERNAL_IP, ip, 80, to)
        return ServicePlan(key, (frontend,), cluster=(Target(f"{POD[door.family]}9", 80, local=True),))

    services = [evil(bit, extra) for bit in bases for extra in range(5) if bit > 3]
    report = await proxy.apply(proxy.compile(plan_of(door.family, services)))
    assert not report.quarantined
    assert report.refused == 0


# --- coming from kube-proxy, and going back -------------------------------------------------------------------

RECORD = "etp-local-with-endpoints"
STALE = ("KUBE-SVC-", "KUBE-SVL-", "KUBE-FW-", "KUBE-EXT-", "KUBE-SEP-")


async def kube_proxy_syncs(door: Iptables) -> None:
    """Its first sync: its own chains anew, and every chain deleted that it does not know (spec: iptables.md 11)."""
    for table in ("filter", "nat"):
        lines = (RECORDED / f"{RECORD}.iptables-{table}.txt").read_text(encoding="utf-8").splitlines()
        mine = [line for line in lines if line.startswith((":KUBE", "-A KUBE", "*"))]
        known = {line[1:].split()[0] for line in mine if line.startswith(":")}
        stale = sorted(name for name in await door.chains("nat") if name.startswith(STALE) and name not in known)
        unknown = stale if table == "nat" else []
        flushed = [f":{name} - [0:0]" for name in unknown]
        head, rest = mine[0], mine[1:]
        declared = [line for line in rest if line.startswith(":")]
        rules = [line for line in rest if line.startswith("-A")]
        text = [head, *declared, *flushed, *rules, *(f"-X {name}" for name in unknown), "COMMIT", ""]
        await door.restore("\n".join(text).encode())


@pytest.mark.parametrize("door", [IPFamily.IPV4], indirect=True, ids=["IPv4"])
@pytest.mark.parametrize("config", [PODS, TREES], ids=["flat", "tree"])
async def test_kube_proxy_can_be_replaced_and_put_back(door: Iptables, config: Config) -> None:
    await kube_proxy_syncs(door)
    before = await perishable(door)
    proxy = await backend(door, config)
    plan = some(door.family, 30)
    report = await proxy.apply(proxy.compile(plan))
    assert report.refused == 0
    assert report.chains_deleted == len(before)
    await kube_proxy_syncs(door)
    assert {name for name in await door.chains("nat") if name.startswith(STALE)} == before
    assert (await proxy.apply(proxy.compile(plan), full=True)).refused == 0
