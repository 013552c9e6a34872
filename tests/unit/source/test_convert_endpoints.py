"""EndpointSlices and Endpoints (spec: model.md 3)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kproxy.model.change import Rejection
from kproxy.model.endpoint import Endpoint, Endpoints, EndpointSlice, SlicePort
from kproxy.model.enums import IPFamily, Kind, Protocol
from kproxy.model.keys import ObjectKey
from kproxy.source.convert import Converter, NotOurs, Outcome, Usable

LABELS = {"kubernetes.io/service-name": "web"}
WEB = ObjectKey("default", "web")


def convert(kind: Kind = Kind.ENDPOINT_SLICE, **given: Any) -> Outcome:
    metadata = {"name": "web-abc", "namespace": "default", "labels": LABELS} | given.pop("metadata", {})
    return Converter().convert(kind, json.dumps({"metadata": metadata, "addressType": "IPv4"} | given).encode())


def usable(**given: Any) -> EndpointSlice:
    outcome = convert(**given)
    assert isinstance(outcome, Usable), outcome
    assert isinstance(outcome.object, EndpointSlice)
    return outcome.object


def test_everything_that_a_proxy_reads() -> None:
    found = usable(
        metadata={"annotations": {"endpoints.kubernetes.io/last-change-trigger-time": "1970-01-01T00:01:00.5Z"}},
        ports=[{"name": "http", "port": 8080, "protocol": "TCP"}, {"name": "", "port": 53, "protocol": "UDP"}],
        endpoints=[
            {
                "addresses": ["10.244.1.1", "10.244.1.2"],
                "conditions": {"ready": False, "serving": True, "terminating": True},
                "nodeName": "n1",
                "hints": {"forZones": [{"name": "a"}, {"name": "b"}], "forNodes": [{"name": "n1"}]},
            },
            {"addresses": ["10.244.1.3"]},
        ],
    )
    hints = frozenset({"a", "b"})
    assert found == EndpointSlice(
        key=ObjectKey("default", "web-abc"),
        service=WEB,
        family=IPFamily.IPV4,
        ports=(SlicePort("http", Protocol.TCP, 8080), SlicePort("", Protocol.UDP, 53)),
        endpoints=(
            Endpoint("10.244.1.1", "n1", False, True, True, hints, frozenset({"n1"})),
            Endpoint("10.244.1.3"),
        ),
        triggered=60.5,
    )


@pytest.mark.parametrize("conditions", [None, {}, {"ready": None, "serving": None, "terminating": None}])
def test_unknown_conditions_mean_ready(conditions: object) -> None:
    assert usable(endpoints=[{"addresses": ["10.0.0.1"], "conditions": conditions}]).endpoints == (
        Endpoint("10.0.0.1"),
    )


def test_ports_without_a_name_or_a_number_are_skipped() -> None:
    ports = [{"port": 80}, {"name": "a"}, {"name": "b", "port": 0}, {"name": "c", "port": 81, "protocol": None}]
    assert usable(ports=ports).ports == (SlicePort("c", Protocol.TCP, 81),)


@pytest.mark.parametrize(
    "given", [{}, {"ports": None, "endpoints": None}, {"endpoints": [{"addresses": []}, {"addresses": None}, {}]}]
)
def test_nothing_is_an_empty_slice(given: dict[str, Any]) -> None:
    assert usable(**given) == EndpointSlice(ObjectKey("default", "web-abc"), WEB, IPFamily.IPV4)


@pytest.mark.parametrize("text", ["garbage", "fd00::1", "127.0.0.1", "169.254.1.1", "0.0.0.0", "239.1.1.1", "127.1"])
def test_an_address_that_no_pod_can_have_is_left_out_and_noted(text: str) -> None:
    outcome = convert(endpoints=[{"addresses": [text]}, {"addresses": ["10.0.0.1"]}])
    assert isinstance(outcome, Usable)
    assert isinstance(outcome.object, EndpointSlice)
    assert [endpoint.ip for endpoint in outcome.object.endpoints] == ["10.0.0.1"]
    assert [note.field for note in outcome.warnings] == ["endpoints[0].addresses[0]"]


@pytest.mark.parametrize("text", ["::1", "::", "fe80::1", "febf::1", "ff02::1", "::ffff:127.0.0.1"])
def test_the_same_for_ipv6(text: str) -> None:
    assert usable(addressType="IPv6", endpoints=[{"addresses": [text]}]).endpoints == ()


def test_a_slice_of_host_names_or_of_a_headless_service_is_not_ours() -> None:
    foreign = NotOurs(ObjectKey("default", "web-abc"))
    assert convert(addressType="FQDN") == foreign
    assert convert(metadata={"labels": LABELS | {"service.kubernetes.io/headless": ""}}) == foreign


@pytest.mark.parametrize("labels", [None, {}, {"kubernetes.io/service-name": ""}])
def test_a_slice_without_a_service_is_not_ours_and_noted(labels: object) -> None:
    outcome = convert(metadata={"labels": labels})
    assert isinstance(outcome, NotOurs)
    assert "kubernetes.io/service-name" in str(outcome.warnings[0])


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"addressType": "IPv5"}, "addressType"),
        ({"addressType": None}, "addressType"),
        ({"ports": [{"name": "a", "port": 70000}]}, "ports[0].port"),
        ({"ports": [{"name": "a", "port": 1, "protocol": "X"}]}, "ports[0].protocol"),
        ({"ports": [{"name": "a'b", "port": 1}]}, "ports[0].name"),
        ({"endpoints": [{"addresses": "10.0.0.1"}]}, "endpoints[0].addresses"),
        (
            {"metadata": {"labels": {"kubernetes.io/service-name": "Web"}}},
            "metadata.labels[kubernetes.io/service-name]",
        ),
    ],
)
def test_what_would_have_to_be_guessed_is_refused_by_field(given: dict[str, Any], field: str) -> None:
    outcome = convert(**given)
    assert isinstance(outcome, Rejection)
    assert outcome.problem.field.replace("[...]", "[0]") == field


@pytest.mark.parametrize(
    "time", ["", "now", "2024-01-01T00:00:00", "0001-01-01T00:00:00+23:59", "1960-01-01T00:00:00Z"]
)
def test_a_trigger_time_that_is_none_is_0(time: str) -> None:
    annotations = {"endpoints.kubernetes.io/last-change-trigger-time": time}
    assert usable(metadata={"annotations": annotations}).triggered == 0.0


def test_nanoseconds_are_understood() -> None:
    annotations = {"endpoints.kubernetes.io/last-change-trigger-time": "1970-01-01T00:00:01.123456789Z"}
    assert usable(metadata={"annotations": annotations}).triggered == pytest.approx(1.123456)


def test_equal_hints_are_one_object() -> None:
    hints = {"forZones": [{"name": "a"}]}
    first, second = usable(endpoints=[{"addresses": [f"10.0.0.{n}"], "hints": hints} for n in (1, 2)]).endpoints
    assert first.zone_hints is second.zone_hints
    assert first.zone_hints == frozenset({"a"})


def test_equal_names_are_one_object() -> None:
    converter = Converter()
    first, second = (_hinted(converter, f"10.0.0.{each}", "zone-1", "node-1") for each in (1, 2))
    assert first.node is second.node
    assert first.node == "node-1"


def test_names_and_sets_of_hints_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kproxy.source.convert_endpoints._NAMES", 100)
    converter = Converter()
    for number in range(5000):
        _hinted(converter, "10.0.0.1", f"z{number}", f"n{number}")
    assert len(converter._endpoints._sets) <= 4096
    assert len(converter._endpoints._names) <= 100


def test_long_names_are_not_remembered() -> None:
    converter = Converter()
    found = _hinted(converter, "10.0.0.1", "z" * 2000, "n" * 300)
    assert (found.node, found.zone_hints) == ("n" * 300, frozenset({"z" * 2000}))
    assert (converter._endpoints._names, converter._endpoints._sets) == ({}, {})


def _hinted(converter: Converter, ip: str, zone: str, node: str) -> Endpoint:
    given = {
        "metadata": {"name": "s", "namespace": "default", "labels": LABELS},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [ip], "nodeName": node, "hints": {"forZones": [{"name": zone}]}}],
    }
    outcome = converter.convert(Kind.ENDPOINT_SLICE, json.dumps(given).encode())
    assert isinstance(outcome, Usable)
    assert isinstance(outcome.object, EndpointSlice)
    return outcome.object.endpoints[0]


def test_endpoints_become_a_slice_for_each_subset_and_family() -> None:
    subsets = [
        {
            "addresses": [{"ip": "10.0.0.1", "nodeName": "n1"}, {"ip": "fd00::1"}, {"ip": "x"}],
            "notReadyAddresses": [{"ip": "10.0.0.2"}],
            "ports": [{"port": 80}, {"name": "dns", "port": 53, "protocol": "UDP"}],
        },
        {"addresses": [{"ip": "10.0.0.3"}], "ports": [{"port": 81}]},
        {"addresses": None, "ports": None},
    ]
    outcome = convert(Kind.ENDPOINTS, metadata={"name": "web"}, subsets=subsets)
    assert isinstance(outcome, Usable)
    ports = (SlicePort("", Protocol.TCP, 80), SlicePort("dns", Protocol.UDP, 53))
    key = [ObjectKey("default", f"web/{name}") for name in ("0-IPv4", "0-IPv6", "1-IPv4")]
    ready, unready = Endpoint("10.0.0.1", "n1"), Endpoint("10.0.0.2", ready=False, serving=False)
    assert outcome.object == Endpoints(
        WEB,
        (
            EndpointSlice(key[0], WEB, IPFamily.IPV4, ports, (ready, unready)),
            EndpointSlice(key[1], WEB, IPFamily.IPV6, ports, (Endpoint("fd00::1"),)),
            EndpointSlice(key[2], WEB, IPFamily.IPV4, (SlicePort("", Protocol.TCP, 81),), (Endpoint("10.0.0.3"),)),
        ),
    )
    assert [note.field for note in outcome.warnings] == ["subsets[0].addresses[2].ip"]


def test_endpoints_that_no_service_can_own_are_not_ours() -> None:
    assert isinstance(convert(Kind.ENDPOINTS, metadata={"name": "a.b"}), NotOurs)


def test_bad_ports_of_endpoints_are_refused() -> None:
    outcome = convert(Kind.ENDPOINTS, metadata={"name": "web"}, subsets=[{"ports": [{"port": -1}]}])
    assert isinstance(outcome, Rejection)
    assert outcome.problem.field == "subsets[0].ports[0].port"


def test_what_is_left_out_of_a_slice_is_named() -> None:
    outcome = convert(
        ports=[{"name": "a", "port": 0}, {"port": 80}, {"name": "b"}, {"name": "c", "port": 80}],
        endpoints=[{"addresses": []}, {}, {"addresses": ["10.244.1.1"]}],
    )
    assert isinstance(outcome, Usable)
    assert isinstance(outcome.object, EndpointSlice)
    assert outcome.object.ports == (SlicePort("c", Protocol.TCP, 80),)
    assert outcome.object.endpoints == (Endpoint("10.244.1.1"),)
    assert [warning.field for warning in outcome.warnings] == [
        "ports[0].port",
        "ports[1].name",
        "ports[2].port",
        "endpoints[0].addresses",
        "endpoints[1].addresses",
    ]
