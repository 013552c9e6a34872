"""Rules against objects; how objects are read is test_objects.py's."""

from __future__ import annotations

import json
from collections.abc import Sequence

from kproxy.explain.answer import Severity
from kproxy.explain.answer import Warning as Said
from kproxy.explain.health import drift
from kproxy.explain.read.objects import NOTHING, Objects, objects_of
from kproxy.explain.services.survey import survey
from tests.unit.explain.dumps import FILTER, NAT, WEB, dump_of, table

HEALTHY = table("nat", *NAT, *WEB) + table("filter", *FILTER)
BOTH = ("10.244.0.1", "10.244.0.2")


def objects(
    *addresses: str,
    name: str = "web",
    spec: dict[str, object] | None = None,
    conditions: dict[str, bool] | None = None,
    **more: object,
) -> Objects:
    """A Service of one port with one slice."""
    ports = [{"port": 80, "protocol": "TCP"}]
    service = {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "clusterIP": "10.96.0.1",
            "clusterIPs": ["10.96.0.1"],
            "type": "ClusterIP",
            "ports": ports,
            **(spec or {}),
        },
    }
    slices = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": f"{name}-1", "namespace": "default", "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "ports": [{"name": "", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [each], "conditions": conditions or {"ready": True}, **more} for each in addresses],
    }
    return objects_of(json.dumps({"apiVersion": "v1", "kind": "List", "items": [service, slices]}).encode())


def said(given: Objects, text: str = HEALTHY) -> list[Said]:
    return list(drift.look([survey(dump_of(text), given)], given))


def codes(given: Objects, text: str = HEALTHY) -> Sequence[str]:
    return [each.code for each in said(given, text)]


def test_rules_that_agree_with_the_objects_are_not_told() -> None:
    assert said(objects(*BOTH)) == []


def test_without_objects_there_is_nothing_to_compare() -> None:
    assert said(NOTHING) == []


def test_an_endpoint_that_the_objects_do_not_have_is_stale() -> None:
    (each,) = said(objects("10.244.0.1"))
    assert (each.code, each.severity, each.service) == ("endpoint-stale", Severity.WARNING, "default/web")
    assert "to 10.244.0.2:8080, which the given objects do not have" in each.message
    assert "-j DNAT --to-destination 10.244.0.2:8080" in HEALTHY.split("\n")[each.line - 1]


def test_a_ready_endpoint_without_rules_is_told() -> None:
    (each,) = said(objects(*BOTH, "10.244.0.3", "10.244.0.4"))
    assert each.code == "endpoint-not-programmed"
    assert "to 10.244.0.3:8080, 10.244.0.4:8080, which the given objects call ready" in each.message


def test_an_endpoint_that_is_not_ready_needs_no_rules() -> None:
    assert codes(objects(*BOTH, conditions={"ready": False})) == []


def test_hints_may_leave_endpoints_to_other_nodes() -> None:
    hints = {"forZones": [{"name": "a"}]}
    assert codes(objects(*BOTH, "10.244.0.3", hints=hints)) == []


def test_a_service_without_rules_is_told_and_one_without_objects_too() -> None:
    other = objects("10.244.0.9", name="other", spec={"clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"]})
    first, second = said(other)
    assert (first.code, first.service) == ("service-not-programmed", "default/other")
    assert (second.code, second.service) == ("service-gone", "default/web")


def test_headless_services_need_no_rules() -> None:
    other = objects("10.244.0.9", name="other", spec={"clusterIP": "None", "clusterIPs": ["None"]})
    assert codes(other) == ["service-gone"]  # of default/web, which is not among them


def test_an_address_without_a_rule_is_told() -> None:
    spec = {
        "type": "NodePort",
        "externalIPs": ["198.51.100.7"],
        "ports": [{"port": 80, "protocol": "TCP", "nodePort": 30080}],
    }
    (each,) = said(objects(*BOTH, spec=spec))
    assert each.code == "frontend-not-programmed"
    assert "external IP 198.51.100.7:80, node port 30080 of default/web" in each.message


def test_an_address_that_another_service_has_is_claimed_twice() -> None:
    spec = {"externalIPs": ["10.96.0.1"], "clusterIP": "10.96.0.9", "clusterIPs": ["10.96.0.9"]}
    other = WEB[0].replace("default/web", "default/late").replace("10.96.0.1", "10.96.0.9")
    text = table(
        "nat",
        *NAT,
        *WEB,
        other.replace("44XBNF3G", "44XBNF3H"),
        *(line.replace("44XBNF3G", "44XBNF3H") for line in WEB[1:3]),
    ) + table("filter", *FILTER)
    (each,) = (each for each in said(objects(*BOTH, name="late", spec=spec), text) if each.service == "default/late")
    assert each.code == "duplicate-claim"
    assert "external IP 10.96.0.1:80/TCP is claimed by default/late and by default/web, to which the" in each.message


def test_a_relayed_service_leads_to_the_relay_and_no_endpoint() -> None:
    guard = "-A KUBE-PROXY-FIREWALL -d 169.254.73.80/32 -m conntrack ! --ctstate DNAT -j DROP"
    text = HEALTHY.replace("10.244.0.1:8080", "169.254.73.80:40001").replace("10.244.0.2:8080", "169.254.73.80:40001")
    text = text.replace("*filter\n", "*filter\n:KUBE-PROXY-FIREWALL - [0:0]\n")
    before, end, after = text.rpartition("COMMIT")
    assert codes(objects(*BOTH), before + guard + "\n" + end + after) == []


def test_a_dump_of_one_table_proves_nothing() -> None:
    assert codes(objects("10.244.0.1"), table("nat", *NAT, *WEB)) == []


def test_services_of_the_other_family_are_not_missed() -> None:
    spec = {"clusterIP": "fd00::1", "clusterIPs": ["fd00::1"], "ipFamilies": ["IPv6"]}
    assert "service-not-programmed" not in codes(objects(name="six", spec=spec))
