"""The controllers that a proxy depends on, run inside the API server: slices, Endpoints and their mirror.

Watches the store, notes which Services a change concerns, and brings each of them in order when the loop is idle,
so that a burst of pod changes costs one round for each Service. What the objects should be is decided in
`endpointslices`. A Service that cannot be reconciled is logged and left; all others are served.

Rejected: separate tasks that talk to the server over HTTP, which would be truer and slower, and would need waiting
for in every test.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field

from kproxy.sandbox.apiserver import endpointslices as wanted
from kproxy.sandbox.apiserver.registry import Registry
from kproxy.sandbox.apiserver.resources import named
from kproxy.sandbox.apiserver.service_defaults import is_headless
from kproxy.sandbox.apiserver.status import Json, StatusError
from kproxy.sandbox.apiserver.store import Change, Key

_log = logging.getLogger(__name__)
_ZONE = "topology.kubernetes.io/zone"
_TRIGGER_TIME = "endpoints.kubernetes.io/last-change-trigger-time"
_SLICE = named("EndpointSlice")
_ENDPOINTS = named("Endpoints")


@dataclass(slots=True)
class Controllers:
    """Keeps slices and Endpoints in step with Services and pods.

    `soon` schedules a call for when the current work is done, such as a loop's call_soon.
    """

    registry: Registry
    soon: Callable[[Callable[[], None]], object]
    _dirty: dict[Key, None] = field(default_factory=dict)
    _selectors: dict[Key, Json] = field(default_factory=dict)
    _scheduled: bool = False

    def observe(self, change: Change) -> None:
        """Note which Services a change concerns; the subscriber of the store."""
        match change.collection:
            case "services":
                self._observe_service(change)
            case "pods":
                for labels in {id(each): each.labels for each in (change.new, change.old) if each}.values():
                    for key, selector in self._selectors.items():
                        if key[0] == change.new.key[0] and selector.items() <= labels.items():
                            self._dirty[key] = None
            case "endpoints":
                self._dirty[change.new.key] = None
            case "nodes":
                if change.old is None or change.old.labels.get(_ZONE) != change.new.labels.get(_ZONE):
                    self._dirty.update(dict.fromkeys(self._selectors))
            case _:
                pass
        if self._dirty and not self._scheduled:
            self._scheduled = True
            self.soon(self.settle)

    def settle(self) -> None:
        """Reconcile every Service that is due, now."""
        while self._dirty:
            key = next(iter(self._dirty))
            del self._dirty[key]
            try:
                self._reconcile(key)
            except StatusError as error:
                _log.warning("Service %s/%s: its endpoints cannot be stored: %s", *key, error)
        self._scheduled = False

    def _observe_service(self, change: Change) -> None:
        key = change.new.key
        self._dirty[key] = None
        self._selectors.pop(key, None)
        if change.type != "DELETED":
            selector = (change.new.document().get("spec") or {}).get("selector")
            if selector:
                self._selectors[key] = selector

    def _reconcile(self, key: Key) -> None:
        store = self.registry.store
        stored = store.get("services", key)
        if stored is None:
            self._remove_endpoints(key)
            return
        service = stored.document()
        if service["spec"].get("type") == "ExternalName":
            self._store_slices(service, service, wanted.Groups(), wanted.CONTROLLER)
        elif service["spec"].get("selector"):
            self._reconcile_pods(service)
        else:
            self._reconcile_mirror(service)

    def _reconcile_pods(self, service: Json) -> None:
        store = self.registry.store
        selector = service["spec"]["selector"].items()
        chosen = [
            stored.document()
            for stored in store.objects("pods", service["metadata"]["namespace"])
            if selector <= stored.labels.items()
        ]
        zones = {stored.key[1]: stored.labels.get(_ZONE, "") for stored in store.objects("nodes")}
        groups = wanted.pod_groups(service, chosen, zones)
        self._store_slices(service, service, groups, wanted.CONTROLLER)
        self._reconcile_mirror(service)
        self._store_endpoints(service, wanted.endpoints_subsets(service, chosen))

    def _reconcile_mirror(self, service: Json) -> None:
        """Copy hand-written Endpoints into slices; those of a Service with a selector are nobody's hand."""
        metadata = service["metadata"]
        stored = self.registry.store.get("endpoints", (metadata["namespace"], metadata["name"]))
        if stored is None:
            return  # its slices went with it
        endpoints = stored.document()
        wants_mirror = stored.labels.get(wanted.SKIP_MIRROR) != "true" and not service["spec"].get("selector")
        groups = wanted.mirrored_groups(endpoints) if wants_mirror else wanted.Groups()
        self._store_slices(service, endpoints, groups, wanted.MIRROR)

    def _slices_of(self, owner: Json, manager: str) -> list[Json]:
        store = self.registry.store
        found = [store.get(*each) for each in store.dependents(owner["metadata"]["uid"])]
        return [each.document() for each in found if each and each.labels.get(wanted.MANAGED_BY) == manager]

    def _store_slices(self, service: Json, owner: Json, groups: wanted.Groups, manager: str) -> None:
        namespace = service["metadata"]["namespace"]
        by_pods = manager == wanted.CONTROLLER
        metadata = wanted.frame(owner, "Service" if by_pods else "Endpoints", service, manager)
        per_slice = wanted.PER_SLICE if by_pods else wanted.PER_MIRRORED_SLICE
        arrangement = wanted.arrange(groups, self._slices_of(owner, manager), metadata, per_slice)
        # New endpoints appear before old ones go, so that no watcher sees a moved endpoint missing.
        for each in (*arrangement.create, *arrangement.update):
            annotations = each["metadata"].get("annotations") or {}
            stamp = self.registry.now().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
            each["metadata"]["annotations"] = annotations | {_TRIGGER_TIME: stamp}
        for each in arrangement.create:
            self.registry.create(_SLICE, namespace, each)
        for each in arrangement.update:
            self.registry.update(_SLICE, (namespace, each["metadata"]["name"]), each)
        for name in arrangement.delete:
            self.registry.delete(_SLICE, (namespace, name))

    def _store_endpoints(self, service: Json, subsets: list[Json]) -> None:
        metadata = service["metadata"]
        key = (metadata["namespace"], metadata["name"])
        labels = dict(metadata.get("labels") or {})
        if is_headless(service["spec"]):
            labels[wanted.HEADLESS] = ""
        document: Json = {"metadata": {"name": key[1], "labels": labels}, "subsets": subsets}
        if not subsets:
            del document["subsets"]
        present = self.registry.store.get("endpoints", key)
        if present is None:
            self.registry.create(_ENDPOINTS, key[0], document)
            return
        old = present.document()
        if old.get("subsets", []) != subsets or dict(present.labels) != labels:
            document["metadata"]["annotations"] = old["metadata"].get("annotations") or {}
            self.registry.update(_ENDPOINTS, key, document)

    def _remove_endpoints(self, key: Key) -> None:
        if self.registry.store.get("endpoints", key):
            self.registry.delete(_ENDPOINTS, key)
