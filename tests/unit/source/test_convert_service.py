"""Services: every row of spec: model.md 2 that is about reading, not about deciding (that is plan/)."""

from __future__ import annotations

import json
from typing import Any

import pytest

from kproxy.model.change import Rejection
from kproxy.model.enums import Kind, Protocol, ServiceType, TrafficPolicy
from kproxy.model.keys import ObjectKey
from kproxy.model.service import Service, ServicePort
from kproxy.source.convert import Converter, NotOurs, Outcome, Usable

PORT = {"name": "http", "protocol": "TCP", "port": 80}


def convert(spec: dict[str, Any], status: dict[str, Any] | None = None, name: str = "web", **metadata: Any) -> Outcome:
    given = {"metadata": {"name": name, "namespace": "default"} | metadata, "spec": spec, "status": status or {}}
    return Converter().convert(Kind.SERVICE, json.dumps(given).encode())


def usable(spec: dict[str, Any], status: dict[str, Any] | None = None, **metadata: Any) -> Service:
    outcome = convert({"clusterIP": "10.96.0.1", "ports": [PORT]} | spec, status, **metadata)
    assert isinstance(outcome, Usable), outcome
    assert isinstance(outcome.object, Service)
    return outcome.object


def test_everything_that_a_proxy_reads() -> None:
    found = usable(
        {
            "type": "LoadBalancer",
            "clusterIP": "10.96.0.1",
            "clusterIPs": ["10.96.0.1", "fd00::1"],
            "ipFamilies": ["IPv4", "IPv6"],
            "ports": [PORT | {"nodePort": 30080}, {"name": "dns", "protocol": "UDP", "port": 53}],
            "externalIPs": ["203.0.113.1"],
            "loadBalancerSourceRanges": ["203.0.113.0/24"],
            "internalTrafficPolicy": "Local",
            "externalTrafficPolicy": "Local",
            "sessionAffinity": "ClientIP",
            "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
            "healthCheckNodePort": 32000,
        },
        {"loadBalancer": {"ingress": [{"ip": "198.51.100.1"}]}},
        uid="u-1",
        creationTimestamp="2024-01-01T00:00:00Z",
    )
    assert found == Service(
        key=ObjectKey("default", "web"),
        type=ServiceType.LOAD_BALANCER,
        cluster_ips=("10.96.0.1", "fd00::1"),
        ports=(
            ServicePort("http", Protocol.TCP, 80, 30080),
            ServicePort("dns", Protocol.UDP, 53),
        ),
        external_ips=("203.0.113.1",),
        load_balancer_vips=("198.51.100.1",),
        source_ranges=("203.0.113.0/24",),
        internal_policy=TrafficPolicy.LOCAL,
        external_policy=TrafficPolicy.LOCAL,
        affinity_seconds=60,
        health_check_node_port=32000,
        created="2024-01-01T00:00:00Z",
        uid="u-1",
    )


