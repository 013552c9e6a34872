"""Rules follow the cluster, outlive the daemon, and come back when others remove them."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from kproxy.sandbox.apiserver import ApiServer
from tests.e2e.conftest import (
    act,
    eventually,
    flags,
    kproxy,
    running,
    saved,
    service,
    slice_of,
)

pytestmark = pytest.mark.root


async def test_rules_follow_services_and_their_endpoints(api: ApiServer, tmp_path: Path, variant: str) -> None:
    api.create(service("web", "10.96.0.80"))
    api.create(slice_of("web", "10.244.0.7"))
    async with running(tmp_path, *flags(tmp_path, variant)) as daemon:
        await daemon.ready()
        assert "10.244.0.7:8080" in saved(variant)
        assert "KUBE-SERVICES" in saved(variant, "ip6tables")
        api.update(slice_of("web", "10.244.0.8"))
        await eventually(lambda: "10.244.0.8:8080" in saved(variant), daemon)
        assert "10.244.0.7:8080" not in saved(variant)
        api.create(service("late", "10.96.0.81"))
        await eventually(lambda: "default/late has no endpoints" in saved(variant), daemon)
        api.delete("Service", "web")
        await eventually(lambda: "10.96.0.80/32" not in saved(variant), daemon)
        assert "10.244.0.8:8080" not in saved(variant)


async def test_rules_outlive_the_daemon_and_the_next_one_takes_them_over(
    api: ApiServer, tmp_path: Path, variant: str
) -> None:
    api.create(service("web", "10.96.0.80"))
    api.create(slice_of("web", "10.244.0.7"))
    async with running(tmp_path, *flags(tmp_path, variant)) as daemon:
        await daemon.ready()
        before = saved(variant)
        assert await daemon.end() == 0
        assert daemon.said("the rules stay")
    assert _rules(saved(variant)) == _rules(before)
    api.update(slice_of("web", "10.244.0.9"))
    async with running(tmp_path, *flags(tmp_path, variant)) as daemon:
        await daemon.ready()
        assert "10.244.0.9:8080" in saved(variant)
        assert "10.244.0.7:8080" not in saved(variant)
        await daemon.end(signal.SIGKILL)
    before = saved(variant)
    async with running(tmp_path, *flags(tmp_path, variant)) as daemon:
        await daemon.ready()
        assert daemon.said("written=0 transactions=0") == 2
    assert _rules(saved(variant)) == _rules(before)


async def test_what_others_flush_is_back(api: ApiServer, tmp_path: Path, variant: str) -> None:
    api.create(service("web", "10.96.0.80"))
    api.create(slice_of("web", "10.244.0.7"))
    async with running(tmp_path, *flags(tmp_path, variant)) as daemon:
        await daemon.ready()
        before = _rules(saved(variant))
        flushes = (("-t", "nat", "-F"), ("-t", "nat", "-F", "KUBE-SERVICES"), ("-t", "filter", "-F", "INPUT"))
        for repairs, command in enumerate(flushes, 1):
            act(f"iptables-{variant}", *command)
            await eventually(lambda: _rules(saved(variant)) == before, daemon)
            # The daemon knows its own write only after the program has ended.
            await eventually(lambda: daemon.said("repaired") >= repairs, daemon)  # noqa: B023 -- awaited in this turn
        assert daemon.said("Another program changed rules, comparing ours") >= 3
        code, out, _ = await kproxy("check", *flags(tmp_path, variant))
        assert (code, "agrees" in out) == (0, True), out


async def test_check_without_flags_asks_as_the_daemon_runs(api: ApiServer, tmp_path: Path) -> None:
    del api
    code, out, err = await kproxy("check")
    assert (code, out) == (2, "")
    assert "give --kubeconfig FILE, or --manifests DIR" in err
    assert "Running here: none." in err
    async with running(tmp_path, "run", *flags(tmp_path)) as daemon:
        await daemon.ready()
        code, out, err = await kproxy("check")
        assert (code, out) == (0, "IPv4 and IPv6, iptables nft, 1 service port: agrees\n"), err
        (line,) = err.splitlines()
        assert line.startswith(f"As kproxy runs here (process {daemon.process.pid}): run --kubeconfig={tmp_path}")


async def test_a_firewall_that_edits_its_own_rules_costs_no_comparison(api: ApiServer, tmp_path: Path) -> None:
    api.create(service("web", "10.96.0.80"))
    async with running(tmp_path, *flags(tmp_path)) as daemon:
        await daemon.ready()
        for turn in range(1, 4):
            act("iptables-nft", "-I", "INPUT", "-s", "192.0.2.9", "-j", "DROP")
            act("iptables-nft", "-D", "INPUT", "-s", "192.0.2.9", "-j", "DROP")
            await eventually(lambda: daemon.said("Another program changed rules beside ours") >= turn, daemon)  # noqa: B023 -- awaited in this turn
        assert not daemon.said("comparing ours")


def _rules(text: str) -> list[str]:
    return sorted(line for line in text.splitlines() if line.startswith("-A"))
