"""The manifests: valid, complete, and what deploy/README.md promises of them; tests/e2e runs them."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
from functools import cache
from pathlib import Path

import pytest
import yaml

from kproxy import __version__
from kproxy.config import Config, ProxyMode
from kproxy.settings.document import read_document
from kproxy.settings.resolve import resolve
from tests.deploy import manifests
from tests.deploy.manifests import DEPLOY, OVERLAYS, PLACEHOLDER, SETTINGS, Json
from tests.image.container import NEEDED  # what it was measured with

needs_kubectl = pytest.mark.skipif(not manifests.has_kubectl, reason="kubectl is not installed")
_SMOKE = DEPLOY / "kind" / "smoke.sh"


@pytest.fixture(scope="module", params=OVERLAYS)
def overlay(request: pytest.FixtureRequest) -> tuple[str, list[Json]]:
    if not manifests.has_kubectl:
        pytest.skip("kubectl is not installed")
    return request.param, _built(request.param)


@cache
def _built(overlay: str) -> list[Json]:
    return manifests.build(DEPLOY / overlay)


def _settings(documents: list[Json]) -> Config:
    text = manifests.only(documents, "ConfigMap")["data"]["config.conf"]
    return resolve(document=read_document(text.encode()), host="n1").config


def test_every_field_is_one_that_kubernetes_knows() -> None:
    assert [manifests.faults(each) for each in manifests.applied()] == [[], [], [], [], []]


def test_a_misspelt_field_would_be_found() -> None:
    document = manifests.only(manifests.applied(), "DaemonSet")
    spec = document["spec"]["template"]["spec"]
    spec["hostnetwork"] = spec.pop("hostNetwork")
    spec["containers"][0]["securityContext"]["readOnlyRootFilesystem"] = "true"
    del spec["containers"][0]["name"]
    assert {each.partition(":")[0] for each in manifests.faults(document)} == {
        "spec.template.spec.containers.0.securityContext.readOnlyRootFilesystem",
        "spec.template.spec.containers.0.name",
        "spec.template.spec.hostnetwork",
    }


def test_overlays_are_valid_and_keep_what_matters(overlay: tuple[str, list[Json]]) -> None:
    name, documents = overlay
    assert [fault for each in documents for fault in manifests.faults(each)] == []
    base = manifests.applied()
    changed, plain = manifests.pod(documents), manifests.pod(base)
    assert [key for key in plain if changed[key] != plain[key] and key not in {"volumes", "containers"}] == []
    same = {**manifests.container(documents), "resources": None}
    assert same == {**manifests.container(base), "resources": None}
    if name == "base":
        assert documents == base


def test_the_file_that_is_applied_and_that_of_overlays_are_the_same() -> None:
    assert (DEPLOY / "daemonset.yaml").read_bytes() == (DEPLOY / "base" / "daemonset.yaml").read_bytes()


def test_the_image_is_this_version() -> None:
    assert manifests.container(manifests.applied())["image"] == f"kproxy:{__version__}"
    component = yaml.safe_load((DEPLOY / "sysctls" / "kustomization.yaml").read_text(encoding="utf-8"))
    (operation,) = yaml.safe_load(component["patches"][0]["patch"])
    assert operation["value"][0]["image"] == f"kproxy:{__version__}"


def test_the_container_has_no_right_that_it_does_not_use() -> None:
    security = manifests.container(manifests.applied())["securityContext"]
    assert security == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "runAsUser": 0,
        "capabilities": {"drop": ["ALL"], "add": [each.removeprefix("CAP_") for each in NEEDED]},
    }
    assert manifests.pod(manifests.applied())["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}


def test_every_node_gets_it_before_anything_else() -> None:
    pod = manifests.pod(manifests.applied())
    assert pod["priorityClassName"] == "system-node-critical"
    assert pod["tolerations"] == [{"operator": "Exists"}]
    assert pod["nodeSelector"] == {"kubernetes.io/os": "linux"}
    assert (pod["hostNetwork"], pod["dnsPolicy"]) == (True, "Default")
    assert pod["terminationGracePeriodSeconds"] == 60  # as README.md advises for nodes with a relay


def test_pods_are_found_as_the_service_proxy_and_claimed_by_their_own_selector() -> None:
    """Kubernetes' test "should work after restarting kube-proxy" and kube-prometheus look for k8s-app: kube-proxy."""
    spec = manifests.only(manifests.applied(), "DaemonSet")["spec"]
    labels = spec["template"]["metadata"]["labels"]
    assert labels["k8s-app"] == "kube-proxy"
    assert spec["selector"]["matchLabels"].items() < labels.items()
    assert "k8s-app" not in spec["selector"]["matchLabels"]


def test_probes_ask_the_port_that_kproxy_opens() -> None:
    found = manifests.container(manifests.applied())
    (port,) = found["ports"]
    assert Config().healthz_bind_address.endswith(f":{port['containerPort']}")
    asked = {
        found[probe]["httpGet"]["path"]: found[probe]["httpGet"]["port"]
        for probe in ("livenessProbe", "readinessProbe")
    }
    assert asked == {"/livez": port["name"], "/readyz": port["name"]}


