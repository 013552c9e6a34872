"""Runs the pods that the API names: a network namespace and a server for each, and a status that says so.

One object does it for all nodes. What a container runs is told by its image, what it serves by its containerPorts:

    nginx                  a real nginx that says who it is
    kproxy/http            the same by a few lines of Python
    kproxy/echo            lines over TCP and datagrams over UDP, answered with who answers and who asked
    kproxy/dns             a DNS server for the names of Services
    kproxy/ingress-nginx   a real nginx configured from the Ingress objects

``hostNetwork`` puts the server on the node itself. A pod is ready when its server accepts; a deleted one ends at
once, without its grace period. Probes, volumes and commands are ignored: only the network matters here.

Source of the rules: Kubernetes "Pod Lifecycle", core/v1 Pod.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from kproxy.errors import KproxyError
from kproxy.sandbox import dns, nginx
from kproxy.sandbox.client import Client, Json, Known, Name, name_of
from kproxy.sandbox.host import Host
from kproxy.sandbox.workload import Ports, Workload
from kproxy.sandbox.world import Node, World

IMAGES = ("nginx", "kproxy/http", "kproxy/echo", "kproxy/dns", "kproxy/ingress-nginx")
INGRESS_CLASS = "nginx"


class Server(Protocol):
    """What runs in a pod."""

    async def start(self) -> None: ...
    async def close(self) -> None: ...


@dataclass(slots=True)
class Running:
    """A pod that was started: its uid, where it is, and what it runs (nothing when that failed)."""

    uid: str
    host: Host
    server: Server | None
    own_host: bool  # false for hostNetwork


def host_name(name: Name) -> str:
    """What a pod's host is called in the world: its name, followed by its namespace if that is not default."""
    namespace, pod = name
    return pod if namespace in {"", "default"} else f"{pod}.{namespace}"


class Kubelet:
    """The pods of all nodes; ``reconcile`` makes what runs equal to what is known."""

    def __init__(self, world: World, client: Client, known: Known, directory: Path, lookup: dns.Lookup) -> None:
        self._world = world
        self._client = client
        self._known = known
        self._directory = directory
        self._lookup = lookup
        self._running: dict[Name, Running] = {}

    async def reconcile(self) -> None:
        """Stop what should not run, start what should, tell ingress controllers the present routes."""
        pods = {name_of(pod): pod for pod in self._known.all("Pod")}
        gone = [name for name, running in self._running.items() if not _should_run(pods.get(name), running.uid)]
        await asyncio.gather(*(self._stop(name) for name in gone))
        for name, pod in pods.items():
            if "deletionTimestamp" in pod["metadata"]:
                await self._client.delete("Pod", name[1], name[0], now=True)
        new = [pod for name, pod in pods.items() if name not in self._running and _should_run(pod)]
        await asyncio.gather(*(self._start(pod) for pod in new))
        for running in self._running.values():
            if isinstance(running.server, IngressController):
                await running.server.route(self._known)

    async def close(self) -> None:
        """Stop all pods."""
        await asyncio.gather(*(self._stop(name) for name in tuple(self._running)))

    async def _start(self, pod: Json) -> None:
        name, spec = name_of(pod), pod["spec"]
        node = self._world.node(spec["nodeName"]) if spec["nodeName"] in self._world.hosts else None
        if node is None:
            return
        own_host = not spec.get("hostNetwork")
        labels = pod["metadata"].get("labels") or {}
        host = await self._world.add_pod(host_name(name), node.name, labels) if own_host else node
        running = self._running[name] = Running(pod["metadata"]["uid"], host, None, own_host)
        trouble = ""
        try:
            running.server = self._server(pod, host)
            if running.server is not None:
                await running.server.start()
            else:
                trouble = f"the sandbox runs only the images {', '.join(IMAGES)}"
        except (OSError, KproxyError) as error:
            trouble = str(error)
        await self._client.patch("Pod", name[1], name[0], _status(pod, node, host, trouble), part="status")

    async def _stop(self, name: Name) -> None:
        running = self._running.pop(name)
        if running.server is not None:
            await running.server.close()
        if running.own_host:
            await self._world.remove_pod(running.host.name)

    def _server(self, pod: Json, host: Host) -> Server | None:
        container = pod["spec"]["containers"][0]
        name, files = pod["metadata"]["name"], self._directory / "pods" / host_name(name_of(pod))
        tcp, udp = ports_of(container, "TCP"), ports_of(container, "UDP")
        match container["image"].partition(":")[0]:
            case "nginx":
                return WebServer(name, host, files, (tcp or [80])[0])
            case "kproxy/http":
                return Workload(name, host, Ports(http=tcp))
            case "kproxy/echo":
                return Workload(name, host, Ports(tcp=tcp, udp=udp))
            case "kproxy/dns":
                return Workload(name, host, Ports(dns=sorted({*tcp, *udp})), lookup=self._lookup)
            case "kproxy/ingress-nginx":
                return IngressController(host, files, tcp or [80], self._known)
            case _:
                return None


