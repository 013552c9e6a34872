"""Every place of an object with every hostile value of its type, one at a time: nothing is left to chance here.

Combinations, and what one object does to others, are test_objects.py's.
"""

from __future__ import annotations

import copy
from typing import Any

import pytest

from kproxy.model.enums import IPFamily, Kind
from tests.fuzz import oracle
from tests.fuzz.hostile import DEEP, INFINITE, LONG, STRUCTURES, Path, like, look, paths, put
from tests.fuzz.journey import Journey, convert
from tests.fuzz.laws import Plans
from tests.fuzz.objects import NODE, NODE_IPS, POD_IPS, TIMES, V4, V6, Document, Json

_METADATA: Json = {"name": "a", "namespace": "ns", "uid": "u", "resourceVersion": "7", "creationTimestamp": TIMES[0]}
_SERVICE: Json = {
    "metadata": {**_METADATA, "annotations": {"kproxy.io/mode": "userspace", "kproxy.io/eject-time": "5s,5m"}},
    "spec": {
        "type": "LoadBalancer",
        "clusterIP": "10.96.0.1",
        "clusterIPs": ["10.96.0.1", "fd00:10:96::1"],
        "ipFamilies": [V4, V6],
        "ports": [
            {"name": "p", "protocol": "TCP", "port": 80, "nodePort": 30000},
            {"name": "q", "protocol": "UDP", "port": 53, "nodePort": 30001},
        ],
        "externalIPs": ["192.0.2.1", "2001:db8::1"],
        "loadBalancerSourceRanges": ["203.0.113.0/24", "2001:db8:f::/48"],
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
        "internalTrafficPolicy": "Local",
        "externalTrafficPolicy": "Local",
        "healthCheckNodePort": 30009,
    },
    "status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.9", "ipMode": "VIP"}, {"ip": "2001:db8::9"}]}},
}
_PORTS = [{"name": "p", "protocol": "TCP", "port": 8080}, {"name": "q", "protocol": "UDP", "port": 53}]
_LABELS = {"kubernetes.io/service-name": "a"}


def _slice(family: str) -> Json:
    return {
        "metadata": {
            **_METADATA,
            "name": f"a-{family.lower()}",
            "labels": _LABELS,
            "annotations": {"endpoints.kubernetes.io/last-change-trigger-time": TIMES[1]},
        },
        "addressType": family,
        "endpoints": [
            {
                "addresses": [POD_IPS[family].format(1, 1)],
                "conditions": {"ready": True, "serving": True, "terminating": False},
                "nodeName": NODE,
                "hints": {"forZones": [{"name": "za"}], "forNodes": [{"name": NODE}]},
            },
            {"addresses": [POD_IPS[family].format(1, 2)]},
        ],
        "ports": _PORTS,
    }


_NODE: Json = {
    "metadata": {
        "name": NODE,
        "uid": "u",
        "labels": {"topology.kubernetes.io/zone": "za"},
        "deletionTimestamp": TIMES[0],
    },
    "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:10:244:1::/64"], "taints": [{"key": "t"}]},
    "status": {
        "addresses": [
            {"type": "InternalIP", "address": NODE_IPS[V4]},
            {"type": "ExternalIP", "address": NODE_IPS[V6]},
            {"type": "Hostname", "address": NODE},
        ]
    },
}
_ENDPOINTS: Json = {
    "metadata": _METADATA,
    "subsets": [{"addresses": [{"ip": "10.244.2.1", "nodeName": NODE}], "notReadyAddresses": [], "ports": _PORTS}],
}
OBJECTS = {
    "Service": Document(Kind.SERVICE, _SERVICE),
    "EndpointSlice": Document(Kind.ENDPOINT_SLICE, _slice(V4)),
    "EndpointSlice-IPv6": Document(Kind.ENDPOINT_SLICE, _slice(V6)),
    "Endpoints": Document(Kind.ENDPOINTS, _ENDPOINTS),
    "Node": Document(Kind.NODE, _NODE),
    "ServiceCIDR": Document(
        Kind.SERVICE_CIDR, {"metadata": {"name": "kubernetes"}, "spec": {"cidrs": ["10.96.0.0/16", "fd00:10:96::/108"]}}
    ),
}
NEIGHBOURS = [*OBJECTS.values()]


@pytest.mark.parametrize("name", OBJECTS)
def test_every_place_with_every_hostile_value(name: str) -> None:
    document = OBJECTS[name]
    neighbours = [each for each in NEIGHBOURS if each is not document and each.kind is not document.kind]
    plans = Plans(neighbours)
    for path in paths(document.json):
        for value in _values(look(document.json, path), path):
            spoilt = Document(document.kind, put(document.json, path, copy.deepcopy(value)), good=False)
            try:
                plans.check(spoilt)
            except Exception as error:
                where = ".".join(map(str, path))
                raise AssertionError(f"{where or '(the whole)'} = {ascii(value)[:200]}: {error}") from error


_OPAQUE = {"uid", "resourceVersion", "nodeName", "hints", "taints", "annotations", "labels", "creationTimestamp"}


def _values(found: Any, path: Path) -> list[Any]:
    """Of another type, too. A deep one takes long, and is the same to whoever cuts an object up, wherever it stands."""
    scalars = [7, "7", True, 1.5, LONG, INFINITE]
    others = [*STRUCTURES, *scalars] if len(path) == 1 else [each for each in (*STRUCTURES, *scalars) if each != DEEP]
    if isinstance(found, dict | list):
        return others
    # Texts that are compared and never printed or parsed differ little from each other.
    named = "kubernetes.io/service-name" in path
    return [*(like(found) if named or _OPAQUE.isdisjoint(path) else like(found)[::10]), *others]


def test_without_anything_wrong_all_is_served_and_nothing_said() -> None:
    """Or the test above would be content with silence that nobody deserves."""
    found = convert(NEIGHBOURS)
    journeys = {family: Journey(family) for family in IPFamily}
    plans = {family: journey.travel(found.changes).plan for family, journey in journeys.items()}
    assert not found.problems
    assert not [note for plan in plans.values() for note in plan.notes]
    for each in NEIGHBOURS:
        assert not oracle.missing(each.kind, each.json, journeys[IPFamily.IPV4].cluster, plans)
