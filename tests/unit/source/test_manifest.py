"""Files to objects: formats, lists, and where an error is. What the objects mean: test_convert*.py."""

from __future__ import annotations

import contextlib
from pathlib import PurePath
from textwrap import dedent

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.errors import InvalidObject
from kproxy.model.enums import Kind
from kproxy.source import manifest
from kproxy.source.manifest import Manifest, parse


def yaml(text: str) -> list[Manifest]:
    return parse(PurePath("a.yaml"), dedent(text).encode())


def names(manifests: list[Manifest]) -> list[tuple[Kind | None, str, int]]:
    return [(each.kind, msgspec.json.decode(each.data)["metadata"]["name"], each.line) for each in manifests]


def test_documents_with_their_lines() -> None:
    found = yaml(
        """\
        # a comment
        ---
        apiVersion: v1
        kind: Service
        metadata: {name: a}
        ---
        ---
        apiVersion: discovery.k8s.io/v1
        kind: EndpointSlice
        metadata: {name: b}
        """
    )
    assert names(found) == [(Kind.SERVICE, "a", 3), (Kind.ENDPOINT_SLICE, "b", 8)]


def test_lists_and_lists_of_one_kind() -> None:
    found = yaml(
        """\
        apiVersion: v1
        kind: List
        items:
        - {apiVersion: v1, kind: Service, metadata: {name: a}}
        - {apiVersion: apps/v1, kind: Deployment, metadata: {name: b}}
        ---
        apiVersion: v1
        kind: NodeList
        items: [{metadata: {name: c}}]
        """
    )
    assert names(found) == [(Kind.SERVICE, "a", 1), (None, "b", 1), (Kind.NODE, "c", 7)]


def test_a_kind_of_another_group_is_not_ours() -> None:
    found = yaml("{apiVersion: serving.knative.dev/v1, kind: Service, metadata: {name: a}}")
    assert names(found) == [(None, "a", 1)]


def test_a_time_stays_text() -> None:
    found = yaml("{apiVersion: v1, kind: Service, metadata: {name: a, creationTimestamp: 2024-01-01T00:00:00Z}}")
    assert msgspec.json.decode(found[0].data)["metadata"]["creationTimestamp"] == "2024-01-01T00:00:00Z"


def test_json() -> None:
    content = b'{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Node","metadata":{"name":"n"}}]}'
    assert names(parse(PurePath("a.json"), content)) == [(Kind.NODE, "n", 0)]


def test_an_empty_file_holds_nothing() -> None:
    assert yaml("") == yaml("---\n# nothing\n") == []


@pytest.mark.parametrize(
    ("name", "content", "field"),
    [
        ("a.yaml", b"kind: Service\nmetadata: {name: [\n", "line 3"),
        ("a.yaml", b"kind: Service\n---\na: b: c\n", "line 3"),
        ("a.yaml", b"kind: Service\n---\njust text\n", "line 3"),
        ("a.yaml", b"kind: Service\n---\nspec: {}\n", "line 3"),
        ("a.yaml", b"kind: &a [*a]\n", "line 1"),
        ("a.yaml", b"[" * 100_000, "(the file)"),
        ("a.yaml", b"{a: " * 100_000, "(the file)"),
        ("a.yaml", b"- " * 100_000, "(the file)"),
        ("a.yaml", b"".join(b" " * depth + b"a:\n" for depth in range(2500)), "(the file)"),
        ("a.yaml", b"kind: \xff\n", "(the file)"),
        ("a.yaml", b"kind: !!python/object:os.system {}\n", "line 1"),
        ("a.json", b'{"kind":"Service",\n"spec":{]}', "line 2"),
        ("a.json", b"", "(the file)"),
        ("a.json", b"[]", "(the file)"),
    ],
)
def test_a_broken_file_is_named_with_the_line(name: str, content: bytes, field: str) -> None:
    with pytest.raises(InvalidObject) as error:
        parse(PurePath(name), content)
    assert error.value.name == name
    assert error.value.field == field
    assert str(error.value).endswith("; repair the file")


def bomb(levels: int) -> bytes:
    """A few hundred bytes that stand for 10 ** levels."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, levels)]
    return "\n".join([*lines, "kind: Service", ""]).encode()


def merging_bomb(levels: int) -> bytes:
    lines = ["a0: &a0 {x: 1}"]
    lines += [f"a{n}: &a{n} {{<<: [{', '.join([f'*a{n - 1}'] * 10)}]}}" for n in range(1, levels)]
    return "\n".join([*lines, "kind: Service", ""]).encode()


def in_many_documents(levels: int) -> bytes:
    return b"---\n".join([bomb(levels)] * 1000)


def wide() -> bytes:
    return b"a: &a [" + b"x, " * 20_000 + b"]\nb: [" + b"*a, " * 20_000 + b"]\nkind: Service\n"


@pytest.mark.parametrize("content", [bomb(30), merging_bomb(30), in_many_documents(6), wide()])
def test_aliases_that_multiply_are_refused(content: bytes) -> None:
    with pytest.raises(InvalidObject, match=r"manifest a.yaml: line \d+ repeats itself by aliases"):
        parse(PurePath("a.yaml"), content)


def test_a_long_chain_of_aliases_is_followed_without_recursion() -> None:
    lines = ["a0: &a0 [x]", *(f"a{n}: &a{n} [*a{n - 1}]" for n in range(1, 3000)), "kind: Service", ""]
    with pytest.raises(InvalidObject, match=r"a.yaml: line 1 "):
        parse(PurePath("a.yaml"), "\n".join(lines).encode())


def test_ordinary_aliases_are_served() -> None:
    found = yaml(
        """\
        apiVersion: v1
        kind: List
        items:
        - {apiVersion: v1, kind: Service, metadata: &m {name: a}, spec: &s {ports: [{port: 80}]}}
        - {apiVersion: v1, kind: Service, metadata: {<<: *m, name: b}, spec: *s}
        """
    )
    assert [name for _, name, _ in names(found)] == ["a", "b"]
    assert msgspec.json.decode(found[1].data)["spec"] == {"ports": [{"port": 80}]}


def test_a_file_that_is_too_large_is_refused_unread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(manifest, "LARGEST", 3 << 20)
    for name in ("a.yaml", "a.json"):
        with pytest.raises(InvalidObject, match=r"a\.\w+: \(the file\) is larger than 3 MB"):
            parse(PurePath(name), b" " * ((3 << 20) + 1))


@given(st.sampled_from(["a.yaml", "a.json"]), st.binary() | st.text().map(str.encode))
def test_no_content_raises_anything_else(name: str, content: bytes) -> None:
    with contextlib.suppress(InvalidObject):
        parse(PurePath(name), content)


@pytest.mark.parametrize(
    ("version", "kind"),
    [
        ("", "Service"),
        ("v2", "Service"),
        ("V1", "Node"),
        ("", "EndpointSlice"),
        ("discovery.k8s.io/v1beta1", "EndpointSlice"),
    ],
)
def test_another_version_of_our_kinds_is_not_overlooked(version: str, kind: str) -> None:
    (found,) = yaml(f"{{apiVersion: '{version}', kind: {kind}, metadata: {{name: a}}}}")
    assert (found.kind, found.api_version) == (Kind(kind), version)
