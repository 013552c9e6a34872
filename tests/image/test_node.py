"""A node that is served from the image: packets of each kind, in both variants, behind a container's walls.

What is in the image is test_contents.py's; what each kind of packet does in every case, tests/conformance's.
"""

from __future__ import annotations

import asyncio
import hashlib
import itertools
import os
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from kproxy.sandbox import probe
from kproxy.sandbox.cluster import HEALTHZ_PORT, Cluster, running_cluster
from kproxy.sandbox.host import Host
from kproxy.sandbox.world import CLUSTER
from tests.image.container import NEEDED, OOM_SCORE, runtime, write_bundle

pytestmark = [pytest.mark.root, pytest.mark.slow]
DEADLINE = 60.0  # seconds; only a broken image needs them
PLACE = "/var/lib/kube-proxy/kubeconfig.conf"
LOCK = "/run/xtables.lock"
_numbers = itertools.count()
Json = dict[str, Any]


class Container:
    """A running one, and what it wrote."""

    def __init__(self, cluster: Cluster, bundle: Path) -> None:
        self.cluster, self.bundle, self.log = cluster, bundle, bundle / "log"
        self.node = cluster.world.node("node-1")

    @property
    def lines(self) -> list[str]:
        return self.log.read_text(encoding="utf-8").splitlines()


@pytest.fixture
async def cluster(rootfs: Path, tmp_path: Path) -> AsyncIterator[Cluster]:
    del rootfs  # without an image there is nothing to be done
    async with running_cluster(tmp_path, nodes=("node-1",), proxies=False) as cluster:
        await cluster.apply([*map(_pod, ("one", "two")), _service("kernel"), _service("relayed", relayed=True)])
        await cluster.settle()
        yield cluster


def _pod(name: str) -> Json:
    ports = [{"containerPort": 7}, {"containerPort": 9, "protocol": "UDP"}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "echo"}},
        "spec": {"containers": [{"name": "c", "image": "kproxy/echo", "ports": ports}]},
    }


def _service(name: str, *, relayed: bool = False) -> Json:
    ports = [
        {"name": "t", "port": 80, "targetPort": 7},
        {"name": "u", "port": 80, "targetPort": 9, "protocol": "UDP"},
    ]
    metadata: Json = {"name": name}
    if relayed:
        metadata["annotations"] = {"kproxy.io/mode": "userspace"}
    spec = {"type": "NodePort", "selector": {"app": "echo"}, "ports": ports, "ipFamilyPolicy": "RequireDualStack"}
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


def _bundle(cluster: Cluster, rootfs: Path, environment: dict[str, str], *command: str, **rest: Any) -> Path:
    lock = cluster.directory / "xtables.lock"
    lock.touch(0o600)
    mounts = {PLACE: cluster.kubeconfig, LOCK: lock}
    if Path("/lib/modules").is_dir():
        mounts["/lib/modules"] = Path("/lib/modules")
    name = f"node{os.getpid()}-{next(_numbers)}"
    return write_bundle(
        cluster.directory / name,
        rootfs,
        command,
        mounts=mounts,
        writable=(LOCK,),
        environment=environment,
        **rest,
    )


@asynccontextmanager
async def running(
    cluster: Cluster, rootfs: Path, environment: dict[str, str], *flags: str, capabilities: Sequence[str] = NEEDED
) -> AsyncIterator[Container]:
    """The daemon, by kube-proxy's own command line; ended by SIGTERM, as the kubelet does."""
    given = (
        f"--kubeconfig={PLACE}",
        "--hostname-override=node-1",
        f"--cluster-cidr={','.join(CLUSTER.values())}",
        f"--healthz-bind-address=0.0.0.0:{HEALTHZ_PORT}",
        f"--oom-score-adj={OOM_SCORE}",
        *flags,
    )
    bundle = _bundle(cluster, rootfs, environment, "/usr/local/bin/kube-proxy", *given, capabilities=capabilities)
    container = Container(cluster, bundle)
    with container.log.open("wb") as log:
        process = await container.node.popen(runtime(bundle), stdout=log, stderr=log)
    try:
        async with asyncio.timeout(DEADLINE):
            while (await probe.http(container.node, container.node.ips[0], HEALTHZ_PORT, path="/readyz")).status != 200:
                assert process.returncode is None, container.log.read_text(encoding="utf-8")
                await asyncio.sleep(0.05)
        yield container
    finally:
        status = await container.node.stop(process)
    assert status == 0, container.log.read_text(encoding="utf-8")


async def _hint(node: Host, variant: str) -> None:
    """What the kubelet leaves for programs like ours."""
    for program in ("iptables", "ip6tables"):
        done = await node.run((f"{program}-{variant}", "-t", "mangle", "-N", "KUBE-IPTABLES-HINT"), env=_env(node))
        done.check()


