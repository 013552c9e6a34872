"""The small control plane against the real API server on loopback; pods that really run: tests/netns."""

from __future__ import annotations

from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import pytest

from kproxy.sandbox import controllers
from kproxy.sandbox.apiserver import ApiServer
from kproxy.sandbox.client import ApiAnswer, Client, Known

NODES = ("node-1", "node-2")
KINDS = ("Node", "Pod", "Deployment", "Service")


class Plane:
    """A client, and what is known at the moment: listed, not watched, so that a test decides when."""

    def __init__(self, client: Client) -> None:
        self.client = client
        self.known = Known(client, KINDS)

    async def look(self) -> None:
        for kind in KINDS:
            await self.known._list(kind)

    async def run(self) -> None:
        await self.look()
        await controllers.run_deployments(self.client, self.known, NODES)
        await self.look()

    def pods(self) -> dict[str, str]:
        """The nodes of the pods by their names."""
        return {pod["metadata"]["name"]: pod["spec"]["nodeName"] for pod in self.known.all("Pod")}


@pytest.fixture
async def plane() -> AsyncIterator[Plane]:
    async with ApiServer() as api, Client(api.url) as client:
        yield Plane(client)


def deployment(replicas: int, image: str = "nginx") -> dict[str, Any]:
    labels = {"app": "web"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c", "image": image}]}}
    spec = {"replicas": replicas, "selector": {"matchLabels": labels}, "template": template}
    return {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec}


def service(name: str, **spec: Any) -> dict[str, Any]:
    ports = [{"port": 80}]
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}, "spec": {"ports": ports, **spec}}


async def test_a_deployment_gets_its_replicas_spread_over_the_nodes(plane: Plane) -> None:
    await plane.client.apply(deployment(3))
    await plane.run()
    assert plane.pods() == {"web-1": "node-1", "web-2": "node-2", "web-3": "node-1"}
    await plane.run()
    assert len(plane.pods()) == 3


async def test_the_last_pods_go_first_and_numbers_are_used_again(plane: Plane) -> None:
    await plane.client.apply(deployment(3))
    await plane.run()
    await plane.client.apply(deployment(1))
    await plane.run()
    assert list(plane.pods()) == ["web-1"]
    await plane.client.delete("Pod", "web-1", "default", now=True)
    await plane.client.apply(deployment(2))
    await plane.run()
    assert list(plane.pods()) == ["web-1", "web-2"]


async def test_another_template_means_other_pods(plane: Plane) -> None:
    await plane.client.apply(deployment(2))
    await plane.run()
    await plane.client.apply(deployment(2, image="kproxy/http"))
    await plane.run()
    assert {pod["spec"]["containers"][0]["image"] for pod in plane.known.all("Pod")} == {"kproxy/http"}


async def test_a_pod_that_exists_already_is_no_error(plane: Plane) -> None:
    await plane.client.apply(deployment(1))
    await plane.look()
    for _ in range(2):  # the second round does not know of the first one's pod, as when a watch is late
        await controllers.run_deployments(plane.client, plane.known, NODES)
    await plane.look()
    assert list(plane.pods()) == ["web-1"]


async def test_a_pod_without_a_node_gets_the_emptier_one(plane: Plane) -> None:
    await plane.client.apply(deployment(1))
    await plane.run()
    pod = {"kind": "Pod", "metadata": {"name": "own"}, "spec": {"containers": [{"name": "c", "image": "nginx"}]}}
    await plane.client.create(pod)
    await plane.look()
    await controllers.schedule(plane.client, plane.known, NODES)
    await plane.look()
    assert plane.pods() == {"web-1": "node-1", "own": "node-2"}


async def test_a_cloud_gives_each_load_balancer_its_own_address_in_each_family(plane: Plane) -> None:
    await plane.client.apply(service("one", type="LoadBalancer"))
    await plane.client.apply(service("two", type="LoadBalancer", ipFamilyPolicy="RequireDualStack"))
    await plane.client.apply(service("other", type="LoadBalancer", loadBalancerClass="example.com/other"))
    await plane.client.apply(service("plain"))
    for _ in range(2):
        await plane.look()
        await controllers.balance_loads(plane.client, plane.known)
    await plane.look()
    ips = {item["metadata"]["name"]: controllers.balancer_ips(item) for item in plane.known.all("Service")}
    assert ips["one"] == ["203.0.113.10"]
    assert ips["two"] == ["203.0.113.11", "2001:db8:113::a"]
    assert ips["other"] == ips["plain"] == []


async def test_names_of_services_are_answered_by_family(plane: Plane) -> None:
    await plane.client.apply(service("web", ipFamilyPolicy="RequireDualStack"))
    await plane.client.apply(service("headless", clusterIP="None"))
    await plane.look()
    found = plane.known.find("Service", "default", "web")
    assert found is not None
    four, six = found["spec"]["clusterIPs"]
    name = "web.default.svc.cluster.local"
    assert controllers.look_up(plane.known, name, "A") == [four]
    assert controllers.look_up(plane.known, name, "AAAA") == [six]
    assert controllers.look_up(plane.known, name, "TXT") == []
    assert controllers.look_up(plane.known, "headless.default.svc.cluster.local", "A") == []
    for unknown in ("gone.default.svc.cluster.local", "web.default.svc", "web.default.pod.cluster.local", ""):
        assert controllers.look_up(plane.known, unknown, "A") is None


async def test_a_cluster_is_settled_when_pods_are_ready_and_counted(plane: Plane) -> None:
    await plane.client.apply(deployment(1))
    await plane.look()
    assert not controllers.is_settled(plane.known)
    await plane.run()
    ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    await plane.client.patch("Pod", "web-1", "default", ready, part="status")
    await plane.look()
    assert not controllers.is_settled(plane.known)
    await controllers.count_replicas(plane.client, plane.known)
    await plane.look()
    assert controllers.is_settled(plane.known)
    await plane.client.apply(service("web", type="LoadBalancer"))
    await plane.look()
    assert not controllers.is_settled(plane.known)


async def test_nodes_are_registered_with_their_addresses_and_pod_ranges(plane: Plane) -> None:
    node = SimpleNamespace(
        name="node-1", ips=("192.0.2.1", "2001:db8::1"), pod_cidrs={4: "10.0.0.0/24", 6: "fd00::/64"}
    )
    await controllers.register_nodes(plane.client, SimpleNamespace(nodes=[node], families=(4, 6)))  # type: ignore[arg-type]
    stored = await plane.client.get("Node", "node-1")
    assert stored["spec"]["podCIDRs"] == ["10.0.0.0/24", "fd00::/64"]
    assert [item["address"] for item in stored["status"]["addresses"]] == ["192.0.2.1", "2001:db8::1", "node-1"]


async def test_refusals_carry_the_servers_own_words(plane: Plane) -> None:
    with pytest.raises(ApiAnswer, match="404 NotFound") as caught:
        await plane.client.get("Service", "none", "default")
    assert (caught.value.code, caught.value.reason) == (404, "NotFound")
    await plane.client.delete("Service", "none", "default")
    with pytest.raises(ApiAnswer) as refused:
        await plane.client.create(service("Bad_Name"))
    assert refused.value.code == 422