@pytest.mark.parametrize(("name", "server", "mode"), [
    ("kind", "https://kproxy-control-plane:6443", ProxyMode.IPTABLES),
    ("k3s", "https://127.0.0.1:6444", ProxyMode.IPTABLES),
    ("userspace", PLACEHOLDER, ProxyMode.USERSPACE),
    ("base", PLACEHOLDER, ProxyMode.IPTABLES),
])  # fmt: skip
@needs_kubectl
def test_settings_are_read_as_they_are_meant(name: str, server: str, mode: ProxyMode) -> None:
    config = _settings(_built(name))
    assert (config.master, config.proxy_mode, config.oom_score_adj) == (server, mode, -997)
    assert config.cluster_cidr == {"kind": ("10.244.0.0/16",), "k3s": ("10.42.0.0/16",)}.get(name, ())
    assert not config.iptables_localhost_nodeports
    loopback = ("localhost",) if name == "kind" else ()  # which kind's kube-proxy answers, too
    assert config.nodeport_addresses == ("primary", *loopback)
    # In kind the table's size is the machine's, timeouts are each node's
    assert (config.conntrack_max_per_core == 0) == (name == "kind")
    assert (config.conntrack_tcp_timeout_established, config.conntrack_tcp_timeout_close_wait) == (86400, 3600)


def test_the_name_in_kinds_settings_is_the_clusters() -> None:
    cluster = yaml.safe_load((DEPLOY / "kind" / "cluster.yaml").read_text(encoding="utf-8"))
    assert cluster["networking"]["kubeProxyMode"] == "none"
    assert f"https://{cluster['name']}-control-plane:6443" in (DEPLOY / "kind" / "kustomization.yaml").read_text(
        "utf-8"
    )
    assert cluster["networking"]["podSubnet"] in (DEPLOY / "kind" / "kustomization.yaml").read_text("utf-8")


def test_the_clusters_own_settings_come_before_ours() -> None:
    """As the kubelet writes a projected volume: of two files with one name the later source's stays."""
    (settings,) = (each for each in manifests.pod(manifests.applied())["volumes"] if each["name"] == "settings")
    assert [each["configMap"] for each in settings["projected"]["sources"]] == [
        {"name": "kproxy"},
        {"name": "kube-proxy", "optional": True},
    ]
    (mount,) = (each for each in manifests.container(manifests.applied())["volumeMounts"] if each["name"] == "settings")
    assert mount["mountPath"] == SETTINGS  # where kubeadm's settings say that their kubeconfig is


@needs_kubectl
def test_takeover_knows_no_other_settings_than_the_clusters() -> None:
    documents = _built("takeover")
    assert not [each for each in documents if each["kind"] == "ConfigMap"]
    (settings,) = (each for each in manifests.pod(documents)["volumes"] if each["name"] == "settings")
    assert settings == {"name": "settings", "configMap": {"name": "kube-proxy"}}


@needs_kubectl
def test_sysctls_join_any_overlay(tmp_path: Path) -> None:
    shutil.copytree(DEPLOY, tmp_path / "deploy", symlinks=True)
    offer, taken = "# components:\n# - ../sysctls\n", "components:\n- ../sysctls\n"
    paths = [tmp_path / "deploy" / name / "kustomization.yaml" for name in ("k3s", "userspace", "takeover")]
    assert [path for path in paths if offer not in path.read_text("utf-8")] == []
    paths[-1].write_text(paths[-1].read_text("utf-8").replace(offer, taken), encoding="utf-8")
    documents = manifests.build(paths[-1].parent)
    assert manifests.faults(manifests.only(documents, "DaemonSet")) == []
    (init,) = manifests.pod(documents)["initContainers"]
    assert init["args"] == ["run", "--init-only", *manifests.container(documents)["args"][1:]]
    assert init["securityContext"]["privileged"]


# --- the smoke test of a real cluster, with a kubectl that only pretends ----------------------------------------------

_PRETENDER = """#!/bin/sh
printf '%s\\n' "$*" >>"$0.log"
case "$*" in
*clusterIP*) echo 10.96.7.7 ;;
*nodePort*) echo 30777 ;;
*InternalIP*) echo 172.18.0.2 fc00::2 ;;
*scale*' 0') touch "$0.empty" ;;
*scale*' 1') rm "$0.empty" ;;
*exec*)
    [ ! -e "$0.empty" ] || { echo "curl: (7) Failed to connect: Connection refused"; exit 7; }
    case "$*" in *ANSWER*) exit 28 ;; *) echo web-1 ;; esac ;;
esac
"""


def _smoke(tmp_path: Path, broken: str = "nothing") -> tuple[int, str, str]:
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(_PRETENDER.replace("ANSWER", broken), encoding="utf-8")
    kubectl.chmod(kubectl.stat().st_mode | stat.S_IXUSR)
    (tmp_path / "sleep").symlink_to("/bin/true")
    environment = {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    ended = subprocess.run([str(_SMOKE)], capture_output=True, text=True, timeout=60, check=False, env=environment)
    return ended.returncode, ended.stdout + ended.stderr, (tmp_path / "kubectl.log").read_text("utf-8")


def test_the_smoke_test_asks_every_way_and_cleans_up(tmp_path: Path) -> None:
    status, said, asked = _smoke(tmp_path)
    assert (status, said.splitlines()) == (0, [
        "ok    cluster IP 10.96.7.7",
        "ok    name web.kproxy-smoke",
        "ok    node port 172.18.0.2:30777",
        "ok    node port [fc00::2]:30777",
        "ok    refused without endpoints",
        "ok    served again",
        "Services work",
    ])  # fmt: skip
    assert asked.splitlines()[-1].startswith("delete namespace kproxy-smoke")


def test_the_smoke_test_fails_where_one_way_does(tmp_path: Path) -> None:
    status, said, asked = _smoke(tmp_path, broken="172.18.0.2")
    assert status == 1
    assert "FAIL  node port 172.18.0.2:30777" in said
    assert "ok    node port [fc00::2]:30777" in said
    assert asked.splitlines()[-1].startswith("delete namespace kproxy-smoke")