def _env(node: Host) -> dict[str, str]:
    return {**os.environ, "XTABLES_LOCKFILE": f"/run/{node.name}.lock"}


async def _questions(cluster: Cluster, name: str) -> dict[str, str]:
    """Both protocols, both families, at the cluster IP from a pod and at the node port from outside: how each ended."""
    service = await cluster.client.get("Service", name, "default")
    node, client, pod = cluster.world.node("node-1"), cluster.world.host("client"), cluster.world.pods[0]
    ports = {port["name"]: port for port in service["spec"]["ports"]}
    ended = {}
    for family, ip in enumerate(service["spec"]["clusterIPs"]):
        for kind, ask in (("t", probe.tcp), ("u", probe.udp)):
            ended[f"{kind}{family} cluster IP"] = (await ask(pod, ip, ports[kind]["port"])).outcome
            ended[f"{kind}{family} node port"] = (await ask(client, node.ips[family], ports[kind]["nodePort"])).outcome
    return ended


async def _all_answered(cluster: Cluster, name: str) -> None:
    ended: dict[str, str] = {}
    try:
        async with asyncio.timeout(DEADLINE):  # a relay opens its sockets after the node is ready
            while True:
                ended = await _questions(cluster, name)
                if set(ended.values()) == {"ok"}:
                    break
                await asyncio.sleep(0.1)
    except TimeoutError:
        pytest.fail(f"{name}: {ended}")
    assert len(ended) == 8


def _contents(rootfs: Path) -> str:
    """Of every file; directories only by name, for a runtime makes those that it mounts over."""
    digest = hashlib.sha256()
    for path in sorted(rootfs.rglob("*")):
        if path.is_file() and not path.is_symlink() and path.stat().st_size:
            digest.update(f"{path.relative_to(rootfs)}\0".encode() + path.read_bytes())
    return digest.hexdigest()


@pytest.mark.parametrize("variant", ["nft", "legacy"])
async def test_packets_reach_pods(cluster: Cluster, rootfs: Path, environment: dict[str, str], variant: str) -> None:
    before, node = _contents(rootfs), cluster.world.node("node-1")
    node.write_sysctls({"net/ipv4/conf/all/route_localnet": "0"})  # a network namespace begins with the machine's
    await _hint(node, variant)
    async with running(cluster, rootfs, environment) as container:
        await _all_answered(cluster, "kernel")
        await _all_answered(cluster, "relayed")
        saved = await container.node.run((f"iptables-{variant}-save", "-t", "nat"), env=_env(container.node))
        assert "default/kernel" in saved.check().stdout
    said = container.lines
    # route_localnet, which kube-proxy's own settings want, is for sysctls alone; timeouts are not
    (settings,) = (line for line in said if "Some kernel settings stay as they are" in line)
    assert 'route_localnet="stays 0' in settings
    assert 'nf_conntrack_tcp_timeout_close_wait="3600, was 60, by netlink"' in settings
    assert not any("OOM score" in line for line in said)
    refused = [line for line in said if "ead-only" in line and "Some kernel settings" not in line]
    assert refused == []
    assert [line for line in said if line.startswith(("E", "F")) or "Traceback" in line] == []
    assert _contents(rootfs) == before


@pytest.mark.parametrize("variant", ["nft", "legacy"])
async def test_cleanup_leaves_nothing(
    cluster: Cluster, rootfs: Path, environment: dict[str, str], variant: str
) -> None:
    await _hint(cluster.world.node("node-1"), variant)
    async with running(cluster, rootfs, environment) as container:
        pass
    node = container.node
    bundle = _bundle(cluster, rootfs, environment, "kproxy", "cleanup")
    done = await node.run(runtime(bundle), deadline=DEADLINE)
    assert done.status == 0, done.stderr
    saved = await node.run((f"iptables-{variant}-save",), env=_env(node))
    assert [line for line in saved.check().stdout.splitlines() if "KUBE-" in line and not _theirs(line)] == []


def _theirs(line: str) -> bool:
    """The kubelet's own chains."""
    return "KUBE-IPTABLES-HINT" in line or "KUBE-FIREWALL" in line


async def test_the_nft_variant_can_do_without_raw_sockets(
    cluster: Cluster, rootfs: Path, environment: dict[str, str]
) -> None:
    await _hint(cluster.world.node("node-1"), "nft")
    async with running(cluster, rootfs, environment, "--iptables-backend=nft", capabilities=("CAP_NET_ADMIN",)):
        await _all_answered(cluster, "kernel")
        await _all_answered(cluster, "relayed")
