"""A running sandbox: hosts, an API server on cp, its controllers and pods, and one kproxy daemon a node.

The API server and everything that is not kproxy run in this process, on the host cp; each kproxy is a process of its
own on its node, started as a DaemonSet would start it, and knows the cluster only through its kubeconfig. All files
lie in one directory, which behind the walls of isolate.py is on a private /run.

A task that fails ends the cluster: a sandbox of which a part is dead would only tell lies.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

import kproxy
from kproxy.errors import ApiError, KernelError
from kproxy.sandbox import controllers, probe
from kproxy.sandbox.apiserver import ApiServer
from kproxy.sandbox.client import Client, Json, Known
from kproxy.sandbox.kubelet import Kubelet
from kproxy.sandbox.world import CLUSTER, SERVICES, Node, World

API_PORT = 6443
HEALTHZ_PORT = 10256
KINDS = ("Node", "Namespace", "Pod", "Deployment", "Service", "Ingress")
SETTLE_DEADLINE = 30.0  # seconds until all pods serve and all kproxys have written their first rules
_AGAIN = 0.05  # seconds between two looks at a server that cannot tell when it is ready


def proxy_command(node: Node, kubeconfig: Path, families: Iterable[int], flags: Sequence[str] = ()) -> list[str]:
    """How a kproxy daemon is started on a node; kube-proxy would be started with the same flags, but for ``flags``."""
    return [
        sys.executable,
        "-m",
        "kproxy",
        "run",
        f"--kubeconfig={kubeconfig}",
        f"--hostname-override={node.name}",
        f"--cluster-cidr={','.join(CLUSTER[family] for family in families)}",
        "--proxy-mode=iptables",
        f"--healthz-bind-address=0.0.0.0:{HEALTHZ_PORT}",
        "--metrics-bind-address=127.0.0.1:10249",
        "--iptables-min-sync-period=100ms",  # people wait for it; a busy cluster would rather wait for more changes
        "--conntrack-max-per-core=0",  # the size of the connection table belongs to the whole machine
        "--oom-score-adj=0",
        *flags,
    ]


@dataclass(slots=True)
class Cluster:
    """What the demo and the tests hold: the world, the API, what is known of it, and the daemons."""

    world: World
    client: Client
    known: Known
    directory: Path
    kubeconfig: Path
    proxies: dict[str, asyncio.subprocess.Process] = field(default_factory=dict)
    proxies_may_end: bool = False  # set while people explore: they may stop one and start their own

    def log(self, node: str) -> Path:
        """Where the kproxy of a node writes."""
        return self.directory / f"{node}.log"

    async def apply(self, documents: Iterable[Json]) -> None:
        """Apply objects in their order; raises ApiError for the first that is refused."""
        for document in documents:
            await self.client.apply(document)

    async def settle(self) -> None:
        """Wait until all pods serve; raises KernelError naming what does not, at once where waiting cannot help."""
        known = self.known

        def is_decided() -> bool:
            return controllers.is_settled(known) or any(map(controllers.trouble_of, known.all("Pod")))

        in_time = await known.catch_up(SETTLE_DEADLINE) and await known.when(is_decided, SETTLE_DEADLINE)
        late = [pod for pod in known.all("Pod") if not controllers.is_ready(pod)]
        if late or not in_time:
            why = [f"{pod['metadata']['name']} {controllers.trouble_of(pod)}".strip() for pod in late]
            raise KernelError(f"not ready: {'; '.join(why) or 'a Deployment or a LoadBalancer'}")

    async def start_proxy(self, node: Node, tasks: asyncio.TaskGroup, flags: Sequence[str] = ()) -> None:
        """Start kproxy on a node; if it ends by itself, so do ``tasks``."""
        checkout = str(Path(kproxy.__file__).parents[1])
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join(filter(None, (checkout, os.environ.get("PYTHONPATH")))),
            "XTABLES_LOCKFILE": str(self.directory / f"{node.name}.xtables.lock"),
        }
        with self.log(node.name).open("wb") as log:
            command = proxy_command(node, self.kubeconfig, self.world.families, flags)
            process = await node.popen(command, stdout=log, stderr=log, env=environment)
        self.proxies[node.name] = process
        tasks.create_task(self._mind(node.name, process), name=f"kproxy on {node.name}")

    async def wait_for_proxies(self) -> None:
        """Wait until every kproxy says that the kernel has what the API has; raises KernelError."""
        for name in self.proxies:
            node = self.world.node(name)
            try:
                async with asyncio.timeout(SETTLE_DEADLINE):
                    await _until_ready(node)
            except TimeoutError:
                raise KernelError(
                    f"kproxy on {name} has no rules after {SETTLE_DEADLINE:g} s:\n{self.tail(name)}"
                ) from None

    def tail(self, node: str, lines: int = 15) -> str:
        """The last lines that the kproxy of a node wrote."""
        text = self.log(node).read_text(encoding="utf-8", errors="replace")
        return "\n".join(text.splitlines()[-lines:])

    async def _mind(self, node: str, process: asyncio.subprocess.Process) -> None:
        status = await process.wait()
        if not self.proxies_may_end:
            raise KernelError(f"kproxy on {node} ended with status {status}:\n{self.tail(node)}")


async def _until_ready(node: Node) -> None:
    while True:
        if (await probe.http(node, node.ips[0], HEALTHZ_PORT, path="/readyz")).status == 200:
            return
        await asyncio.sleep(_AGAIN)


@contextlib.asynccontextmanager
async def running_cluster(
    directory: Path,
    *,
    nodes: Sequence[str] = ("node-1", "node-2"),
    families: Sequence[int] = (4, 6),
    proxies: bool = True,
    names: Path | None = None,
    flags: Sequence[str] = (),
) -> AsyncIterator[Cluster]:
    """A cluster during the block, with its files in ``directory``, which exists; without ``proxies`` no Service works.

    ``names`` is World's; ``flags`` are more flags for kproxy.
    The calling thread is on the host cp meanwhile: what it connects to, it connects to from there.
    """
    async with contextlib.AsyncExitStack() as stack:
        world = await stack.enter_async_context(World(nodes=nodes, families=families, names=names))
        control_plane = world.host("cp")
        stack.enter_context(control_plane.inside())
        address = control_plane.ips[0]
        ranges = [SERVICES[family] for family in world.families]
        api = await stack.enter_async_context(
            ApiServer(host=address, port=API_PORT, service_cidrs=ranges, graceful_pods=True)
        )
        client = await stack.enter_async_context(Client(api.url))
        kubeconfig = directory / "kubeconfig"
        api.kubeconfig(kubeconfig)
        cluster = Cluster(world, client, Known(client, KINDS), directory, kubeconfig)
        async with asyncio.TaskGroup() as tasks:
            background = await _start(cluster, tasks, flags if proxies else None)
            yield cluster
            cluster.proxies_may_end = True
            background.cancel()
            for node in world.nodes:
                if node.name in cluster.proxies:
                    await node.stop(cluster.proxies[node.name])


async def _start(cluster: Cluster, tasks: asyncio.TaskGroup, flags: Sequence[str] | None) -> asyncio.Task[None]:
    await controllers.register_nodes(cluster.client, cluster.world)
    ready = asyncio.Event()
    background = tasks.create_task(_control(cluster, ready), name="controllers")
    await ready.wait()
    if flags is not None:
        for node in cluster.world.nodes:
            await cluster.start_proxy(node, tasks, flags)
    return background


async def _control(cluster: Cluster, ready: asyncio.Event) -> None:
    """Run the controllers after every change, until cancelled."""
    known, client = cluster.known, cluster.client
    nodes = [node.name for node in cluster.world.nodes]
    kubelet = Kubelet(
        cluster.world, client, known, cluster.directory, lambda name, kind: controllers.look_up(known, name, kind)
    )
    try:
        async with asyncio.TaskGroup() as watches:
            await known.start(watches)
            ready.set()
            while True:
                change = known.next_change
                try:
                    await controllers.run_deployments(client, known, nodes)
                    await controllers.schedule(client, known, nodes)
                    await controllers.balance_loads(client, known)
                    await kubelet.reconcile()
                    await controllers.count_replicas(client, known)
                except ApiError:
                    # An object went or changed between the look and the write; the watch tells of it in a moment.
                    await asyncio.sleep(_AGAIN)
                    continue
                await change.wait()
    finally:
        await kubelet.close()


def read_manifests(path: Path) -> list[Json]:
    """The objects of a YAML file."""
    with path.open(encoding="utf-8") as stream:
        return [document for document in yaml.safe_load_all(stream) if document]
