"""Which fields a kind has and of which types: what the API server's decoder accepts before anyone validates.

An unknown field is dropped and reported (kubectl asks for an error, other clients for a warning or silence); a
value of the wrong type is refused, as is the real decoder's way. Only the kinds that reach a proxy are described;
in all others every field is kept, because describing pods would be a thousand lines that no proxy reads.

Source: Kubernetes API reference, v1 Service and Endpoints, discovery.k8s.io/v1, networking.k8s.io/v1 ServiceCIDR.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from kproxy.sandbox.apiserver.status import Json, bad_request


class Scalar(Enum):
    """A leaf; the value is its name in the decoder's complaint."""

    STRING = "string"
    INTEGER = "int32"
    BOOLEAN = "bool"
    INTEGER_OR_STRING = "intstr.IntOrString"
    ANY = "any"


@dataclass(frozen=True, slots=True)
class Each:
    """A list of one shape."""

    item: Shape


@dataclass(frozen=True, slots=True)
class Texts:
    """A map from strings to strings, such as labels."""


Shape = Scalar | Each | Texts | Mapping[str, Any]

_STRING = Scalar.STRING
_INTEGER = Scalar.INTEGER
_BOOLEAN = Scalar.BOOLEAN
_ANY = Scalar.ANY
_STRINGS = Each(_STRING)

_METADATA: Mapping[str, Shape] = {
    "name": _STRING,
    "generateName": _STRING,
    "namespace": _STRING,
    "selfLink": _STRING,
    "uid": _STRING,
    "resourceVersion": _STRING,
    "generation": _INTEGER,
    "creationTimestamp": _ANY,
    "deletionTimestamp": _ANY,
    "deletionGracePeriodSeconds": _INTEGER,
    "labels": Texts(),
    "annotations": Texts(),
    "ownerReferences": Each(_ANY),
    "finalizers": _STRINGS,
    "managedFields": Each(_ANY),
}

_REFERENCE: Mapping[str, Shape] = {
    "kind": _STRING,
    "namespace": _STRING,
    "name": _STRING,
    "uid": _STRING,
    "apiVersion": _STRING,
    "resourceVersion": _STRING,
    "fieldPath": _STRING,
}

_SERVICE: Mapping[str, Shape] = {
    "spec": {
        "ports": Each(
            {
                "name": _STRING,
                "protocol": _STRING,
                "appProtocol": _STRING,
                "port": _INTEGER,
                "targetPort": Scalar.INTEGER_OR_STRING,
                "nodePort": _INTEGER,
            }
        ),
        "selector": Texts(),
        "clusterIP": _STRING,
        "clusterIPs": _STRINGS,
        "type": _STRING,
        "externalIPs": _STRINGS,
        "sessionAffinity": _STRING,
        "loadBalancerIP": _STRING,
        "loadBalancerSourceRanges": _STRINGS,
        "externalName": _STRING,
        "externalTrafficPolicy": _STRING,
        "healthCheckNodePort": _INTEGER,
        "publishNotReadyAddresses": _BOOLEAN,
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": _INTEGER}},
        "ipFamilies": _STRINGS,
        "ipFamilyPolicy": _STRING,
        "allocateLoadBalancerNodePorts": _BOOLEAN,
        "loadBalancerClass": _STRING,
        "internalTrafficPolicy": _STRING,
        "trafficDistribution": _STRING,
    },
    "status": {
        "loadBalancer": {
            "ingress": Each(
                {"ip": _STRING, "hostname": _STRING, "ipMode": _STRING, "ports": Each(_ANY)},
            )
        },
        "conditions": Each(_ANY),
    },
}

_ENDPOINT_PORT: Mapping[str, Shape] = {
    "name": _STRING,
    "port": _INTEGER,
    "protocol": _STRING,
    "appProtocol": _STRING,
}
_ENDPOINT_ADDRESSES = Each(
    {"ip": _STRING, "hostname": _STRING, "nodeName": _STRING, "targetRef": _REFERENCE},
)
_ENDPOINTS: Mapping[str, Shape] = {
    "subsets": Each(
        {
            "addresses": _ENDPOINT_ADDRESSES,
            "notReadyAddresses": _ENDPOINT_ADDRESSES,
            "ports": Each(_ENDPOINT_PORT),
        }
    )
}

