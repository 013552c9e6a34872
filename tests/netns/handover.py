"""One node that is handed from one service proxy to another while connections go on: for tests of takeovers.

Every input of every iptables-restore that kproxy starts is kept, for what is asserted is how a node is taken over, not
only that.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import pytest

from kproxy.sandbox.host import Host
from tests.conformance.cluster import Cluster
from tests.conformance.launch import Launch
from tests.conformance.probes import Prober, Target
from tests.conformance.proxy import Proxy
from tests.conformance.world import NAMES, World
from tests.netns.kube_proxy import Flat, KubeProxy, Served

Json = dict[str, Any]
DEADLINE = 20.0  # seconds; only a broken proxy needs them
PAUSE = 0.02
TRANSFER_PORT = 7777
TO: Json = {
    "name": "to",
    "ip": "10.96.5.9",
    "ports": ["t:tcp/80->8080@30509", "u:udp/90->9090@30510"],
    "eps": ["p1a", "p2a"],
}
TO_SERVED = Served("default/to:t", "10.96.5.9", 80, [f"{NAMES[pod][4]}:8080" for pod in ("p1a", "p2a")], 30509)


@dataclass
class Node:
    """The node under test and who is on it."""

    world: World
    cluster: Cluster
    prober: Prober
    kproxy: Proxy
    inputs: Path  # what kproxy gave to iptables-restore, a file each
    flats: dict[str, Flat] = field(default_factory=dict)  # by program

    @property
    def kube_proxy(self) -> KubeProxy:
        return KubeProxy(self.kproxy)

    def said(self, text: str) -> int:
        return self.kproxy.log.read_text(encoding="utf-8").count(text) if self.kproxy.log.exists() else 0

    async def start_kproxy(self) -> None:
        before = self.said("The first sync is done")
        await self.kproxy.start(Launch())
        await self.until(lambda: self.said("The first sync is done") == before + 2)

    async def return_to_kube_proxy(self) -> None:
        assert await self.kproxy.end()
        for program, flat in self.flats.items():
            await self.kube_proxy.first_sync(flat, program)

    async def until(self, check: Callable[[], bool]) -> None:
        """Another process works: look until it is so."""
        try:
            async with asyncio.timeout(DEADLINE):
                while True:
                    if check():
                        return
                    await asyncio.sleep(PAUSE)
        except TimeoutError:
            pytest.fail(f"not within {DEADLINE} s; the proxy said:\n{self.kproxy.tail(30)}")

    def restores(self, program: str) -> list[str]:
        """Inputs that say anything of kube-proxy's chains; probes of the kernel's abilities do not."""
        texts = [path.read_text(encoding="utf-8") for path in self.inputs.glob(f"{program}.*")]
        return [text for text in texts if "KUBE-" in text]

    async def saved(self, program: str = "iptables") -> str:
        return (await self.kproxy.shell(f"{program}-save")).stdout


@contextlib.asynccontextmanager
async def handed_over(variant: str, directory: Path) -> AsyncIterator[Node]:
    """The world, its cluster, and a kproxy of that variant that does not run yet."""
    async with World() as world:
        with world.hosts["cp"].inside():
            async with Cluster() as cluster:
                proxy = Proxy(world.hosts["n1"], directory, variant, cluster.api.kubeconfig(directory / "kubeconfig"))
                prober = Prober(world.hosts, cluster.resolve)
                yield Node(world, cluster, prober, proxy, _keep_inputs(proxy, variant, directory))
                await proxy.end()
                prober.close()


def _keep_inputs(proxy: Proxy, variant: str, directory: Path) -> Path:
    """Put programs before iptables-restore that note their input and become it, under the same process id."""
    inputs, programs = directory / "inputs", directory / "noting"
    inputs.mkdir()
    programs.mkdir()
    for program in ("iptables", "ip6tables"):
        real = shutil.which(f"{program}-{variant}-restore", path="/usr/sbin:/sbin")
        script = programs / f"{program}-{variant}-restore"
        script.write_text(
            f'#!/bin/sh\nnote=$(mktemp {inputs}/{program}.XXXXXX)\ncat >"$note"\nexec {real} "$@" <"$note"\n',
            encoding="utf-8",
        )
        script.chmod(0o755)
    proxy.environment["PATH"] = f"{programs}:{proxy.environment['PATH']}"
    return inputs


# --- traffic --------------------------------------------------------------------------------------------------


class Traffic:
    """An open connection, and new ones all the time, from a pod and from outside."""

    def __init__(self, node: Node) -> None:
        self._node = node
        self._lines: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.outcomes: Counter[str] = Counter()
        self.received = 0  # bytes of the transfer

    async def __aenter__(self) -> Self:
        for source, to in (("p1b", "to:80"), ("ext", "n1:30509")):
            target = Target(*_split(to, self._node.cluster))
            sock = await self._node.prober.connect(source, target)
            self._lines.append(await asyncio.open_connection(sock=sock))
            self._tasks.append(asyncio.create_task(self._ask_on({"from": source, "to": to})))
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for _line, writer in self._lines:
            writer.transport.abort()

    async def transfer(self, source: str, ip: str) -> None:
        """Receive without end, on a connection of its own."""
        sock = await self._node.prober.connect(source, Target(ip, 80))
        self._tasks.append(asyncio.create_task(self._receive(sock)))
        await self.flows_on()

    async def flows_on(self) -> None:
        """The open connections answer, new ones are answered, the transfer moves, and nothing was ever refused."""
        for line, writer in self._lines:
            writer.write(b"still there?\n")
            async with asyncio.timeout(DEADLINE):
                assert await line.readuntil(b"\n")
        asked, received = self.outcomes.total(), self.received
        await self._node.until(lambda: self.outcomes.total() >= asked + 10)
        await self._node.until(lambda: self.received > received or len(self._tasks) == len(self._lines))
        assert set(self.outcomes) == {"ok"}

    async def _ask_on(self, probe: Json) -> None:
        while True:
            self.outcomes[(await self._node.prober.ask(probe)).outcome] += 1
            await asyncio.sleep(PAUSE)

    async def _receive(self, sock: socket.socket) -> None:
        with sock:
            while data := await asyncio.get_running_loop().sock_recv(sock, 1 << 16):
                self.received += len(data)
        self.outcomes["the transfer ended"] += 1


def _split(to: str, cluster: Cluster) -> tuple[str, int]:
    name, _, port = to.partition(":")
    return cluster.resolve(name, 4), int(port)


@contextlib.asynccontextmanager
async def sending(host: Host) -> AsyncIterator[None]:
    """A server that sends to its first client for as long as the block lasts."""
    loop = asyncio.get_running_loop()

    async def send(listener: socket.socket) -> None:
        connection, _ = await loop.sock_accept(listener)
        with connection:
            while True:
                await loop.sock_sendall(connection, bytes(1 << 16))
                await asyncio.sleep(PAUSE)  # the machine has other things to do

    with host.inside():
        listener = socket.create_server((host.ip(4), TRANSFER_PORT))
    listener.setblocking(False)
    with listener:
        task = asyncio.create_task(send(listener))
        try:
            yield
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
