"""The versioned store behind the API: what is true now, what was true at an earlier revision, what changed.

One counter numbers every write of every collection, as etcd does, so that a resourceVersion from one list can
be compared with one from another. Objects are kept as encoded bytes with a small index beside them: a list or
a watch of 10,000 objects then copies bytes and encodes nothing, and memory holds JSON rather than Python trees.
Each collection remembers its latest changes. A paged list is answered from the revision of its first page by
undoing later changes, so pages are consistent, and both it and a watch from before the oldest remembered change
are refused as expired, exactly the 410 that clients must survive.

Rejected: a copy of each collection per open list (costs memory for lists that clients abandon).

Pure: no clock, no I/O. The caller stamps times and identities.
Source: Kubernetes API concepts, "Resource versions" and "Efficient detection of changes".
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import msgspec

from kproxy.sandbox.apiserver.status import Json, expired, too_large, too_old

Key = tuple[str, str]
"""(namespace, name); the namespace is empty for cluster-scoped objects."""


class ChangeType(StrEnum):
    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


@dataclass(frozen=True, slots=True)
class Stored:
    """One version of one object: its bytes (without kind and apiVersion) and what selectors ask about it."""

    key: Key
    revision: int
    body: bytes
    uid: str
    labels: Mapping[str, str]
    fields: Mapping[str, str]
    owners: tuple[str, ...]

    def document(self) -> Json:
        """Return a fresh copy that the caller may change."""
        decoded: Json = msgspec.json.decode(self.body)
        return decoded


@dataclass(frozen=True, slots=True)
class Change:
    """One write. `new` is the object after it; for a deletion, its last state with the deletion's revision."""

    revision: int
    type: ChangeType
    collection: str
    new: Stored
    old: Stored | None


@dataclass(slots=True)
class Collection:
    """The objects of one resource, in no order, and the changes that led to them, oldest first."""

    name: str
    fields: tuple[str, ...]
    objects: dict[Key, Stored] = field(default_factory=dict)
    history: list[Change] = field(default_factory=list)
    floor: int = 0
    """Changes up to and including this revision are forgotten."""

    def after(self, revision: int) -> Sequence[Change]:
        """Return the remembered changes later than a revision; raises Expired below the floor."""
        if revision < self.floor:
            raise too_old(revision, self.floor)
        return self.history[bisect_right(self.history, revision, key=lambda change: change.revision) :]

    def at(self, revision: int) -> dict[Key, Stored]:
        """Return the objects as they were at a revision, by undoing what came later."""
        if revision < self.floor:
            raise expired("The resourceVersion for the provided list is too old.")
        later = self.after(revision)
        if not later:
            return self.objects
        past = dict(self.objects)
        for change in reversed(later):
            if change.old is None:
                past.pop(change.new.key, None)
            else:
                past[change.old.key] = change.old
        return past

    def forget(self, revision: int) -> None:
        """Drop the changes up to a revision: what etcd calls compaction."""
        if revision > self.floor:
            self.history = list(self.history[len(self.history) - len(self.after(revision)) :])
            self.floor = revision


def field_of(document: Json, path: str) -> str:
    """Return the value at a dotted path as field selectors compare it: text, empty when absent."""
    value: object = document
    for step in path.split("."):
        if not isinstance(value, dict):
            return ""
        value = value.get(step)
    if isinstance(value, bool):
        return "true" if value else "false"
    return "" if value is None else str(value)


class Store:
    """All collections under one revision counter.

    Args: `collections` maps each collection's name to the field paths its selectors may name; `remembered` is
    the number of changes each collection keeps for watches.
    """

    def __init__(self, collections: Mapping[str, Sequence[str]], *, remembered: int = 20_000) -> None:
        self.revision = 0
        self.remembered = remembered
        self.collections = {name: Collection(name, tuple(paths)) for name, paths in collections.items()}
        self._dependents: dict[str, set[tuple[str, Key]]] = {}
        self._subscribers: list[Callable[[Change], None]] = []

    def subscribe(self, callback: Callable[[Change], None]) -> Callable[[], None]:
        """Call back after every change, inside the write; returns the function that ends it."""
        self._subscribers.append(callback)
        return lambda: self._subscribers.remove(callback)

    def get(self, collection: str, key: Key) -> Stored | None:
        return self.collections[collection].objects.get(key)

    def objects(self, collection: str, namespace: str = "", *, at: int | None = None) -> Iterator[Stored]:
        """Iterate over a collection (one namespace of it if given) in the order of keys, now or at a revision."""
        shelf = self.collections[collection]
        if at is not None and at > self.revision:
            raise too_large(at, self.revision)
        present = shelf.objects if at is None else shelf.at(at)
        for key in sorted(present):
            if not namespace or key[0] == namespace:
                yield present[key]

    def dependents(self, uid: str) -> list[tuple[str, Key]]:
        """Return the (collection, key) of every object with an owner reference to this uid."""
        return sorted(self._dependents.get(uid, ()))

    def put(self, collection: str, document: Json) -> Stored:
        """Write an object under its metadata's name: gives it the next revision, tells the subscribers."""
        shelf = self.collections[collection]
        metadata = document["metadata"]
        key: Key = (metadata.get("namespace", ""), metadata["name"])
        old = shelf.objects.get(key)
        new = self._encode(shelf, key, document)
        shelf.objects[key] = new
        for owner in new.owners:
            self._dependents.setdefault(owner, set()).add((collection, key))
        self._record(shelf, ChangeType.ADDED if old is None else ChangeType.MODIFIED, new, old)
        return new

    def delete(self, collection: str, key: Key) -> Stored:
        """Remove an object; returns its last state, stamped with the revision of the deletion."""
        shelf = self.collections[collection]
        old = shelf.objects.pop(key)
        for owner in old.owners:
            children = self._dependents.get(owner, set())
            children.discard((collection, key))
            if not children:
                self._dependents.pop(owner, None)
        tombstone = self._encode(shelf, key, old.document())
        self._record(shelf, ChangeType.DELETED, tombstone, old)
        return tombstone

    def compact(self, revision: int | None = None) -> int:
        """Forget every change up to a revision (default: all so far); returns that revision."""
        revision = self.revision if revision is None else min(revision, self.revision)
        for shelf in self.collections.values():
            shelf.forget(revision)
        return revision

    def _encode(self, shelf: Collection, key: Key, document: Json) -> Stored:
        self.revision += 1
        metadata = document["metadata"]
        metadata["resourceVersion"] = str(self.revision)
        content = {name: value for name, value in document.items() if name not in {"kind", "apiVersion"}}
        return Stored(
            key=key,
            revision=self.revision,
            body=msgspec.json.encode(content),
            uid=metadata.get("uid", ""),
            labels=dict(metadata.get("labels") or {}),
            fields={path: field_of(content, path) for path in shelf.fields},
            owners=tuple(owner["uid"] for owner in metadata.get("ownerReferences") or ()),
        )

    def _record(self, shelf: Collection, change_type: ChangeType, new: Stored, old: Stored | None) -> None:
        change = Change(new.revision, change_type, shelf.name, new, old)
        shelf.history.append(change)
        if len(shelf.history) > self.remembered * 5 // 4:
            # Trimmed by a quarter at a time, so that a write costs constant time on average.
            shelf.forget(shelf.history[-self.remembered - 1].revision)
        for callback in tuple(self._subscribers):
            callback(change)
