"""What a page tells people to type at a cluster, in its order: at an API server without kubelets, by the real kubectl.

Each page begins with a cluster of kubeadm's as far as objects go. That a command ends well says little, so what it has
done is looked at where that can be seen (``_SEEN``).
"""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kproxy import __version__
from kproxy.sandbox.apiserver import ApiServer
from tests.deploy import manifests
from tests.deploy.manifests import DEPLOY
from tests.docs.claims import Way, claims_on
from tests.docs.commands import Command, blocks, shown
from tests.docs.machine import answer_of

needs_kubectl = pytest.mark.skipif(not manifests.has_kubectl, reason="kubectl is not installed")
_TEXT = (DEPLOY / "README.md").read_text(encoding="utf-8")
_OURS = 5  # objects of daemonset.yaml
_KUBE_PROXY = """
kind: DaemonSet
apiVersion: apps/v1
metadata: {name: kube-proxy, namespace: kube-system}
spec:
  selector: {matchLabels: {k8s-app: kube-proxy}}
  template:
    metadata: {labels: {k8s-app: kube-proxy}}
    spec: {containers: [{name: kube-proxy, image: registry.k8s.io/kube-proxy:v1.36.2}]}
"""


def _pages() -> list[str]:
    return sorted({each.document for each in shown() if _is_typed(each)})


def _is_typed(command: Command) -> bool:
    return any(claim.way is Way.CLUSTER for claim in claims_on(command))


def _daemonsets(server: ApiServer) -> list[str]:
    return [each["metadata"]["name"] for each in server.list("DaemonSet")]


def _pod(server: ApiServer, name: str) -> dict[str, Any]:
    spec: dict[str, Any] = server.get("DaemonSet", name, "kube-system")["spec"]["template"]["spec"]
    return spec


def _settings(server: ApiServer) -> str:
    return str(server.get("ConfigMap", "kproxy", "kube-system")["data"]["config.conf"])


def _mine_is_applied(server: ApiServer, out: str) -> bool:
    pod = _pod(server, "kproxy")
    selected = pod["nodeSelector"] == {"kubernetes.io/os": "linux", "service-proxy": "kproxy"}
    return selected and pod["containers"][0]["image"] == f"registry.example.com/kproxy:{__version__}" and bool(out)


_SEEN: dict[str, Callable[[ApiServer, str], bool]] = {
    "kubectl delete daemonset kube-proxy -n kube-system": lambda server, _: "kube-proxy" not in _daemonsets(server),
    "kubectl apply -f deploy/daemonset.yaml": lambda server, out: (
        "kproxy" in _daemonsets(server) and len(out.splitlines()) == _OURS
    ),
    "kubectl delete daemonset kproxy -n kube-system": lambda server, _: "kproxy" not in _daemonsets(server),
    "kubectl apply -f kube-proxy.yaml": lambda server, _: "kube-proxy" in _daemonsets(server),
    "kubectl delete daemonset kproxy -n kube-system && kubectl apply -f kube-proxy.yaml": lambda server, _: (
        _daemonsets(server) == ["kube-proxy"]
    ),
    "kubectl delete -f deploy/daemonset.yaml --ignore-not-found": lambda server, _: not server.list("ClusterRole"),
    "kubectl label node worker-1 service-proxy=kproxy": lambda server, _: (
        server.get("Node", "worker-1")["metadata"]["labels"]["service-proxy"] == "kproxy"
    ),
    "kubectl patch daemonset": lambda server, _: "service-proxy" in str(_pod(server, "kube-proxy")["affinity"]),
    "kubectl apply -k deploy/mine": _mine_is_applied,
    "kubectl apply -k deploy/kind && deploy/kind/smoke.sh": lambda server, _: "control-plane:6443" in _settings(server),
    "kubectl apply -k deploy/k3s": lambda server, _: "127.0.0.1:6444" in _settings(server),
    "kubectl get configmap kubeadm-config": lambda _, out: out.strip() == "controlPlaneEndpoint: api.example.com:6443",
}


def _copy(tmp_path: Path) -> Path:
    """A place to type in, with the overlay that the text shows."""
    shutil.copytree(DEPLOY, tmp_path / "deploy", symlinks=True, ignore=shutil.ignore_patterns("examples"))
    (tmp_path / "deploy" / "mine").mkdir()
    (tmp_path / "deploy" / "mine" / "kustomization.yaml").write_text(overlay(), encoding="utf-8")
    (tmp_path / "there.yaml").write_text(_KUBE_PROXY, encoding="utf-8")
    return tmp_path


def overlay() -> str:
    """The only one that deploy/README.md shows."""
    (found,) = (each.text for each in blocks(_TEXT) if each.language == "yaml" and "resources:" in each.text)
    return found


async def _type(command: str, folder: Path) -> str:
    process = await asyncio.create_subprocess_exec(
        "sh", "-ec", command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        env={"HOME": str(folder), "KUBECONFIG": str(folder / "config"), "PATH": os.environ["PATH"]},
    )  # fmt: skip
    answer = await answer_of(process)
    assert answer.status == 0, f"{command}: {answer}"
    return answer.out


@needs_kubectl
@pytest.mark.parametrize("page", _pages())
async def test_a_page_is_typed_in_its_order(page: str, tmp_path: Path) -> None:
    folder = _copy(tmp_path)
    async with ApiServer() as server:
        server.kubeconfig(folder / "config")
        server.create({"kind": "Node", "metadata": {"name": "worker-1"}})
        for name, key, text in (
            ("kubeadm-config", "ClusterConfiguration", "controlPlaneEndpoint: api.example.com:6443\n"),
            ("kube-proxy", "config.conf", "mode: iptables\n"),
        ):
            server.create({"kind": "ConfigMap", "metadata": {"name": name, "namespace": "kube-system"},
                           "data": {key: text}})  # fmt: skip
        await _type("kubectl apply -f there.yaml", folder)
        for command in filter(_is_typed, (each for each in shown() if each.document == page)):
            (claim,) = claims_on(command)
            out = await _type(claim.typed(command), folder)
            for beginning, is_so in _SEEN.items():
                if command.first == beginning or (beginning in command.first and beginning.count(" ") == 2):
                    assert is_so(server, out), f"{command}: {out}"


@needs_kubectl
async def test_applying_twice_changes_nothing(tmp_path: Path) -> None:
    folder = _copy(tmp_path)
    async with ApiServer() as server:
        server.kubeconfig(folder / "config")
        for flags, said in (
            (" --dry-run=server", " created (server dry run)\n"),
            ("", " created\n"),
            ("", " unchanged\n"),
        ):
            assert (await _type(f"kubectl apply -f deploy/daemonset.yaml{flags}", folder)).count(said) == _OURS