@pytest.mark.parametrize(
    ("spec", "cluster_ips"),
    [
        ({"clusterIP": ""}, ()),
        ({"clusterIP": None}, ()),
        ({"clusterIP": "None", "clusterIPs": ["None"]}, ()),
        ({"type": "ExternalName", "clusterIP": "10.96.0.9"}, ()),
        ({"clusterIP": "10.96.0.041"}, ("10.96.0.41",)),
        ({"clusterIP": "fd00:0::1"}, ("fd00::1",)),
        ({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ipFamilies": ["IPv4", "IPv6"]}, ("10.96.0.1",)),
        ({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "fd00::1"], "ipFamilies": ["IPv4"]}, ("10.96.0.1",)),
        ({"clusterIP": None, "clusterIPs": ["fd00::1", "10.96.0.1"]}, ("fd00::1", "10.96.0.1")),
        ({"clusterIPs": ["10.96.0.1", "10.96.0.2"]}, ("10.96.0.1",)),
    ],
)
def test_cluster_ips(spec: dict[str, Any], cluster_ips: tuple[str, ...]) -> None:
    assert usable(spec).cluster_ips == cluster_ips


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"clusterIP": "10.96.0"}, "spec.clusterIP"),
        ({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1", "x"]}, "spec.clusterIPs"),
        ({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ipFamilies": ["IPv6"]}, "spec.clusterIPs"),
        ({"type": "Banana"}, "spec.type"),
        ({"ports": [{"port": 0}]}, "spec.ports[0].port"),
        ({"ports": [PORT, {"name": "b"}]}, "spec.ports[1].port"),
        ({"ports": [{"port": 65536}]}, "spec.ports[0].port"),
        ({"ports": [{"port": "http"}]}, "spec.ports[0].port"),
        ({"ports": [{"port": 1.5}]}, "spec.ports[0].port"),
        ({"ports": [{"port": 10**40}]}, "spec.ports[0].port"),
        ({"ports": [PORT | {"nodePort": -1}]}, "spec.ports[0].nodePort"),
        ({"ports": [PORT | {"protocol": "tcp"}]}, "spec.ports[0].protocol"),
        ({"ports": [PORT | {"name": 'x" -j ACCEPT\n'}]}, "spec.ports[0].name"),
        ({"ports": [PORT, PORT]}, "spec.ports[1].name"),
        ({"ports": {}}, "spec.ports"),
        ({"internalTrafficPolicy": "local"}, "spec.internalTrafficPolicy"),
        ({"externalTrafficPolicy": "Global"}, "spec.externalTrafficPolicy"),
        ({"sessionAffinity": "Cookie"}, "spec.sessionAffinity"),
        (
            {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 0}}},
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
        ),
        ({"healthCheckNodePort": 70000}, "spec.healthCheckNodePort"),
        ({"loadBalancerSourceRanges": ["everybody"]}, "spec.loadBalancerSourceRanges"),
    ],
)
def test_what_would_have_to_be_guessed_is_refused_by_field(spec: dict[str, Any], field: str) -> None:
    outcome = convert({"clusterIP": "10.96.0.1", "ports": [PORT]} | spec, uid="u-1")
    assert isinstance(outcome, Rejection)
    assert outcome.key == ObjectKey("default", "web")
    assert outcome.uid == "u-1"
    assert outcome.problem.field == field
    assert outcome.problem.name == "default/web"
    assert outcome.problem.remedy


@pytest.mark.parametrize("name", ["", "a b", 'a"b', "a\nb", "A", "a.b", "x" * 254, "../etc", "$(reboot)"])
def test_a_name_that_the_api_would_not_take_is_refused_and_quoted(name: str) -> None:
    outcome = convert({"clusterIP": "10.96.0.1"}, name=name)
    assert isinstance(outcome, Rejection)
    assert outcome.problem.field == "metadata.name"
    assert str(outcome.problem).isprintable()
    assert len(str(outcome.problem)) < 400


def test_a_name_may_start_with_a_digit() -> None:
    assert usable({}, name="1web").key.name == "1web"


def test_a_namespace_is_checked_too() -> None:
    outcome = convert({"clusterIP": "10.96.0.1"}, namespace='kube"system')
    assert isinstance(outcome, Rejection)
    assert outcome.problem.field == "metadata.namespace"


def test_garbage_among_external_ips_is_dropped_and_noted() -> None:
    outcome = convert({"clusterIP": "10.96.0.1", "externalIPs": ["203.0.113.1", "", "garbage", "203.0.113.001"]})
    assert isinstance(outcome, Usable)
    assert isinstance(outcome.object, Service)
    assert outcome.object.external_ips == ("203.0.113.1",)
    assert [note.field for note in outcome.warnings] == ["spec.externalIPs[2]"]


