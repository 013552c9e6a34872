"""The manifests of deploy/, read, built and held against Kubernetes' own description of each kind.

The description is the ``kubernetes`` package's models, which are generated from the API's OpenAPI document: what they
do not take, an API server drops or refuses. Rejected: a program that validates, for it gets its schemas from the net.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
OVERLAYS = ("base", "kind", "k3s", "takeover", "userspace")
SETTINGS = "/var/lib/kube-proxy"  # where the settings are mounted
PLACEHOLDER = "https://set-me.invalid:6443"
has_kubectl = shutil.which("kubectl") is not None
Json = dict[str, Any]

_MODELS = {
    "ServiceAccount": "V1ServiceAccount",
    "ClusterRole": "V1ClusterRole",
    "ClusterRoleBinding": "V1ClusterRoleBinding",
    "ConfigMap": "V1ConfigMap",
    "DaemonSet": "V1DaemonSet",
}


def applied() -> list[Json]:
    """What ``kubectl apply -f deploy/daemonset.yaml`` sends."""
    return list(yaml.safe_load_all((DEPLOY / "daemonset.yaml").read_text(encoding="utf-8")))


def build(overlay: Path) -> list[Json]:
    """What ``kubectl apply -k`` of a directory sends."""
    command = ("kubectl", "kustomize", str(overlay))
    found = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False, env={**os.environ})
    assert found.returncode == 0, found.stderr
    return list(yaml.safe_load_all(found.stdout))


def only(documents: list[Json], kind: str) -> Json:
    (found,) = (each for each in documents if each["kind"] == kind)
    return found


def pod(documents: list[Json]) -> Json:
    found: Json = only(documents, "DaemonSet")["spec"]["template"]["spec"]
    return found


def container(documents: list[Json]) -> Json:
    (found,) = pod(documents)["containers"]
    assert isinstance(found, dict)
    return found


def arguments(documents: list[Json], node: str) -> list[str]:
    """The container's arguments as the kubelet passes them."""
    return [each.replace("$(NODE_NAME)", node) for each in container(documents)["args"]]


def faults(document: Json) -> list[str]:
    """What an API server would not take, or silently forget: the field's path, and why."""
    from kubernetes.client import models
    from pydantic import ValidationError

    try:
        getattr(models, _MODELS[document["kind"]]).model_validate(document)
    except ValidationError as error:
        return [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in error.errors()]
    return []
