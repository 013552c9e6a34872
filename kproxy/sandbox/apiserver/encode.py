"""How stored objects become the bytes of answers: single objects, lists, watch events, tables.

Objects are stored encoded, so an answer is mostly a concatenation: kind and apiVersion are put in front of a stored
body, and a list's items go without them, as the API server sends them. Only tables, and events under their second
group, are decoded and built anew.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime

import msgspec

from kproxy.sandbox.apiserver.resources import Resource
from kproxy.sandbox.apiserver.selectors import Selector
from kproxy.sandbox.apiserver.status import Json
from kproxy.sandbox.apiserver.store import Change, ChangeType, Stored
from kproxy.sandbox.apiserver.table import table

INITIAL_EVENTS_END = "k8s.io/initial-events-end"


def body(resource: Resource, stored: Stored) -> bytes:
    """Return an object as a GET answers it."""
    if resource.renamed:
        return msgspec.json.encode(resource.served(stored.document()))
    return resource.prefix + stored.body[1:]


def listing(resource: Resource, items: Iterable[Stored], metadata: Json) -> bytes:
    """Return a list; `metadata` holds its resourceVersion and continue token."""
    head = {"kind": f"{resource.kind}List", "apiVersion": resource.api_version, "metadata": metadata}
    bodies = (body(resource, stored) if resource.renamed else stored.body for stored in items)
    return b"".join((msgspec.json.encode(head)[:-1], b',"items":[', b",".join(bodies), b"]}"))


def rows(resource: Resource, items: Iterable[Stored], metadata: Json, now: datetime) -> bytes:
    """Return a Table of objects."""
    return msgspec.json.encode(table(resource, [stored.document() for stored in items], metadata, now))


def event(change_type: str, encoded: bytes) -> bytes:
    return b'{"type":"%s","object":%s}\n' % (change_type.encode(), encoded)


def bookmark(resource: Resource, revision: int, *, initial_end: bool = False) -> bytes:
    """Return the event that says how far a watch has come."""
    metadata: Json = {"resourceVersion": str(revision), "creationTimestamp": None}
    if initial_end:
        metadata["annotations"] = {INITIAL_EVENTS_END: "true"}
    document = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata}
    return event("BOOKMARK", msgspec.json.encode(document))


def initial(resource: Resource, items: Sequence[Stored], now: datetime, *, as_table: bool) -> list[bytes]:
    """Return the events that recreate present objects."""
    if as_table:
        return [event("ADDED", rows(resource, [each], _version(each), now)) for each in items]
    return [event("ADDED", body(resource, each)) for each in items]


def _version(stored: Stored) -> Json:
    return {"resourceVersion": str(stored.revision)}


def change_event(resource: Resource, change: Change, selector: Selector, now: datetime, *, as_table: bool) -> bytes:
    """Return what a change means to one watcher: nothing, or an event; entering a selection is an addition."""
    type_, shown = change.type, change.new
    if selector:
        before = change.old is not None and selector.accepts(change.old)
        after = change.type is not ChangeType.DELETED and selector.accepts(change.new)
        if not before and not after:
            return b""
        if before and after:
            type_ = ChangeType.MODIFIED
        elif after:
            type_ = ChangeType.ADDED
        else:
            type_ = ChangeType.DELETED
            if change.type is not ChangeType.DELETED and change.old is not None:
                shown = _restamped(change.old, change.revision)
    if as_table:
        return event(type_, rows(resource, [shown], _version(shown), now))
    return event(type_, body(resource, shown))


def _restamped(stored: Stored, revision: int) -> Stored:
    """Return the last selected state with the revision of the change that ended it."""
    content = stored.document()
    content["metadata"]["resourceVersion"] = str(revision)
    return replace(stored, body=msgspec.json.encode(content), revision=revision)
