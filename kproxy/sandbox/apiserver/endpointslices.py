"""Which EndpointSlices and Endpoints a Service should have: the arithmetic of three controllers.

For a Service with a selector: slices from its pods (the EndpointSlice controller) and one Endpoints object from the
same pods (the endpoints controller). For a Service without one: slices copied from the Endpoints object that
somebody wrote by hand (the mirroring controller). `controllers` fetches the inputs and stores the results.

An endpoint stays in the slice it is in, as upstream does it: a proxy that watches then sees one small change for
one pod, and tests of incremental updates mean something.

Pure. Sources: KEP-752 (EndpointSlice), KEP-1672 (terminating), KEP-2433 and KEP-4444 (hints), Kubernetes
"EndpointSlices" (distribution, mirroring).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from kproxy.sandbox.apiserver.formats import family
from kproxy.sandbox.apiserver.service_defaults import is_headless
from kproxy.sandbox.apiserver.status import Json

SERVICE_NAME = "kubernetes.io/service-name"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
CONTROLLER = "endpointslice-controller.k8s.io"
MIRROR = "endpointslicemirroring-controller.k8s.io"
SKIP_MIRROR = "endpointslice.kubernetes.io/skip-mirror"
HEADLESS = "service.kubernetes.io/headless"
PER_SLICE = 100
PER_MIRRORED_SLICE = 1000

Port = tuple[str, str, int, str]
"""(name, protocol, number, application protocol)."""
GroupKey = tuple[str, tuple[Port, ...]]
"""(address type, ports): what the endpoints of one slice have in common."""
Groups = dict[GroupKey, list[Json]]


@dataclass(frozen=True, slots=True)
class Arrangement:
    """What to store: new slices, changed slices, and the names of slices to delete."""

    create: list[Json] = field(default_factory=list)
    update: list[Json] = field(default_factory=list)
    delete: list[str] = field(default_factory=list)


def pod_groups(service: Json, pods: Sequence[Json], zones: Mapping[str, str]) -> Groups:
    """Group the endpoints of a Service's pods; `zones` maps node names to zones."""
    spec = service["spec"]
    groups: Groups = {}
    for address_type in spec.get("ipFamilies") or ():
        for pod in pods:
            address = next((ip for ip in pod_addresses(pod) if family(ip) == address_type), None)
            if address is None or _is_over(pod):
                continue
            endpoint = _endpoint(service, pod, address, zones)
            groups.setdefault((address_type, pod_ports(spec, pod)), []).append(endpoint)
        if not any(key[0] == address_type for key in groups):
            groups[address_type, ()] = []  # a slice without endpoints says that somebody looked
    return groups


def pod_addresses(pod: Json) -> list[str]:
    status = pod.get("status") or {}
    listed = [each["ip"] for each in status.get("podIPs") or () if each.get("ip")]
    return listed or ([status["podIP"]] if status.get("podIP") else [])


def is_ready(pod: Json) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or ()
    return any(each.get("type") == "Ready" and each.get("status") == "True" for each in conditions)


def _is_over(pod: Json) -> bool:
    return (pod.get("status") or {}).get("phase") in {"Succeeded", "Failed"}


def pod_ports(spec: Json, pod: Json) -> tuple[Port, ...]:
    """Return the numbers behind a Service's target ports in one pod; names that it lacks are left out."""
    found = []
    for port in spec.get("ports") or ():
        number = target_number(port, pod)
        if number:
            found.append((port.get("name", ""), port["protocol"], number, port.get("appProtocol", "")))
    return tuple(found)


def target_number(port: Json, pod: Json) -> int:
    """Return the port number of a target port in one pod, 0 if the pod has no port of that name."""
    target = port.get("targetPort") or port["port"]
    if isinstance(target, int):
        return target
    for container in (pod.get("spec") or {}).get("containers") or ():
        for offered in container.get("ports") or ():
            if offered.get("name") == target and offered.get("protocol", "TCP") == port["protocol"]:
                return int(offered["containerPort"])
    return 0


