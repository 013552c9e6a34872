"""The scenarios' shorthand for Services, slices and Nodes, written out as the API's documents.

A Service says ``{name, ns, ip, ports: ["name:tcp/80->8080@30080"], eps: ["p1a ready=0 zones=za"], slices, lb, spec}``;
``spec`` is merged in last and wins. Without a controller, slices follow the Service's families and target ports.
"""

from __future__ import annotations

import re
from typing import Any

from tests.conformance.world import NAMES, NODES, PODS, ZONES

Json = dict[str, Any]
_PORT = re.compile(
    r"(?:(?P<name>[a-z0-9-]+):)?(?P<protocol>tcp|udp|sctp)/(?P<port>\d+)(?:->(?P<target>\d+))?(?:@(?P<node>\d+))?$"
)


def port(text: str) -> Json:
    """``name:tcp/80->8080@30080`` as a Service's port."""
    found = _PORT.match(text)
    if not found:
        raise ValueError(f"not a port: {text}")
    number = int(found["port"])
    made: Json = {"protocol": found["protocol"].upper(), "port": number, "targetPort": int(found["target"] or number)}
    if found["name"]:
        made["name"] = found["name"]
    if found["node"]:
        made["nodePort"] = int(found["node"])
    return made


def ips_of(short: Json) -> list[str]:
    """The cluster IPs that the shorthand asks for."""
    ips = short.get("ip", [])
    return [ips] if isinstance(ips, str) else list(ips)


def service(short: Json) -> Json:
    """The Service of a shorthand."""
    ports = [port(text) for text in short.get("ports", [])]
    spec: Json = {"selector": {"app": short["name"]}, "type": "ClusterIP", "ports": ports}
    if "lb" in short:
        spec["type"] = "LoadBalancer"
    elif any("nodePort" in each for each in ports):
        spec["type"] = "NodePort"
    ips = ips_of(short)
    if ips:
        spec["clusterIP"], spec["clusterIPs"] = ips[0], ips
    if ips and ips != ["None"]:
        spec["ipFamilies"] = ["IPv6" if ":" in ip else "IPv4" for ip in ips]
        spec["ipFamilyPolicy"] = "RequireDualStack" if len(ips) == 2 else "SingleStack"
    spec.update(short.get("spec", {}))
    metadata = {"name": short["name"], "namespace": short.get("ns", "default"), "labels": short.get("labels", {})}
    metadata["annotations"] = short.get("annotations", {})
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": metadata,
        "spec": {key: value for key, value in spec.items() if value is not None},
    }


def ingress(addresses: list[Any]) -> Json:
    """The status of a Service with these load-balancer addresses."""
    items = [{"ip": each, "ipMode": "VIP"} if isinstance(each, str) else each for each in addresses]
    return {"loadBalancer": {"ingress": items}}


def slices(short: Json) -> list[Json]:
    """The EndpointSlices that come with a shorthand."""
    if "slices" in short:
        return [_written_slice(short, each) for each in short["slices"]]
    if "eps" not in short:
        return []
    families = sorted({6 if ":" in ip else 4 for ip in ips_of(short) if ip != "None"} or {4})
    ports = [
        {"protocol": each["protocol"], "port": each["targetPort"], "name": each.get("name", "")}
        for each in service(short)["spec"]["ports"]
    ]
    return [
        _slice(short, f"{short['name']}-ipv{family}", family, ports, [endpoint(each, family) for each in short["eps"]])
        for family in families
    ]


def endpoint(entry: str | Json, family: int) -> Json:
    """``p1a ready=0 serving=1 term=1 zones=za nodes=n1`` or ``{at: address, ...}`` as a slice's endpoint."""
    if isinstance(entry, str):
        name, *options = entry.split()
        settings = dict(option.split("=", 1) for option in options)
    else:
        settings = {key: str(value) for key, value in entry.items()}
        name = settings.pop("pod", "")
    conditions = {
        api: settings[key] == "1"
        for key, api in (("ready", "ready"), ("serving", "serving"), ("term", "terminating"))
        if key in settings
    }
    conditions.setdefault("ready", True)
    node = f"n{PODS[name][0]}" if name in PODS else settings.get("node", name if name in NODES else None)
    made: Json = {"addresses": [settings.get("at") or NAMES[name][family]], "conditions": conditions}
    if node:
        made["nodeName"] = node
        made["zone"] = settings.get("zone", ZONES[node])
    hints: Json = {}
    if "zones" in settings:
        hints["forZones"] = [{"name": each} for each in settings["zones"].split(",")]
    if "nodes" in settings:
        hints["forNodes"] = [{"name": each} for each in settings["nodes"].split(",")]
    if hints:
        made["hints"] = hints
    return made


