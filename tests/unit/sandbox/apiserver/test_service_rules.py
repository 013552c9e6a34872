"""Which Services are refused, in which words; what accepted ones become is in test_service."""

from __future__ import annotations

import re
from typing import Any

import pytest

from kproxy.sandbox.apiserver.admission import Options
from kproxy.sandbox.apiserver.registry import Registry
from kproxy.sandbox.apiserver.resources import named
from kproxy.sandbox.apiserver.status import Json, StatusError

_SERVICE = named("svc")


def _document(name: str = "x", ports: list[Json] | None = None, **spec: Any) -> Json:
    return {"metadata": {"name": name}, "spec": {"ports": ports or [{"port": 80}], **spec}}


def _create(registry: Registry, name: str = "x", ports: list[Json] | None = None, **spec: Any) -> Json:
    return registry.create(_SERVICE, "default", _document(name, ports, **spec)).content


def _change(registry: Registry, name: str = "x", **spec: Any) -> Json:
    patch = {"spec": spec}
    key = ("default", name)
    return registry.patch(_SERVICE, key, "application/strategic-merge-patch+json", patch).content


def _refusal(registry: Registry, name: str = "x", ports: list[Json] | None = None, **spec: Any) -> list[str]:
    with pytest.raises(StatusError) as refused:
        _create(registry, name, ports, **spec)
    assert (refused.value.code, refused.value.reason) == (422, "Invalid")
    return [f"{cause['field']}: {cause['message']}" for cause in refused.value.details["causes"]]