@pytest.mark.parametrize(
    "ip",
    ["127.0.0.1", "127.8.8.8", "169.254.169.254", "0.0.0.0", "224.0.0.5", "239.255.255.250", "255.255.255.255",
     "::", "::1", "::ffff:127.0.0.1", "fe80::1", "febf::1", "ff02::1", "ff0e::1"],
)  # fmt: skip
def test_what_every_node_says_to_itself_is_nobodys_address(ip: str) -> None:
    spec = {"clusterIP": "10.96.0.1", "externalIPs": [ip, "203.0.113.1"]}
    outcome = convert(spec, {"loadBalancer": {"ingress": [{"ip": ip}, {"ip": "203.0.113.2"}]}})
    assert isinstance(outcome, Usable)
    assert isinstance(outcome.object, Service)
    assert outcome.object.external_ips == ("203.0.113.1",)
    assert outcome.object.load_balancer_vips == ("203.0.113.2",)
    assert [note.field for note in outcome.warnings] == ["spec.externalIPs[0]", "status.loadBalancer.ingress[0]"]


def crowd(ports: int, external_ips: int, ranges: int = 0) -> dict[str, Any]:
    return {
        "clusterIP": "10.96.0.1",
        "externalIPs": [f"10.1.{each >> 8}.{each & 255}" for each in range(external_ips)],
        "loadBalancerSourceRanges": [f"10.{each >> 8}.{each & 255}.0/24" for each in range(ranges)],
        "ports": [{"name": f"p{each}", "port": each + 1} for each in range(ports)],
    }


def test_ports_and_addresses_that_multiply_beyond_measure_are_refused() -> None:
    assert len(usable(crowd(ports=1024, external_ips=255)).ports) == 1024
    outcome = convert(crowd(ports=1024, external_ips=256))
    assert isinstance(outcome, Rejection)
    assert "1024, each at 257 addresses" in outcome.problem.why


def test_each_vip_counts_its_source_ranges() -> None:
    vips = {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}, {"ip": "203.0.113.2"}]}}
    assert usable(crowd(ports=16, external_ips=0, ranges=9000))
    assert isinstance(convert(crowd(ports=16, external_ips=0, ranges=9000), vips), Rejection)


def test_only_ingress_ips_in_vip_mode_are_vips() -> None:
    ingress = [
        {"ip": "198.51.100.1"},
        {"ip": "198.51.100.2", "ipMode": "VIP"},
        {"ip": "198.51.100.3", "ipMode": "Proxy"},
        {"hostname": "lb.example.com"},
        {"ip": ""},
    ]
    assert usable({}, {"loadBalancer": {"ingress": ingress}}).load_balancer_vips == ("198.51.100.1", "198.51.100.2")


def test_source_ranges_are_trimmed_masked_and_forgiven_but_never_all_dropped() -> None:
    outcome = convert({"clusterIP": "10.96.0.1", "loadBalancerSourceRanges": [" 203.0.113.9/024 ", "", "x"]})
    assert isinstance(outcome, Usable)
    assert isinstance(outcome.object, Service)
    assert outcome.object.source_ranges == ("203.0.113.0/24",)
    assert [note.field for note in outcome.warnings] == ["spec.loadBalancerSourceRanges[2]"]


