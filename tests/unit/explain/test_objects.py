"""What kubectl prints, read for names, pods and states; how objects are converted is tests/unit/source's."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from kproxy.backend.iptables import names
from kproxy.errors import InvalidConfig
from kproxy.explain.read.objects import NOTHING, Backing, objects_of, read_objects
from kproxy.explain.services.survey import survey
from kproxy.model.enums import Protocol
from kproxy.model.keys import ObjectKey, ServicePortKey
from tests.unit.explain.test_survey import one, recorded, surveyed

WEB: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web", "namespace": "shop"},
    "spec": {
        "clusterIP": "10.96.3.1",
        "clusterIPs": ["10.96.3.1"],
        "externalIPs": ["198.51.100.1"],
        "healthCheckNodePort": 30391,
        "externalTrafficPolicy": "Local",
        "type": "LoadBalancer",
        "ports": [{"name": "http", "port": 80, "nodePort": 30080, "protocol": "TCP"}],
    },
    "status": {"loadBalancer": {"ingress": [{"ip": "203.0.113.1"}]}},
}
SLICE: dict[str, Any] = {
    "apiVersion": "discovery.k8s.io/v1",
    "kind": "EndpointSlice",
    "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
    "addressType": "IPv4",
    "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    "endpoints": [
        {
            "addresses": ["10.244.1.7"],
            "conditions": {"ready": True},
            "nodeName": "n1",
            "targetRef": {"kind": "Pod", "name": "web-7", "namespace": "shop"},
        },
        {"addresses": ["10.244.1.8"], "conditions": {"ready": False, "terminating": True}, "nodeName": "n2"},
        {"addresses": ["10.244.1.9"], "conditions": {"ready": False}},
    ],
}
NODE = {
    "apiVersion": "v1",
    "kind": "Node",
    "metadata": {"name": "n1"},
    "status": {"addresses": [{"type": "InternalIP", "address": "192.168.0.2"}]},
}


def pod(name: str, ip: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"nodeName": "n2", **spec},
        "status": {"phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}]},
    }


def listed(*items: object) -> bytes:
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items}).encode()


KEY = ServicePortKey("shop", "web", "http", Protocol.TCP)


def test_a_list_of_everything() -> None:
    found = objects_of(
        listed(WEB, SLICE, NODE, pod("web-8", "10.244.1.8"), pod("proxy", "192.168.0.2", hostNetwork=True))
    )
    assert found.known
    assert found.problems == ()
    assert found.hashes[names.service_hash(KEY)] == KEY
    assert found.addresses("n1") == ("192.168.0.2",)
    assert found.addresses("n9") == ()
    assert [(key, service.key.name) for key, service, _ in found.ports()] == [(KEY, "web")]
    assert set(found.targets(KEY)) == {("10.244.1.7", 8080), ("10.244.1.8", 8080), ("10.244.1.9", 8080)}
    for where in (("10.96.3.1", 80), ("198.51.100.1", 80), ("203.0.113.1", 80), ("", 30080), ("", 30391)):
        assert found.frontends[*where, "TCP"] == KEY
    assert found.pods.keys() == {"10.244.1.8"}


def test_what_stands_behind_an_endpoint() -> None:
    found = objects_of(listed(WEB, SLICE, pod("web-8", "10.244.1.8"), pod("other", "10.244.5.5")))
    assert found.backing("shop/web", "http", "10.244.1.7", 8080) == Backing("shop/web-7", "n1", "ready")
    assert found.backing("shop/web", "http", "10.244.1.8", 8080) == Backing("shop/web-8", "n2", "terminating")
    assert found.backing("shop/web", "http", "10.244.1.9", 8080) == Backing("", "", "not ready")
    assert found.backing("shop/web", "http", "10.244.1.7", 9) == Backing("shop/web-7", "n1", "gone")
    assert found.backing("shop/web", "http", "10.244.5.5", 8080) == Backing("shop/other", "n2", "gone")
    assert found.backing("shop/unknown", "", "10.244.9.9", 80) == Backing()
    assert found.backing("", "", "10.244.9.9", 80) == Backing()
    assert objects_of(listed(WEB)).backing("shop/web", "http", "10.244.1.7", 8080) == Backing()


def test_a_survey_says_it() -> None:
    etl = {**WEB, "metadata": {"name": "etl"}, "spec": {**WEB["spec"], "ports": [{"port": 80}]}}
    ends = {
        **SLICE,
        "metadata": {"name": "etl-1", "labels": {"kubernetes.io/service-name": "etl"}},
        "ports": [{"name": "", "port": 8080}],
        "endpoints": [{"addresses": ["10.244.1.10"], "targetRef": {"kind": "Pod", "name": "etl-a"}, "nodeName": "n1"}],
    }
    there, gone = one(
        surveyed(recorded("etp-local-with-endpoints"), objects_of(listed(etl, ends))), "default/etl"
    ).cluster
    assert (there.pod, there.node, there.state) == ("default/etl-a", "n1", "ready")
    assert (gone.pod, gone.node, gone.state) == ("", "", "gone")


def test_endpoints_count_where_there_are_no_slices() -> None:
    legacy = {
        "apiVersion": "v1",
        "kind": "Endpoints",
        "metadata": {"name": "web", "namespace": "shop"},
        "subsets": [
            {
                "addresses": [{"ip": "10.244.3.3", "nodeName": "n3", "targetRef": {"kind": "Pod", "name": "w"}}],
                "notReadyAddresses": [{"ip": "10.244.3.4"}],
                "ports": [{"name": "http", "port": 8080}],
            }
        ],
    }
    found = objects_of(listed(WEB, legacy))
    assert found.backing("shop/web", "http", "10.244.3.3", 8080) == Backing("shop/w", "n3", "ready")
    assert found.backing("shop/web", "http", "10.244.3.4", 8080).state == "not ready"
    assert set(objects_of(listed(WEB, legacy, SLICE)).targets(KEY)) == set(objects_of(listed(WEB, SLICE)).targets(KEY))


def test_a_bad_object_is_told_and_the_others_are_kept() -> None:
    bad = {**WEB, "metadata": {"name": "Bad Name"}}
    worse = {**WEB, "metadata": {"name": "worse"}, "spec": {"ports": "many"}}
    odd = {**SLICE, "apiVersion": "discovery.k8s.io/v1beta1"}
    found = objects_of(listed(bad, worse, odd, 7, {"metadata": {}}, {"kind": "Pod", "spec": 7}, WEB), "all.json")
    assert found.services.keys() == {ObjectKey("shop", "web")}
    said = "\n".join(found.problems)
    assert len(found.problems) == 5
    assert "'Bad Name'" in said
    assert "worse" in said
    assert "discovery.k8s.io/v1beta1" in said
    assert "all.json, item 4" in said


def test_yaml_several_files_and_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.yaml").write_text("apiVersion: v1\nkind: Node\nmetadata: {name: n7}\n---\n", encoding="utf-8")
    (tmp_path / "b.txt").write_bytes(b" \n" + listed(WEB))
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(SLICE).encode())))
    found = read_objects([str(tmp_path / "a.yaml"), str(tmp_path / "b.txt"), "-"])
    assert (len(found.nodes), len(found.services), len(found.slices)) == (1, 1, 1)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (listed(WEB)[:-20], "is no JSON"),
        (b"\x00\x01\x02", "is no YAML"),
        (b"a: [1", "is no YAML"),
        (b"just: words", "without a kind"),
        (b'{"kind": 7}', "is no JSON"),
    ],
)
def test_a_file_that_is_unreadable_as_a_whole_is_refused_by_name(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "objects.json").write_bytes(content)
    with pytest.raises(InvalidConfig) as caught:
        read_objects([str(tmp_path / "objects.json")])
    assert str(tmp_path / "objects.json") in str(caught.value)
    assert said in str(caught.value)
    assert "kubectl get" in str(caught.value)


def test_a_file_that_is_not_there_is_refused_by_name() -> None:
    with pytest.raises(InvalidConfig, match=r"/nowhere/x\.json cannot be read: No such file.*kubectl get"):
        read_objects(["/nowhere/x.json"])


def test_nothing_is_nothing() -> None:
    assert not NOTHING.known
    assert read_objects([]) == NOTHING
    assert survey(surveyed(recorded("itp-local")).dump).services == surveyed(recorded("itp-local")).services


def test_a_snapshot_plans_what_ought_to_be_there() -> None:
    snapshot = objects_of(listed(WEB, SLICE, NODE)).snapshot("n1")
    assert snapshot.node is not None
    assert snapshot.node.addresses == ("192.168.0.2",)
    assert snapshot.services.keys() == snapshot.slices.keys()
