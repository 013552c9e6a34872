"""What kubectl reads besides objects: discovery, OpenAPI, tables; and what it writes in protobuf."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from kproxy.sandbox.apiserver import protobuf
from kproxy.sandbox.apiserver.discovery import aggregated, documents
from kproxy.sandbox.apiserver.resources import RESOURCES, named
from kproxy.sandbox.apiserver.status import Json, StatusError
from kproxy.sandbox.apiserver.table import age, table

_NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
_META = {"name": "x", "creationTimestamp": "2026-01-02T03:03:05Z"}


def test_both_discoveries_name_every_resource() -> None:
    found = documents()
    old = {
        (path, entry["name"])
        for path, document in found.items()
        if document.get("kind") == "APIResourceList"
        for entry in document["resources"]
        if "/" not in entry["name"]
    }
    new = {entry["resource"] for path in ("/api", "/apis") for entry in _aggregated(path)}
    assert {name for _, name in old} == new == {row.plural for row in RESOURCES}
    assert ("/apis/discovery.k8s.io/v1", "endpointslices") in old


def _aggregated(path: str) -> list[Json]:
    return [entry for item in aggregated(path)["items"] for each in item["versions"] for entry in each["resources"]]


def test_openapi_says_that_the_server_validates_fields() -> None:
    document = documents()["/openapi/v3/api/v1"]
    patch = document["paths"]["/api/v1/namespaces/{namespace}/services/{name}"]["patch"]
    assert patch["x-kubernetes-group-version-kind"] == {"group": "", "version": "v1", "kind": "Service"}
    assert "fieldValidation" in [parameter["name"] for parameter in patch["parameters"]]
    schema = document["components"]["schemas"]["io.k8s.api.core.v1.Service"]
    assert schema["properties"]["spec"]["properties"]["clusterIPs"]["type"] == "array"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (330, "5m30s"),
        (3600, "60m"),
        (25500, "7h5m"),
        (86400, "24h"),
        (273600, "3d4h"),
        (8640000, "100d"),
    ],
)
def test_ages(seconds: int, text: str) -> None:
    then = (_NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert age(then, _NOW) == text


def test_an_object_without_a_date_has_no_age() -> None:
    assert age(None, _NOW) == "<unknown>"


@pytest.mark.parametrize(
    ("kind", "content", "cells"),
    [
        (
            "Service",
            {
                "spec": {
                    "type": "LoadBalancer",
                    "clusterIP": "10.96.0.9",
                    "ports": [{"port": 80, "nodePort": 30080, "protocol": "TCP"}],
                    "selector": {"b": "2", "a": "1"},
                }
            },
            ["x", "LoadBalancer", "10.96.0.9", "<pending>", "80:30080/TCP", "60s", "a=1,b=2"],
        ),
        (
            "Service",
            {"spec": {"type": "ExternalName", "externalName": "db.example"}},
            ["x", "ExternalName", "<none>", "db.example", "<none>", "60s", "<none>"],
        ),
        (
            "Endpoints",
            {"subsets": [{"addresses": [{"ip": f"10.0.0.{n}"} for n in range(5)], "ports": [{"port": 80}]}]},
            ["x", "10.0.0.0:80,10.0.0.1:80,10.0.0.2:80 + 2 more...", "60s"],
        ),
        (
            "EndpointSlice",
            {"addressType": "IPv6", "endpoints": [{"addresses": ["fd00::1"]}], "ports": [{"port": 80}]},
            ["x", "IPv6", "80", "fd00::1", "60s"],
        ),
        (
            "Node",
            {
                "spec": {"unschedulable": True},
                "status": {
                    "conditions": [{"type": "Ready", "status": "True"}],
                    "addresses": [{"type": "InternalIP", "address": "192.0.2.1"}],
                },
            },
            ["x", "Ready,SchedulingDisabled", "<none>", "60s", "", "192.0.2.1", "<none>"],
        ),
        (
            "Pod",
            {
                "spec": {"containers": [{}], "nodeName": "n"},
                "status": {
                    "phase": "Running",
                    "podIP": "10.1.0.1",
                    "conditions": [{"type": "Ready", "status": "True"}],
                },
            },
            ["x", "1/1", "Running", "0", "60s", "10.1.0.1", "n"],
        ),
        (
            "Deployment",
            {"spec": {"replicas": 3}, "status": {"readyReplicas": 2, "updatedReplicas": 3}},
            ["x", "2/3", 3, 0, "60s", "<none>"],
        ),
        (
            "Ingress",
            {"spec": {"rules": [{"host": "a.example"}, {}], "tls": [{}]}},
            ["x", "<none>", "a.example,*", "", "80, 443", "60s"],
        ),
        ("IngressClass", {"spec": {"controller": "c"}}, ["x", "c", "<none>", "60s"]),
        ("ServiceCIDR", {"spec": {"cidrs": ["10.0.0.0/8"]}}, ["x", "10.0.0.0/8", "60s"]),
        ("ConfigMap", {"data": {"a": "b"}}, ["x", "1", "60s"]),
        ("Secret", {"type": "Opaque"}, ["x", "Opaque", "0", "60s"]),
        ("Namespace", {"status": {"phase": "Active"}}, ["x", "Active", "60s"]),
        ("ServiceAccount", {}, ["x", "60s"]),
        (
            "Event",
            {"type": "Warning", "reason": "R", "involvedObject": {"kind": "Node", "name": "n"}, "message": "m "},
            ["60s", "Warning", "R", "node/n", "m"],
        ),
    ],
)
def test_rows(kind: str, content: Json, cells: list[object]) -> None:
    result = table(named(kind), [{"metadata": _META, **content}], {"resourceVersion": "1"}, _NOW)
    assert result["rows"][0]["cells"] == cells
    assert len(result["columnDefinitions"]) == len(cells)


def _field(number: int, value: bytes | int) -> bytes:
    if isinstance(value, int):
        return bytes([number << 3]) + _varint(value)
    return bytes([number << 3 | 2]) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    out = b""
    while value >= 0x80:
        out += bytes([value & 0x7F | 0x80])
        value >>= 7
    return out + bytes([value])


def _envelope(kind: bytes, raw: bytes) -> bytes:
    return b"k8s\0" + _field(1, _field(1, b"v1") + _field(2, kind)) + _field(2, raw)


def test_a_service_in_protobuf_is_read() -> None:
    port = _field(1, b"") + _field(3, 300) + _field(4, _field(1, 1) + _field(3, b"web")) + _field(5, 0)
    labels = _field(1, b"a") + _field(2, b"b")
    metadata = _field(1, b"x") + _field(2, b"") + _field(11, labels) + _field(15, b"unknown")
    spec = _field(1, port) + _field(2, labels) + bytes([20 << 3 & 0x7F | 0x80, 1, 0]) + _field(13, 0)
    assert protobuf.decode(_envelope(b"Service", _field(1, metadata) + _field(2, spec))) == {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": "x", "labels": {"a": "b"}},
        "spec": {
            "ports": [{"port": 300, "targetPort": "web"}],
            "selector": {"a": "b"},
            "allocateLoadBalancerNodePorts": False,
        },
    }


@pytest.mark.parametrize(
    "raw",
    [b"", b"k8s\0", _envelope(b"Lease", b""), b"k8s\0\x0a\xff", b"k8s\0\x0d", _envelope(b"Service", b"\x0a\x05a")],
)
def test_damaged_protobuf_is_refused(raw: bytes) -> None:
    with pytest.raises(StatusError) as refused:
        protobuf.decode(raw)
    assert refused.value.code == 400
