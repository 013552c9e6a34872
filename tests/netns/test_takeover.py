"""kube-proxy, then kproxy, then kube-proxy again on one node, while connections go on.

kube-proxy is played by `kube_proxy.KubeProxy`: once with the rules of the recorded scenario, once with a layout of 240
services, above which ours becomes trees. Single packets' ways are compared by the conformance suite; what else than
iptables rules of this variant may be left on a node is test_leftovers.py's.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.conformance.runner import DATA
from tests.conformance.world import NAMES
from tests.netns.handover import DEADLINE, TO, TO_SERVED, TRANSFER_PORT, Node, Traffic, handed_over, sending
from tests.netns.kube_proxy import Flat, Served, read_records

pytestmark = [pytest.mark.root, pytest.mark.slow]

Json = dict[str, Any]
BRANCH = re.compile(r"KUBE-(?:SVC|REJ)-(?:[0-9.]+/|TCP-)")  # a chain of a tree, in either table
STALE = Served("default/gone", "10.96.200.1", 80, ["10.244.9.9:8080"])  # deleted while kube-proxy was down

OLD = "KUBE-XLB-AAAAAAAAAAAAAAAA"  # as kube-proxy made them before 1.24, and left them; it holds on to other chains


@pytest.fixture(params=["nft", "legacy"])
async def node(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Node]:
    async with handed_over(request.param, tmp_path) as made:
        yield made


# --- kube-proxy's rules, and the cluster that they are for ----------------------------------------------------


async def prepare_recorded(node: Node) -> None:
    """What kube-proxy wrote in the recorded run; its sentinel is a Service that is gone here."""
    node.cluster.write(TO)
    for program in ("iptables", "ip6tables"):
        node.flats[program] = Flat.from_record(read_records(DATA / "records", "takeover-and-back", program))
        await node.kube_proxy.first_sync(node.flats[program], program)


async def prepare_crowd(node: Node) -> None:
    """120 services with endpoints and 120 without, one that transfers, one with affinity, and one that is gone."""
    pods = [NAMES[name][4] for name in ("p1a", "p2a")]
    served = [
        TO_SERVED,
        Served("default/bulk", "10.96.5.10", 80, [f"{pods[1]}:{TRANSFER_PORT}"]),
        Served("default/sticky", "10.96.5.11", 80, [f"{ip}:8080" for ip in pods], affinity=True),
    ]
    affinity = {"sessionAffinity": "ClientIP"}
    shorts: list[Json] = [
        {**TO, "ports": ["t:tcp/80->8080@30509"]},
        {"name": "bulk", "ip": "10.96.5.10", "ports": [f"tcp/80->{TRANSFER_PORT}"], "eps": ["p2a"]},
        {"name": "sticky", "ip": "10.96.5.11", "ports": ["tcp/80->8080"], "eps": ["p1a", "p2a"], "spec": affinity},
    ]
    for number in range(120):
        for kind, ip, eps in (("some", f"10.96.64.{number}", ["p1a", "p2a"]), ("none", f"10.96.65.{number}", [])):
            name = f"{kind}-{number}"
            shorts.append({"name": name, "ip": ip, "ports": ["tcp/80->8080"], "eps": eps})
            served.append(Served(f"default/{name}", ip, 80, [f"{NAMES[pod][4]}:8080" for pod in eps]))
    for short in shorts:
        node.cluster.write(short)
    api = Served("default/kubernetes:https", "10.96.0.1", 443, [f"{NAMES['cp'][4]}:6443"])
    node.flats["iptables"] = Flat.of([api, *served], "10.244.0.0/16")
    older = Flat.of([api, *served, STALE], "10.244.0.0/16")
    older.tables["nat"][OLD] = [f"-A {OLD} -j {STALE.endpoint_chain(STALE.endpoints[0])}"]
    await node.kube_proxy.first_sync(older)


# --- tests ----------------------------------------------------------------------------------------------------


async def test_recorded_rules_are_adopted_in_one_transaction_and_handed_back(node: Node) -> None:
    await prepare_recorded(node)
    before = {program: await node.kube_proxy.chains("nat", program) for program in node.flats}
    async with Traffic(node) as traffic:
        await traffic.flows_on()
        await node.start_kproxy()
        for program in node.flats:
            assert len(node.restores(program)) == 1
            after = await node.kube_proxy.chains("nat", program)
            assert {chain[:9] for chain in before[program] - after} == {"KUBE-SVC-", "KUBE-SEP-"}
            assert after < before[program]
            assert "hx-sentinel" not in await node.saved(program)
        await traffic.flows_on()
        await node.return_to_kube_proxy()
        assert {program: await node.kube_proxy.chains("nat", program) for program in node.flats} == before
        await traffic.flows_on()


async def test_a_crowd_becomes_trees_in_one_transaction_and_no_tree_stays_in_nat(node: Node) -> None:
    await prepare_crowd(node)
    before = await node.kube_proxy.chains("nat")
    async with sending(node.world.hosts["p2a"]), Traffic(node) as traffic:
        await traffic.transfer("p1b", "10.96.5.10")
        assert (await node.prober.ask({"from": "p1b", "to": "sticky:80"})).outcome == "ok"
        remembered = await _clients(node)
        await node.start_kproxy()
        (text,) = node.restores("iptables")
        assert STALE.endpoint_chain(STALE.endpoints[0]) in before
        assert "default/gone" not in await node.saved()
        assert f"-X KUBE-SVC-{STALE.chain_hash}\n" in text
        assert f"-X {OLD}\n" in text
        assert "-j KUBE-SEP-" not in text  # what is right already is not written again
        assert await _branches(node, "nat")
        assert await _branches(node, "filter")
        assert await _clients(node) == remembered
        await traffic.flows_on()

        await node.return_to_kube_proxy()
        assert await node.kube_proxy.chains("nat") == set(node.flats["iptables"].tables["nat"]) | {"KUBE-PROXY-CANARY"}
        left = await _branches(node, "filter")
        assert left  # kube-proxy deletes nothing there; but nothing leads to them any more
        rules = [line.split() for line in (await node.saved()).splitlines() if line.startswith("-A ")]
        assert {rule[1] for rule in rules if rule[-1] in left} <= left
        await traffic.flows_on()

        (await node.kproxy.clean_up()).check()
        mine = [line for line in (await node.saved()).splitlines() if "KUBE-" in line and "KUBE-FIREWALL" not in line]
        assert mine == []


async def _branches(node: Node, table: str) -> set[str]:
    return {chain for chain in await node.kube_proxy.chains(table) if BRANCH.match(chain)}


async def _clients(node: Node) -> str:
    """Whom the affinity of each endpoint remembers, without the times."""
    said = (await node.kproxy.shell("cd /proc/net/xt_recent && grep -o 'src=[^ ]*' KUBE-SEP-*")).stdout
    assert "src=" in said
    return said


async def test_beside_a_kube_proxy_that_goes_on_nothing_is_dropped_and_no_storm_begins(node: Node) -> None:
    await prepare_crowd(node)
    async with Traffic(node) as traffic:
        await node.start_kproxy()
        rounds = 0
        while not node.said("Another proxy writes the same chains"):
            assert rounds < 5
            rounds += 1
            repaired = node.said("repaired")
            await node.kube_proxy.sync(node.flats["iptables"])
            await node.until(lambda repaired=repaired: node.said("repaired") > repaired)  # type: ignore[misc]
        written = len(node.restores("iptables"))
        for _ in range(5):
            await node.kube_proxy.sync(node.flats["iptables"])
        assert len(node.restores("iptables")) <= written + 2
        await traffic.flows_on()
        await node.until(lambda: len(node.restores("iptables")) > written)  # it waits, but it does not give in
    assert node.said("comparing later") > 0
    looked = node.said("comparing ours")
    (await node.kproxy.shell("iptables -t nat -F")).check()  # no rival's doing, so healing does not wait
    await node.until(lambda: node.said("comparing ours") > looked)
    async with asyncio.timeout(DEADLINE):
        while not await _branches(node, "nat") or "-A PREROUTING" not in await node.saved():
            assert node.kproxy.is_running
