"""What `kubectl get` prints: the server decides the columns, kubectl only aligns them.

Answers requests for `application/json;as=Table` with the usual columns of each kind; columns of priority 1 appear
with `-o wide`. Without this kubectl would show name and age only, which hides everything a Service is about.

Source: Kubernetes API concepts, "Receiving resources as Tables".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from kproxy.sandbox.apiserver.resources import Resource
from kproxy.sandbox.apiserver.status import Json

Cells = list[Any]
_NONE = "<none>"
_WIDE = "wide:"

_COLUMNS: Mapping[str, str] = {
    "Service": "Name Type Cluster-IP External-IP Port(s) Age wide:Selector",
    "Endpoints": "Name Endpoints Age",
    "EndpointSlice": "Name AddressType Ports Endpoints Age",
    "Node": "Name Status Roles Age Version wide:Internal-IP wide:External-IP",
    "Namespace": "Name Status Age",
    "Pod": "Name Ready Status Restarts Age wide:IP wide:Node",
    "Deployment": "Name Ready Up-to-date Available Age wide:Selector",
    "Ingress": "Name Class Hosts Address Ports Age",
    "IngressClass": "Name Controller Parameters Age",
    "ServiceCIDR": "Name CIDRs Age",
    "ConfigMap": "Name Data Age",
    "Secret": "Name Type Data Age",
    "Event": "Last_Seen Type Reason Object Message",
}


def table(resource: Resource, contents: Iterable[Json], metadata: Json, now: datetime) -> Json:
    """Return a Table of stored objects; `metadata` is the list's."""
    columns = _COLUMNS.get(resource.kind, "Name Age").split()
    cells = _CELLS.get(resource.kind, _plain_cells)
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": [_column(name) for name in columns],
        "rows": [{"cells": cells(content, now), "object": _partial(content["metadata"])} for content in contents],
    }


def _column(name: str) -> Json:
    title = name.removeprefix(_WIDE).replace("_", " ")
    return {
        "name": title,
        "type": "string",
        "format": "name" if title == "Name" else "",
        "description": "",
        "priority": 1 if name.startswith(_WIDE) else 0,
    }


def _partial(metadata: Json) -> Json:
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}


def age(stamp: str | None, now: datetime) -> str:
    """Return the time since a stamp as kubectl writes it: 45s, 5m30s, 17h, 3d2h."""
    if not stamp:
        return "<unknown>"
    then = datetime.fromisoformat(stamp)
    seconds = max(0, int((now - then.astimezone(UTC)).total_seconds()))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    ladder = (
        (seconds < 120, f"{seconds}s"),
        (minutes < 10, f"{minutes}m" + (f"{seconds % 60}s" if seconds % 60 else "")),
        (hours < 3, f"{minutes}m"),
        (hours < 8, f"{hours}h" + (f"{minutes % 60}m" if minutes % 60 else "")),
        (hours < 48, f"{hours}h"),
        (days < 8, f"{days}d" + (f"{hours % 24}h" if hours % 24 else "")),
    )
    return next((text for holds, text in ladder if holds), f"{days}d")


def _name_and_age(content: Json, now: datetime) -> tuple[str, str]:
    metadata = content["metadata"]
    return metadata["name"], age(metadata.get("creationTimestamp"), now)


def _plain_cells(content: Json, now: datetime) -> Cells:
    return list(_name_and_age(content, now))


def _joined(items: Iterable[object]) -> str:
    return ",".join(str(item) for item in items) or _NONE


def _first_few(items: list[str], most: int = 3) -> str:
    shown = _joined(items[:most])
    return f"{shown} + {len(items) - most} more..." if len(items) > most else shown


def _pairs(selector: Json | None) -> str:
    return _joined(f"{key}={value}" for key, value in sorted((selector or {}).items()))


def _service_cells(content: Json, now: datetime) -> Cells:
    name, old = _name_and_age(content, now)
    spec = content.get("spec") or {}
    kind = spec.get("type", "ClusterIP")
    ports = (
        f"{port['port']}:{port['nodePort']}/{port.get('protocol', 'TCP')}"
        if port.get("nodePort")
        else f"{port['port']}/{port.get('protocol', 'TCP')}"
        for port in spec.get("ports") or ()
    )
    address = spec.get("clusterIP") or _NONE
    return [name, kind, address, _external(content), _joined(ports), old, _pairs(spec.get("selector"))]


def _external(content: Json) -> str:
    spec = content.get("spec") or {}
    if spec.get("type") == "ExternalName":
        return str(spec.get("externalName", ""))
    balancer = (content.get("status") or {}).get("loadBalancer") or {}
    given = [each.get("ip") or each.get("hostname", "") for each in balancer.get("ingress") or ()]
    listed = [*(given if spec.get("type") == "LoadBalancer" else ()), *(spec.get("externalIPs") or ())]
    return _joined(listed) if listed or spec.get("type") != "LoadBalancer" else "<pending>"


def _hosted(address: str, port: object) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _endpoints_cells(content: Json, now: datetime) -> Cells:
    name, old = _name_and_age(content, now)
    shown = []
    for subset in content.get("subsets") or ():
        addresses = [address["ip"] for address in subset.get("addresses") or ()]
        ports = subset.get("ports") or ()
        shown += [_hosted(address, port["port"]) for port in ports for address in addresses]
        shown += addresses if not ports else []
    return [name, _first_few(shown), old]


