"""A configuration file's bytes → what stands at which path, and which of its fields nobody knows.

Nothing is judged here but the form: YAML or JSON, ``apiVersion`` and ``kind``, sections where sections belong. As in
kube-proxy an unknown or doubled field is no reason not to start: a newer version may know it, and the rules of a node
should not wait for it; of a doubled field the last counts (spec: runtime.md 1). The fields are told, with the nearest
one that is known.

The file is composed, not loaded: only fields of the table become values, so what else a document holds (cycles, tags,
aliases that grow) costs nothing, and what ``<<`` brings in is limited. libyaml would do it faster, and dies of 100,000
brackets. YAML 1.1 has dates and numbers to base 60, which Kubernetes has not; they stay texts. JSON is YAML but for its
tabs.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import Any, TypeAlias

import yaml
from msgspec import Struct

from kproxy.errors import InvalidConfig
from kproxy.settings.table import BY_PATH

GROUP = "kubeproxy.config.k8s.io"
API_VERSION = f"{GROUP}/v1alpha1"
KIND = "KubeProxyConfiguration"
LARGEST = 256 << 10  # bytes; kubeadm writes 2,000
_UNREADABLE = (ArithmeticError, AttributeError, LookupError, TypeError, ValueError)  # of YAML's tags: !!int x, !!bool x
_TOLD = 20  # odd fields
_MERGE = "tag:yaml.org,2002:merge"
_MERGED = 10_000  # fields that ``<<`` may bring in; an alias of aliases multiplies
_NAMES = 40  # characters of a field's name that are told

Tree: TypeAlias = Mapping[str, "Tree | None"]  # a section's fields; None: a value


class Document(Struct, frozen=True):
    values: Mapping[str, Any]  # by path; what YAML makes of it
    unknown: tuple[str, ...] = ()  # phrases: the path, and the nearest known one
    doubled: tuple[str, ...] = ()  # paths
    problems: tuple[str, ...] = ()  # sentences


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {  # noqa: RUF012 -- the base class declares it so
        first: [
            (tag, pattern) for tag, pattern in resolvers if tag.rpartition(":")[2] not in {"timestamp", "int", "float"}
        ]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }
    _room = _MERGED

    def flatten_mapping(self, node: yaml.MappingNode) -> None:
        """As the library's, which knows no limit. The first of several sections under one ``<<`` wins."""
        merges = [value for key, value in node.value if key.tag == _MERGE]
        node.value = [pair for pair in node.value if pair[0].tag != _MERGE]
        for merge in merges:
            sources = merge.value if isinstance(merge, yaml.SequenceNode) else [merge]
            node.value = [*chain.from_iterable(map(self._brought_in, reversed(sources))), *node.value]

    def _brought_in(self, source: yaml.Node) -> list[tuple[yaml.Node, yaml.Node]]:
        if not isinstance(source, yaml.MappingNode):
            raise yaml.MarkedYAMLError(problem="<< takes sections alone", problem_mark=source.start_mark)
        self.flatten_mapping(source)
        self._room -= 1 + len(source.value)
        if self._room < 0:
            raise yaml.MarkedYAMLError(problem=f"<< brings in over {_MERGED} fields", problem_mark=source.start_mark)
        return list(source.value)


_INT = re.compile(r"[-+]?(?:0b[01_]+|0[0-7_]*|[1-9][0-9_]*|0x[0-9a-fA-F_]+)")
_FLOAT = re.compile(r"[-+]?(?:[0-9][0-9_]*\.[0-9_]*|\.[0-9][0-9_]*)(?:[eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+")
for _tag, _pattern in (("int", _INT), ("float", _FLOAT)):
    _Loader.add_implicit_resolver(
        f"tag:yaml.org,2002:{_tag}", re.compile(f"(?:{_pattern.pattern})$"), list("-+.0123456789")
    )


def is_text(plain: str) -> bool:
    """Whether this, without quotes, is read as the text that it is, and not as a number or the like."""
    tag: str = _Loader("").resolve(yaml.ScalarNode, plain, (True, False))  # type: ignore[no-untyped-call]
    return tag == "tag:yaml.org,2002:str"


def tree_of(paths: Iterable[str]) -> Tree:
    tree: dict[str, Any] = {}
    for path in paths:
        *sections, name = path.split(".")
        where = tree
        for section in sections:
            where = where.setdefault(section, {})
        where[name] = None
    return tree


_ELSEWHERE = {path.rpartition(".")[2]: path for path in reversed(list(BY_PATH))}  # of one name the first in the table
_TREE = tree_of(("apiVersion", "kind", *BY_PATH))


