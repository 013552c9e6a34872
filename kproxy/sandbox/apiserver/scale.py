"""The scale subresource of a deployment: its number of replicas, seen as an autoscaling/v1 Scale.

`kubectl scale` reads and writes nothing else.
"""

from __future__ import annotations

from kproxy.sandbox.apiserver.status import Json

_KEPT = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")


def scale_of(deployment: Json) -> Json:
    """Return the Scale of a stored deployment."""
    metadata, spec = deployment["metadata"], deployment.get("spec") or {}
    labels = (spec.get("selector") or {}).get("matchLabels") or {}
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {name: metadata[name] for name in _KEPT if name in metadata},
        "spec": {"replicas": spec.get("replicas", 1)},
        "status": {
            "replicas": (deployment.get("status") or {}).get("replicas", 0),
            "selector": ",".join(f"{key}={value}" for key, value in sorted(labels.items())),
        },
    }


def scaled(deployment: Json, scale: Json) -> Json:
    """Return the deployment with the replicas, and at the version, that a Scale asks for."""
    metadata = dict(deployment["metadata"])
    version = (scale.get("metadata") or {}).get("resourceVersion")
    if version:
        metadata["resourceVersion"] = version
    spec = (deployment.get("spec") or {}) | {"replicas": (scale.get("spec") or {}).get("replicas", 0)}
    return deployment | {"metadata": metadata, "spec": spec}
