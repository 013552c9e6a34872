"""What goes when an object goes: finalizers, graceful pods, dependents, a namespace's contents.

Finalizers and graceful pods first get a deletionTimestamp and stay; slices then say that the endpoint terminates.
Dependents go with their owner in the same moment, as the garbage collector would do a moment later, and a
namespace takes its contents along, because nothing in a sandbox gains from watching either happen slowly.

Source: Kubernetes "Garbage Collection", "Finalizers", "Pod Lifecycle" (termination).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kproxy.sandbox.apiserver import status
from kproxy.sandbox.apiserver.allocate import Allocator
from kproxy.sandbox.apiserver.assign import give_back
from kproxy.sandbox.apiserver.resources import Resource
from kproxy.sandbox.apiserver.status import Json
from kproxy.sandbox.apiserver.store import Store, Stored


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """What a deleting request asks for; `grace_seconds` None means the pod's own."""

    dry_run: bool = False
    grace_seconds: int | None = None
    orphan: bool = False
    uid: str = ""
    resource_version: str = ""


PLAIN = DeleteOptions()


@dataclass(slots=True)
class Deletions:
    """All deletions of one cluster; `stamp` returns the time so many seconds from now."""

    store: Store
    allocator: Allocator
    stamp: Callable[[float], str]
    graceful_pods: bool = False

    def delete(self, resource: Resource, stored: Stored, options: DeleteOptions = PLAIN) -> tuple[Json, bool]:
        """Delete an object; returns its last state, and whether it is gone or only terminating."""
        self._check_preconditions(resource, stored, options)
        content = stored.document()
        metadata = content["metadata"]
        grace = self._grace(resource, content, options)
        if not metadata.get("finalizers") and not grace:
            if not options.dry_run:
                self.remove(resource.stored_in, stored, orphan=options.orphan)
            return content, True
        if "deletionTimestamp" not in metadata:
            metadata["deletionTimestamp"] = self.stamp(grace)
            metadata["deletionGracePeriodSeconds"] = grace
            if not options.dry_run:
                self.store.put(resource.stored_in, content)
        return content, False

    def remove(self, collection: str, stored: Stored, *, orphan: bool = False) -> None:
        """Remove an object at once, and what depends on it."""
        self.store.delete(collection, stored.key)
        if collection == "services":
            give_back(stored.document().get("spec") or {}, self.allocator, stored.key)
        if collection == "namespaces":
            self._empty(stored.key[1])
        for other, key in self.store.dependents(stored.uid):
            dependent = self.store.get(other, key)
            if dependent is None:
                continue  # went with another owner
            if orphan:
                self._disown(other, dependent, stored.uid)
            else:
                self.remove(other, dependent)

    def _empty(self, namespace: str) -> None:
        for collection in self.store.collections:
            for stored in list(self.store.objects(collection, namespace)):
                if self.store.get(collection, stored.key):
                    self.remove(collection, stored)

    def _disown(self, collection: str, dependent: Stored, owner: str) -> None:
        content = dependent.document()
        references = content["metadata"]["ownerReferences"]
        content["metadata"]["ownerReferences"] = [each for each in references if each["uid"] != owner]
        self.store.put(collection, content)

    def _grace(self, resource: Resource, content: Json, options: DeleteOptions) -> int:
        """Return the seconds that a pod gets to end; 0 for everything that nobody runs."""
        spec = content.get("spec") or {}
        if resource.kind != "Pod" or not self.graceful_pods or not spec.get("nodeName"):
            return 0
        if options.grace_seconds is not None:
            return options.grace_seconds
        return int(spec.get("terminationGracePeriodSeconds", 30))

    def _check_preconditions(self, resource: Resource, stored: Stored, options: DeleteOptions) -> None:
        found = (("UID", options.uid, stored.uid), ("ResourceVersion", options.resource_version, stored.revision))
        for what, wanted, present in found:
            if wanted and wanted != str(present):
                why = f"Precondition failed: {what} in precondition: {wanted}, {what} in object meta: {present}"
                raise status.conflict(resource.plural, resource.group, stored.key[1], why)
        if resource.kind == "Namespace" and stored.key[1] in {"default", "kube-system"}:
            why = "this namespace may not be deleted"
            raise status.denied(resource.plural, resource.group, stored.key[1], why)
