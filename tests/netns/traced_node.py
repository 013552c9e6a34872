"""A node with kproxy's rules between a client and the endpoints' host, and ``kproxy trace`` running on it.

    client 10.77.1.2 ─ veth ─ bridge ─ 10.77.1.1 node 10.77.2.1 ─ veth ─ 10.77.2.2, 10.77.2.3 endpoints

The same with fd77:1:: and fd77:2::. The bridge hands its frames to netfilter, as the one of pods does on most nodes.
An endpoint answers with its own address, so what a trace says can be compared with who answered. Everything runs in
namespaces of its own; the rules are those that ``kproxy plan`` prints, and some that others made: the kubelet's
chain in a table that has no other, which iptables-nft-save shows with chains that do not exist, and two refusals.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from kproxy.cli.plan import FAMILIES, render_plan
from kproxy.config import Config
from kproxy.sandbox.host import Host
from tests.netns.relay_node import wire

DEADLINE = 30.0  # seconds; only what is broken needs them
NODE = {4: "10.77.1.1", 6: "fd77:1::1"}
CLIENT = {4: "10.77.1.2", 6: "fd77:1::2"}
INSIDE = {4: "10.77.2.1", 6: "fd77:2::1"}
ENDPOINTS = {4: ("10.77.2.2", "10.77.2.3"), 6: ("fd77:2::2", "fd77:2::3")}
WEB = {4: "10.96.0.20", 6: "fd00:96::20"}
EMPTY = "10.96.0.30"
DENIED = {4: "10.96.0.40", 6: "fd00:96::40"}
DROPPED_AT, REFUSED_AT = 81, 82  # ports of shop/denied; filter FORWARD lets nothing through to its endpoints
NODE_PORT = 30080
_SYSCTLS = (
    *("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding"),
    *("net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"),
)
LOGGER = "/proc/sys/net/netfilter/nf_log/2"
_SERVICES = """\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: shop}
spec:
  type: NodePort
  clusterIP: 10.96.0.20
  clusterIPs: [10.96.0.20, "fd00:96::20"]
  ipFamilies: [IPv4, IPv6]
  ipFamilyPolicy: PreferDualStack
  ports: [{name: http, port: 80, nodePort: 30080}, {name: dns, port: 53, protocol: UDP, nodePort: 30053}]
---
apiVersion: v1
kind: Service
metadata: {name: empty, namespace: shop}
spec: {clusterIP: 10.96.0.30, ports: [{port: 80}]}
---
apiVersion: v1
kind: Service
metadata: {name: denied, namespace: shop}
spec:
  clusterIP: 10.96.0.40
  clusterIPs: [10.96.0.40, "fd00:96::40"]
  ipFamilies: [IPv4, IPv6]
  ipFamilyPolicy: PreferDualStack
  ports: [{name: dropped, port: 81}, {name: refused, port: 82}]
"""
_SLICE = """\
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: web-{family}, namespace: shop, labels: {{kubernetes.io/service-name: web}}}}
addressType: IPv{family}
endpoints: [{{addresses: ["{0}"]}}, {{addresses: ["{1}"]}}]
ports: [{{name: http, port: 8080}}, {{name: dns, port: 5353, protocol: UDP}}]
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {{name: denied-{family}, namespace: shop, labels: {{kubernetes.io/service-name: denied}}}}
addressType: IPv{family}
endpoints: [{{addresses: ["{0}"]}}]
ports: [{{name: dropped, port: 8081}}, {{name: refused, port: 8082}}]
"""
_THEIRS = """\
*mangle
:KUBE-KUBELET-CANARY - [0:0]
COMMIT
*filter
-A FORWARD -d {0} -p tcp --dport 8081 -j DROP
-A FORWARD -d {0} -p tcp --dport 8082 -j REJECT
COMMIT
"""


class Trace:
    """A running ``kproxy trace``."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.began = ""  # what it said when it began, or nothing where it could not

    async def end(self, number: int = 0) -> tuple[int, str, str]:
        """Exit status, standard output and standard error; ``number``: a signal to send first."""
        if number:
            self.process.send_signal(number)
        async with asyncio.timeout(DEADLINE):
            out, err = await self.process.communicate()
        assert self.process.returncode is not None
        return self.process.returncode, out.decode(), err.decode()

    async def packets(self, number: int = 0) -> list[dict[str, Any]]:
        """Of a trace with --json."""
        _, out, _ = await self.end(number)
        return [json.loads(each) for each in out.splitlines()]


