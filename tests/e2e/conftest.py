"""The daemon as users run it: a process in a network namespace, the real iptables, the embedded API server.

What each part decides is tested beside that part; here only the seams are, and what survives a signal.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from kproxy.sandbox.apiserver import ApiServer
from tests.netns.conftest import Namespace

ROOT = Path(__file__).parent.parent
DEADLINE = 15.0  # seconds; only a broken daemon needs them
_numbers = count()
Json = dict[str, Any]


@pytest.fixture
def inside(tmp_path: Path) -> Iterator[Namespace]:
    """The test, and all that it starts, is in a namespace of its own."""
    if os.geteuid() != 0:
        pytest.skip("needs root: makes network namespaces")
    namespace = Namespace(f"kpt-{os.getpid()}-e{next(_numbers)}", tmp_path / "xtables.lock")
    try:
        with namespace.enter():
            yield namespace
    finally:
        namespace.remove()


@pytest.fixture(params=["nft", "legacy"])
def variant(request: pytest.FixtureRequest) -> str:
    return str(request.param)


class Daemon:
    """A running ``kproxy run``; what it logged is in ``log``."""

    def __init__(self, process: asyncio.subprocess.Process, log: Path) -> None:
        self.process = process
        self.log = log

    async def ready(self) -> None:
        await eventually(self._is_ready, self)

    async def _is_ready(self) -> bool:
        return (await get("http://127.0.0.1:10256/readyz"))[0] == 200

    async def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        if self.process.returncode is None:
            self.process.send_signal(number)
        async with asyncio.timeout(DEADLINE):
            return await self.process.wait()

    def said(self, text: str) -> int:
        return self.log.read_text(encoding="utf-8").count(text)


@asynccontextmanager
async def running(tmp_path: Path, *flags: str) -> AsyncIterator[Daemon]:
    log = tmp_path / f"kproxy-{next(_numbers)}.log"
    quick = ("-v=1", "--iptables-min-sync-period=100ms", "--conntrack-max-per-core=0", "--oom-score-adj=0")
    command = (sys.executable, "-m", "kproxy", *flags, *quick)
    with log.open("wb") as stream:
        process = await asyncio.create_subprocess_exec(
            *command, "--iptables-min-sync-period=100ms", stderr=stream, cwd=ROOT
        )
    daemon = Daemon(process, log)
    try:
        yield daemon
    finally:
        if process.returncode is None:
            await daemon.end(signal.SIGKILL)


@pytest.fixture
async def api(inside: Namespace, tmp_path: Path) -> AsyncIterator[ApiServer]:
    del inside
    async with ApiServer() as server:
        server.kubeconfig(tmp_path / "kubeconfig")
        node = {"type": "InternalIP", "address": "192.0.2.1"}
        server.create({"kind": "Node", "metadata": {"name": "n1"}, "status": {"addresses": [node]}})
        yield server


def flags(tmp_path: Path, variant: str = "nft") -> tuple[str, ...]:
    return (
        f"--kubeconfig={tmp_path / 'kubeconfig'}",
        "--hostname-override=n1",
        "--cluster-cidr=10.244.0.0/16",
        f"--iptables-backend={variant}",
    )


def service(name: str, ip: str, **spec: Any) -> Json:
    ports = spec.pop("ports", [{"port": 80, "targetPort": 8080}])
    return {"kind": "Service", "metadata": {"name": name}, "spec": {"clusterIP": ip, "ports": ports, **spec}}


def slice_of(name: str, *ips: str, protocol: str = "TCP") -> Json:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{name}-1", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"port": 8080, "protocol": protocol}],
        "endpoints": [{"addresses": [ip], "nodeName": "n1", "conditions": {"ready": True}} for ip in ips],
    }


async def eventually(check: Callable[[], bool | Awaitable[bool]], daemon: Daemon) -> None:
    """Another process works: look until it is so."""
    try:
        async with asyncio.timeout(DEADLINE):
            while not (answer if isinstance(answer := check(), bool) else await answer):
                assert daemon.process.returncode is None, daemon.log.read_text(encoding="utf-8")
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"not within {DEADLINE} s; the daemon said:\n{daemon.log.read_text(encoding='utf-8')}")


async def get(url: str) -> tuple[int, str]:
    try:
        async with aiohttp.ClientSession() as session, session.get(url) as answer:
            return answer.status, await answer.text()
    except aiohttp.ClientConnectionError:
        return 0, ""


def saved(variant: str, program: str = "iptables") -> str:
    return act(f"{program}-{variant}-save")


def act(*command: str) -> str:
    """A short program, to its end; what it printed."""
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout


async def kproxy(*arguments: str) -> tuple[int, str, str]:
    """Another command, to its end; the API server in this process answers meanwhile."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "kproxy", *arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    async with asyncio.timeout(60):
        out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()
