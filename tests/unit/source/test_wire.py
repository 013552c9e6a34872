"""The JSON that we read: what is skipped, what is refused, what can be saved. Meaning: test_convert*.py."""

from __future__ import annotations

import json

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
    found = wire.decode_object(Kind.SERVICE, data)
    assert found.metadata == wire.Metadata(name="a", annotations=wire.Annotations())


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (b'{"metadata":{"name":"a","labels":[]},"spec":{}}', "a"),
        (b'{"metadata":{"name":"a"},"spec":"\xff"}', "a"),
        (b'{"metadata":{"name":7}}', None),
        (b'{"metadata":[]}', None),
        (b"[]", None),
        (b"{", None),
        (b"[" * 100_000, None),
    ],
)
def test_the_name_of_an_unreadable_object_is_saved(data: bytes, name: str | None) -> None:
    assert wire.identify(data).name == name


@given(st.binary())
def test_identify_and_decode_status_never_raise(data: bytes) -> None:
    wire.identify(data)
    wire.decode_status(data)


def test_an_html_error_page_is_an_empty_status() -> None:
    assert wire.decode_status(b"<html>") == wire.Status()