def _endpoint(service: Json, pod: Json, address: str, zones: Mapping[str, str]) -> Json:
    spec = service["spec"]
    metadata = pod["metadata"]
    serving = is_ready(pod)
    terminating = "deletionTimestamp" in metadata
    published = bool(spec.get("publishNotReadyAddresses"))
    endpoint: Json = {
        "addresses": [address],
        "conditions": {
            "ready": published or (serving and not terminating),
            "serving": serving,
            "terminating": terminating,
        },
        "targetRef": {
            "kind": "Pod",
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
        },
    }
    pod_spec = pod.get("spec") or {}
    node = pod_spec.get("nodeName")
    if node:
        endpoint["nodeName"] = node
        if zones.get(node):
            endpoint["zone"] = zones[node]
    if pod_spec.get("hostname") and pod_spec.get("subdomain") == service["metadata"]["name"]:
        endpoint["hostname"] = pod_spec["hostname"]
    hints = _hints(spec.get("trafficDistribution"), endpoint)
    if hints:
        endpoint["hints"] = hints
    return endpoint


def _hints(distribution: str | None, endpoint: Json) -> Json:
    if distribution is None or not endpoint["conditions"]["ready"]:
        return {}
    hints: Json = {}
    if "zone" in endpoint:
        hints["forZones"] = [{"name": endpoint["zone"]}]
    if distribution == "PreferSameNode" and "nodeName" in endpoint:
        hints["forNodes"] = [{"name": endpoint["nodeName"]}]
    return hints


def mirrored_groups(endpoints: Json) -> Groups:
    """Group the addresses of a hand-written Endpoints object as slices hold them."""
    groups: Groups = {}
    for subset in endpoints.get("subsets") or ():
        ports = tuple(
            (port.get("name", ""), port.get("protocol", "TCP"), port["port"], port.get("appProtocol", ""))
            for port in subset.get("ports") or ()
        )
        for name, ready in (("addresses", True), ("notReadyAddresses", False)):
            for address in subset.get(name) or ():
                endpoint: Json = {"addresses": [address["ip"]], "conditions": {"ready": ready}}
                endpoint |= {key: address[key] for key in ("hostname", "nodeName", "targetRef") if address.get(key)}
                groups.setdefault((family(address["ip"]), ports), []).append(endpoint)
    return groups


def frame(owner: Json, owner_kind: str, service: Json, manager: str) -> Json:
    """Return the metadata that every slice of a Service carries; `owner` is deleted together with them."""
    name = service["metadata"]["name"]
    labels = dict(owner["metadata"].get("labels") or {}) | {SERVICE_NAME: name, MANAGED_BY: manager}
    labels.pop(HEADLESS, None)
    if is_headless(service["spec"]):
        labels[HEADLESS] = ""
    reference = {
        "apiVersion": "v1",
        "kind": owner_kind,
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }
    return {
        "generateName": f"{name}-",
        "namespace": service["metadata"]["namespace"],
        "labels": labels,
        "ownerReferences": [reference],
    }


def arrange(groups: Groups, present: Sequence[Json], metadata: Json, per_slice: int = PER_SLICE) -> Arrangement:
    """Compare the slices that should be with those that are, and move as few endpoints as possible."""
    result = Arrangement()
    by_group: dict[GroupKey, list[Json]] = {}
    for each in present:
        by_group.setdefault(_group_key(each), []).append(each)
    for key, endpoints in groups.items():
        filled, rest = _refill(by_group.pop(key, []), endpoints, per_slice)
        for old, kept in filled:
            if not kept and (rest or len(filled) > 1 or endpoints):
                result.delete.append(old["metadata"]["name"])
            elif kept != old["endpoints"] or old["metadata"]["labels"] != metadata["labels"]:
                changed = old["metadata"] | {"labels": metadata["labels"]}
                result.update.append(old | {"metadata": changed, "endpoints": kept})
        chunks = [rest[at : at + per_slice] for at in range(0, len(rest), per_slice)]
        if not endpoints and not filled:
            chunks = [[]]
        result.create.extend(_new_slice(key, chunk, metadata) for chunk in chunks)
    result.delete.extend(each["metadata"]["name"] for left in by_group.values() for each in left)
    return result


