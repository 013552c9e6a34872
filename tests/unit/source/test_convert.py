"""What every kind shares: lists, changes, rejections, and that no JSON whatever raises. Fields: test_convert_*.py."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.model.change import Listed, Put, Rejected, Rejection, Removed
from kproxy.model.endpoint import EndpointSlice
from kproxy.model.enums import Kind
from kproxy.model.keys import ObjectKey
from kproxy.model.service import Service
from kproxy.source.convert import Converter, NotOurs, Usable, read_list

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=10,
)
IPS = st.sampled_from(["10.0.0.1", "fd00::1", "010.0.0.1", "", "None", "x", "10.0.0.0/8"])
TEXT = st.text() | st.sampled_from(["web", "default", "IPv4", "IPv6", "TCP", "ClientIP", "Local"]) | IPS | JSON
PORTS = st.lists(st.fixed_dictionaries({}, optional={"name": TEXT, "port": st.integers() | JSON, "protocol": TEXT}))
OBJECTS = st.fixed_dictionaries(
    {},
    optional={
        "metadata": st.fixed_dictionaries(
            {"name": TEXT},
            optional={
                "namespace": TEXT,
                "uid": TEXT,
                "labels": st.just({"kubernetes.io/service-name": "web"}) | JSON,
                "annotations": JSON,
            },
        ),
        "spec": st.fixed_dictionaries(
            {},
            optional={
                "clusterIP": TEXT,
                "clusterIPs": st.lists(TEXT),
                "ipFamilies": st.lists(TEXT),
                "ports": PORTS,
                "externalIPs": st.lists(TEXT),
                "loadBalancerSourceRanges": st.lists(TEXT),
                "podCIDRs": st.lists(TEXT),
                "cidrs": st.lists(TEXT),
            },
        )
        | JSON,
        "status": JSON,
        "addressType": TEXT,
        "ports": PORTS,
        "endpoints": st.lists(st.fixed_dictionaries({"addresses": st.lists(TEXT)}, optional={"hints": JSON})) | JSON,
        "subsets": JSON,
    },
)


def encode(name: str, namespace: str = "default", **given: Any) -> bytes:
    return json.dumps({"metadata": {"name": name, "namespace": namespace}} | given).encode()


@given(st.sampled_from(Kind), OBJECTS | JSON)
def test_any_json_becomes_a_model_or_a_rejection_that_can_be_printed(kind: Kind, value: object) -> None:
    match Converter().convert(kind, json.dumps(value).encode()):
        case Usable(object=found, warnings=warnings):
            assert hash(found) is not None
            problems = list(warnings)
        case NotOurs(warnings=warnings):
            problems = list(warnings)
        case Rejection(problem=problem):
            problems = [problem]
    assert all(str(problem).isprintable() for problem in problems)


@given(st.sampled_from(Kind), st.binary())
def test_any_bytes_are_a_rejection(kind: Kind, data: bytes) -> None:
    assert isinstance(Converter().convert(kind, data), Rejection)
    assert isinstance(Converter().removed(kind, data), Removed)


def test_deep_nesting_is_a_rejection() -> None:
    outcome = Converter().convert(Kind.SERVICE, b'{"metadata":' + b"[" * 100_000)
    assert isinstance(outcome, Rejection)


def test_one_bad_object_does_not_spoil_the_list() -> None:
    good, bad = encode("good"), encode("bad", spec={"ports": 7})
    listed = Converter().listed(Kind.SERVICE, [bad, good, b'{"metadata":{"name":"\xff"}}'])
    assert listed.objects == (Service(ObjectKey("default", "good")),)
    assert [rejection.key.name for rejection in listed.rejected] == ["bad", "\N{REPLACEMENT CHARACTER}"]
    assert str(listed.rejected[0].problem).startswith(
        "Service default/bad: spec.ports cannot be read: expected `array`, got `int`;"
    )


def test_warnings_of_a_list_are_kept_together() -> None:
    listed = Converter().listed(Kind.SERVICE, [encode("a", spec={"clusterIP": "10.0.0.1", "externalIPs": ["x"]})])
    assert len(listed.objects) == 1
    assert [warning.name for warning in listed.warnings] == ["default/a"]


def test_a_change_is_put_rejected_or_removed() -> None:
    converter, labels = Converter(), {"service.kubernetes.io/service-proxy-name": "x"}
    key = ObjectKey("default", "web")
    assert converter.changed(Kind.SERVICE, encode("web")) == Put(Kind.SERVICE, Service(key))
    assert isinstance(converter.changed(Kind.SERVICE, encode("web", spec=1)), Rejected)
    taken = {"metadata": {"name": "web", "namespace": "default", "labels": labels}}
    assert converter.changed(Kind.SERVICE, json.dumps(taken).encode()) == Removed(Kind.SERVICE, key)


def test_a_deleted_object_need_not_be_usable() -> None:
    removed = Converter().removed(Kind.SERVICE, encode("web", spec="broken"))
    assert removed == Removed(Kind.SERVICE, ObjectKey("default", "web"))


def test_cluster_wide_objects_have_no_namespace() -> None:
    assert Converter().removed(Kind.NODE, encode("n1")).key == ObjectKey("", "n1")


def test_a_manifest_may_leave_its_namespace_out() -> None:
    data = b'{"metadata":{"name":"web"}}'
    assert isinstance(Converter().convert(Kind.SERVICE, data), Rejection)
    assert isinstance(Converter(manifests=True).convert(Kind.SERVICE, data), Usable)


@pytest.mark.parametrize("name", ["web.example.com", "web-abc"])
def test_names_of_other_kinds_are_subdomains(name: str) -> None:
    given = {
        "metadata": {"name": name, "namespace": "default", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
    }
    outcome = Converter().convert(Kind.ENDPOINT_SLICE, json.dumps(given).encode())
    assert isinstance(outcome, Usable)
    assert isinstance(outcome.object, EndpointSlice)


def test_a_body_is_read_at_once() -> None:
    body = b'{"items":[' + encode("a") + b"]}"
    assert read_list(Kind.SERVICE, body).objects == (Service(ObjectKey("default", "a")),)
    assert read_list(Kind.SERVICE, b'{"items":null}') == Listed(Kind.SERVICE, ())


def test_a_list_is_one_change() -> None:
    assert Converter().listed(Kind.NODE, []) == Listed(Kind.NODE, ())