class WebServer:
    """nginx saying who it is."""

    def __init__(self, name: str, host: Host, directory: Path, port: int) -> None:
        self._nginx = nginx.Nginx(host, directory)
        self._servers, self._port = nginx.web_server(name, port), port

    async def start(self) -> None:
        await self._nginx.configure(self._servers, port=self._port)

    async def close(self) -> None:
        await self._nginx.stop()


class IngressController:
    """nginx following the Ingress objects; a second port is served with TLS where openssl is installed."""

    def __init__(self, host: Host, directory: Path, ports: Sequence[int], known: Known) -> None:
        self._nginx = nginx.Nginx(host, directory)
        self._ports = ports
        self._known = known
        self._tls: tuple[Path, Path] | None = None

    async def start(self) -> None:
        if len(self._ports) > 1 and shutil.which("openssl"):
            self._tls = await self._nginx.certificate("sandbox.example.com", "*.example.com")
        await self.route(self._known)

    async def route(self, known: Known) -> None:
        """Follow what the Ingress objects and Services say now."""
        ingresses = [item for item in known.all("Ingress") if _is_ours(item)]
        tls_port = self._ports[-1]
        servers = nginx.ingress_servers(
            ingresses, _BackendsOf(known), port=self._ports[0], tls=self._tls, tls_port=tls_port
        )
        await self._nginx.configure(servers, port=self._ports[0])

    async def close(self) -> None:
        await self._nginx.stop()


@dataclass(frozen=True, slots=True)
class _BackendsOf:
    known: Known

    def __call__(self, namespace: str, service: str, port: int | str) -> str | None:
        found = self.known.find("Service", namespace, service)
        spec = found["spec"] if found else {}
        address = spec.get("clusterIP") or "None"
        for served in spec.get("ports") or ():
            if port in {served["port"], served.get("name")} and address != "None":
                return f"[{address}]:{served['port']}" if ":" in address else f"{address}:{served['port']}"
        return None


def ports_of(container: Json, protocol: str) -> list[int]:
    """The containerPorts of a protocol in the order in which they are written."""
    ports: Iterable[Json] = container.get("ports") or ()
    return [port["containerPort"] for port in ports if port.get("protocol", "TCP") == protocol]


def _is_ours(ingress: Json) -> bool:
    return (ingress["spec"].get("ingressClassName") or INGRESS_CLASS) == INGRESS_CLASS


def _should_run(pod: Json | None, uid: str = "") -> bool:
    """Whether the pod is wanted, and is still the one of ``uid`` where that is given."""
    if pod is None or "deletionTimestamp" in pod["metadata"] or not pod["spec"].get("nodeName"):
        return False
    return not uid or pod["metadata"]["uid"] == uid


def _status(pod: Json, node: Node, host: Host, trouble: str) -> Json:
    now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    truth = "False" if trouble else "True"
    container = pod["spec"]["containers"][0]
    state: dict[str, Any] = {"running": {"startedAt": now}}
    if trouble:
        state = {"waiting": {"reason": "CannotStart", "message": trouble}}
    return {
        "status": {
            "phase": "Pending" if trouble else "Running",
            "startTime": now,
            "hostIP": node.ips[0],
            "hostIPs": [{"ip": ip} for ip in node.ips],
            "podIP": host.ips[0],
            "podIPs": [{"ip": ip} for ip in host.ips],
            "conditions": [
                {"type": kind, "status": status, "lastTransitionTime": now}
                for kind, status in (
                    ("PodScheduled", "True"),
                    ("Initialized", "True"),
                    ("ContainersReady", truth),
                    ("Ready", truth),
                )
            ],
            "containerStatuses": [
                {
                    "name": container["name"],
                    "image": container["image"],
                    "imageID": container["image"],
                    "ready": not trouble,
                    "started": not trouble,
                    "restartCount": 0,
                    "state": state,
                }
            ],
        }
    }
