"""A small cluster in which each Service suffers from something that deploy/TROUBLESHOOTING.md tells of.

    client ── lan ── node-1 (nft)     web-1, shell
                 └── node-2 (legacy)  web-2

No controller runs: what a Service's endpoints are is written here, so that an endpoint can be one that nobody should
have. kproxy runs on both nodes as a DaemonSet would start it, with another variant of iptables on each.
"""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from kproxy.sandbox import probe
from kproxy.sandbox.apiserver import ApiServer
from kproxy.sandbox.workload import Ports, Workload
from kproxy.sandbox.world import SERVICES, World

CHECKOUT = Path(__file__).parents[2]
DEADLINE = 30.0  # seconds; only what is broken needs them
_PATIENCE = 0.3  # seconds until a silent one is given up
WIDTH = "100"  # columns of the page's answers
VARIANTS = {"node-1": "nft", "node-2": "legacy"}
PERIODS = {"node-1": "30s", "node-2": "1s"}  # after twice as long a change that waits is a node that is ill
Json = dict[str, Any]
_SETTINGS = """\
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {{kubeconfig: {folder}/kubeconfig}}
clusterCIDR: 10.244.0.0/16
nodePortAddresses: [primary]
iptables: {{localhostNodePorts: false, syncPeriod: {period}}}
conntrack: {{maxPerCore: 0}}
kproxy:
  iptablesBackend: {variant}
  iptablesMinSyncPeriod: 100ms
  relayWorkers: 1
  relayShutdown: 100ms
  xtablesWait: 1
"""
# What a kubelet would do; all else is asked of the API server.
_KUBECTL = """\
case "$*" in
  "-n kube-system exec POD -- "*) shift 5; exec "$@" ;;
  "-n kube-system logs POD") exec cat "$LOG" ;;
esac
echo "no test gives kubectl an answer to this: $*" >&2; exit 1
"""
_RESTORE = """\
if [ -e {sick} ]; then
  input=$(mktemp {sick}.XXXXXX); cat > "$input"; exec < "$input"
  if grep -q shop/bad "$input"; then
    echo "iptables-restore: line 1 failed: No chain/target/match by that name." >&2; exit 1
  fi
fi
exec /usr/sbin/iptables-nft-restore "$@"
"""


