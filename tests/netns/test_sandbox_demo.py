"""The whole of it: the examples through API, daemons, rules and packets, on the variant of iptables that is not chosen.

With the one that is, ``./run demo`` and ``./run sandbox`` are typed by tests/docs.
"""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.root

ROOT = Path(__file__).parents[2]
DEADLINE = 180  # seconds; a tenth of it on an idle machine


async def start(*arguments: str) -> asyncio.subprocess.Process:
    pipe = asyncio.subprocess.PIPE
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    # A shell starts what it puts in the background with SIGINT ignored, and that would be inherited down to here.
    command = ("env", "--default-signal=INT", sys.executable, "-m", *arguments)
    return await asyncio.create_subprocess_exec(
        *command, stdout=pipe, stderr=asyncio.subprocess.STDOUT, env=environment
    )


async def output(process: asyncio.subprocess.Process) -> str:
    async with asyncio.timeout(DEADLINE):
        return (await process.communicate())[0].decode()


async def test_every_example_works_on_the_other_variant() -> None:
    version = await output(
        await asyncio.create_subprocess_exec("iptables", "--version", stdout=asyncio.subprocess.PIPE)
    )
    variant = "legacy" if "nf_tables" in version else "nft"
    if shutil.which(f"iptables-{variant}") is None:
        pytest.skip(f"iptables-{variant} is not installed")
    inside = (sys.executable, "-m", "kproxy.sandbox.demo", "--demo", f"--proxy-flag=--iptables-backend={variant}")
    process = await start("kproxy.sandbox.isolate", *inside)
    out = await output(process)
    assert process.returncode == 0, out
    assert re.search(r"^(\d+) of \1 as expected", out, re.MULTILINE), out
    assert "-A KUBE-SERVICES -d 10.96.1.1/32" in out
    for path in (ROOT / "deploy" / "examples").glob("*.yaml"):
        assert path.stem in out


async def test_a_daemon_that_cannot_start_is_a_sentence_and_status_1() -> None:
    inside = (sys.executable, "-m", "kproxy.sandbox.demo", "--demo", "--proxy-flag=--no-such-flag=1")
    process = await start("kproxy.sandbox.isolate", *inside)
    out = await output(process)
    assert process.returncode == 1
    assert "kproxy sandbox: kproxy on node-" in out
    assert "no-such-flag" in out
