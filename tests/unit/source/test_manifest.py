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
    assert "what it said before stays in force" in str(error.value)


@given(st.sampled_from(["a.yaml", "a.json"]), st.binary() | st.text().map(str.encode))
def test_no_content_raises_anything_else(name: str, content: bytes) -> None:
    with contextlib.suppress(InvalidObject):
        parse(PurePath(name), content)