def _slice_cells(content: Json, now: datetime) -> Cells:
    name, old = _name_and_age(content, now)
    ports = [str(port.get("port", "*")) for port in content.get("ports") or ()]
    addresses = [address for each in content.get("endpoints") or () for address in each["addresses"]]
    unset = "<unset>"
    shown_ports = _first_few(ports) if ports else unset
    return [name, content["addressType"], shown_ports, _first_few(addresses) if addresses else unset, old]


def _node_cells(content: Json, now: datetime) -> Cells:
    name, old = _name_and_age(content, now)
    status = content.get("status") or {}
    ready = [each["status"] for each in status.get("conditions") or () if each.get("type") == "Ready"]
    state = {"True": "Ready"}.get(ready[0], "NotReady") if ready else "Unknown"
    if (content.get("spec") or {}).get("unschedulable"):
        state += ",SchedulingDisabled"
    mark = "node-role.kubernetes.io/"
    labels = content["metadata"].get("labels") or {}
    roles = _joined(sorted(label.removeprefix(mark) for label in labels if label.startswith(mark)))
    addresses = {each["type"]: each["address"] for each in reversed(status.get("addresses") or ())}
    version = (status.get("nodeInfo") or {}).get("kubeletVersion", "")
    internal, external = addresses.get("InternalIP", _NONE), addresses.get("ExternalIP", _NONE)
    return [name, state, roles, old, version, internal, external]


def _namespace_cells(content: Json, now: datetime) -> Cells:
    name, old = _name_and_age(content, now)
    return [name, (content.get("status") or {}).get("phase", ""), old]


def _pod_cells(content: Json, now: datetime) -> Cells:
    name, old = _name_and_age(content, now)
    status = content.get("status") or {}
    spec = content.get("spec") or {}
    states = status.get("containerStatuses") or ()
    total = max(len(spec.get("containers") or ()), 1)
    conditions = {each.get("type"): each.get("status") for each in status.get("conditions") or ()}
    ready = sum(1 for each in states if each.get("ready"))
    if not states and conditions.get("Ready") == "True":
        ready = total  # who runs the pod here may not report single containers
    state = "Terminating" if "deletionTimestamp" in content["metadata"] else status.get("phase", "Unknown")
    restarts = sum(each.get("restartCount", 0) for each in states)
    address = status.get("podIP", _NONE)
    return [name, f"{ready}/{total}", state, str(restarts), old, address, spec.get("nodeName", _NONE)]


def _deployment_cells(content: Json, now: datetime) -> Cells:
    name, old = _name_and_age(content, now)
    spec, status = content.get("spec") or {}, content.get("status") or {}
    ready = f"{status.get('readyReplicas', 0)}/{spec.get('replicas', 1)}"
    updated, available = status.get("updatedReplicas", 0), status.get("availableReplicas", 0)
    return [name, ready, updated, available, old, _pairs((spec.get("selector") or {}).get("matchLabels"))]


def _ingress_cells(content: Json, now: datetime) -> Cells:
    name, old = _name_and_age(content, now)
    spec = content.get("spec") or {}
    hosts = _first_few([rule.get("host") or "*" for rule in spec.get("rules") or ()]) if spec.get("rules") else "*"
    balancer = (content.get("status") or {}).get("loadBalancer") or {}
    address = ",".join(each.get("ip") or each.get("hostname", "") for each in balancer.get("ingress") or ())
    return [name, spec.get("ingressClassName", _NONE), hosts, address, "80, 443" if spec.get("tls") else "80", old]


def _ingress_class_cells(content: Json, now: datetime) -> Cells:
    name, old = _name_and_age(content, now)
    spec = content.get("spec") or {}
    parameters = spec.get("parameters") or {}
    shown = f"{parameters['kind']}/{parameters['name']}" if parameters else _NONE
    return [name, spec.get("controller", ""), shown, old]


def _service_cidr_cells(content: Json, now: datetime) -> Cells:
    name, old = _name_and_age(content, now)
    return [name, _joined((content.get("spec") or {}).get("cidrs") or ()), old]


def _config_map_cells(content: Json, now: datetime) -> Cells:
    name, old = _name_and_age(content, now)
    return [name, str(len(content.get("data") or {}) + len(content.get("binaryData") or {})), old]


def _secret_cells(content: Json, now: datetime) -> Cells:
    name, old = _name_and_age(content, now)
    return [name, content.get("type", ""), str(len(content.get("data") or {})), old]


def _event_cells(content: Json, now: datetime) -> Cells:
    seen = content.get("lastTimestamp") or content.get("eventTime") or content["metadata"]["creationTimestamp"]
    involved = content.get("involvedObject") or {}
    what = f"{str(involved.get('kind', '')).lower()}/{involved.get('name', '')}"
    message = str(content.get("message", "")).strip()
    return [age(seen, now), content.get("type", ""), content.get("reason", ""), what, message]


_CELLS: Mapping[str, Callable[[Json, datetime], Cells]] = {
    "Service": _service_cells,
    "Endpoints": _endpoints_cells,
    "EndpointSlice": _slice_cells,
    "Node": _node_cells,
    "Namespace": _namespace_cells,
    "Pod": _pod_cells,
    "Deployment": _deployment_cells,
    "Ingress": _ingress_cells,
    "IngressClass": _ingress_class_cells,
    "ServiceCIDR": _service_cidr_cells,
    "ConfigMap": _config_map_cells,
    "Secret": _secret_cells,
    "Event": _event_cells,
}
