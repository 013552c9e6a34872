"""One file of manifests to the objects in it: YAML with many documents, JSON, and lists of either.

YAML becomes JSON first, so that manifests and API answers go the same way through ``wire`` and ``convert``. YAML costs
about 1 ms for an object, JSON 0.1 ms: whoever generates thousands of objects writes JSON.

A file may be wrong, or hostile, and must not cost the node its memory: its size, its depth, and what YAML's aliases
make of it are limited. Rejected: refusing aliases altogether, which kubectl accepts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import PurePath

import msgspec
import yaml
from msgspec import Raw, Struct

from kproxy.errors import InvalidObject
from kproxy.model.enums import Kind
from kproxy.source.wire import UNREADABLE

SUFFIXES = frozenset({".yaml", ".yml", ".json"})

_KINDS = {
    ("v1", "Service"): Kind.SERVICE,
    ("v1", "Endpoints"): Kind.ENDPOINTS,
    ("v1", "Node"): Kind.NODE,
    ("discovery.k8s.io/v1", "EndpointSlice"): Kind.ENDPOINT_SLICE,
    ("networking.k8s.io/v1", "ServiceCIDR"): Kind.SERVICE_CIDR,
    ("networking.k8s.io/v1beta1", "ServiceCIDR"): Kind.SERVICE_CIDR,
}
# The versions in which kproxy reads a kind, for messages. A kind of this name in a foreign group is another thing.
VERSIONS = {
    Kind.SERVICE: "v1",
    Kind.ENDPOINTS: "v1",
    Kind.NODE: "v1",
    Kind.ENDPOINT_SLICE: "discovery.k8s.io/v1",
    Kind.SERVICE_CIDR: "networking.k8s.io/v1",
}
_BYTE = re.compile(r"\(byte (\d+)\)")
_UNENCODABLE = (TypeError, ValueError, OverflowError, RecursionError)  # binary, cycles, integers of 100 digits
_BRACKET = re.compile(rb"[\[\]{}]")
LARGEST = 64 << 20  # bytes; 10,000 Services with 10 endpoints each are 20 MB
_DEEPEST = 500
_GROWTH, _ALLOWANCE = 4, 1 << 20  # a file may stand for so many times its size, and so many bytes more
# A line may open a level with each "- " or "? ", and with each space of its indentation.
_DEEP_LINE = re.compile(rb"(?:[-?][ \t]+){%d}|^ {%d}[ -]*[\w\"']" % (_DEEPEST, 4 * _DEEPEST), re.MULTILINE)
_REMEDY = "repair the file"


class Manifest(Struct, frozen=True):
    """One object of a file. ``kind`` is None for kinds that are no business of a service proxy."""

    kind: Kind | None
    data: Raw | bytes
    line: int  # where its document begins; 0: unknown
    api_version: str | None = None  # what it says instead of the version that we read; such an object is not served


class _Envelope(Struct, rename="camel"):
    api_version: str = ""
    kind: str = ""
    items: list[Raw] | None = None


class _Loader(yaml.CSafeLoader):
    """YAML 1.1 makes a datetime of creationTimestamp; the API means the text."""

    yaml_implicit_resolvers = {  # noqa: RUF012 -- the base class declares it so
        first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
        for first, resolvers in yaml.CSafeLoader.yaml_implicit_resolvers.items()
    }


_decode_envelope = msgspec.json.Decoder(_Envelope).decode


def parse(path: PurePath, content: bytes) -> list[Manifest]:
    """Every object of one file. Raises ``InvalidObject``, which names the file and the line."""
    if len(content) > LARGEST:
        raise _problem(path, 0, f"is larger than {LARGEST >> 20} MB; split it")
    if path.suffix == ".json":
        return list(_unfold(path, content, 0, content))
    try:
        return list(_parse_yaml(path, content))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 0
        raise _problem(path, line, f"is no YAML: {error.problem or error.context or 'unreadable'}") from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError, RecursionError) as error:
        raise _problem(path, 0, f"is no YAML: {' '.join(str(error).split())[:200]}") from error


def _is_too_deep(content: bytes) -> bool:
    """True for nesting on which libyaml's composer, which recurses in C, would end the process."""
    depth = 0
    for bracket in _BRACKET.finditer(content):
        depth = max(0, depth + (1 if bracket[0] in b"[{" else -1))
        if depth > _DEEPEST:
            return True
    return _DEEP_LINE.search(content) is not None