def node(name: str) -> Json:
    """A Node object as a kubelet and a cloud would have filled it in."""
    number = NODES[name]
    cidrs = [f"10.244.{number}.0/24", f"fd00:10:244:{number}::/64"]
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "labels": {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": ZONES[name]},
        },
        "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs},
        "status": {"addresses": [{"type": "InternalIP", "address": ip} for ip in NAMES[name].values()]},
    }


def bulk(step: Json) -> list[Json]:
    """The shorthands of ``bulk: {prefix, count, ip, per_service}``: endpoints go round among the small pods."""
    pods = [name for name in PODS if name != "pbig"]
    *head, third, fourth = (int(part) for part in step["ip"].split("."))
    made = []
    for number in range(step["count"]):
        high, low = divmod(third * 256 + fourth + number, 256)
        eps = [pods[(number + each) % len(pods)] for each in range(step.get("per_service", 1))]
        ip = ".".join(str(part) for part in (*head, high, low))
        made.append({"name": f"{step['prefix']}{number}", "ip": ip, "ports": ["tcp/80->8080"], "eps": eps})
    return made


def crowd(count: int) -> list[Json]:
    """Many Services of every kind that no scenario asks, so that chains grow until they are laid out as trees."""
    made: list[Json] = []
    for number in range(count):
        high, low = divmod(number, 250)
        ips = [f"10.96.{64 + high}.{low + 1}", f"fd00:10:96::{0x4000 + number:x}"]
        short: Json = {"name": f"crowd-{number}", "ns": "hx-crowd", "ip": ips, "eps": ["p2b", "p1b"]}
        short["ports"] = [f"tcp/{(80, 443, 8080)[number % 3]}->8080"]
        match number % 6:
            case 0:
                short["ports"] = [f"tcp/80->8080@{31000 + number}"]
            case 1:
                short["spec"] = {"externalIPs": [f"198.18.{high}.{low + 1}"]}
            case 2:
                ranges = {"loadBalancerSourceRanges": ["10.9.0.0/16"]}
                short |= {
                    "ports": [f"tcp/80->8080@{31000 + number}"],
                    "lb": [f"198.19.{high}.{low + 1}"],
                    "spec": ranges,
                }
            case 3:
                short["eps"] = []
            case 4:
                short["ports"] = ["udp/53->9090"]
            case _:
                short["spec"] = {"sessionAffinity": "ClientIP", "internalTrafficPolicy": "Local"}
        made.append(short)
    return made


def _written_slice(short: Json, written: Json) -> Json:
    family = 6 if written.get("family") == 6 else 4
    ports = []
    for text in written.get("ports", []):
        listed = port(text)
        ports.append({"protocol": listed["protocol"], "port": listed["port"], "name": listed.get("name", "")})
    endpoints = [endpoint(each, family) for each in written.get("eps", [])]
    if "many" in written:
        prefix = "10.244.3." if family == 4 else "fd00:10:244:3::"
        endpoints += [
            {"addresses": [f"{prefix}{number}"], "conditions": {"ready": True}, "nodeName": "n2", "zone": ZONES["n2"]}
            for number in range(*written["many"])
        ]
    return _slice(short, written["name"], family, ports, endpoints)


def _slice(short: Json, name: str, family: int, ports: list[Json], endpoints: list[Json]) -> Json:
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": short.get("ns", "default"),
            "labels": {"kubernetes.io/service-name": short["name"]},
        },
        "addressType": f"IPv{family}",
        "ports": ports,
        "endpoints": endpoints,
    }
