"""Answers as JSON: what is written is what the schema says, and nothing in it disturbs a terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args

import pytest
from msgspec import Struct
from msgspec import json as msgspec_json

from kproxy.explain.answer import Answer
from kproxy.explain.show import document
from tests.unit.explain.answers import EVERY

SCHEMA = json.loads(document.schema())
_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
    "null": type(None),
}
_KNOWN = {
    *("$ref", "anyOf", "const", "enum", "type", "items", "properties", "required"),
    *("$schema", "$defs", "title", "description", "default", "discriminator"),  # say nothing against a value
}


def complaints(value: Any, shape: Mapping[str, Any], at: str = "$") -> Iterator[str]:
    """What JSON Schema says against a value, as far as this schema uses it."""
    assert shape.keys() <= _KNOWN, shape.keys() - _KNOWN
    if ref := shape.get("$ref"):
        yield from complaints(value, SCHEMA["$defs"][ref.rpartition("/")[2]], at)
    if (choices := shape.get("anyOf")) and all(list(complaints(value, each, at)) for each in choices):
        yield f"{at}: fits none"
    allowed = [shape["const"]] if "const" in shape else shape.get("enum")
    if allowed is not None and value not in allowed:
        yield f"{at}: {value!r} is none of {allowed}"
    kind = shape.get("type")
    if kind and (not isinstance(value, _TYPES[kind]) or (kind != "boolean" and isinstance(value, bool))):
        yield f"{at}: {value!r} is no {kind}"
    elif kind == "array":
        for nth, each in enumerate(value):
            yield from complaints(each, shape["items"], f"{at}[{nth}]")
    elif kind == "object":
        yield from _members(value, shape, at)


def _members(value: Mapping[str, Any], shape: Mapping[str, Any], at: str) -> Iterator[str]:
    yield from (f"{at}: no {name}" for name in shape["required"] if name not in value)
    for name, each in value.items():
        if name in shape["properties"]:
            yield from complaints(each, shape["properties"][name], f"{at}.{name}")
        else:
            yield f"{at}: {name} is unknown"


@pytest.mark.parametrize("answer", EVERY, ids=lambda each: type(each).__name__)
def test_what_is_written_fits_the_schema_and_says_its_version(answer: Answer) -> None:
    written = json.loads(document.encode(answer))
    assert list(complaints(written, SCHEMA)) == []
    assert list(written)[:2] == ["kproxy", "type"]
    assert written["kproxy"] == "explain/v1"


def test_the_examples_are_of_every_answer() -> None:
    assert {type(each) for each in EVERY} == set(get_args(Answer))


def test_an_answer_can_be_read_back() -> None:
    for answer in EVERY:
        assert msgspec_json.decode(document.encode(answer), type=Answer) == answer


@pytest.mark.parametrize(
    "wrong",
    [{}, {"kproxy": "explain/v2"}, {"dumps": "x"}, {"services": [{}]}, {"warnings": [{"severity": "bad"}]}, {"x": 1}],
)
def test_the_schema_refuses_something_else(wrong: dict[str, Any]) -> None:
    written = json.loads(document.encode(EVERY[0]))
    changed = {**written, **wrong} if wrong else {}
    assert list(complaints(changed, SCHEMA))


def test_every_description_is_of_a_field() -> None:
    names = {name for shape in SCHEMA["$defs"].values() for name in shape.get("properties", {})}
    assert document._TEXTS.keys() <= names
    described = re.findall('"description"', document.schema())
    assert len(described) > len(document._TEXTS)


def test_invisible_characters_are_escaped() -> None:
    class Holder(Struct, tag="summary"):
        text: str

    odd = "\x1b\x7f\x9b\u202e\u2028\u200b\ufeff"
    written = document.encode(Holder(odd))  # type: ignore[arg-type]
    assert written.replace("\n", "").isprintable()
    assert json.loads(written)["text"] == odd
