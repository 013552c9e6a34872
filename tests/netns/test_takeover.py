"""kube-proxy, then kproxy, then kube-proxy again on one node, while connections go on.

kube-proxy is played by `kube_proxy.KubeProxy`: once with the rules of the recorded scenario, once with a layout of 240
services, above which ours becomes trees. Every input of every iptables-restore that kproxy starts is kept, for what is
asserted is how a node is taken over, not only that. Single packets' ways are compared by the conformance suite.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
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
from tests.conformance.runner import DATA
from tests.conformance.world import NAMES, World
from tests.netns.kube_proxy import Flat, KubeProxy, Served, read_records

pytestmark = [pytest.mark.root, pytest.mark.slow]

Json = dict[str, Any]
DEADLINE = 20.0  # seconds; only a broken proxy needs them
PAUSE = 0.02
TRANSFER_PORT = 7777
BRANCH = re.compile(r"KUBE-(?:SVC|REJ)-(?:[0-9.]+/|TCP-)")  # a chain of a tree, in either table
STALE = Served("default/gone", "10.96.200.1", 80, ["10.244.9.9:8080"])  # deleted while kube-proxy was down


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


@pytest.fixture(params=["nft", "legacy"])
async def node(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Node]:
    variant = request.param
    async with World() as world:
        with world.hosts["cp"].inside():
            async with Cluster() as cluster:
                kubeconfig = cluster.api.kubeconfig(tmp_path / "kubeconfig")
                proxy = Proxy(world.hosts["n1"], tmp_path, variant, kubeconfig)
                prober = Prober(world.hosts, cluster.resolve)
                yield Node(world, cluster, prober, proxy, _keep_inputs(proxy, variant, tmp_path))
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


# --- kube-proxy's rules, and the cluster that they are for ----------------------------------------------------

_TO: Json = {
    "name": "to",
    "ip": "10.96.5.9",
    "ports": ["t:tcp/80->8080@30509", "u:udp/90->9090@30510"],
    "eps": ["p1a", "p2a"],
}


async def prepare_recorded(node: Node) -> None:
    """What kube-proxy wrote in the recorded run; its sentinel is a Service that is gone here."""
    node.cluster.write(_TO)
    for program in ("iptables", "ip6tables"):
        node.flats[program] = Flat.from_record(read_records(DATA / "records", "takeover-and-back", program))
        await node.kube_proxy.first_sync(node.flats[program], program)


async def prepare_crowd(node: Node) -> None:
    """120 services with endpoints and 120 without, one that transfers, one with affinity, and one that is gone."""
    pods = [NAMES[name][4] for name in ("p1a", "p2a")]
    served = [
        Served("default/to:t", "10.96.5.9", 80, [f"{ip}:8080" for ip in pods], node_port=30509),
        Served("default/bulk", "10.96.5.10", 80, [f"{pods[1]}:{TRANSFER_PORT}"]),
        Served("default/sticky", "10.96.5.11", 80, [f"{ip}:8080" for ip in pods], affinity=True),
    ]
    affinity = {"sessionAffinity": "ClientIP"}
    shorts: list[Json] = [
        {**_TO, "ports": ["t:tcp/80->8080@30509"]},
        {"name": "bulk", "ip": "10.96.5.10", "ports": [f"tcp/80->{TRANSFER_PORT}"], "eps": ["p2a"]},
        {"name": "sticky", "ip": "10.96.5.11", "ports": ["tcp/80->8080"], "eps": ["p1a", "p2a"], "spec": affinity},
    ]
    for number in range(120):
        for kind, ip, eps in (("some", f"10.96.64.{number}", ["p1a", "p2a"]), ("none", f"10.96.65.{number}", [])):
            name = f"{kind}-{number}"
            shorts.append({"name": name, "ip": ip, "ports": ["tcp/80->8080"], "eps": eps})
            served.append(Served(f"default/{name}", ip, 80, [f"{NAMES[pod][4]}:8080" for pod in eps]))
    for short in shorts:
        node.cluster.write(short)
    api = Served("default/kubernetes:https", "10.96.0.1", 443, [f"{NAMES['cp'][4]}:6443"])
    node.flats["iptables"] = Flat.of([api, *served], "10.244.0.0/16")
    await node.kube_proxy.first_sync(Flat.of([api, *served, STALE], "10.244.0.0/16"))


# --- tests ----------------------------------------------------------------------------------------------------


async def test_recorded_rules_are_adopted_in_one_transaction_and_handed_back(node: Node) -> None:
    await prepare_recorded(node)
    before = {program: await node.kube_proxy.chains("nat", program) for program in node.flats}
    async with Traffic(node) as traffic:
        await traffic.flows_on()
        await node.start_kproxy()
        for program in node.flats:
            assert len(node.restores(program)) == 1
            after = await node.kube_proxy.chains("nat", program)
            assert {chain[:9] for chain in before[program] - after} == {"KUBE-SVC-", "KUBE-SEP-"}
            assert after < before[program]
            assert "hx-sentinel" not in await node.saved(program)
        await traffic.flows_on()
        await node.return_to_kube_proxy()
        assert {program: await node.kube_proxy.chains("nat", program) for program in node.flats} == before
        await traffic.flows_on()


async def test_a_crowd_becomes_trees_in_one_transaction_and_no_tree_stays_in_nat(node: Node) -> None:
    await prepare_crowd(node)
    before = await node.kube_proxy.chains("nat")
    async with sending(node.world.hosts["p2a"]), Traffic(node) as traffic:
        await traffic.transfer("p1b", "10.96.5.10")
        assert (await node.prober.ask({"from": "p1b", "to": "sticky:80"})).outcome == "ok"
        remembered = await _clients(node)
        await node.start_kproxy()
        (text,) = node.restores("iptables")
        assert STALE.endpoint_chain(STALE.endpoints[0]) in before
        assert "default/gone" not in await node.saved()
        assert f"-X KUBE-SVC-{STALE.chain_hash}\n" in text
        assert "-j KUBE-SEP-" not in text  # what is right already is not written again
        assert await _branches(node, "nat")
        assert await _branches(node, "filter")
        assert await _clients(node) == remembered
        await traffic.flows_on()

        await node.return_to_kube_proxy()
        assert await node.kube_proxy.chains("nat") == set(node.flats["iptables"].tables["nat"]) | {"KUBE-PROXY-CANARY"}
        left = await _branches(node, "filter")
        assert left  # kube-proxy deletes nothing there; but nothing leads to them any more
        rules = [line.split() for line in (await node.saved()).splitlines() if line.startswith("-A ")]
        assert {rule[1] for rule in rules if rule[-1] in left} <= left
        await traffic.flows_on()

        (await node.kproxy.clean_up()).check()
        mine = [line for line in (await node.saved()).splitlines() if "KUBE-" in line and "KUBE-FIREWALL" not in line]
        assert mine == []


async def _branches(node: Node, table: str) -> set[str]:
    return {chain for chain in await node.kube_proxy.chains(table) if BRANCH.match(chain)}


async def _clients(node: Node) -> str:
    """Whom the affinity of each endpoint remembers, without the times."""
    said = (await node.kproxy.shell("cd /proc/net/xt_recent && grep -o 'src=[^ ]*' KUBE-SEP-*")).stdout
    assert "src=" in said
    return said


async def test_beside_a_kube_proxy_that_goes_on_nothing_is_dropped_and_no_storm_begins(node: Node) -> None:
    await prepare_crowd(node)
    async with Traffic(node) as traffic:
        await node.start_kproxy()
        rounds = 0
        while not node.said("Another proxy writes the same chains"):
            assert rounds < 5
            rounds += 1
            repaired = node.said("repaired")
            await node.kube_proxy.sync(node.flats["iptables"])
            await node.until(lambda repaired=repaired: node.said("repaired") > repaired)  # type: ignore[misc]
        written = len(node.restores("iptables"))
        for _ in range(5):
            await node.kube_proxy.sync(node.flats["iptables"])
        assert len(node.restores("iptables")) <= written + 2
        await traffic.flows_on()
        await node.until(lambda: len(node.restores("iptables")) > written)  # it waits, but it does not give in
    repaired, postponed = node.said("repaired"), node.said("comparing later")
    (await node.kproxy.shell("iptables -t nat -F")).check()  # no rival's doing, so healing does not wait
    await node.until(lambda: node.said("repaired") > repaired)
    assert node.said("comparing later") == postponed > 0