class Ward:
    """``world`` and ``api`` are the cluster, ``proxies`` its daemons by node."""

    def __init__(self, world: World, api: ApiServer, folder: Path) -> None:
        self.world = world
        self.api = api
        self.proxies: dict[str, asyncio.subprocess.Process] = {}
        self._folder = folder
        self.programs = folder / "programs"
        self.programs.mkdir()
        self.sick = folder / "sick"  # where it is, the kernel refuses what shop/bad needs
        for node, variant in VARIANTS.items():
            text = _SETTINGS.format(folder=folder, variant=variant, period=PERIODS[node])
            self.settings(node).write_text(text, encoding="utf-8")
        self._put("kproxy", f'exec {shlex.quote(sys.executable)} -m kproxy "$@"')
        self._put("kubectl", _KUBECTL)
        self._put("iptables-nft-restore", _RESTORE.format(sick=self.sick))

    def environment(self, node: str) -> dict[str, str]:
        return {
            "PATH": f"{self.programs}:/usr/sbin:/usr/bin:/sbin:/bin",
            "LOG": str(self._folder / f"{node}.log"),
            "HOME": str(self._folder),
            "KUBECONFIG": str(self._folder / "kubeconfig"),
            "PYTHONPATH": str(CHECKOUT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "COLUMNS": WIDTH,
            "XTABLES_LOCKFILE": str(self._folder / f"{node}.lock"),
        }

    def _put(self, name: str, script: str) -> None:
        """A program for all hosts."""
        (self.programs / name).write_text(f"#!/bin/sh\n{script}\n", encoding="utf-8")
        (self.programs / name).chmod(0o755)

    def settings(self, node: str) -> Path:
        """The node's configuration file, as the ConfigMap of the DaemonSet is one."""
        return self._folder / f"{node}.conf"

    def lock(self, node: str) -> Path:
        return self._folder / f"{node}.lock"

    def log(self, node: str) -> str:
        return (self._folder / f"{node}.log").read_text(encoding="utf-8", errors="replace")

    async def start(self, node: str) -> None:
        """Begin to run kproxy on a node."""
        command = ("kproxy", "run", f"--config={self.settings(node)}", f"--hostname-override={node}")
        with (self._folder / f"{node}.log").open("ab") as log:
            process = await self.world.node(node).popen(command, stdout=log, stderr=log, env=self.environment(node))
        self.proxies[node] = process

    async def ready(self, node: str) -> None:
        host = self.world.node(node)

        async def is_ready() -> bool:
            return (await probe.http(host, host.ips[0], 10256, path="/readyz")).status == 200

        await self.until(is_ready)

    async def stop(self, node: str) -> None:
        await self.world.node(node).stop(self.proxies.pop(node))

    def _logs(self) -> str:
        return "kproxy said:\n" + "\n".join(map(self.log, VARIANTS))

    async def until(self, check: Callable[[], bool | Awaitable[bool]]) -> None:
        """Another process works: look until it is so."""
        try:
            async with asyncio.timeout(DEADLINE):
                while not (answer if isinstance(answer := check(), bool) else await answer):
                    assert all(each.returncode is None for each in self.proxies.values()), self._logs()
                    await asyncio.sleep(0.05)
        except TimeoutError:
            pytest.fail(f"not in time; {self._logs()}")

    async def type(self, command: str, host: str = "node-1") -> str:
        """What a command of the page prints there."""
        done = await self.world.host(host).run(("sh", "-c", command), env=self.environment(host))
        return done.stdout + done.stderr

    async def ask(self, host: str, address: str, port: int, path: str = "/", *, silence: bool = False) -> probe.Answer:
        """What a client there meets; ``silence``: it will wait in vain."""
        patience = _PATIENCE if silence else DEADLINE
        return await probe.http(self.world.host(host), address, port, path=path, deadline=patience)

    async def has(self, node: str, text: str) -> bool:
        return text in await self.type(f"iptables-{VARIANTS[node]}-save", node)

    def service(self, name: str, ip: str, *endpoints: str, port: int = 80, target: int = 8080, **more: Any) -> None:
        """Create one; ``endpoints`` are NODE=IP. ``protocol``, ``node_port``, ``vip`` and ``annotations`` are ours."""
        protocol = more.pop("protocol", "TCP")
        ports: Json = {"port": port, "targetPort": target, "protocol": protocol}
        if "node_port" in more:
            ports["nodePort"] = more.pop("node_port")
        vip = more.pop("vip", None)
        metadata = {"name": name, "namespace": "shop", "annotations": more.pop("annotations", {})}
        self.api.create(
            {"apiVersion": "v1", "kind": "Service", "metadata": metadata,
             "spec": {"clusterIP": ip, "ports": [ports], **more}}
        )  # fmt: skip
        if vip:
            self.api.set_status("Service", name, {"loadBalancer": {"ingress": [{"ip": vip}]}}, "shop")
        self.endpoints(name, *endpoints, target=target, protocol=protocol)

    def endpoints(self, name: str, *endpoints: str, target: int = 8080, protocol: str = "TCP") -> None:
        """Set them."""
        pairs = [each.split("=") for each in endpoints]
        self.api.apply(
            {
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "name": f"{name}-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": name}
                },
                "addressType": "IPv4",
                "ports": [{"port": target, "protocol": protocol}],
                "endpoints": [
                    {"addresses": [ip], "nodeName": node, "conditions": {"ready": True}} for node, ip in pairs
                ],
            }
        )  # fmt: skip


@contextlib.asynccontextmanager
async def ward(folder: Path, populate: Callable[[Ward], None]) -> AsyncIterator[Ward]:
    async with contextlib.AsyncExitStack() as stack:
        world = await stack.enter_async_context(World(families=(4,)))
        control_plane = world.host("cp")
        stack.enter_context(control_plane.inside())
        api = await stack.enter_async_context(
            ApiServer(host=control_plane.ips[0], port=6443, service_cidrs=[SERVICES[4]], controllers=False)
        )
        api.kubeconfig(folder / "kubeconfig")
        made = Ward(world, api, folder)
        api.create({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "shop"}})
        for node in world.nodes:
            addresses = [{"type": "InternalIP", "address": ip} for ip in node.ips]
            spec = {"podCIDR": node.pod_cidrs[4], "podCIDRs": [node.pod_cidrs[4]]}
            api.create(
                {"kind": "Node", "metadata": {"name": node.name}, "spec": spec, "status": {"addresses": addresses}}
            )
        for name, node in (("web-1", "node-1"), ("shell", "node-1"), ("web-2", "node-2")):
            pod = await world.add_pod(name, node)
            await stack.enter_async_context(Workload(name, pod, Ports(http=[8080], tcp=[8081], udp=[5353])))
        populate(made)
        await asyncio.gather(*(made.start(node) for node in VARIANTS))
        await asyncio.gather(*(made.ready(node) for node in VARIANTS))
        try:
            yield made
        finally:
            await asyncio.gather(*(made.stop(node) for node in [*made.proxies]))