@pytest.mark.parametrize(
    ("spec", "seconds"),
    [
        ({}, 0),
        ({"sessionAffinity": "None", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 9}}}, 0),
        ({"sessionAffinity": "ClientIP"}, 10800),
        ({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": None}}, 10800),
        ({"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86400}}}, 86400),
    ],
)
def test_affinity(spec: dict[str, Any], seconds: int) -> None:
    assert usable(spec).affinity_seconds == seconds


def test_a_creation_time_that_is_none_is_left_out() -> None:
    assert usable({}, creationTimestamp="yesterday\n").created == ""


def test_a_service_of_another_proxy_is_not_ours() -> None:
    labels = {"service.kubernetes.io/service-proxy-name": ""}
    assert convert({"clusterIP": "10.96.0.1"}, labels=labels) == NotOurs(ObjectKey("default", "web"))


def test_a_named_proxy_serves_its_own_services_only() -> None:
    converter = Converter(service_proxy_name="mine")
    label = "service.kubernetes.io/service-proxy-name"
    for labels, expected in [({label: "mine"}, Usable), ({label: "other"}, NotOurs), ({}, NotOurs)]:
        given = {"metadata": {"name": "web", "namespace": "default", "labels": labels}}
        assert isinstance(converter.convert(Kind.SERVICE, json.dumps(given).encode()), expected)


def test_a_service_without_a_spec_has_nothing_to_serve() -> None:
    outcome = Converter().convert(Kind.SERVICE, b'{"metadata":{"name":"web","namespace":"default"}}')
    assert outcome == Usable(Service(ObjectKey("default", "web")))


@pytest.mark.parametrize(
    ("cluster_ip", "cluster_ips"),
    [
        ("10.96.0.1", ["10.96.0.2"]),
        ("10.96.0.1", ["fd00::1", "10.96.0.1"]),
        ("10.96.0.1", ["None"]),
        ("None", ["10.96.0.1"]),
    ],
)
def test_nobody_guesses_which_of_two_addresses_was_meant(cluster_ip: str, cluster_ips: list[str]) -> None:
    outcome = convert({"clusterIP": cluster_ip, "clusterIPs": cluster_ips, "ports": [PORT]})
    assert isinstance(outcome, Rejection)
    assert outcome.problem.field == "spec.clusterIPs"
    assert "where spec.clusterIP is" in outcome.problem.why


def test_two_spellings_of_one_address_agree() -> None:
    assert usable({"clusterIP": "010.96.0.1", "clusterIPs": ["10.96.0.1"]}).cluster_ips == ("10.96.0.1",)


@pytest.mark.parametrize(
    ("spec", "field", "kept"),
    [
        ({"clusterIPs": ["10.96.0.1", "10.96.0.2"]}, "spec.clusterIPs[1]", ("10.96.0.1",)),
        ({"clusterIPs": ["10.96.0.1", "fd00::1"], "ipFamilies": ["IPv4"]}, "spec.clusterIPs[1]", ("10.96.0.1",)),
        ({"externalIPs": ["203.0.113.1", "2001:db8::1"]}, "spec.externalIPs", ("10.96.0.1",)),
    ],
)
def test_an_address_that_no_family_serves_is_named(spec: dict[str, Any], field: str, kept: tuple[str, ...]) -> None:
    outcome = convert({"clusterIP": "10.96.0.1", "ports": [PORT]} | spec)
    assert isinstance(outcome, Usable)
    assert isinstance(outcome.object, Service)
    assert outcome.object.cluster_ips == kept
    assert [warning.field for warning in outcome.warnings] == [field]


def test_one_more_family_than_addresses_is_no_mistake() -> None:
    outcome = convert({"clusterIP": "10.96.0.1", "ipFamilies": ["IPv4", "IPv6"], "ports": [PORT]})
    assert isinstance(outcome, Usable)
    assert not outcome.warnings


def test_a_load_balancer_address_of_an_unknown_mode_is_named() -> None:
    outcome = convert({"clusterIP": "10.96.0.1"}, {"loadBalancer": {"ingress": [{"ip": "192.0.2.1", "ipMode": "vip"}]}})
    assert isinstance(outcome, Usable)
    assert [warning.field for warning in outcome.warnings] == ["status.loadBalancer.ingress[0].ipMode"]


def test_a_long_namespace_does_not_hide_the_name() -> None:
    outcome = convert({"clusterIP": "10.96.0.1"}, namespace="X" * 5000)
    assert isinstance(outcome, Rejection)
    assert outcome.problem.name.endswith("/web")
    assert len(str(outcome.problem)) < 400
