"""What deploy/README.md tells people to type, typed: at an API server without kubelets, by the kubectl that is here."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from collections.abc import Awaitable, Callable
from functools import cache
from pathlib import Path

import pytest
import yaml

from kproxy import __version__
from kproxy.sandbox.apiserver import ApiServer
from kproxy.settings.document import read_document
from kproxy.settings.resolve import resolve
from kproxy.settings.table import BY_PATH
from tests.deploy import manifests
from tests.deploy.manifests import DEPLOY

needs_kubectl = pytest.mark.skipif(not manifests.has_kubectl, reason="kubectl is not installed")
_TEXT = (DEPLOY / "README.md").read_text(encoding="utf-8")
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


def _blocks(language: str, section: str) -> list[str]:
    (found,) = re.findall(rf"(?ms)^#+ {re.escape(section)}$(.*?)(?=^##|\Z)", _TEXT)
    return re.findall(rf"(?ms)^```{language}\n(.*?)^```$", found)


def _commands(section: str) -> list[str]:
    return [line[2:] for block in _blocks("console", section) for line in block.splitlines() if line.startswith("$ ")]


def _copy(tmp_path: Path) -> Path:
    """A place to type in, with the overlay that the text shows."""
    shutil.copytree(DEPLOY, tmp_path / "deploy", symlinks=True, ignore=shutil.ignore_patterns("examples"))
    (overlay,) = _blocks("yaml", "Your own overlay")
    (tmp_path / "deploy" / "mine").mkdir()
    (tmp_path / "deploy" / "mine" / "kustomization.yaml").write_text(overlay, encoding="utf-8")
    return tmp_path


def _shell(kubeconfig: Path) -> Callable[[str], Awaitable[str]]:
    async def run(command: str) -> str:
        process = await asyncio.create_subprocess_exec(
            "sh", "-ec", command, cwd=kubeconfig.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            env={"HOME": str(kubeconfig.parent), "KUBECONFIG": str(kubeconfig), "PATH": os.environ["PATH"]},
        )  # fmt: skip
        async with asyncio.timeout(60):
            out, _ = await process.communicate()
        assert process.returncode == 0, f"{command}: {out.decode()}"
        return out.decode()

    return run


@needs_kubectl
async def test_there_and_back(tmp_path: Path) -> None:
    keep, delete, apply, rollout, away, back, rest = _commands("In place of kube-proxy")
    async with ApiServer() as server:
        run = _shell(server.kubeconfig(_copy(tmp_path) / "config"))
        (tmp_path / "there.yaml").write_text(_KUBE_PROXY, encoding="utf-8")
        await run("kubectl apply -f there.yaml")
        assert (await run(f"{apply} --dry-run=server")).count("created (server dry run)") == 5
        for command in (keep, delete, apply):
            await run(command)
        assert [each["metadata"]["name"] for each in server.list("DaemonSet")] == ["kproxy"]
        assert rollout == "kubectl rollout status daemonset/kproxy -n kube-system"  # what only kubelets can end
        assert (await run(apply)).count(" unchanged\n") == 5
        for command in (away, back, rest):
            await run(command)
        assert [each["metadata"]["name"] for each in server.list("DaemonSet")] == ["kube-proxy"]
        assert not server.list("ClusterRole")


@needs_kubectl
async def test_one_node_first_and_the_other_clusters(tmp_path: Path) -> None:
    async with ApiServer() as server:
        run = _shell(server.kubeconfig(_copy(tmp_path) / "config"))
        server.create({"kind": "Node", "metadata": {"name": "worker-1"}})
        (tmp_path / "there.yaml").write_text(_KUBE_PROXY, encoding="utf-8")
        await run("kubectl apply -f there.yaml")
        for command in _commands("One node first"):
            await run(command)
        kproxy = server.get("DaemonSet", "kproxy", "kube-system")["spec"]["template"]["spec"]
        assert kproxy["nodeSelector"] == {"kubernetes.io/os": "linux", "service-proxy": "kproxy"}
        assert kproxy["containers"][0]["image"] == f"registry.example.com/kproxy:{__version__}"
        assert server.get("Node", "worker-1")["metadata"]["labels"]["service-proxy"] == "kproxy"
        others = server.get("DaemonSet", "kube-proxy", "kube-system")["spec"]["template"]["spec"]
        assert "service-proxy" in str(others["affinity"])
        settings = "controlPlaneEndpoint: api.example.com:6443\n"
        server.create({"kind": "ConfigMap", "metadata": {"name": "kubeadm-config", "namespace": "kube-system"},
                       "data": {"ClusterConfiguration": settings}})  # fmt: skip
        assert settings.strip() in await run(*_commands("Where the API server is"))
        (kind, k3s) = (each for each in _commands("Without kube-proxy from the start") if each.startswith("kubectl"))
        for command, master in ((kind.partition(" && ")[0], "kproxy-control-plane:6443"), (k3s, "127.0.0.1:6444")):
            await run(command)
            assert master in server.get("ConfigMap", "kproxy", "kube-system")["data"]["config.conf"]


def test_settings_that_it_names_exist() -> None:
    named = set(re.findall(r"`(kproxy\.[a-zA-Z]+)(?:`|:)", _TEXT))
    assert named >= {"kproxy.master", "kproxy.serviceMetrics", "kproxy.iptablesBackend"}
    assert named <= BY_PATH.keys()
    (overlay,) = _blocks("yaml", "Your own overlay")
    settings = yaml.safe_load(yaml.safe_load(overlay)["patches"][1]["patch"])["data"]["config.conf"]
    config = resolve(document=read_document(settings.encode()), host="n1").config
    assert (config.master, config.cluster_cidr) == ("https://api.example.com:6443", ("10.244.0.0/16",))


@pytest.mark.parametrize(
    "words",
    [
        "cannot be reached",
        "give --master",
        "is the address in --master",
        "do not trust each other",
        "we may not",
        "does not accept our credentials",
        "Cannot listen, trying again",
        "Another proxy writes the same chains",
        "was held by another program",
        "cannot be opened",
        "Chose the iptables variant",
        "Some kernel settings stay as they are",
        "The OOM score stays as it is",
    ],
)
def test_the_log_says_what_it_quotes(words: str) -> None:
    assert words in _TEXT
    assert words in _source()


@cache
def _source() -> str:
    return "".join(path.read_text("utf-8") for path in sorted((DEPLOY.parent / "kproxy").rglob("*.py")))


def test_the_images_tag_is_this_version() -> None:
    assert set(re.findall(r"kproxy[:-]([0-9]+\.[0-9.]*[0-9])", _TEXT)) == {__version__}
