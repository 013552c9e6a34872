"""Pods that run because the API says so, without any proxy; Services: test_sandbox_demo.py."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from kproxy.errors import KernelError
from kproxy.sandbox import controllers, probe
from kproxy.sandbox.cluster import Cluster, running_cluster

pytestmark = pytest.mark.root


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with running_cluster(tmp_path, proxies=False) as cluster:
        yield cluster


def pod(name: str, image: str, *ports: dict[str, Any], **spec: Any) -> dict[str, Any]:
    container = {"name": "c", "image": image, "ports": list(ports)}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": {"containers": [container], **spec}}


async def test_a_pod_of_each_image_serves_its_ports(cluster: Cluster) -> None:
    await cluster.apply(
        [
            pod("web", "nginx:1.27", {"containerPort": 8000}),
            pod("http", "kproxy/http", {"containerPort": 80}),
            pod("echo", "kproxy/echo", {"containerPort": 7}, {"containerPort": 9, "protocol": "UDP"}),
            pod("dns", "kproxy/dns", {"containerPort": 53, "protocol": "UDP"}),
            pod("on-host", "kproxy/http", {"containerPort": 8080}, hostNetwork=True, nodeName="node-2"),
        ]
    )
    await cluster.settle()
    client, ips = cluster.world.host("client"), {p.name: p.ips for p in cluster.world.pods}
    for family in (0, 1):
        assert (await probe.http(client, ips["web"][family], 8000)).name == "web"
        assert (await probe.http(client, ips["http"][family], 80)).name == "http"
        assert (await probe.tcp(client, ips["echo"][family], 7)).name == "echo"
        assert (await probe.udp(client, ips["echo"][family], 9)).name == "echo"
        assert (await probe.resolve(client, ips["dns"][family])).name == "dns"
    found = await probe.resolve(client, ips["dns"][0], name="kubernetes.default.svc.cluster.local", kind="A")
    assert found.values == ("10.96.0.1",)
    on_host = await cluster.client.get("Pod", "on-host", "default")
    assert on_host["status"]["podIP"] == cluster.world.node("node-2").ip()
    assert (await probe.http(client, on_host["status"]["podIP"], 8080)).name == "on-host"


async def test_a_deleted_pod_is_gone_from_world_and_api(cluster: Cluster) -> None:
    await cluster.apply([pod("web", "kproxy/http", {"containerPort": 80})])
    await cluster.settle()
    await cluster.client.delete("Pod", "web", "default")
    known = cluster.known
    assert await known.when(lambda: not known.all("Pod") and "web" not in cluster.world.hosts, 10)


async def test_a_pod_that_cannot_start_says_why_at_once(cluster: Cluster) -> None:
    await cluster.apply([pod("odd", "example.com/odd")])
    with pytest.raises(KernelError, match="odd the sandbox runs only the images nginx, kproxy/http"):
        await cluster.settle()


async def test_a_taken_port_of_a_node_is_told(cluster: Cluster) -> None:
    port = {"containerPort": 8080}
    await cluster.apply([pod("one", "kproxy/http", port, hostNetwork=True, nodeName="node-1")])
    await cluster.settle()
    await cluster.apply([pod("two", "kproxy/http", port, hostNetwork=True, nodeName="node-1")])
    with pytest.raises(KernelError, match=r"two .*already in use"):
        await cluster.settle()


async def test_nodes_and_load_balancers_are_looked_after(cluster: Cluster) -> None:
    nodes = {node["metadata"]["name"]: node for node in cluster.known.all("Node")}
    assert nodes["node-2"]["spec"]["podCIDRs"] == ["10.244.2.0/24", "fd00:10:244:2::/64"]
    balanced = {"type": "LoadBalancer", "ports": [{"port": 80}]}
    await cluster.apply([{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "lb"}, "spec": balanced}])
    await cluster.settle()
    service = await cluster.client.get("Service", "lb", "default")
    assert controllers.balancer_ips(service) == ["203.0.113.10"]
