"""The JSON that we read: what is skipped, what is refused, what can be saved. Meaning: test_convert*.py."""

from __future__ import annotations

import json
import tracemalloc

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.model.enums import Kind
from kproxy.source import wire


def test_items_stay_raw_so_that_one_cannot_spoil_the_page() -> None:
    page = wire.decode_page(b'{"metadata":{"resourceVersion":"7","continue":"c"},"items":[{"spec":1},"\xff"]}')
    assert page.metadata == wire.ListMetadata(resource_version="7", continue_="c")
    assert page.items is not None
    assert [bytes(item) for item in page.items] == [b'{"spec":1}', b'"\xff"']


@pytest.mark.parametrize("kind", Kind)
def test_every_field_may_be_null_or_missing(kind: Kind) -> None:
    empty = wire.decode_object(kind, b"{}")
    names = msgspec.structs.asdict(empty)
    fields = [each.encode_name for each in msgspec.structs.fields(type(empty))]
    assert wire.decode_object(kind, json.dumps(dict.fromkeys(fields)).encode()) == empty
    assert set(names.values()) == {None}


def test_a_megabyte_of_annotations_is_skipped() -> None:
    data = json.dumps({"metadata": {"name": "a", "annotations": {"note": "x" * 2**20}}}).encode()
    found = wire.decode_object(Kind.ENDPOINT_SLICE, data)
    assert found.metadata == wire.Metadata(name="a", annotations=wire.Annotations())


def test_a_services_annotations_are_names_and_pointers() -> None:
    data = json.dumps({"metadata": {"name": "a", "annotations": {"note": "x" * 2**20, "a": 7}}}).encode()
    tracemalloc.start()
    try:
        found = wire.decode_object(Kind.SERVICE, data)
        assert tracemalloc.get_traced_memory()[1] < 10_000
    finally:
        tracemalloc.stop()
    assert isinstance(found.metadata, wire.ServiceMetadata)
    assert {name: bytes(raw)[:2] for name, raw in (found.metadata.annotations or {}).items()} == {
        "note": b'"x',
        "a": b"7",
    }


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b'{"metadata":{"name":"a","labels":[]},"spec":{}}', "a"),
        (b'{"metadata":{"name":"a"},"spec":"\xff"}', "a"),
        (b'{"metadata":{"name":"a"},"spec":"\\ud800"}', "a"),
        (b'{"metadata":{"name":"a","labels":1e999}}', "a"),
        (b'{"metadata":{"name":"a","labels":' + b"[" * 5000 + b"]" * 5000 + b"}}", "a"),
        (b'{"metadata":{"name":7}}', None),
        (b'{"metadata":[]}', None),
        (b"[]", None),
        (b"{", None),
        (b"[" * 100_000, None),
    ],
)
def test_the_name_of_an_unreadable_object_is_saved(data: bytes, name: str | None) -> None:
    assert wire.identify(data).name == name


@pytest.mark.parametrize("bad", [b"[" * 5000 + b"]" * 5000, b'"\\ud800"', b'"\\u12"', b"tru"])
def test_one_unreadable_object_does_not_take_the_others_with_it(bad: bytes) -> None:
    item = b'{"metadata":{"name":"bad","managedFields":' + bad + b"}}"
    page = wire.decode_page(b'{"metadata":{"resourceVersion":"7"},"items":[{"a":1},' + item + b"]}")
    assert page.metadata == wire.ListMetadata(resource_version="7")
    assert page.items is not None
    assert [bytes(each) for each in page.items] == [b'{"a":1}', item]
    event = wire.decode_event(b'{"type":"ADDED","object":' + item + b"}")
    assert (event.type, bytes(event.object)) == ("ADDED", item)
    with pytest.raises(wire.UNREADABLE):
        wire.decode_object(Kind.SERVICE, item)


@pytest.mark.parametrize("end", ["", "]", "]]", "]}}"])
def test_a_page_that_is_cut_off_is_no_page(end: str) -> None:
    with pytest.raises(msgspec.DecodeError):
        wire.decode_page(b'{"items":[{"a":"\\ud800"}' + end.encode())
    with pytest.raises(msgspec.DecodeError):
        wire.decode_event(b'{"type":"ADDED","object":{"a":"\\ud800"}' + end.encode())


@given(st.binary())
def test_identify_and_decode_status_never_raise(data: bytes) -> None:
    wire.identify(data)
    wire.decode_status(data)


def test_an_html_error_page_is_an_empty_status() -> None:
    assert wire.decode_status(b"<html>") == wire.Status()
