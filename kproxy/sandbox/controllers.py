"""The parts of a control plane that the examples need: Deployments, a scheduler, a cloud, and the names for DNS.

Each is one function from what is known to what must be written; all are run again after any change, and write
nothing when nothing is missing. Names are chosen so that writing twice does no harm: a pod is called after its
Deployment and the lowest free number, a second attempt is refused as already existing.

Endpoint slices are the API server's own affair (apiserver/), since its tests need them without pods that run.

Source of the rules: Kubernetes "Deployments", "Service: type LoadBalancer", "DNS for Services and Pods".
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Sequence
from ipaddress import ip_address, ip_network

from kproxy.sandbox.client import ApiAnswer, Client, Json, Known, name_of
from kproxy.sandbox.world import LOAD_BALANCERS, World

CLUSTER_DOMAIN = "cluster.local"
_TEMPLATE_HASH = "pod-template-hash"
_FIRST_BALANCER = 10  # the lowest addresses of a range are often somebody's
_CONFLICT = 409


async def register_nodes(client: Client, world: World) -> None:
    """Make a Node object for every node of the world."""
    for node in world.nodes:
        addresses = [{"type": "InternalIP", "address": ip} for ip in node.ips]
        cidrs = [node.pod_cidrs[family] for family in world.families]
        await client.apply(
            {
                "apiVersion": "v1",
                "kind": "Node",
                "metadata": {"name": node.name, "labels": {"kubernetes.io/hostname": node.name}},
                "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs},
                "status": {
                    "addresses": [*addresses, {"type": "Hostname", "address": node.name}],
                    "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}],
                },
            }
        )


async def run_deployments(client: Client, known: Known, nodes: Sequence[str]) -> None:
    """Create and delete pods until every Deployment has its replicas of its present template."""
    pods = known.all("Pod")
    for deployment in known.all("Deployment"):
        metadata, spec = deployment["metadata"], deployment["spec"]
        fingerprint = hashlib.sha256(json.dumps(spec["template"], sort_keys=True).encode()).hexdigest()[:10]
        own = [pod for pod in pods if _owner(pod) == metadata["uid"] and _lives(pod)]
        current = [pod for pod in own if pod["metadata"]["labels"].get(_TEMPLATE_HASH) == fingerprint]
        wanted = spec.get("replicas", 1)
        for pod in [pod for pod in own if pod not in current] + sorted(current, key=_number)[wanted:]:
            await client.delete("Pod", pod["metadata"]["name"], metadata["namespace"])
        taken = {pod["metadata"]["name"] for pod in pods if pod["metadata"]["namespace"] == metadata["namespace"]}
        free = (n for n in itertools.count(1) if f"{metadata['name']}-{n}" not in taken)
        load = Counter(dict.fromkeys(nodes, 0))
        load.update(pod["spec"]["nodeName"] for pod in current)
        for _ in range(wanted - len(current)):
            node = min(nodes, key=lambda node: load[node])
            load[node] += 1
            await _create(client, _pod(deployment, f"{metadata['name']}-{next(free)}", node, fingerprint))


async def schedule(client: Client, known: Known, nodes: Sequence[str]) -> None:
    """Give every pod that has no node, such as one of kubectl run, the node with the fewest."""
    pods = known.all("Pod")
    load = Counter(pod["spec"].get("nodeName", "") for pod in pods)
    for pod in pods:
        if not pod["spec"].get("nodeName") and _lives(pod):
            node = min(nodes, key=lambda node: load[node])
            load[node] += 1
            namespace, name = name_of(pod)
            await client.patch("Pod", name, namespace, {"spec": {"nodeName": node}})


async def count_replicas(client: Client, known: Known) -> None:
    """Say in the status of each Deployment how many of its pods are ready."""
    for deployment in known.all("Deployment"):
        own = [p for p in known.all("Pod") if _owner(p) == deployment["metadata"]["uid"] and _lives(p)]
        ready = sum(is_ready(pod) for pod in own)
        counts = {
            "observedGeneration": deployment["metadata"].get("generation", 1),
            "replicas": len(own),
            "updatedReplicas": len(own),
            "readyReplicas": ready,
            "availableReplicas": ready,
        }
        present = deployment.get("status") or {}
        if any(present.get(key, 0) != value for key, value in counts.items()):
            namespace, name = name_of(deployment)
            await client.patch("Deployment", name, namespace, {"status": counts}, part="status")


async def balance_loads(client: Client, known: Known) -> None:
    """What a cloud does: give each Service of type LoadBalancer an address for each of its families."""
    services = [item for item in known.all("Service") if item["spec"].get("type") == "LoadBalancer"]
    taken = {ip for service in services for ip in balancer_ips(service)}
    for service in services:
        if balancer_ips(service) or service["spec"].get("loadBalancerClass"):
            continue
        ips = []
        for family in service["spec"].get("ipFamilies") or ["IPv4"]:
            network = ip_network(LOAD_BALANCERS[4 if family == "IPv4" else 6])
            ips.append(next(ip for n in itertools.count(_FIRST_BALANCER) if (ip := str(network[n])) not in taken))
        taken.update(ips)
        namespace, name = name_of(service)
        status = {"status": {"loadBalancer": {"ingress": [{"ip": ip} for ip in ips]}}}
        await client.patch("Service", name, namespace, status, part="status")


def balancer_ips(service: Json) -> list[str]:
    """The load-balancer VIPs in a Service's status."""
    ingress = ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or ()
    return [point["ip"] for point in ingress if point.get("ip")]