class TracedNode:
    def __init__(self, variant: str, client: Host, node: Host, pods: Host, lock: Path) -> None:
        self.variant = variant
        self.client = client
        self.node = node
        self.pods = pods
        self.started: list[Trace] = []
        self._environment = {**os.environ, "XTABLES_LOCKFILE": str(lock), "PYTHONDONTWRITEBYTECODE": "1"}

    async def run(self, *command: str, stdin: str = "") -> str:
        return (await self.node.run(command, stdin=stdin, env=self._environment)).check().stdout

    async def start(self, *flags: str, under: Sequence[str] = ()) -> Trace:
        """Returns when the trace rule is there, or it has ended."""
        command = (*under, sys.executable, "-m", "kproxy", "trace", *flags)
        process = await self.node._start(command, stdin=DEVNULL, stdout=PIPE, stderr=PIPE, env=self._environment)
        trace = Trace(process)
        self.started.append(trace)
        said = process.stderr if "--json" in flags else process.stdout
        assert said is not None
        async with asyncio.timeout(DEADLINE):
            trace.began = (await said.readline()).decode()
        return trace

    async def end_all(self) -> None:
        """Those that a failed test left."""
        while self.started:
            trace = self.started.pop()
            if trace.process.returncode is None:
                await trace.end(signal.SIGKILL)

    async def is_marking(self) -> bool:
        return "kproxy-trace" in await self.run("nft", "list", "tables")

    def logger(self) -> str:
        with self.node.inside():
            return Path(LOGGER).read_text(encoding="ascii").strip()

    async def dial(self, ip: str, port: int = 80, *, host: Host | None = None) -> tuple[str, int]:
        """Who answers over TCP, and the port that was dialled from."""
        with (host or self.client).inside():
            sock = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET)
        with sock:
            sock.setblocking(False)
            async with asyncio.timeout(DEADLINE):
                await asyncio.get_running_loop().sock_connect(sock, (ip, port))
                return (await asyncio.get_running_loop().sock_recv(sock, 99)).decode(), sock.getsockname()[1]

    async def ask(self, ip: str, port: int = 53) -> str:
        """Who answers over UDP."""
        with self.client.inside():
            sock = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, socket.SOCK_DGRAM)
        with sock:
            sock.setblocking(False)
            async with asyncio.timeout(DEADLINE):
                await asyncio.get_running_loop().sock_sendto(sock, b"?", (ip, port))
                return (await asyncio.get_running_loop().sock_recv(sock, 99)).decode()


@contextlib.asynccontextmanager
async def traced_node(variant: str, folder: Path) -> AsyncIterator[TracedNode]:
    if os.geteuid() != 0:
        pytest.skip("needs root: makes network namespaces")
    hosts = client, node, pods = Host("client"), Host("node"), Host("pods", (*ENDPOINTS[4], *ENDPOINTS[6]))
    made = TracedNode(variant, client, node, pods, folder / "xtables.lock")
    try:
        for host in hosts:  # nobody else is here who could have the same address, so nobody waits for his protest
            host.write_sysctls(dict.fromkeys(("net/ipv6/conf/all/accept_dad", "net/ipv6/conf/default/accept_dad"), "0"))
        await wire(node, "port", client, tuple(NODE.values()), tuple(CLIENT.values()))
        await node.configure(
            [
                "link add outside type bridge forward_delay 0",
                "link set outside up",
                "address flush dev port scope global",
            ]
            + [f"address add {ip}/{64 if ':' in ip else 24} dev outside nodad" for ip in NODE.values()]
            + ["link set port master outside"]
        )
        await wire(node, "inside", pods, tuple(INSIDE.values()), pods.ips)
        await node.configure([f"route add default via {ENDPOINTS[family][0]}" for family in (4, 6)])
        node.write_sysctls(dict.fromkeys(_SYSCTLS, "1"))
        await _lay_rules(made, folder)
        async with _answering(pods):
            yield made
    finally:
        await made.end_all()
        for host in hosts:
            await host.close()


async def _lay_rules(made: TracedNode, folder: Path) -> None:
    manifests = folder / "cluster.yaml"
    slices = (_SLICE.format(*ENDPOINTS[family], family=family) for family in (4, 6))
    manifests.write_text(_SERVICES + "".join(slices), encoding="utf-8")
    config = Config(cluster_cidr=("10.77.1.0/24", "fd77:1::/64"))
    for family, program in (("4", "iptables"), ("6", "ip6tables")):
        ours = "\n".join(render_plan(str(manifests), config, FAMILIES[family], warn=lambda _: None))
        await made.run(f"{program}-{made.variant}-restore", stdin=ours + "\n")
        theirs = _THEIRS.format(ENDPOINTS[int(family)][0])
        await made.run(f"{program}-{made.variant}-restore", "--noflush", stdin=theirs)


@contextlib.asynccontextmanager
async def _answering(pods: Host) -> AsyncIterator[None]:
    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(writer.get_extra_info("sockname")[0].encode())
        writer.close()

    class Datagrams(asyncio.DatagramProtocol):
        def connection_made(self, transport: Any) -> None:
            self.transport = transport

        def datagram_received(self, _data: bytes, source: tuple[str, int]) -> None:
            self.transport.sendto(self.transport.get_extra_info("sockname")[0].encode(), source)

    loop = asyncio.get_running_loop()
    async with contextlib.AsyncExitStack() as stack:
        for ip in pods.ips:
            family = socket.AF_INET6 if ":" in ip else socket.AF_INET
            with pods.inside():
                stream = socket.create_server((ip, 8080), family=family)
                datagrams = socket.socket(family, socket.SOCK_DGRAM)
                datagrams.bind((ip, 5353))
            server = await asyncio.start_server(serve, sock=stream)
            stack.callback(server.close)
            datagrams.setblocking(False)
            transport, _ = await loop.create_datagram_endpoint(Datagrams, sock=datagrams)
            stack.callback(transport.close)
        yield
