"""What a running daemon answers, and that it waits, warns or ends where it should.

Names, formats and arithmetic are tested beside their parts; here it is that they are wired.
"""

from __future__ import annotations

import asyncio
import fcntl
import re
from pathlib import Path

import aiohttp
import pytest

from kproxy.sandbox.apiserver import ApiServer
from tests.e2e.conftest import act, eventually, flags, get, kproxy, running, saved, service, slice_of
from tests.netns.conftest import Namespace

pytestmark = pytest.mark.root
METRICS, HEALTH = "http://127.0.0.1:10249", "http://127.0.0.1:10256"


async def metric(name: str) -> float:
    """The sum of its samples; -1: there is none."""
    found = re.findall(rf"^{name}(?:{{.*}})? (\S+)$", (await get(f"{METRICS}/metrics"))[1], re.MULTILINE)
    return sum(map(float, found)) if found else -1.0


async def test_pages_are_wired_to_what_happens(api: ApiServer, tmp_path: Path) -> None:
    api.create(service("web", "10.96.0.80", sessionAffinity="ClientIP"))
    api.create(slice_of("web", "10.244.0.7"))
    rounds = "kubeproxy_sync_proxy_rules_duration_seconds_count"
    seen = "kubeproxy_sync_proxy_rules_service_changes_total"
    async with running(tmp_path, *flags(tmp_path), "--profiling") as daemon:
        await daemon.ready()
        assert await metric("kproxy_affinity_clients_limit") > 0
        assert daemon.said("Session affinity remembers a limited number of clients") == 1
        assert await metric('rest_client_requests_total{code="200".*}') >= 4
        before, services = await metric(rounds), await metric(seen)
        api.patch("Service", "web", {"metadata": {"annotations": {"a": "b"}}})
        await eventually(lambda: _is(seen, services + 2), daemon)  # once for each family
        api.patch("EndpointSlice", "web-1", {"metadata": {"annotations": {"a": "b"}}})
        await eventually(lambda: _exceeds(rounds, before), daemon)  # the other family may end its first round only now
        status = (await get(f"{METRICS}/statusz"))[1]
        assert "\nIP families: IPv4, IPv6\nNode IPs: 192.0.2.1, none (IPv6)\n" in status
        assert "\nIptables variant: nft: " in status
        assert "\nKernel settings: " in status
        async with aiohttp.ClientSession() as session:
            await session.put(f"{METRICS}/debug/flags/v", data="4")
        api.patch("EndpointSlice", "web-1", {"metadata": {"annotations": {"a": "c"}}})
        await eventually(lambda: daemon.said("Nothing to write") > 0, daemon)
        profile = asyncio.create_task(get(f"{METRICS}/debug/pprof/profile?seconds=60"))
        await eventually(_is_profiled, daemon)
        assert await daemon.end() == 0  # and nobody waits for the profile
        await profile


async def _is_profiled() -> bool:
    return "in sample" in (await get(f"{METRICS}/debug/pprof/goroutine"))[1]


async def _is(name: str, value: float) -> bool:
    return await metric(name) == value


async def _exceeds(name: str, value: float) -> bool:
    return await metric(name) > value


async def test_pod_ranges_are_waited_for_and_followed(api: ApiServer, tmp_path: Path) -> None:
    api.create(service("web", "10.96.0.80"))
    api.create(slice_of("web", "10.244.0.7"))
    async with running(tmp_path, *flags(tmp_path), "--detect-local-mode=NodeCIDR", "--cluster-cidr=") as daemon:
        await eventually(lambda: daemon.said('"Answering"') == 2, daemon)
        assert (await get(f"{HEALTH}/livez"))[0] == 200
        api.patch("Node", "n1", {"spec": {"podCIDRs": ["10.99.1.0/24"]}})
        await daemon.ready()
        assert "! -s 10.99.1.0/24 -d 10.96.0.80/32" in saved("nft")
        api.patch("Node", "n1", {"spec": {"podCIDRs": ["10.99.2.0/24"]}})
        await eventually(lambda: "! -s 10.99.2.0/24 -d 10.96.0.80/32" in saved("nft"), daemon)
        assert "10.99.1.0/24" not in saved("nft")


async def test_a_node_without_ipv6_is_served_without_and_refuses_a_range_of_it_alone(
    api: ApiServer, tmp_path: Path
) -> None:
    act("sysctl", "-qw", "net.ipv6.conf.all.disable_ipv6=1")
    api.create(service("web", "10.96.0.80"))
    async with running(tmp_path, *flags(tmp_path)) as daemon:
        await daemon.ready()
        assert "KUBE-SERVICES" in saved("nft")
        assert "KUBE-" not in saved("nft", "ip6tables")
        assert (
            daemon.said('"How this node is seen" families="IPv4" primary="IPv4" nodeIPs="192.0.2.1, none (IPv6)"') == 1
        )
    code, _, err = await kproxy(
        "run", *flags(tmp_path), "--cluster-cidr=fd00::/48", "--conntrack-max-per-core=0", "--oom-score-adj=0"
    )
    assert code == 1
    assert "--cluster-cidr fd00::/48: this node serves IPv4 alone" in err


async def test_a_change_that_waits_too_long_is_unhealthy_until_it_is_in(
    api: ApiServer, inside: Namespace, tmp_path: Path
) -> None:
    api.create(service("web", "10.96.0.80"))
    async with running(tmp_path, *flags(tmp_path, "legacy"), "--iptables-sync-period=500ms") as daemon:
        await daemon.ready()
        with inside.lock.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            api.create(slice_of("web", "10.244.0.7"))
            await eventually(lambda: _answers("livez", 503), daemon)
            assert await metric("kproxy_oldest_pending_change_seconds") > 1
        await eventually(lambda: _answers("livez", 200), daemon)
        assert "10.244.0.7:8080" in saved("legacy")


async def _answers(page: str, status: int) -> bool:
    return (await get(f"{HEALTH}/{page}"))[0] == status