def is_ready(pod: Json) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(item["type"] == "Ready" and item["status"] == "True" for item in conditions)


def trouble_of(pod: Json) -> str:
    """Why a pod cannot start, as its kubelet said; empty if nothing is wrong."""
    containers = (pod.get("status") or {}).get("containerStatuses") or ()
    return next((state["waiting"]["message"] for item in containers if "waiting" in (state := item["state"])), "")


def is_settled(known: Known) -> bool:
    """Whether every Deployment has all its pods ready and every LoadBalancer Service its address."""
    waiting = any(
        (deployment.get("status") or {}).get("readyReplicas", 0) != deployment["spec"].get("replicas", 1)
        or (deployment.get("status") or {}).get("observedGeneration") != deployment["metadata"].get("generation", 1)
        for deployment in known.all("Deployment")
    )
    homeless = any(
        service["spec"].get("type") == "LoadBalancer" and not balancer_ips(service) for service in known.all("Service")
    )
    return not waiting and not homeless and all(map(is_ready, known.all("Pod")))


def look_up(known: Known, name: str, kind: str) -> Sequence[str] | None:
    """The addresses of ``service.namespace.svc.cluster.local``; None for a name that nobody has."""
    labels = name.split(".")
    if len(labels) != 5 or labels[2:] != ["svc", *CLUSTER_DOMAIN.split(".")]:
        return None
    service = known.find("Service", labels[1], labels[0])
    if service is None:
        return None
    version = {"A": 4, "AAAA": 6}.get(kind)
    ips = service["spec"].get("clusterIPs") or ()
    return [ip for ip in ips if ip != "None" and ip_address(ip).version == version]


async def _create(client: Client, pod: Json) -> None:
    try:
        await client.create(pod)
    except ApiAnswer as answer:
        if answer.code != _CONFLICT:  # created a moment ago; the watch has not told yet
            raise


def _pod(deployment: Json, name: str, node: str, fingerprint: str) -> Json:
    metadata, template = deployment["metadata"], deployment["spec"]["template"]
    labels = dict((template.get("metadata") or {}).get("labels") or {})
    owner = {"apiVersion": "apps/v1", "kind": "Deployment", "name": metadata["name"], "uid": metadata["uid"]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": metadata["namespace"],
            "labels": labels | {_TEMPLATE_HASH: fingerprint},
            "ownerReferences": [owner | {"controller": True, "blockOwnerDeletion": True}],
        },
        "spec": {"nodeName": node} | template["spec"],
    }


def _owner(pod: Json) -> str:
    return next((str(owner["uid"]) for owner in pod["metadata"].get("ownerReferences") or ()), "")


def _lives(pod: Json) -> bool:
    return "deletionTimestamp" not in pod["metadata"]


def _number(pod: Json) -> int:
    number: str = pod["metadata"]["name"].rpartition("-")[2]
    return int(number) if number.isdigit() else 0