@pytest.mark.parametrize(
    ("ports", "spec", "cause"),
    [
        ([{"port": 0}], {}, "spec.ports[0].port: Invalid value: 0: must be between 1 and 65535, inclusive"),
        ([{"port": 1}, {"port": 2}], {}, "spec.ports[0].name: Required value"),
        (
            [{"port": 1, "protocol": "ICMP"}],
            {},
            'spec.ports[0].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP"',
        ),
        (
            [{"name": "a", "port": 1}, {"name": "a", "port": 2}],
            {},
            'spec.ports[1].name: Duplicate value: "a"',
        ),
        (
            [{"name": "a", "port": 1}, {"name": "b", "port": 1}],
            {},
            'spec.ports[1]: Duplicate value: {"protocol":"TCP","port":1}',
        ),
        (
            [{"port": 1, "nodePort": 30000}],
            {},
            "spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'",
        ),
        (
            [{"port": 1, "nodePort": 80}],
            {"type": "NodePort"},
            (
                "spec.ports[0].nodePort: Invalid value: 80: provided port is not in the valid range."
                " The range of valid ports is 30000-32767"
            ),
        ),
        (
            [{"port": 1, "targetPort": "too-long-a-name-for-a-port"}],
            {},
            'spec.ports[0].targetPort: Invalid value: "too-long-a-name-for-a-port": must be no more than 15 characters',
        ),
        (
            None,
            {"type": "Cloud"},
            (
                'spec.type: Unsupported value: "Cloud": supported values:'
                ' "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"'
            ),
        ),
        (None, {"type": "ExternalName"}, "spec.externalName: Required value"),
        (
            None,
            {"externalIPs": ["127.0.0.1"]},
            'spec.externalIPs[0]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)',
        ),
        (
            None,
            {"externalIPs": ["010.0.0.1"]},
            (
                'spec.externalIPs[0]: Invalid value: "010.0.0.1":'
                " must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)"
            ),
        ),
        (
            None,
            {"loadBalancerSourceRanges": ["10.0.0.0/8"]},
            "spec.LoadBalancerSourceRanges: Forbidden: may only be used when `type` is 'LoadBalancer'",
        ),
        (
            None,
            {"type": "LoadBalancer", "loadBalancerSourceRanges": ["10.0.0.0/33"]},
            (
                'spec.loadBalancerSourceRanges[0]: Invalid value: "10.0.0.0/33":'
                " must be a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
            ),
        ),
        (
            None,
            {"externalTrafficPolicy": "Local"},
            'spec.externalTrafficPolicy: Invalid value: "Local": may only be set for externally-accessible services',
        ),
        (
            None,
            {"internalTrafficPolicy": "Near"},
            'spec.internalTrafficPolicy: Unsupported value: "Near": supported values: "Cluster", "Local"',
        ),
        (
            None,
            {"type": "LoadBalancer", "healthCheckNodePort": 30000},
            (
                "spec.healthCheckNodePort: Invalid value: 30000: may only be set when `type` is 'LoadBalancer'"
                " and `externalTrafficPolicy` is 'Local'"
            ),
        ),
        (
            None,
            {"type": "NodePort", "clusterIP": "None"},
            "spec.clusterIPs[0]: Invalid value: \"None\": may not be set to 'None' for NodePort services",
        ),
        (
            None,
            {"sessionAffinity": "ClientIP", "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 86401}}},
            (
                "spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 86401:"
                " must be greater than 0 and less than 86400"
            ),
        ),
        (
            None,
            {"sessionAffinityConfig": {"clientIP": {}}},
            "spec.sessionAffinityConfig: Forbidden: must not be set when session affinity is None",
        ),
        (
            None,
            {"ipFamilyPolicy": "RequireDualStack"},
            (
                'spec.ipFamilyPolicy: Invalid value: "RequireDualStack":'
                " this cluster is not configured for dual-stack services"
            ),
        ),
        (
            None,
            {"ipFamilies": ["IPv6"]},
            'spec.ipFamilies[0]: Invalid value: "IPv6": not configured on this cluster',
        ),
        (
            None,
            {"selector": {"a": "not valid"}},
            (
                'spec.selector: Invalid value: "not valid": a valid label must be an empty string or consist of'
                " alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character"
                " (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is"
                " '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
            ),
        ),
    ],
)
def test_refusals(registry: Registry, ports: list[Json] | None, spec: Json, cause: str) -> None:
    assert cause in _refusal(registry, "x", ports, **spec)


@pytest.mark.parametrize(
    ("spec", "field"),
    [
        ({"type": "ExternalName", "externalName": "not_a_name"}, "spec.externalName"),
        ({"type": "ExternalName", "externalName": "a.example", "ipFamilies": ["IPv4"]}, "spec.ipFamilies"),
        ({"selector": {"/a": "b"}}, "spec.selector"),
        ({"clusterIP": "10.96.0.5", "clusterIPs": ["10.96.0.6"]}, "spec.clusterIPs"),
        ({"clusterIPs": ["10.96.0.5", "10.96.0.6", "fd00::1"], "clusterIP": "10.96.0.5"}, "spec.clusterIPs"),
        ({"clusterIP": "x"}, "spec.clusterIPs[0]"),
        ({"clusterIP": "None", "clusterIPs": ["None", "10.96.0.5"]}, "spec.clusterIPs[0]"),
        ({"clusterIPs": ["10.96.0.5", "10.96.0.6"], "clusterIP": "10.96.0.5"}, "spec.clusterIPs"),
        ({"sessionAffinity": "Cookie"}, "spec.sessionAffinity"),
        ({"type": "NodePort", "externalTrafficPolicy": "Near"}, "spec.externalTrafficPolicy"),
        ({"trafficDistribution": "Far"}, "spec.trafficDistribution"),
        ({"loadBalancerClass": "a/b"}, "spec.loadBalancerClass"),
        ({"ipFamilies": ["IPv5"]}, "spec.ipFamilies[0]"),
        ({"ipFamilies": ["IPv4", "IPv4"]}, "spec.ipFamilies[1]"),
        ({"ipFamilyPolicy": "Both"}, "spec.ipFamilyPolicy"),
        ({"externalIPs": ["0.0.0.0"]}, "spec.externalIPs[0]"),
        ({"externalIPs": ["fe80::1"]}, "spec.externalIPs[0]"),
        ({"externalIPs": ["224.0.0.5"]}, "spec.externalIPs[0]"),
    ],
)
def test_refused_fields(registry: Registry, spec: Json, field: str) -> None:
    assert field in [cause.partition(": ")[0] for cause in _refusal(registry, **spec)]


@pytest.mark.parametrize(
    ("ingress", "field"),
    [
        ({"ip": "x"}, "status.loadBalancer.ingress[0].ip"),
        ({"ip": "203.0.113.1", "ipMode": "Mirror"}, "status.loadBalancer.ingress[0].ipMode"),
        ({"hostname": "a.example", "ipMode": "VIP"}, "status.loadBalancer.ingress[0].ipMode"),
    ],
)
def test_a_status_is_validated(registry: Registry, ingress: Json, field: str) -> None:
    _create(registry, type="LoadBalancer")
    document = {"metadata": {"name": "x"}, "status": {"loadBalancer": {"ingress": [ingress]}}}
    with pytest.raises(StatusError) as refused:
        registry.update(_SERVICE, ("default", "x"), document, Options(subresource="status"))
    assert refused.value.details["causes"][0]["field"] == field


@pytest.mark.parametrize(
    ("first", "change", "message"),
    [
        (
            {"type": "LoadBalancer", "externalTrafficPolicy": "Local"},
            {"healthCheckNodePort": 31000},
            "spec.healthCheckNodePort: Invalid value: 31000: field is immutable",
        ),
        ({"type": "LoadBalancer"}, {"loadBalancerClass": "a/b"}, "may not change once set"),
        ({}, {"ipFamilies": ["IPv6"]}, "spec.clusterIPs[0]"),
        ({"ipFamilyPolicy": "PreferDualStack"}, {"ipFamilies": ["IPv6", "IPv4"]}, "spec.clusterIPs[0]"),
        (
            {"ipFamilyPolicy": "PreferDualStack"},
            {"clusterIPs": ["10.96.0.17", "fd00:10:96::5"]},
            "spec.clusterIPs[1]",
        ),
    ],
)
def test_what_may_not_change(dual: Registry, first: Json, change: Json, message: str) -> None:
    _create(dual, **first)
    with pytest.raises(StatusError, match=re.escape(message)):
        _change(dual, **change)


@pytest.mark.parametrize("name", ["1x", "X", "a.b", "a" * 64, "-a"])
def test_service_names_are_dns_1035_labels(registry: Registry, name: str) -> None:
    assert all(cause.startswith("metadata.name: Invalid value") for cause in _refusal(registry, name))