_SLICE: Mapping[str, Shape] = {
    "addressType": _STRING,
    "endpoints": Each(
        {
            "addresses": _STRINGS,
            "conditions": {"ready": _BOOLEAN, "serving": _BOOLEAN, "terminating": _BOOLEAN},
            "hostname": _STRING,
            "targetRef": _REFERENCE,
            "deprecatedTopology": Texts(),
            "nodeName": _STRING,
            "zone": _STRING,
            "hints": {"forZones": Each({"name": _STRING}), "forNodes": Each({"name": _STRING})},
        }
    ),
    "ports": Each(_ENDPOINT_PORT),
}

SHAPES: Mapping[str, Mapping[str, Shape]] = {
    "Service": _SERVICE,
    "Endpoints": _ENDPOINTS,
    "EndpointSlice": _SLICE,
    "ServiceCIDR": {"spec": {"cidrs": _STRINGS}, "status": {"conditions": Each(_ANY)}},
    "ConfigMap": {"data": Texts(), "binaryData": Texts(), "immutable": _BOOLEAN},
}


@dataclass(slots=True)
class _Reading:
    """One document on its way through the decoder."""

    kind: str
    unknown: list[str] = field(default_factory=list)

    def read(self, value: Any, shape: Shape, path: str) -> Any:
        """Return the value without unknown fields and nulls; raises BadRequest for a wrong type."""
        if shape is Scalar.ANY:
            return value
        if isinstance(shape, Scalar):
            if not _fits(value, shape):
                raise self._mistyped(value, shape.value, path)
            return value
        if isinstance(shape, Each):
            return self._read_list(value, shape, path)
        if not isinstance(value, dict):
            raise self._mistyped(value, "map", path)
        if isinstance(shape, Texts):
            return {name: self.read(text, _STRING, path) for name, text in value.items() if text is not None}
        return self._read_struct(value, shape, path)

    def _read_list(self, value: Any, shape: Each, path: str) -> list[Any]:
        if not isinstance(value, list):
            raise self._mistyped(value, "list", path)
        return [self.read(item, shape.item, f"{path}[{index}]") for index, item in enumerate(value)]

    def _read_struct(self, value: Json, shape: Mapping[str, Shape], path: str) -> Json:
        kept: Json = {}
        for name, item in value.items():
            where = f"{path}.{name}" if path else name
            if name not in shape:
                self.unknown.append(where)
            elif item is not None:
                kept[name] = self.read(item, shape[name], where)
        return kept

    def _mistyped(self, value: object, wanted: str, path: str) -> Exception:
        names = {str: "string", int: "number", float: "number", bool: "bool", list: "array", dict: "object"}
        found = names.get(type(value), "null")
        return bad_request(
            f'{self.kind} in version "v1" cannot be handled as a {self.kind}: json: cannot unmarshal {found}'
            f" into Go struct field {self.kind}.{path} of type {wanted}"
        )


def _fits(value: object, shape: Scalar) -> bool:
    number = isinstance(value, int) and not isinstance(value, bool)
    match shape:
        case Scalar.STRING:
            return isinstance(value, str)
        case Scalar.INTEGER:
            return number and -(2**31) <= int(str(value)) < 2**31
        case Scalar.BOOLEAN:
            return isinstance(value, bool)
        case Scalar.INTEGER_OR_STRING:
            return number or isinstance(value, str)
        case Scalar.ANY:
            return True


def decode(kind: str, document: Json) -> tuple[Json, list[str]]:
    """Return the document with known, typed fields only, and the paths of the fields that were dropped."""
    if not isinstance(document.get("metadata", {}), dict):
        raise bad_request(f'{kind} in version "v1" cannot be handled as a {kind}: metadata is not an object')
    reading = _Reading(kind)
    frame: dict[str, Shape] = {"kind": _STRING, "apiVersion": _STRING, "metadata": _METADATA}
    if kind in SHAPES:
        kept = reading.read(document, {**frame, **SHAPES[kind]}, "")
    else:
        kept = document | {"metadata": reading.read(document.get("metadata") or {}, _METADATA, "metadata")}
    kept.setdefault("metadata", {})
    return kept, reading.unknown
