"""Slices and Endpoints as the controllers keep them, driven through a registry."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kproxy.sandbox.apiserver.controllers import Controllers
from kproxy.sandbox.apiserver.endpointslices import HEADLESS, MANAGED_BY, SERVICE_NAME, SKIP_MIRROR
from kproxy.sandbox.apiserver.registry import Registry
from kproxy.sandbox.apiserver.resources import named
from kproxy.sandbox.apiserver.status import Json

Settle = Callable[[], None]


@pytest.fixture
def settle(dual: Registry) -> Settle:
    controllers = Controllers(dual, soon=lambda _: None)
    dual.store.subscribe(controllers.observe)
    return controllers.settle


def _service(registry: Registry, name: str = "web", **spec: object) -> None:
    base = {"selector": {"app": "web"}, "ports": [{"name": "http", "port": 80, "targetPort": "web"}]}
    registry.create(named("svc"), "default", {"metadata": {"name": name}, "spec": base | spec})


def _pod(registry: Registry, name: str, *ips: str, ready: bool = True, node: str = "", port: int = 8080) -> None:
    container = {"name": "c", "ports": [{"name": "web", "containerPort": port}]}
    pod: Json = {
        "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"containers": [container], "nodeName": node},
        "status": {
            "podIP": ips[0],
            "podIPs": [{"ip": ip} for ip in ips],
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        },
    }
    registry.create(named("pods"), "default", pod)


def _slices(registry: Registry, name: str = "web") -> list[Json]:
    found = registry.store.objects("endpointslices", "default")
    return [each.document() for each in found if each.labels[SERVICE_NAME] == name]


def _addresses(registry: Registry, name: str = "web") -> list[str]:
    return sorted(
        address for each in _slices(registry, name) for end in each["endpoints"] for address in end["addresses"]
    )


def test_a_service_without_pods_has_an_empty_slice(dual: Registry, settle: Settle) -> None:
    _service(dual)
    settle()
    assert [(each["addressType"], each["endpoints"], each["ports"]) for each in _slices(dual)] == [("IPv4", [], [])]


def test_an_endpoint_says_where_and_how_its_pod_is(dual: Registry, settle: Settle) -> None:
    zone = {"topology.kubernetes.io/zone": "a"}
    dual.create(named("nodes"), "", {"metadata": {"name": "n1", "labels": zone}})
    _service(dual, trafficDistribution="PreferSameNode")
    _pod(dual, "p", "10.1.0.1", node="n1")
    settle()
    (only,) = _slices(dual)
    assert only["ports"] == [{"name": "http", "protocol": "TCP", "port": 8080}]
    (endpoint,) = only["endpoints"]
    assert endpoint.pop("targetRef")["name"] == "p"
    assert endpoint == {
        "addresses": ["10.1.0.1"],
        "conditions": {"ready": True, "serving": True, "terminating": False},
        "nodeName": "n1",
        "zone": "a",
        "hints": {"forZones": [{"name": "a"}], "forNodes": [{"name": "n1"}]},
    }


def test_a_zone_that_a_node_gets_later_reaches_the_slices(dual: Registry, settle: Settle) -> None:
    _service(dual)
    _pod(dual, "p", "10.1.0.1", node="n1")
    settle()
    dual.create(named("nodes"), "", {"metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "b"}}})
    settle()
    assert _slices(dual)[0]["endpoints"][0]["zone"] == "b"


def test_unready_and_terminating_pods_are_told_apart(graceful: Registry) -> None:
    controllers = Controllers(graceful, soon=lambda _: None)
    graceful.store.subscribe(controllers.observe)
    _service(graceful)
    _pod(graceful, "unready", "10.1.0.1", ready=False, node="n")
    _pod(graceful, "leaving", "10.1.0.2", node="n")
    graceful.delete(named("pods"), ("default", "leaving"))
    controllers.settle()
    conditions = {end["addresses"][0]: end["conditions"] for end in _slices(graceful)[0]["endpoints"]}
    assert conditions == {
        "10.1.0.1": {"ready": False, "serving": False, "terminating": False},
        "10.1.0.2": {"ready": False, "serving": True, "terminating": True},
    }
    subsets = graceful.get(named("endpoints"), ("default", "web")).document()["subsets"]
    assert [[each["ip"] for each in subset["notReadyAddresses"]] for subset in subsets] == [["10.1.0.1"]]


def test_unready_pods_can_be_published(dual: Registry, settle: Settle) -> None:
    _service(dual, publishNotReadyAddresses=True)
    _pod(dual, "p", "10.1.0.1", ready=False)
    settle()
    conditions = _slices(dual)[0]["endpoints"][0]["conditions"]
    assert conditions == {"ready": True, "serving": False, "terminating": False}


def test_both_families_get_slices_of_their_own(dual: Registry, settle: Settle) -> None:
    _service(dual, ipFamilyPolicy="PreferDualStack")
    _pod(dual, "p", "10.1.0.1", "fd00:1::1")
    settle()
    assert {each["addressType"]: each["endpoints"][0]["addresses"] for each in _slices(dual)} == {
        "IPv4": ["10.1.0.1"],
        "IPv6": ["fd00:1::1"],
    }


def test_pods_that_mean_another_number_by_a_name_get_another_slice(dual: Registry, settle: Settle) -> None:
    _service(dual)
    _pod(dual, "a", "10.1.0.1", port=8080)
    _pod(dual, "b", "10.1.0.2", port=9090)
    settle()
    assert sorted(each["ports"][0]["port"] for each in _slices(dual)) == [8080, 9090]
    subsets = dual.get(named("endpoints"), ("default", "web")).document()["subsets"]
    assert sorted(subset["ports"][0]["port"] for subset in subsets) == [8080, 9090]


def test_a_pod_that_goes_changes_only_its_slice(dual: Registry, settle: Settle) -> None:
    _service(dual)
    for number in range(150):
        _pod(dual, f"p{number:03}", f"10.1.0.{number + 1}")
    settle()
    before = {each["metadata"]["name"]: each for each in _slices(dual)}
    assert sorted(len(each["endpoints"]) for each in before.values()) == [50, 100]
    dual.delete(named("pods"), ("default", "p000"))
    settle()
    after = {each["metadata"]["name"]: each for each in _slices(dual)}
    assert after.keys() == before.keys()
    assert sum(after[name] != before[name] for name in before) == 1


def test_nothing_is_written_when_nothing_changed(dual: Registry, settle: Settle) -> None:
    _service(dual)
    _pod(dual, "p", "10.1.0.1")
    settle()
    revision = dual.store.revision
    label = {"metadata": {"annotations": {"seen": "yes"}}}
    dual.patch(named("pods"), ("default", "p"), "application/merge-patch+json", label)
    settle()
    assert dual.store.revision == revision + 1


def test_a_label_decides_whether_a_pod_belongs(dual: Registry, settle: Settle) -> None:
    _service(dual)
    _pod(dual, "p", "10.1.0.1")
    settle()
    other = {"metadata": {"labels": {"app": "other"}}}
    dual.patch(named("pods"), ("default", "p"), "application/merge-patch+json", other)
    settle()
    assert _addresses(dual) == []
    assert "subsets" not in dual.get(named("endpoints"), ("default", "web")).document()


def test_all_goes_with_the_service(dual: Registry, settle: Settle) -> None:
    _service(dual)
    _pod(dual, "p", "10.1.0.1")
    settle()
    dual.delete(named("svc"), ("default", "web"))
    settle()
    assert _slices(dual) == []
    assert dual.store.get("endpoints", ("default", "web")) is None


def test_headless_slices_bear_the_label_that_hides_them_from_proxies(dual: Registry, settle: Settle) -> None:
    _service(dual, clusterIP="None")
    settle()
    assert HEADLESS in _slices(dual)[0]["metadata"]["labels"]


def _endpoints(registry: Registry, ip: str, **labels: str) -> None:
    document = {
        "metadata": {"name": "db", "labels": labels},
        "subsets": [
            {
                "addresses": [{"ip": ip}],
                "notReadyAddresses": [{"ip": "192.0.2.9"}],
                "ports": [{"name": "sql", "port": 5432}],
            }
        ],
    }
    registry.put(named("endpoints"), ("default", "db"), document)


def test_endpoints_written_by_hand_are_mirrored(dual: Registry, settle: Settle) -> None:
    _endpoints(dual, "192.0.2.1", mine="yes")
    _service(dual, "db", selector={}, ports=[{"name": "sql", "port": 5432}])
    settle()
    (only,) = _slices(dual, "db")
    assert only["metadata"]["labels"] == {
        "mine": "yes",
        SERVICE_NAME: "db",
        MANAGED_BY: "endpointslicemirroring-controller.k8s.io",
    }
    assert [(end["addresses"], end["conditions"]["ready"]) for end in only["endpoints"]] == [
        (["192.0.2.1"], True),
        (["192.0.2.9"], False),
    ]
    _endpoints(dual, "192.0.2.2")
    settle()
    assert _addresses(dual, "db") == ["192.0.2.2", "192.0.2.9"]
    dual.delete(named("endpoints"), ("default", "db"))
    settle()
    assert _slices(dual, "db") == []


def test_a_label_prevents_the_mirror(dual: Registry, settle: Settle) -> None:
    _service(dual, "db", selector={}, ports=[{"name": "sql", "port": 5432}])
    _endpoints(dual, "192.0.2.1")
    settle()
    _endpoints(dual, "192.0.2.1", **{SKIP_MIRROR: "true"})
    settle()
    assert _slices(dual, "db") == []


def test_an_external_name_has_no_slices(dual: Registry, settle: Settle) -> None:
    _service(dual)
    settle()
    change = {"spec": {"type": "ExternalName", "externalName": "x.example"}}
    dual.patch(named("svc"), ("default", "web"), "application/merge-patch+json", change)
    settle()
    assert _slices(dual) == []
