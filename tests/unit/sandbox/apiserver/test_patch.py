"""The four kinds of patch on documents; how they are addressed over HTTP is in test_server."""

from __future__ import annotations

import pytest

from kproxy.sandbox.apiserver.patch import apply, json_patch, merge, strategic
from kproxy.sandbox.apiserver.status import Json, StatusError

_DNS: Json = {
    "spec": {
        "ports": [
            {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 53},
            {"name": "dns-tcp", "port": 53, "protocol": "TCP", "targetPort": 53},
        ]
    }
}


def _ports(document: Json) -> list[tuple[int, str, object]]:
    return [(port["port"], port.get("protocol", ""), port.get("targetPort")) for port in document["spec"]["ports"]]


def test_a_merge_patch_deletes_by_null_and_replaces_lists() -> None:
    target = {"a": {"b": 1, "c": 2}, "l": [1, 2], "same": True}
    assert merge(target, {"a": {"b": None, "d": {"e": None}}, "l": [3]}) == {
        "a": {"c": 2, "d": {}},
        "l": [3],
        "same": True,
    }
    assert target["a"] == {"b": 1, "c": 2}


def test_service_ports_merge_by_port_and_protocol() -> None:
    patch = {"spec": {"ports": [{"port": 53, "protocol": "TCP", "targetPort": 5353}]}}
    assert _ports(strategic("Service", _DNS, patch)) == [(53, "UDP", 53), (53, "TCP", 5353)]
    assert _ports(_DNS) == [(53, "UDP", 53), (53, "TCP", 53)]


def test_an_unknown_service_port_is_added_in_the_order_asked_for() -> None:
    patch = {
        "spec": {
            "$setElementOrder/ports": [{"port": 80}, {"port": 53}],
            "ports": [{"port": 80, "targetPort": 8080}],
        }
    }
    assert [port[0] for port in _ports(strategic("Service", _DNS, patch))] == [80, 53, 53]


def test_directives_delete_and_replace() -> None:
    gone = {"spec": {"ports": [{"$patch": "delete", "port": 53, "protocol": "UDP"}]}}
    assert _ports(strategic("Service", _DNS, gone)) == [(53, "TCP", 53)]
    instead = {"spec": {"ports": [{"port": 1}, {"$patch": "replace"}]}}
    assert strategic("Service", _DNS, instead)["spec"]["ports"] == [{"port": 1}]
    whole = {"spec": {"$patch": "replace", "type": "ClusterIP"}}
    assert strategic("Service", _DNS, whole)["spec"] == {"type": "ClusterIP"}
    kept = {"spec": {"$retainKeys": ["type"], "type": "ExternalName"}}
    assert strategic("Service", _DNS, kept)["spec"] == {"type": "ExternalName"}


def test_a_list_without_keys_is_replaced_whole() -> None:
    target = {"spec": {"externalIPs": ["203.0.113.1"]}}
    assert strategic("Service", target, {"spec": {"externalIPs": ["203.0.113.2"]}}) == {
        "spec": {"externalIPs": ["203.0.113.2"]}
    }


def test_finalizers_are_a_set() -> None:
    target = {"metadata": {"finalizers": ["a", "b"]}}
    added = strategic("Service", target, {"metadata": {"finalizers": ["c", "a"]}})
    assert added["metadata"]["finalizers"] == ["a", "b", "c"]
    removed = strategic("Service", added, {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}})
    assert removed["metadata"]["finalizers"] == ["b", "c"]


def test_an_item_without_its_key_is_refused() -> None:
    with pytest.raises(StatusError, match="does not contain declared merge key: port"):
        strategic("Service", _DNS, {"spec": {"ports": [{"targetPort": 1}]}})


def test_conditions_of_every_kind_merge_by_type() -> None:
    target = {"status": {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Other"}]}}
    patch = {"status": {"conditions": [{"type": "Ready", "status": "False"}]}}
    assert strategic("Node", target, patch)["status"]["conditions"] == [
        {"type": "Ready", "status": "False"},
        {"type": "Other"},
    ]


def test_apply_removes_what_the_last_configuration_had_and_this_one_lacks() -> None:
    live = {"metadata": {"labels": {"mine": "1", "other": "1"}}, "spec": _DNS["spec"] | {"clusterIP": "10.0.0.1"}}
    last = {"metadata": {"labels": {"mine": "1"}}, "spec": _DNS["spec"]}
    config = {"spec": {"ports": [{"port": 53, "protocol": "UDP", "targetPort": 5353}]}, "metadata": {}}
    applied = apply("Service", live, config, last)
    assert applied["metadata"] == {}
    assert _ports(applied) == [(53, "UDP", 5353)]
    assert applied["spec"]["clusterIP"] == "10.0.0.1"


def test_apply_without_a_last_configuration_only_adds() -> None:
    live = {"metadata": {"labels": {"other": "1"}}}
    assert apply("Service", live, {"metadata": {"labels": {"mine": "1"}}}, None) == {
        "metadata": {"labels": {"other": "1", "mine": "1"}}
    }


@pytest.mark.parametrize(
    ("operation", "result"),
    [
        ({"op": "add", "path": "/a/1", "value": 9}, {"a": [1, 9, 2], "b/c": 3}),
        ({"op": "add", "path": "/a/-", "value": 9}, {"a": [1, 2, 9], "b/c": 3}),
        ({"op": "replace", "path": "/b~1c", "value": 4}, {"a": [1, 2], "b/c": 4}),
        ({"op": "remove", "path": "/a/0"}, {"a": [2], "b/c": 3}),
        ({"op": "move", "from": "/a/0", "path": "/d"}, {"a": [2], "b/c": 3, "d": 1}),
        ({"op": "copy", "from": "/a", "path": "/d"}, {"a": [1, 2], "b/c": 3, "d": [1, 2]}),
        ({"op": "test", "path": "/a", "value": [1, 2]}, {"a": [1, 2], "b/c": 3}),
        ({"op": "replace", "path": "", "value": {}}, {}),
    ],
)
def test_json_patch(operation: Json, result: Json) -> None:
    document = {"a": [1, 2], "b/c": 3}
    assert json_patch(document, [operation]) == result
    assert document == {"a": [1, 2], "b/c": 3}


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "test", "path": "/a", "value": 0},
        {"op": "remove", "path": "/missing"},
        {"op": "replace", "path": "/missing", "value": 1},
        {"op": "add", "path": "/a/9", "value": 1},
        {"op": "add", "path": "a", "value": 1},
        {"op": "remove", "path": "/a/-1"},
        {"op": "remove", "path": ""},
        {"op": "grow", "path": "/a"},
        {"path": "/a"},
    ],
)
def test_a_json_patch_that_does_not_fit_is_refused(operation: Json) -> None:
    with pytest.raises(StatusError) as refused:
        json_patch({"a": [1, 2]}, [operation])
    assert refused.value.code == 422


@pytest.mark.parametrize("patch", [{}, [{"op": "replace", "path": "", "value": 1}]])
def test_a_json_patch_must_be_a_list_and_leave_an_object(patch: object) -> None:
    with pytest.raises(StatusError) as refused:
        json_patch({}, patch)
    assert refused.value.code == 400
