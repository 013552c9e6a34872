"""The server as a program of its own."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

import pytest


async def _start(*arguments: str) -> asyncio.subprocess.Process:
    command = (sys.executable, "-m", "kproxy.sandbox.apiserver", *arguments)
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)


async def test_it_serves_until_it_is_told_to_stop(tmp_path: Path) -> None:
    process = await _start("--port", "0", "--kubeconfig", str(tmp_path / "config"))
    async with asyncio.timeout(30):
        assert process.stdout is not None
        assert (await process.stdout.readline()).startswith(b"serving the Kubernetes API on http://127.0.0.1:")
        process.terminate()
        assert await process.wait() == 0
    assert "kproxy-sandbox" in (tmp_path / "config").read_text()


@pytest.mark.parametrize("arguments", [("--service-cidr", "nonsense"), ("--host", "192.0.2.1")])
async def test_what_it_cannot_do_is_said_in_a_sentence(arguments: tuple[str, ...]) -> None:
    process = await _start("--port", "0", *arguments)
    async with asyncio.timeout(30):
        _, stderr = await process.communicate()
    assert process.returncode == 1
    assert stderr.decode().startswith("cannot serve on ")
