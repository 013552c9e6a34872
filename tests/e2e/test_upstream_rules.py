"""What Kubernetes' own network tests ask of the rules themselves, on one node; those with packets: test_upstream.py."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from kproxy.sandbox.apiserver import ApiServer
from tests.e2e.conftest import eventually, flags, running, saved, service, slice_of

pytestmark = pytest.mark.root


async def test_rules_that_are_deleted_chain_by_chain_come_back(api: ApiServer, tmp_path: Path, variant: str) -> None:
    """Networking: should recreate its iptables rules if they are deleted."""
    for number in range(80, 82):
        api.create(service(f"web-{number}", f"10.96.0.{number}", type="NodePort"))
        api.create(slice_of(f"web-{number}", f"10.244.0.{number}", f"10.244.1.{number}"))
    async with running(tmp_path, *flags(tmp_path, variant)) as daemon:
        await daemon.ready()
        before = rules(saved(variant))
        script = deletions(saved(variant), f"iptables-{variant}")
        process = await asyncio.create_subprocess_exec("sh", "-c", script, stderr=asyncio.subprocess.DEVNULL)
        assert await process.wait() == 0
        await eventually(lambda: daemon.said("repaired") > 0 and rules(saved(variant)) == before, daemon)


def deletions(text: str, program: str) -> str:
    """Every jump into a chain of Kubernetes, then all their rules, then the chains: one command each, as upstream."""
    rules, chains, table = [], [], ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith("-A ") and not line.startswith("-A KUBE-") and "-j KUBE-" in line:
            rules.append(f"{program} -t {table} -D {line[3:]} || true")
        elif line.startswith(":KUBE-"):
            chain = line.split()[0][1:]
            rules.append(f"{program} -t {table} -F {chain} || true")
            chains.append(f"{program} -t {table} -X {chain} || true")
    return "\n".join([*rules, *chains])


def rules(text: str) -> list[str]:
    return sorted(line for line in text.splitlines() if line.startswith("-A"))
