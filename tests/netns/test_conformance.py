"""A few of the recorded scenarios, so that their runner is never out of step; ``./run conformance`` runs all."""

import asyncio
import sys

import pytest

SCENARIOS = "clusterip-basic,etp-local-with-endpoints,lb-source-ranges,udp-endpoint-replaced,takeover-and-back"
DEADLINE = 300  # seconds


@pytest.mark.root
@pytest.mark.slow
async def test_packets_fare_as_they_did_with_kube_proxy() -> None:
    program = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "tests.conformance", "--only", SCENARIOS, stdout=asyncio.subprocess.PIPE
    )
    async with asyncio.timeout(DEADLINE):
        said, _ = await program.communicate()
    assert program.returncode == 0, said.decode()
    assert f"nft: {len(SCENARIOS.split(','))} same, 0 DIFFERS, 0 FAILED, 0 skipped" in said.decode()
