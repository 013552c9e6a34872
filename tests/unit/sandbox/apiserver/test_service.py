"""Services through the registry: defaults, allocation, type changes, families.

Covers service_defaults, assign and allocate together, since users meet them together; refusals are in
test_service_rules.
"""

from __future__ import annotations

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


def test_a_cluster_ip_service_is_completed(registry: Registry) -> None:
    assert _create(registry)["spec"] == {
        "type": "ClusterIP",
        "clusterIP": "10.96.0.2",
        "clusterIPs": ["10.96.0.2"],
        "ipFamilies": ["IPv4"],
        "ipFamilyPolicy": "SingleStack",
        "internalTrafficPolicy": "Cluster",
        "sessionAffinity": "None",
        "ports": [{"port": 80, "protocol": "TCP", "targetPort": 80}],
    }


def test_a_load_balancer_with_local_policy_gets_a_health_check_node_port(registry: Registry) -> None:
    spec = _create(registry, type="LoadBalancer", externalTrafficPolicy="Local")["spec"]
    assert spec["ports"][0]["nodePort"] == 30086
    assert spec["healthCheckNodePort"] == 30087
    assert spec["allocateLoadBalancerNodePorts"] is True


def test_client_ip_affinity_lasts_three_hours_by_default(registry: Registry) -> None:
    spec = _create(registry, sessionAffinity="ClientIP")["spec"]
    assert spec["sessionAffinityConfig"] == {"clientIP": {"timeoutSeconds": 10800}}
    assert "sessionAffinityConfig" not in _change(registry, sessionAffinity="None")["spec"]


def test_a_taken_node_port_is_refused_in_the_words_users_know(registry: Registry) -> None:
    port = {"port": 80, "nodePort": 30123}
    _create(registry, "first", [port], type="NodePort")
    with pytest.raises(StatusError) as refused:
        _create(registry, "second", [port], type="NodePort")
    assert refused.value.message == (
        'Service "second" is invalid: spec.ports[0].nodePort: Invalid value: 30123: provided port is already allocated'
    )


def test_a_deleted_service_frees_its_numbers(registry: Registry) -> None:
    created = _create(registry, "first", [{"port": 80, "nodePort": 30123}], type="NodePort")
    registry.delete(_SERVICE, ("default", "first"))
    ports = [{"port": 80, "nodePort": 30123}]
    again = _create(registry, "second", ports, type="NodePort", clusterIP=created["spec"]["clusterIP"])
    assert again["spec"]["clusterIP"] == created["spec"]["clusterIP"]


def test_a_refused_service_leaves_nothing_allocated(registry: Registry) -> None:
    _create(registry, "first", [{"port": 80, "nodePort": 30124}], type="NodePort")
    ports = [{"name": "a", "port": 80, "nodePort": 30123}, {"name": "b", "port": 81, "nodePort": 30124}]
    assert _refusal(registry, "second", ports, type="NodePort") == [
        "spec.ports[1].nodePort: Invalid value: 30124: provided port is already allocated"
    ]
    assert _create(registry, "third", [{"port": 80, "nodePort": 30123}], type="NodePort")


def test_a_dry_run_leaves_nothing_allocated(registry: Registry) -> None:
    document = _document(ports=[{"port": 80, "nodePort": 30123}], type="NodePort")
    registry.create(_SERVICE, "default", document, Options(dry_run=True))
    assert registry.store.get("services", ("default", "x")) is None
    assert _create(registry, "y", [{"port": 80, "nodePort": 30123}], type="NodePort")


def test_one_node_port_serves_both_protocols_of_a_port(registry: Registry) -> None:
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53}]
    spec = _create(registry, ports=ports, type="NodePort")["spec"]
    assert len({port["nodePort"] for port in spec["ports"]}) == 1


def test_the_range_of_cluster_ips_runs_out(registry: Registry) -> None:
    for number in range(13):
        _create(registry, f"x{number}")
    with pytest.raises(StatusError, match="range is full") as refused:
        _create(registry, "last")
    assert refused.value.code == 500


def test_a_fixed_cluster_ip_must_be_free_and_in_range(registry: Registry) -> None:
    _create(registry, clusterIP="10.96.0.9")
    assert _refusal(registry, "y", clusterIP="10.96.0.9") == [
        (
            'spec.clusterIPs: Invalid value: ["10.96.0.9"]: failed to allocate IP 10.96.0.9:'
            " provided IP is already allocated"
        )
    ]
    assert "is not in the valid range" in _refusal(registry, "y", clusterIP="10.97.0.1")[0]


def test_a_cluster_ip_may_not_change(registry: Registry) -> None:
    _create(registry)
    with pytest.raises(StatusError, match="may not change once set"):
        _change(registry, clusterIP="10.96.0.9")


def test_an_update_that_names_no_allocation_keeps_them(registry: Registry) -> None:
    before = _create(registry, type="LoadBalancer", externalTrafficPolicy="Local")
    document = _document(type="LoadBalancer", externalTrafficPolicy="Local")
    document["metadata"]["labels"] = {"a": "b"}
    after = registry.update(_SERVICE, ("default", "x"), document).content
    assert after["spec"] == before["spec"]