def _parse_yaml(path: PurePath, content: bytes) -> Iterator[Manifest]:
    if _is_too_deep(content):
        raise _problem(path, 0, f"nests more than {_DEEPEST} levels deep")
    loader = _Loader(content)
    has_aliases = b"*" in content and b"&" in content
    room = _GROWTH * len(content) + _ALLOWANCE
    try:
        while loader.check_node():
            node = loader.get_node()
            if has_aliases and node is not None:
                room -= _expanded(path, node)
                if room < 0:
                    raise _problem(path, node.start_mark.line + 1, "repeats itself by aliases beyond all measure")
            value = None if node is None else loader.construct_document(node)
            if node is None or value is None:
                continue  # nothing between two "---"
            line = node.start_mark.line + 1
            try:
                encoded = msgspec.json.encode(value)
            except _UNENCODABLE as error:
                raise _problem(path, line, f"holds a value that JSON cannot: {error}") from error
            yield from _unfold(path, encoded, line, b"")
    finally:
        loader.dispose()


def _expanded(path: PurePath, root: yaml.Node) -> int:
    """About how many bytes the document is when every alias is written out. Each node is visited once."""
    sizes: dict[int, int] = {}
    opened: set[int] = set()
    waiting = [root]
    while waiting:
        node = waiting[-1]
        if id(node) in sizes:
            waiting.pop()
            continue
        children = _children(node)
        unknown = [child for child in children if id(child) not in sizes]
        if not unknown:
            sizes[id(node)] = 1 + (len(node.value) if not children else sum(sizes[id(child)] for child in children))
        elif id(node) in opened:
            raise _problem(path, node.start_mark.line + 1, "holds an alias of something inside itself")
        else:
            opened.add(id(node))
            waiting += unknown
    return sizes[id(root)]


def _children(node: yaml.Node) -> list[yaml.Node]:
    match node:
        case yaml.MappingNode():
            return [part for pair in node.value for part in pair]
        case yaml.SequenceNode():
            return list(node.value)
        case _:
            return []


def _unfold(path: PurePath, data: Raw | bytes, line: int, source: bytes) -> Iterator[Manifest]:
    """The object itself, or the items of a List, which may leave out a kind that the list's own name gives."""
    envelope = _read(path, data, line, source)
    if envelope.items is None or not envelope.kind.endswith("List"):
        if not envelope.kind:
            raise _problem(path, line, "holds an object without a kind")
        yield _manifest(envelope.api_version, envelope.kind, data, line)
        return
    for item in envelope.items:
        inner = _read(path, item, line, source)
        kind = inner.kind or envelope.kind.removesuffix("List")
        yield _manifest(inner.api_version or envelope.api_version, kind, item, line)


def _manifest(api_version: str, name: str, data: Raw | bytes, line: int) -> Manifest:
    kind = _KINDS.get((api_version, name))
    if kind is not None:
        return Manifest(kind, data, line)
    group = api_version.rpartition("/")[0]
    for meant, version in VERSIONS.items():
        if name == meant.value and group in {"", version.rpartition("/")[0]}:
            return Manifest(meant, data, line, api_version)
    return Manifest(None, data, line)


def _read(path: PurePath, data: Raw | bytes, line: int, source: bytes) -> _Envelope:
    try:
        return _decode_envelope(data)
    except UNREADABLE as error:
        found = _BYTE.search(str(error))
        if found and source:
            line = source.count(b"\n", 0, int(found[1])) + 1
        raise _problem(path, line, f"is no Kubernetes object: {error}") from error


def _problem(path: PurePath, line: int, why: str) -> InvalidObject:
    return InvalidObject("manifest", str(path), field=f"line {line}" if line else "(the file)", why=why, remedy=_REMEDY)
