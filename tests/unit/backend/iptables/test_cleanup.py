"""Cleanup takes what is ours and leaves what is not."""

from __future__ import annotations

from pathlib import Path

import pytest

from kproxy.backend.iptables.apply import IptablesBackend
from kproxy.backend.iptables.cleanup import cleanup
from kproxy.kernel.doors import Capabilities
from kproxy.kernel.fake import FakeIptables
from tests.unit.backend.iptables.examples import PODS, plan_of, simple, targets

RECORDED = Path(__file__).parent / "recorded"
COUNTERS = {"ct_state_invalid_dropped_pkts", "localhost_nps_accepted_pkts"}


async def proxied() -> FakeIptables:
    kernel = FakeIptables()
    backend = IptablesBackend(PODS, kernel, Capabilities(nfacct=False))
    services = [simple(n, targets(n % 3), node_port=30000 + n) for n in range(300)]
    await backend.apply(backend.compile(plan_of(*services)))
    return kernel


async def test_only_what_is_shared_with_the_kubelet_is_left() -> None:
    kernel = await proxied()
    cleaned = await cleanup(kernel)
    assert cleaned.chains > 0
    assert cleaned.rules == 12
    left = {(table, name): rules for table, chains in kernel.tables.items() for name, rules in chains.items()}
    assert {name for _, name in left if name.startswith("KUBE")} == {"KUBE-FIREWALL"}
    assert {key: rules for key, rules in left.items() if rules and key[1] != "KUBE-FIREWALL"} == {
        ("filter", "INPUT"): ("-j KUBE-FIREWALL",),
        ("filter", "OUTPUT"): ("-j KUBE-FIREWALL",),
    }


async def test_a_second_cleanup_has_nothing_to_do() -> None:
    kernel = await proxied()
    await cleanup(kernel)
    before = len(kernel.restored)
    assert (await cleanup(kernel)).chains == 0
    assert len(kernel.restored) == before


async def test_rules_and_chains_of_others_stay() -> None:
    kernel = await proxied()
    mine = "*nat\n:KUBE-HOSTPORTS - [0:0]\n:MINE - [0:0]\n-A PREROUTING -j MINE\n-A MINE -j KUBE-MARK-MASQ\nCOMMIT\n"
    await kernel.restore(mine.encode())
    cleaned = await cleanup(kernel)
    assert cleaned.kept == ("KUBE-MARK-MASQ",)
    assert kernel.tables["nat"]["PREROUTING"] == ("-j MINE",)
    assert kernel.tables["nat"]["MINE"] == ("-j KUBE-MARK-MASQ",)
    assert kernel.tables["nat"]["KUBE-MARK-MASQ"] == ()
    assert "KUBE-HOSTPORTS" in kernel.tables["nat"]


@pytest.mark.parametrize("name", ["lb-source-ranges", "etp-local-with-endpoints", "sctp-clusterip"])
async def test_what_kube_proxy_left_is_taken_too(name: str) -> None:
    kernel = FakeIptables(counters=set(COUNTERS))
    for table in ("nat", "filter"):
        await kernel.restore((RECORDED / f"{name}.iptables-{table}.txt").read_bytes())
    await cleanup(kernel)
    left = {chain for chains in kernel.tables.values() for chain in chains if chain.startswith("KUBE")}
    assert left == {"KUBE-FIREWALL"}