def _refill(
    present: Sequence[Json], endpoints: Sequence[Json], per_slice: int
) -> tuple[list[tuple[Json, list[Json]]], list[Json]]:
    """Keep endpoints in their slices, then fill free places; returns the slices' contents and what is left."""
    wanted = {_identity(endpoint): endpoint for endpoint in endpoints}
    filled = []
    for old in present:
        kept = [wanted.pop(identity) for identity in map(_identity, old["endpoints"]) if identity in wanted]
        filled.append((old, kept))
    rest = list(wanted.values())
    for _, kept in filled:
        if kept or len(filled) == 1:
            free = per_slice - len(kept)
            kept.extend(rest[:free])
            rest = rest[free:]
    return filled, rest


def _identity(endpoint: Json) -> tuple[str, str]:
    return ((endpoint.get("targetRef") or {}).get("uid", ""), endpoint["addresses"][0])


def _group_key(each: Json) -> GroupKey:
    ports = tuple(
        (port.get("name", ""), port.get("protocol", "TCP"), port.get("port", 0), port.get("appProtocol", ""))
        for port in each.get("ports") or ()
    )
    return (each["addressType"], ports)


def _new_slice(key: GroupKey, endpoints: list[Json], metadata: Json) -> Json:
    return {
        "metadata": dict(metadata),
        "addressType": key[0],
        "ports": [_port(port) for port in key[1]],
        "endpoints": endpoints,
    }


def _port(port: Port) -> Json:
    name, protocol, number, application = port
    return {"name": name, "protocol": protocol, "port": number} | ({"appProtocol": application} if application else {})


def endpoints_subsets(service: Json, pods: Sequence[Json]) -> list[Json]:
    """Return the subsets of the Endpoints object of a Service with a selector: its primary family only."""
    spec = service["spec"]
    address_type = (spec.get("ipFamilies") or ["IPv4"])[0]
    published = bool(spec.get("publishNotReadyAddresses"))
    subsets: dict[tuple[Port, ...], tuple[list[Json], list[Json]]] = {}
    for pod, address in _addressed(pods, address_type):
        if "deletionTimestamp" in pod["metadata"] and not published:
            continue
        entry: Json = {"ip": address}
        if (pod.get("spec") or {}).get("nodeName"):
            entry["nodeName"] = pod["spec"]["nodeName"]
        entry["targetRef"] = {"kind": "Pod"} | {name: pod["metadata"][name] for name in ("namespace", "name", "uid")}
        ready, waiting = subsets.setdefault(pod_ports(spec, pod), ([], []))
        (ready if published or is_ready(pod) else waiting).append(entry)
    return [_subset(ports, ready, waiting) for ports, (ready, waiting) in subsets.items()]


def _addressed(pods: Sequence[Json], address_type: str) -> Iterator[tuple[Json, str]]:
    for pod in pods:
        address = next((ip for ip in pod_addresses(pod) if family(ip) == address_type), None)
        if address is not None and not _is_over(pod):
            yield pod, address


def _subset(ports: tuple[Port, ...], ready: list[Json], waiting: list[Json]) -> dict[str, Any]:
    subset: Json = {}
    if ready:
        subset["addresses"] = ready
    if waiting:
        subset["notReadyAddresses"] = waiting
    if ports:
        # A single unnamed port stays unnamed here; slices say "" instead.
        subset["ports"] = [{name: value for name, value in _port(port).items() if value} for port in ports]
    return subset
