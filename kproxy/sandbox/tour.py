"""What the examples promise, as questions with expected answers: the demo shows them, a test insists on them.

A question is asked until every expected server has answered, because which one answers is chance, and then once more
from the start: rules take a moment to follow the API, and what is counted and shown comes after that moment. It is
as expected when nobody else answered and every server saw the source that it should. Refusals are forgiven for a
while, wrong answers never.

The sources follow from one rule (spec: model.md, masquerade): who is inside the cluster is seen as himself; who comes
from outside by a node port or a load balancer, and who is a node, is seen as a node, so that the answer finds its way
back through the same translation; under externalTrafficPolicy Local the outside, too, is seen as itself.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import Literal

from kproxy.sandbox import controllers, probe
from kproxy.sandbox.client import Json
from kproxy.sandbox.cluster import Cluster
from kproxy.sandbox.host import Host
from kproxy.sandbox.probe import Answer
from kproxy.sandbox.workload import show
from kproxy.sandbox.world import Node, Pod, World

PATIENCE = 15.0  # seconds for rules to follow the API and for chance to visit every server
FEWEST = 6  # questions, so that a stranger among the servers would show
SHELL = "shell"  # the pod from which the tour asks
DATABASE_PORT = 5432
_PAUSE = 0.05  # seconds after a question without an answer

Ask = Callable[[Host], Awaitable[Answer]]


class Seen(StrEnum):
    """Whom a server should see."""

    ITSELF = "itself"
    NODE = "a node"


@dataclass(frozen=True, slots=True)
class Question:
    """Who asks what, who may answer, and whom they should see (None: it does not tell)."""

    asker: str
    target: str
    ask: Ask
    servers: frozenset[str]
    seen: Seen | None
    is_relayed: bool = False  # the kernel may answer for a moment, until the relay's workers have started


@dataclass(slots=True)
class Result:
    """How a question went; ``problem`` is empty when it went as expected."""

    question: Question
    servers: Counter[str] = field(default_factory=Counter)
    sources: dict[str, str] = field(default_factory=dict)  # address that was seen → whose it is
    problem: str = ""


@dataclass(frozen=True, slots=True)
class Tour:
    """The questions of each example, made from what the API says after it was applied."""

    cluster: Cluster

    def questions(self, example: str) -> Iterator[Question]:
        """The questions about one file of deploy/examples, named by its number."""
        match example:
            case "01":
                yield from self._nginx()
            case "02":
                yield from self._fixed()
            case "03":
                yield from self._dns()
            case "04":
                yield self._database("database")
                yield self._database("database", asker="node-1", seen=Seen.NODE)
            case "05":
                yield self._database("legacy-database")
            case "06":
                yield from self._balancer()
            case "09":
                yield from self._ingress()
            case "10":
                yield from self._relayed()

    def exposed(self) -> Question:
        """The question about what kubectl expose made of the Deployment hello."""
        spec = self._service("hello-exposed")["spec"]
        return self._http(SHELL, spec["clusterIP"], spec["ports"][0]["port"], "hello", Seen.ITSELF)

    def _nginx(self) -> Iterator[Question]:
        spec = self._service("nginx-service")["spec"]
        address, port = spec["clusterIP"], spec["ports"][0]
        yield self._http(SHELL, address, port["port"], "nginx", Seen.ITSELF)
        yield self._http("node-1", address, port["port"], "nginx", Seen.NODE)
        for node in ("node-1", "node-2"):
            yield self._http("client", self._node(node).ip(), port["nodePort"], "nginx", Seen.NODE)

    def _fixed(self) -> Iterator[Question]:
        spec = self._service("nginx-fixed")["spec"]
        for address in spec["clusterIPs"]:
            yield self._http(SHELL, address, spec["ports"][0]["port"], "nginx", Seen.ITSELF)
        for address in self._node("node-2").ips:
            yield self._http("client", address, 30123, "nginx", Seen.NODE)

    def _dns(self) -> Iterator[Question]:
        address = self._service("kube-dns", "kube-system")["spec"]["clusterIP"]
        servers = self._pods("k8s-app", "kube-dns")
        for over in ("udp", "tcp"):
            yield Question(SHELL, f"{address}:53/{over}", _who_is_dns(address, over), servers, Seen.ITSELF)
        name = "nginx-service.default.svc.cluster.local"
        ips = frozenset(self._service("nginx-service")["spec"]["clusterIPs"])
        yield Question(SHELL, f"{name.partition('.')[0]}… A", _resolve(address, name), ips, None)

    def _database(self, name: str, asker: str = SHELL, seen: Seen = Seen.ITSELF) -> Question:
        address = self._service(name)["spec"]["clusterIP"]
        target = show((address, DATABASE_PORT))
        return Question(
            asker, target, lambda host: probe.tcp(host, address, DATABASE_PORT), frozenset({"database"}), seen
        )

    def _balancer(self) -> Iterator[Question]:
        everywhere, local = (controllers.balancer_ips(self._service(name))[0] for name in ("hello", "hello-local"))
        here = frozenset(pod.name for pod in self.cluster.world.pods if self._is_on(pod, "hello", "node-1"))
        yield self._http("client", everywhere, 80, "hello", Seen.NODE)
        yield self._http("client", local, 80, here, Seen.ITSELF)
        yield self._http(SHELL, local, 80, "hello", Seen.ITSELF)

    def _ingress(self) -> Iterator[Question]:
        balancer = controllers.balancer_ips(self._service("ingress"))[0]
        node = self._node("node-2").ip()
        red, blue = "red.example.com", "blue.example.com"
        yield self._http("client", balancer, 80, "red", Seen.NODE, name=red)
        yield self._http("client", balancer, 80, "blue", Seen.NODE, name=blue)
        yield self._http("client", balancer, 80, "blue", Seen.NODE, name=red, path="/blue/sky")
        yield self._http("client", node, 30080, "red", Seen.NODE, name=red)
        yield self._http("client", node, 30443, "blue", Seen.NODE, name=blue, tls=True)
        yield self._http("client", node, 80, "red", Seen.ITSELF, name=red)
        yield self._http("client", node, 443, "blue", Seen.ITSELF, name=blue, tls=True)

    def _relayed(self) -> Iterator[Question]:
        spec = self._service("nginx-relayed")["spec"]
        for question in (
            self._http(SHELL, spec["clusterIP"], 88, "nginx", Seen.NODE),
            self._http("node-2", spec["clusterIP"], 88, "nginx", Seen.NODE),
            self._http("client", self._node("node-1").ip(), 30188, "nginx", Seen.NODE),
        ):
            yield replace(question, is_relayed=True)

    def _http(
        self,
        asker: str,
        address: str,
        port: int,
        servers: str | frozenset[str],
        seen: Seen,
        *,
        name: str = "",
        path: str = "/",
        tls: bool = False,
    ) -> Question:
        target = show((address, port)) + (f"  {name}{path.removesuffix('/')}" if name else "")
        pods = self._pods("app", servers) if isinstance(servers, str) else servers
        return Question(
            asker, target, lambda host: probe.http(host, address, port, name=name, path=path, tls=tls), pods, seen
        )

    def _service(self, name: str, namespace: str = "default") -> Json:
        service = self.cluster.known.find("Service", namespace, name)
        if service is None:
            raise LookupError(f"there is no Service {namespace}/{name}; was its example applied?")
        return service

    def _node(self, name: str) -> Node:
        return self.cluster.world.node(name)

    def _pods(self, label: str, value: str) -> frozenset[str]:
        pods = self.cluster.known.all("Pod")
        return frozenset(
            pod["metadata"]["name"] for pod in pods if (pod["metadata"].get("labels") or {}).get(label) == value
        )

    @staticmethod
    def _is_on(pod: Pod, app: str, node: str) -> bool:
        return pod.labels.get("app") == app and pod.node.name == node


async def go(world: World, question: Question) -> Result:
    """Ask a question often enough and judge the answers."""
    loop = asyncio.get_running_loop()
    end = loop.time() + PATIENCE
    first = await _until_all_answered(world, question, end, forgiving=question.is_relayed)
    return first if first.problem else await _until_all_answered(world, question, end + PATIENCE)


async def _until_all_answered(world: World, question: Question, end: float, *, forgiving: bool = False) -> Result:
    host = world.host(question.asker)
    result = Result(question)
    last = Answer("timeout")
    while asyncio.get_running_loop().time() < end:
        last = await question.ask(host)
        if last.outcome == "ok" and last.status in {0, 200}:
            problem = _judge(world, host, question, last, result)
            if problem and forgiving:
                result = Result(question)
                await asyncio.sleep(_PAUSE)
            elif problem:
                result.problem = problem
                return result
            elif result.servers.total() >= FEWEST and question.servers <= set(result.servers):
                return result
        else:
            await asyncio.sleep(_PAUSE)
    missing = ", ".join(sorted(question.servers - set(result.servers)))
    said = f"HTTP status {last.status}" if last.outcome == "ok" and last.status > 0 else last.outcome
    result.problem = f"no answer from {missing} in time; the last attempt: {said}"
    return result


def owner_of(world: World, address: str) -> str:
    """Which host has an address; a node also has those of its bridge."""
    for host in world.hosts.values():
        gateways = [host.gateway(family) for family in world.families] if isinstance(host, Node) else []
        if address in {*host.ips, *gateways}:
            return host.name
    return "nobody"


def _judge(world: World, host: Host, question: Question, answer: Answer, result: Result) -> str:
    """Count an answer; what is wrong with it, empty if nothing is."""
    for server in (answer.name,) if answer.name else answer.values:
        result.servers[server] += 1
        if server not in question.servers:
            return f"{server} answered"
    if question.seen is None:
        return ""
    source = answer.forwarded_for or answer.peer_ip
    owner = owner_of(world, source)
    result.sources[source] = owner
    if question.seen is Seen.ITSELF and owner != host.name:
        return f"saw {source} ({owner}), not {host.name}"
    if question.seen is Seen.NODE and owner not in {node.name for node in world.nodes}:
        return f"saw {source} ({owner}), not a node"
    return ""


def _who_is_dns(address: str, over: str) -> Ask:
    protocol: Literal["udp", "tcp"] = "tcp" if over == "tcp" else "udp"
    return lambda host: probe.resolve(host, address, over=protocol)


def _resolve(address: str, name: str) -> Ask:
    return lambda host: probe.resolve(host, address, name=name, kind="A")
