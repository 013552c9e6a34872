"""The write path: every way in which an object comes to be, changes and goes.

HTTP requests and Python tests use the same methods, so a test's object has met the same rules as a user's. What
may be stored is `admission`'s to say, what goes along with a deleted object `deletion`'s.

A write that changes nothing keeps its resourceVersion, as in the API server: controllers rely on it to come to rest.

Source: Kubernetes API concepts.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from uuid import uuid4

from kproxy.sandbox.apiserver import patch as patches
from kproxy.sandbox.apiserver import status
from kproxy.sandbox.apiserver.admission import Admission, Options
from kproxy.sandbox.apiserver.assign import adopt
from kproxy.sandbox.apiserver.deletion import PLAIN, DeleteOptions, Deletions
from kproxy.sandbox.apiserver.resources import Resource, named
from kproxy.sandbox.apiserver.selectors import Selector
from kproxy.sandbox.apiserver.status import Json
from kproxy.sandbox.apiserver.store import Key, Store, Stored

_SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
_DEFAULTS = Options()


@dataclass(frozen=True, slots=True)
class Outcome:
    """The object after a write, as stored (without kind and apiVersion)."""

    content: Json
    created: bool = False
    warnings: Sequence[str] = ()


@dataclass(slots=True)
class Registry:
    """All writes of one cluster.

    `cidrs` are the ranges of cluster IPs, at most one per family, primary family first. With `graceful_pods`, a
    deleted pod that has a node stays, terminating, until it is deleted with a grace period of 0.
    """

    store: Store
    cidrs: Sequence[str]
    ports: range
    graceful_pods: bool = False
    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    admission: Admission = field(init=False)
    deletions: Deletions = field(init=False)
    _applied: dict[tuple[str, str], Json] = field(default_factory=dict)
    """(uid, field manager) to the configuration that it applied last."""

    def __post_init__(self) -> None:
        self.admission = Admission(self.store, self.cidrs, self.ports)
        self.deletions = Deletions(self.store, self.admission.allocator, self.stamp, self.graceful_pods)

    def get(self, resource: Resource, key: Key) -> Stored:
        """Return an object; raises NotFound."""
        stored = self.store.get(resource.stored_in, key)
        if stored is None:
            raise status.not_found(resource.plural, resource.group, key[1])
        return stored

    def create(self, resource: Resource, namespace: str, document: Json, options: Options = _DEFAULTS) -> Outcome:
        """Store a new object; raises AlreadyExists, Invalid and the rest as StatusError."""
        content, warnings = self.admission.decode(resource, document, options)
        metadata = content["metadata"]
        self.admission.place(resource, namespace, metadata)
        _choose_name(resource, metadata)
        key: Key = (metadata.get("namespace", ""), metadata["name"])
        self.admission.require_namespace(resource, key)
        if self.store.get(resource.stored_in, key):
            raise status.already_exists(resource.plural, resource.group, key[1])
        if metadata.get("resourceVersion"):
            raise status.bad_request("resourceVersion should not be set on objects to be created")
        for name in ("deletionTimestamp", "deletionGracePeriodSeconds", "generation"):
            metadata.pop(name, None)
        metadata["uid"] = str(uuid4())
        metadata["creationTimestamp"] = self.stamp(0)
        if resource.counts_generations:
            metadata["generation"] = 1
        if "status" in resource.subresources and not resource.keeps_status:
            content.pop("status", None)
        content = self.admission.admit(resource, key, content, None, options)
        return Outcome(content, created=True, warnings=warnings)

    def update(self, resource: Resource, key: Key, document: Json, options: Options = _DEFAULTS) -> Outcome:
        """Replace an object or its status; raises Conflict if it is no longer the version that is named."""
        content, warnings = self.admission.decode(resource, document, options)
        metadata = content["metadata"]
        self.admission.place(resource, key[0], metadata)
        if metadata.setdefault("name", key[1]) != key[1]:
            raise status.bad_request(
                f"the name of the object ({metadata['name']}) does not match the name on the URL ({key[1]})"
            )
        stored = self.get(resource, key)
        _check_identity(resource, stored, metadata)
        old = stored.document()
        content = self.admission.frame(resource, content, old, options.subresource)
        content["metadata"]["resourceVersion"] = str(stored.revision)
        if content == old:
            return Outcome(old, warnings=warnings)
        content = self.admission.admit(resource, key, content, stored, options)
        self._finish_deletion(resource, key, options)
        return Outcome(content, warnings=warnings)

    def put(self, resource: Resource, key: Key, document: Json, options: Options = _DEFAULTS) -> Outcome:
        """Replace an object, or create it if it is absent, as PUT does for most resources."""
        if self.store.get(resource.stored_in, key) is None and not options.subresource:
            named_document = document | {"metadata": (document.get("metadata") or {}) | {"name": key[1]}}
            named_document["metadata"].pop("resourceVersion", None)
            return self.create(resource, key[0], named_document, options)
        return self.update(resource, key, document, options)

    def patch(
        self, resource: Resource, key: Key, media_type: str, patch: object, options: Options = _DEFAULTS
    ) -> Outcome:
        """Change an object by a JSON, merge or strategic merge patch."""
        document = resource.served(self.get(resource, key).document())
        if media_type == patches.JSON_PATCH:
            patched = patches.json_patch(document, patch)
        elif not isinstance(patch, dict):
            raise status.bad_request("the patch must be an object")
        elif media_type == patches.MERGE_PATCH:
            patched = patches.merge(document, patch)
        else:
            patched = patches.strategic(resource.kind, document, patch)
        return self.update(resource, key, patched, options)

    def apply(self, resource: Resource, key: Key, config: Json, options: Options = _DEFAULTS) -> Outcome:
        """Apply a configuration server-side: create the object, or merge into it."""
        stored = self.store.get(resource.stored_in, key)
        if stored is None:
            config = config | {"metadata": (config.get("metadata") or {}) | {"name": key[1]}}
            outcome = self.create(resource, key[0], config, options)
        else:
            document = resource.served(stored.document())
            last = self._applied.get((stored.uid, options.manager))
            patched = patches.apply(resource.kind, document, config, last)
            outcome = self.update(resource, key, patched, options)
        if not options.dry_run:
            self._applied[outcome.content["metadata"]["uid"], options.manager] = config
        return outcome

    def delete(self, resource: Resource, key: Key, options: DeleteOptions = PLAIN) -> tuple[Json, bool]:
        """Delete an object; returns its last state, and whether it is gone or only terminating."""
        return self.deletions.delete(resource, self.get(resource, key), options)

    def delete_collection(
        self, resource: Resource, namespace: str, selector: Selector, options: DeleteOptions = PLAIN
    ) -> list[Json]:
        """Delete the selected objects of a namespace, or of all if it is empty; returns their last states."""
        present = list(self.store.objects(resource.stored_in, namespace))
        return [self.deletions.delete(resource, stored, options)[0] for stored in present if selector.accepts(stored)]

    def load(self, documents: Iterable[Json]) -> int:
        """Store documents unseen: no defaults, no validation; returns how many. For bulk and for malformed ones."""
        before, stamp = self.store.revision, self.stamp(0)
        for document in documents:
            resource = named(document["kind"])
            content = dict(resource.stored(document))
            metadata = content["metadata"] = dict(document["metadata"])
            if resource.namespaced:
                metadata.setdefault("namespace", "default")
            metadata.setdefault("uid", str(uuid4()))
            metadata.setdefault("creationTimestamp", stamp)
            stored = self.store.put(resource.stored_in, content)
            if resource.kind == "Service":
                adopt(content.get("spec") or {}, self.admission.allocator, stored.key)
        return self.store.revision - before

    def stamp(self, after: float) -> str:
        """Return the time `after` seconds from now as the API writes it."""
        return (self.now() + timedelta(seconds=after)).strftime("%Y-%m-%dT%H:%M:%SZ")

    def _finish_deletion(self, resource: Resource, key: Key, options: Options) -> None:
        """Remove an object whose last finalizer was just taken away."""
        stored = self.store.get(resource.stored_in, key)
        if stored is None or options.dry_run or resource.kind == "Pod":
            return
        metadata = stored.document()["metadata"]
        if metadata.get("deletionTimestamp") and not metadata.get("finalizers"):
            self.deletions.remove(resource.stored_in, stored)


def _choose_name(resource: Resource, metadata: Json) -> None:
    if not metadata.get("name") and metadata.get("generateName"):
        suffix = "".join(secrets.choice(_SUFFIX_LETTERS) for _ in range(5))
        metadata["name"] = metadata["generateName"][:58] + suffix
    if not metadata.get("name"):
        cause = status.required("metadata.name", "name or generateName is required")
        raise status.invalid(resource.kind, resource.group, "", [cause])


def _check_identity(resource: Resource, stored: Stored, metadata: Json) -> None:
    """Refuse an update that was made from another version, or from another object of the same name."""
    version = metadata.get("resourceVersion")
    if version and version != str(stored.revision):
        raise status.conflict(resource.plural, resource.group, stored.key[1])
    if metadata.get("uid") and metadata["uid"] != stored.uid:
        why = f"Precondition failed: UID in precondition: {metadata['uid']}, UID in object meta: {stored.uid}"
        raise status.conflict(resource.plural, resource.group, stored.key[1], why)
