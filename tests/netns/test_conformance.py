"""A few of the conformance scenarios, so that their runner is never out of step; ``./run conformance`` runs all."""

import asyncio
import json
import sys
from pathlib import Path

import pytest

RECORDED = ("clusterip-basic", "etp-local-with-endpoints", "lb-source-ranges", "udp-endpoint-replaced")
OURS = ("proc-udp-none-left", "proc-health-checks", "proc-stale-chains", "proc-pages")
RELAYED = ("relay-by-annotation", "relay-toggled")  # userspace mode, Service by Service
ALONE = ("takeover-and-back", "proc-config-file")
SCENARIOS = (*RECORDED, *OURS, *RELAYED, *ALONE)
DEADLINE = 300  # seconds


@pytest.mark.root
@pytest.mark.slow
async def test_packets_fare_as_they_did_with_kube_proxy(tmp_path: Path) -> None:
    result = tmp_path / "result.json"
    written = (f"--json={result}", f"--markdown={tmp_path / 'result.md'}")
    command = (sys.executable, "-m", "tests.conformance", "--only", ",".join(SCENARIOS), *written)
    program = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
    async with asyncio.timeout(DEADLINE):
        said, _ = await program.communicate()
    assert program.returncode == 0, said.decode()
    told = json.loads(result.read_text(encoding="utf-8"))
    assert {scenario["name"]: scenario["verdict"] for scenario in told["scenarios"]} == dict.fromkeys(SCENARIOS, "same")
    assert {row["result"] for row in told["rows"]} <= {"pass", "skip"}
    assert {27, 29, 57, 80, 115, 118, 130, 140, 152, 158} <= {
        row["id"] for row in told["rows"] if row["result"] == "pass"
    }
