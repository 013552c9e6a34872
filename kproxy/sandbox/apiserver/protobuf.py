"""How to read a request body in Kubernetes' protobuf encoding: what `kubectl create deployment` and its kin send.

kubectl's typed clients write in protobuf only, without asking; they read JSON answers gladly. So this decodes, for
the kinds that `kubectl create` makes, the fields that it sets, and never encodes. A field that is not described is
skipped, as protobuf prescribes. Zero values of plain fields are dropped: Go writes them even when nobody set them.

Rejected: the protobuf package and the API's generated classes (megabytes for eight messages).
Source: Protocol Buffers encoding; Kubernetes "API concepts" (the k8s envelope); the field numbers are API contract.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from kproxy.sandbox.apiserver.status import Json, bad_request

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\0"

Wire = int | bytes
Decoder = Callable[[Wire], Any]


@dataclass(frozen=True, slots=True)
class _Field:
    """One field of a message; `repeated` collects, `kept` keeps a zero value, `inline` merges into the parent."""

    name: str
    decode: Decoder
    repeated: bool = False
    kept: bool = False
    inline: bool = False


Message = Mapping[int, _Field]


def _text(value: Wire) -> str:
    return _bytes(value).decode()


def _bytes(value: Wire) -> bytes:
    if not isinstance(value, bytes):
        raise TypeError("a number where bytes were expected")
    return value


def _base64(value: Wire) -> str:
    return b64encode(_bytes(value)).decode()


def _number(value: Wire) -> int:
    if not isinstance(value, int):
        raise TypeError("bytes where a number was expected")
    return value - (1 << 64) if value >= 1 << 63 else value


def _truth(value: Wire) -> bool:
    return bool(_number(value))


def _time(value: Wire) -> str | None:
    seconds = dict(_raw_fields(_bytes(value))).get(1, 0)
    return datetime.fromtimestamp(_number(seconds), UTC).isoformat() if seconds else None


def _int_or_string(value: Wire) -> int | str:
    parts = dict(_raw_fields(_bytes(value)))
    return _text(parts.get(3, b"")) if parts.get(1) else _number(parts.get(2, 0))


def _of(message: Message) -> Decoder:
    return lambda value: _message(_bytes(value), message)


@dataclass(frozen=True, slots=True)
class _Entry:
    """One entry of a map field."""

    value: Decoder

    def __call__(self, raw: Wire) -> Json:
        parts = dict(_raw_fields(_bytes(raw)))
        return {_text(parts.get(1, b"")): self.value(parts.get(2, b""))}


def _plain(name: str) -> _Field:
    return _Field(name, _text)


def _int(name: str, *, kept: bool = False) -> _Field:
    return _Field(name, _number, kept=kept)


def _flag(name: str, *, kept: bool = False) -> _Field:
    return _Field(name, _truth, kept=kept)


def _many(name: str, decode: Decoder = _text) -> _Field:
    return _Field(name, decode, repeated=True)


def _map(name: str, decode: Decoder = _text) -> _Field:
    return _Field(name, _Entry(decode))


def _one(name: str, message: Message, *, inline: bool = False) -> _Field:
    return _Field(name, _of(message), inline=inline)


_METADATA: Message = {
    1: _plain("name"),
    2: _plain("generateName"),
    3: _plain("namespace"),
    5: _plain("uid"),
    6: _plain("resourceVersion"),
    8: _Field("creationTimestamp", _time),
    11: _map("labels"),
    12: _map("annotations"),
    14: _many("finalizers"),
}
_SERVICE_PORT: Message = {
    1: _plain("name"),
    2: _plain("protocol"),
    3: _int("port"),
    4: _Field("targetPort", _int_or_string),
    5: _int("nodePort"),
    6: _plain("appProtocol"),
}
_SERVICE_SPEC: Message = {
    1: _many("ports", _of(_SERVICE_PORT)),
    2: _map("selector"),
    3: _plain("clusterIP"),
    4: _plain("type"),
    5: _many("externalIPs"),
    7: _plain("sessionAffinity"),
    8: _plain("loadBalancerIP"),
    9: _many("loadBalancerSourceRanges"),
    10: _plain("externalName"),
    11: _plain("externalTrafficPolicy"),
    12: _int("healthCheckNodePort"),
    13: _flag("publishNotReadyAddresses"),
    17: _plain("ipFamilyPolicy"),
    18: _many("clusterIPs"),
    19: _many("ipFamilies"),
    20: _flag("allocateLoadBalancerNodePorts", kept=True),
    21: _plain("loadBalancerClass"),
    22: _plain("internalTrafficPolicy"),
    23: _plain("trafficDistribution"),
}
_CONTAINER_PORT: Message = {1: _plain("name"), 2: _int("hostPort"), 3: _int("containerPort"), 4: _plain("protocol")}
_CONTAINER: Message = {
    1: _plain("name"),
    2: _plain("image"),
    3: _many("command"),
    4: _many("args"),
    6: _many("ports", _of(_CONTAINER_PORT)),
    7: _many("env", _of({1: _plain("name"), 2: _plain("value")})),
}
_POD_SPEC: Message = {
    2: _many("containers", _of(_CONTAINER)),
    3: _plain("restartPolicy"),
    4: _int("terminationGracePeriodSeconds", kept=True),
    7: _map("nodeSelector"),
    10: _plain("nodeName"),
    11: _flag("hostNetwork"),
    16: _plain("hostname"),
    17: _plain("subdomain"),
}
_DEPLOYMENT_SPEC: Message = {
    1: _int("replicas", kept=True),
    2: _one("selector", {1: _map("matchLabels")}),
    3: _one("template", {1: _one("metadata", _METADATA), 2: _one("spec", _POD_SPEC)}),
}
_BACKEND_SERVICE: Message = {1: _plain("name"), 2: _one("port", {1: _plain("name"), 2: _int("number")})}
_BACKEND: Message = {4: _one("service", _BACKEND_SERVICE)}
_HTTP_PATH: Message = {1: _plain("path"), 2: _one("backend", _BACKEND), 3: _plain("pathType")}
_RULE: Message = {
    1: _plain("host"),
    2: _one("", {1: _one("http", {1: _many("paths", _of(_HTTP_PATH))})}, inline=True),
}
_INGRESS_SPEC: Message = {
    1: _one("defaultBackend", _BACKEND),
    2: _many("tls", _of({1: _many("hosts"), 2: _plain("secretName")})),
    3: _many("rules", _of(_RULE)),
    4: _plain("ingressClassName"),
}

_KINDS: Mapping[str, Message] = {
    "ConfigMap": {2: _map("data"), 3: _map("binaryData", _base64), 4: _flag("immutable", kept=True)},
    "Deployment": {2: _one("spec", _DEPLOYMENT_SPEC)},
    "Ingress": {2: _one("spec", _INGRESS_SPEC)},
    "Namespace": {},
    "Pod": {2: _one("spec", _POD_SPEC)},
    "Secret": {2: _map("data", _base64), 3: _plain("type"), 4: _map("stringData")},
    "Service": {2: _one("spec", _SERVICE_SPEC)},
    "ServiceAccount": {},
}


def decode(raw: bytes) -> Json:
    """Return the object in an envelope; raises BadRequest for a damaged body or a kind not described here."""
    if not raw.startswith(_MAGIC):
        raise bad_request("the object provided could not be decoded: no Kubernetes protobuf envelope")
    try:
        envelope = dict(_raw_fields(raw[len(_MAGIC) :]))
        kind = _message(_bytes(envelope.get(1, b"")), {1: _plain("apiVersion"), 2: _plain("kind")})
        if kind.get("kind") not in _KINDS:
            raise bad_request(f"{kind.get('kind')} is understood in JSON or YAML only, not in protobuf")
        message = {1: _one("metadata", _METADATA), **_KINDS[kind["kind"]]}
        return kind | _message(_bytes(envelope.get(2, b"")), message)
    except (IndexError, TypeError, UnicodeDecodeError, ValueError) as error:
        raise bad_request(f"the object provided could not be decoded: {error}") from error


def _message(raw: bytes, message: Message) -> Json:
    result: Json = {}
    for number, value in _raw_fields(raw):
        found = message.get(number)
        if found is None:
            continue
        decoded = found.decode(value)
        if found.inline:
            result |= decoded
        elif found.repeated:
            result.setdefault(found.name, []).append(decoded)
        elif isinstance(found.decode, _Entry):
            result.setdefault(found.name, {}).update(decoded)
        elif decoded or found.kept:
            result[found.name] = decoded
    return result


def _raw_fields(raw: bytes) -> Iterator[tuple[int, Wire]]:
    at = 0
    while at < len(raw):
        tag, at = _varint(raw, at)
        match tag & 7:
            case 0:
                value, at = _varint(raw, at)
                yield tag >> 3, value
            case 2:
                size, at = _varint(raw, at)
                if at + size > len(raw):
                    raise ValueError("truncated protobuf message")
                yield tag >> 3, raw[at : at + size]
                at += size
            case other:
                raise ValueError(f"protobuf wire type {other} is not used by the Kubernetes API")


def _varint(raw: bytes, at: int) -> tuple[int, int]:
    result = shift = 0
    while True:
        byte = raw[at]
        result |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return result, at
        shift += 7
