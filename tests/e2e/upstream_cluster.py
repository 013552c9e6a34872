"""Three nodes with kproxy, pods on each, and Services whose endpoints a test says: what upstream's network tests need.

A test of Kubernetes waits half a minute for a rule to follow; here somebody asks again until it does. Endpoints are
written by the test, condition by condition, so nothing has to be waited for but the proxy.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Sequence
from pathlib import Path
from typing import Any

import pytest

from kproxy.sandbox import probe
from kproxy.sandbox.cluster import Cluster, running_cluster
from kproxy.sandbox.host import Host

NODES = ("node-1", "node-2", "node-3")
FAMILIES = (4, 6)
PORT, OTHER_PORT = 8080, 9090  # of the pods, TCP and UDP
HOST_PORT = 10180  # of the servers on nodes themselves
DEADLINE = 20.0  # seconds; only what is broken needs them
_AGAIN = 0.02
_SILENCE = 0.3  # seconds after which nobody answers any more, and a client asks anew
_ENOUGH = 12  # questions, after which an endpoint that serves has answered: of two, one is missed once in 2,000 times
_SERVICE = "kubernetes.io/service-name"
Json = dict[str, Any]


@contextlib.asynccontextmanager
async def upstream_cluster(directory: Path) -> AsyncIterator[Cluster]:
    """On node-1 the servers a1, a2 and the client c1, on node-2 b1 and c2; h1, h2 serve on the nodes themselves."""
    async with running_cluster(directory, nodes=NODES) as cluster:
        pods = (("a1", 1), ("a2", 1), ("b1", 2), ("c1", 1), ("c2", 2))
        await cluster.apply(_pod(name, node, PORT, OTHER_PORT) for name, node in pods)
        await cluster.apply(_pod(f"h{node}", node, HOST_PORT, hostNetwork=True) for node in (1, 2))
        await cluster.settle()
        await cluster.wait_for_proxies()
        yield cluster


def _pod(name: str, node: int, *ports: int, **more: Any) -> Json:
    open_ports = [{"containerPort": port, "protocol": protocol} for port in ports for protocol in ("TCP", "UDP")]
    container = {"name": "c", "image": "kproxy/echo", "ports": open_ports}
    spec = {"nodeName": f"node-{node}", "containers": [container], **more}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": spec}


class Served:
    """A Service of both families, port 80 over TCP and UDP, and the endpoints that a test gives it."""

    def __init__(self, cluster: Cluster, made: Json) -> None:
        self._cluster = cluster
        self.name: str = made["metadata"]["name"]
        self._take(made)

    @classmethod
    async def create(cls, cluster: Cluster, name: str, **more: Any) -> Served:
        spec = {"ipFamilyPolicy": "RequireDualStack", "ports": PORTS, **more}
        body = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "default"}, "spec": spec}
        return cls(cluster, await cluster.client.create(body))

    async def change(self, **spec: Any) -> None:
        """What is None is taken away."""
        self._take(await self._cluster.client.patch("Service", self.name, "default", {"spec": spec}))

    def _take(self, made: Json) -> None:
        spec = made["spec"]
        self.ips: dict[int, str] = {6 if ":" in ip else 4: ip for ip in spec.get("clusterIPs", ())}
        ports = spec.get("ports", ())
        self.node_ports: dict[str, int] = {port["protocol"]: port.get("nodePort", 0) for port in ports}
        self.health_check_port: int = spec.get("healthCheckNodePort", 0)

    async def vips(self) -> dict[int, str]:
        """The load balancer's addresses, once it has one of each family."""
        found: dict[int, str] = {}

        async def check() -> bool:
            status = (await self._cluster.client.get("Service", self.name, "default"))["status"]["loadBalancer"]
            found.update({6 if ":" in each["ip"] else 4: each["ip"] for each in status.get("ingress", ())})
            return found.keys() == self.ips.keys()

        await eventually(check, f"{self.name} has a load balancer")
        return found

    async def put(self, *endpoints: str, port: int = PORT, labels: Json | None = None) -> None:
        """Endpoints by their pods' names; a name may be followed by NS (serving, not ready), ST (terminating), RT."""
        for family in FAMILIES:
            metadata = {"name": f"{self.name}-{family}", "namespace": "default"}
            change = {
                "metadata": {"labels": {_SERVICE: self.name, **(labels or {})}},
                "ports": [{"name": each["name"], "port": port, "protocol": each["protocol"]} for each in PORTS],
                "endpoints": [self._endpoint(family, *text.split()) for text in endpoints],
            }
            known = {each["metadata"]["name"] for each in (await self._cluster.client.list("EndpointSlice"))["items"]}
            if metadata["name"] in known:
                await self._cluster.client.patch("EndpointSlice", metadata["name"], "default", change)
            else:
                metadata |= change["metadata"]
                body = {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": f"IPv{family}"}
                await self._cluster.client.create({**body, **change, "metadata": metadata})

    def _endpoint(self, family: int, name: str, state: str = "R") -> Json:
        node = f"node-{1 if name in {'a1', 'a2', 'h1'} else 2}"
        host = self._cluster.world.host(node if name.startswith("h") else name)
        conditions = {"ready": state in {"R", "RT"}, "serving": True, "terminating": state in {"ST", "RT"}}
        return {"addresses": [host.ip(family)], "nodeName": node, "conditions": conditions}


PORTS: list[Json] = [
    {"name": protocol.lower(), "port": 80, "targetPort": PORT, "protocol": protocol} for protocol in ("TCP", "UDP")
]


class Caller:
    """Asks over UDP from one port for ever, as ``nc -u -p 12345`` in a loop: the kernel never sees a new flow."""

    def __init__(self, host: Host, address: str, port: int, source_port: int) -> None:
        self._label = f"{host.name} to {address} {port}"
        self._to = (address, port)
        with host.inside():
            self._socket = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(("", source_port))
        self._rounds = 0
        self._answer = ("", 0)  # who answered last in a round, and from which port

    async def ask(self) -> None:
        """Until cancelled."""
        with self._socket:
            while True:
                heard = ("", 0)
                for _ in range(3):
                    with contextlib.suppress(OSError):
                        self._socket.sendto(b"hello\n", self._to)
                    await asyncio.sleep(_AGAIN)
                    with contextlib.suppress(OSError):
                        while True:
                            told = json.loads(self._socket.recv(4096))
                            heard = told["name"], int(told["local"].rpartition(":")[2])
                self._answer = heard
                self._rounds += 1

    async def hears(self, name: str, port: int = PORT) -> None:
        """``name`` answers from ``port``; nobody does if the name is empty."""
        first, wanted = self._rounds + 1, (name, port if name else 0)
        await eventually(lambda: self._rounds > first and self._answer == wanted, f"{self._label}: {wanted}")


@contextlib.asynccontextmanager
async def calling(callers: Sequence[Caller]) -> AsyncIterator[None]:
    tasks = [asyncio.create_task(each.ask()) for each in callers]
    try:
        yield
    finally:
        for each in tasks:
            each.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


Ask = Callable[..., Coroutine[Any, Any, probe.Answer]]  # of probe: host, address, port, deadline


async def answered(ask: Ask, host: Host, address: str, port: int, *names: str) -> list[probe.Answer]:
    """The answers once all of these servers, and no other, give them. A late answer is none, and is asked for again."""
    got: list[probe.Answer] = []

    async def check() -> bool:
        got[:] = await asyncio.gather(*(ask(host, address, port, deadline=_SILENCE) for _ in range(_ENOUGH)))
        return {each.name for each in got if each.name} == set(names)

    await eventually(check, f"{host.name} to {address} {port} hears {names}")
    return [each for each in got if each.name]


async def ends(ask: Ask, host: Host, address: str, port: int, outcome: str) -> None:
    async def check() -> bool:
        return (await ask(host, address, port, deadline=_SILENCE)).outcome == outcome

    await eventually(check, f"{host.name} to {address} {port}: {outcome}")


async def status_line(host: Host, address: str, port: int, path: str = "/") -> str:
    """What an HTTP server says first; empty where none listens any more."""
    with host.inside():
        sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    sock.setblocking(False)
    try:
        async with asyncio.timeout(DEADLINE):
            await asyncio.get_running_loop().sock_connect(sock, (address, port))
            reader, writer = await asyncio.open_connection(sock=sock)
            writer.write(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
            line = (await reader.readline()).decode().strip()
            writer.close()
            return line
    except ConnectionError:
        sock.close()
        return ""


async def eventually(check: Callable[[], bool | Awaitable[bool]], what: str) -> None:
    """Other processes work: look until it is so."""
    try:
        async with asyncio.timeout(DEADLINE):
            # What is looked at are packets, which tell nobody beforehand.
            while not (answer if isinstance(answer := check(), bool) else await answer):  # noqa: ASYNC110 -- as said
                await asyncio.sleep(_AGAIN)
    except TimeoutError:
        pytest.fail(f"not within {DEADLINE:g} s: {what}")


async def every(waits: Iterable[Awaitable[Any]]) -> None:
    await asyncio.gather(*waits)
