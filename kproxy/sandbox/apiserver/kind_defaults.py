"""What the API server fills into each kind of object that its author left out.

One entry for each kind that needs any; Services have a module of their own. Defaults of pods and deployments are
the few that kubectl or a stand-in for the kubelet reads; the rest is left out because nobody here would notice.

Source: Kubernetes API reference.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Mapping

from kproxy.sandbox.apiserver import service_defaults
from kproxy.sandbox.apiserver.status import Json


def fill_in(kind: str, content: Json) -> None:
    """Set the defaults of a kind, in place."""
    if kind in _FILLERS:
        _FILLERS[kind](content)


def _service(content: Json) -> None:
    service_defaults.fill_in(content.setdefault("spec", {}))
    service_defaults.fill_in_status(content)


def _slice(content: Json) -> None:
    for port in content.get("ports") or ():
        port.setdefault("name", "")
        port.setdefault("protocol", "TCP")
    content["endpoints"] = content.get("endpoints") or []


def _endpoints(content: Json) -> None:
    for subset in content.get("subsets") or ():
        for port in subset.get("ports") or ():
            port.setdefault("protocol", "TCP")


def _namespace(content: Json) -> None:
    metadata = content["metadata"]
    metadata.setdefault("labels", {})["kubernetes.io/metadata.name"] = metadata["name"]
    content.setdefault("spec", {}).setdefault("finalizers", ["kubernetes"])
    content.setdefault("status", {}).setdefault("phase", "Active")


def _pod(content: Json) -> None:
    spec = content.setdefault("spec", {})
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("terminationGracePeriodSeconds", 30)
    for container in spec.get("containers") or ():
        for port in container.get("ports") or ():
            port.setdefault("protocol", "TCP")
    content.setdefault("status", {}).setdefault("phase", "Pending")


def _deployment(content: Json) -> None:
    spec = content.setdefault("spec", {})
    spec.setdefault("replicas", 1)
    template = spec.setdefault("template", {}).setdefault("spec", {})
    for container in template.get("containers") or ():
        for port in container.get("ports") or ():
            port.setdefault("protocol", "TCP")
    content.setdefault("status", {})


def _secret(content: Json) -> None:
    content.setdefault("type", "Opaque")
    for name, text in (content.pop("stringData", None) or {}).items():
        content.setdefault("data", {})[name] = b64encode(text.encode()).decode()


_FILLERS: Mapping[str, Callable[[Json], None]] = {
    "Deployment": _deployment,
    "EndpointSlice": _slice,
    "Endpoints": _endpoints,
    "Namespace": _namespace,
    "Pod": _pod,
    "Secret": _secret,
    "Service": _service,
}