def test_type_changes_allocate_and_free_node_ports(registry: Registry) -> None:
    _create(registry)
    port = _change(registry, type="NodePort")["spec"]["ports"][0]["nodePort"]
    as_balancer = _change(registry, type="LoadBalancer", externalTrafficPolicy="Local")["spec"]
    assert as_balancer["ports"][0]["nodePort"] == port
    back = _change(registry, type="ClusterIP")["spec"]
    assert "nodePort" not in back["ports"][0]
    assert not back.keys() & {"externalTrafficPolicy", "healthCheckNodePort", "allocateLoadBalancerNodePorts"}
    assert list(registry.admission.allocator.ports.holders) == []


def test_an_external_name_gives_its_cluster_ip_back(registry: Registry) -> None:
    _create(registry)
    spec = _change(registry, type="ExternalName", externalName="db.example.com")["spec"]
    assert not spec.keys() & {"clusterIP", "clusterIPs", "ipFamilies", "internalTrafficPolicy"}
    assert list(registry.admission.allocator.addresses.holders) == ["10.96.0.1"]


def test_a_load_balancer_may_do_without_node_ports(registry: Registry) -> None:
    spec = _create(registry, type="LoadBalancer", allocateLoadBalancerNodePorts=False)["spec"]
    assert "nodePort" not in spec["ports"][0]


def test_the_status_of_a_former_load_balancer_is_cleared(registry: Registry) -> None:
    _create(registry, type="LoadBalancer")
    status = {"status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}}}
    content = registry.update(
        _SERVICE, ("default", "x"), {"metadata": {"name": "x"}, **status}, Options(subresource="status")
    ).content
    assert content["status"]["loadBalancer"]["ingress"] == [{"ip": "203.0.113.1", "ipMode": "VIP"}]
    assert _change(registry, type="ClusterIP")["status"] == {"loadBalancer": {}}


def test_a_spec_change_cannot_touch_the_status_nor_the_reverse(registry: Registry) -> None:
    _create(registry)
    document = _document(ports=[{"port": 81}]) | {"status": {"loadBalancer": {"ingress": [{"ip": "192.0.2.1"}]}}}
    assert registry.update(_SERVICE, ("default", "x"), document).content["status"] == {"loadBalancer": {}}
    content = registry.update(_SERVICE, ("default", "x"), _document(), Options(subresource="status")).content
    assert content["spec"]["ports"][0]["port"] == 81


def test_a_headless_service_needs_no_ports(registry: Registry) -> None:
    document = {"metadata": {"name": "x"}, "spec": {"clusterIP": "None", "selector": {"a": "b"}}}
    spec = registry.create(_SERVICE, "default", document).content["spec"]
    assert (spec["clusterIPs"], spec["ipFamilies"]) == (["None"], ["IPv4"])


def test_a_headless_service_without_selector_is_of_both_families(registry: Registry) -> None:
    spec = _create(registry, clusterIP="None")["spec"]
    assert (spec["ipFamilyPolicy"], spec["ipFamilies"]) == ("RequireDualStack", ["IPv4", "IPv6"])


def test_dual_stack_services_get_both_families(dual: Registry) -> None:
    spec = _create(dual, ipFamilyPolicy="PreferDualStack")["spec"]
    assert spec["ipFamilies"] == ["IPv4", "IPv6"]
    assert spec["clusterIPs"] == ["10.96.0.17", "fd00:10:96::101"]
    assert _create(dual, "six", ipFamilies=["IPv6"])["spec"]["clusterIPs"] == ["fd00:10:96::102"]
    swapped = _create(dual, "swapped", ipFamilyPolicy="RequireDualStack", ipFamilies=["IPv6", "IPv4"])["spec"]
    assert swapped["clusterIP"] == "fd00:10:96::103"


def test_a_policy_change_adds_and_releases_the_second_family(dual: Registry) -> None:
    _create(dual)
    assert len(_change(dual, ipFamilyPolicy="PreferDualStack")["spec"]["clusterIPs"]) == 2
    spec = _change(dual, ipFamilyPolicy="SingleStack")["spec"]
    assert (spec["clusterIPs"], spec["ipFamilies"]) == (["10.96.0.17"], ["IPv4"])
    assert sorted(dual.admission.allocator.addresses.holders) == ["10.96.0.1", "10.96.0.17"]


def test_two_families_need_a_dual_policy(dual: Registry) -> None:
    assert "multiple IP families" in _refusal(dual, ipFamilies=["IPv4", "IPv6"])[0]


def test_prefer_dual_stack_on_a_single_stack_cluster_stays_single(registry: Registry) -> None:
    assert _create(registry, ipFamilyPolicy="PreferDualStack")["spec"]["ipFamilies"] == ["IPv4"]


def test_a_further_service_cidr_extends_the_range(registry: Registry) -> None:
    cidr = {"metadata": {"name": "more"}, "spec": {"cidrs": ["10.97.0.0/24"]}}
    registry.create(named("servicecidrs"), "", cidr)
    assert _create(registry, clusterIP="10.97.0.7")["spec"]["clusterIP"] == "10.97.0.7"


def test_what_was_loaded_unseen_is_taken(registry: Registry) -> None:
    loaded = _document("loaded", [{"port": 80, "nodePort": 30500}], clusterIP="10.96.0.5") | {"kind": "Service"}
    registry.load([loaded])
    assert _refusal(registry, "y", [{"port": 80, "nodePort": 30500}], type="NodePort")
    assert _refusal(registry, "y", clusterIP="10.96.0.5")