def read_document(content: bytes) -> Document:
    """Raises InvalidConfig for what is no document at all; everything else wrong with it is in ``problems``."""
    if len(content) > LARGEST:
        raise InvalidConfig(f"the file is larger than {LARGEST >> 10} kB; give a {KIND}")
    try:
        text = content.decode("utf-8-sig")
        loader = _Loader(text.replace("\t", " ") if text.lstrip().startswith("{") else text)
        try:
            return _Reading(loader).read()
        finally:
            loader.dispose()
    except UnicodeDecodeError as error:
        raise InvalidConfig(f"the file is not UTF-8 text (byte {error.start}); give YAML or JSON") from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = f"line {mark.line + 1}: " if mark else ""
        raise InvalidConfig(f"{line}{error.problem or error.context}; give YAML or JSON") from None
    except yaml.YAMLError as error:
        raise InvalidConfig(f"{' '.join(str(error).split())[:200]}; give YAML or JSON") from None
    except RecursionError:
        raise InvalidConfig("the file is nested too deeply; give YAML or JSON") from None


class _Reading:
    """One pass over one document; gathers as it goes."""

    def __init__(self, loader: _Loader) -> None:
        self._loader = loader
        self._values: dict[str, Any] = {}
        self._unknown: dict[str, str] = {}  # phrases, by path
        self._doubled: dict[str, str] = {}
        self._problems: list[str] = []

    def read(self) -> Document:
        node = self._loader.get_node() if self._loader.check_node() else None
        if isinstance(node, yaml.MappingNode):
            self._section(node, _TREE, "")
        elif node is not None and node.tag != "tag:yaml.org,2002:null":
            raise InvalidConfig(f"the file holds {_describe(node)}; give a {KIND}")
        if self._loader.check_node():
            self._unknown["---"] = "everything behind the first document"
        for path, wanted in (("apiVersion", API_VERSION), ("kind", KIND)):
            found = self._values.pop(path, None)
            if found != wanted:
                said = "it is missing" if found is None else f"{tell(found)} is not known"
                inner = ', which is in data["config.conf"] of kube-proxy\'s' if found == "ConfigMap" else ""
                self._problems.append(f"{path}: {said}; give {wanted}{inner}")
        return Document(self._values, _first(self._unknown), _first(self._doubled), tuple(self._problems))

    def _section(self, node: yaml.MappingNode, tree: Tree, prefix: str) -> None:
        self._loader.flatten_mapping(node)  # <<
        seen: set[str] = set()
        for key, value in node.value:
            name = key.value if isinstance(key, yaml.ScalarNode) else _describe(key)
            path = f"{prefix}{name}"
            if name in seen:
                self._doubled.setdefault(path, _short(path))
            seen.add(name)
            if name not in tree:
                nearest = _with_nearest(prefix, name, tree) if len(self._unknown) < _TOLD else ""
                self._unknown.setdefault(path, nearest)
            elif (below := tree[name]) is None:
                self._value(path, value)
            elif isinstance(value, yaml.MappingNode):
                self._section(value, below, f"{path}.")
            elif value.tag != "tag:yaml.org,2002:null":
                self._problems.append(f"{path}: {_describe(value)} stands there; give a section with {_some(below)}")

    def _value(self, path: str, node: yaml.Node) -> None:
        try:
            self._values[path] = self._loader.construct_object(node, deep=True)
        except _UNREADABLE:
            self._problems.append(f"{path}: {_describe(node)} is not what its tag {node.tag} says; leave out the tag")


def _first(phrases: Mapping[str, str]) -> tuple[str, ...]:
    told = tuple(phrases.values())[:_TOLD]
    return (*told, f"and {len(phrases) - _TOLD} more") if len(phrases) > _TOLD else told


def _describe(node: yaml.Node) -> str:
    match node:
        case yaml.MappingNode():
            return "a section"
        case yaml.ScalarNode():
            return tell(node.value) if node.style else _short(node.value)
        case _:
            return "a list"


def tell(value: object) -> str:
    """A value of a document in one short line."""
    if isinstance(value, list) and value and len(value) < 6 and all(type(each) in {str, int, bool} for each in value):
        return _short(f"[{', '.join(map(tell, value))}]")
    match value:
        case None | bool():
            said = {None: "null", True: "true", False: "false"}[value]
        case int() | float():
            said = str(value) if abs(value) < 1e18 else "a very large number"
        case str():
            said = f'"{value}"' if value.isprintable() else repr(value)
        case list() | dict():
            said = "a list" if isinstance(value, list) else "a section"
        case _:
            said = f"a value of type {type(value).__name__}"
    return _short(said)


def _short(text: str) -> str:
    return text if len(text) <= _NAMES * 2 else f"{text[: _NAMES * 2]}…"


def _with_nearest(prefix: str, name: str, tree: Tree) -> str:
    """The path, and what may have been meant: a field of this section, or one of the like name elsewhere."""
    told = _short(f"{prefix}{name}" if name.isprintable() else f"{prefix}{name!r}")
    word = name[:_NAMES]
    if near := difflib.get_close_matches(word, tree, n=1, cutoff=0.7):
        return f"{told} (did you mean {prefix}{near[0]}?)"
    if near := difflib.get_close_matches(word, _ELSEWHERE, n=1, cutoff=0.85):
        return f"{told} (did you mean {_ELSEWHERE[near[0]]}?)"
    return told


def _some(tree: Tree) -> str:
    names = sorted(tree)
    return ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
