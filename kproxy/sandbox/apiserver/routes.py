"""Which resource, object and subresource a URL names, and what its query asks for.

Pure: paths and queries in, values out; an unknown path is a 404 Status. The URL scheme is fixed by the API, so it is
read here by hand rather than registered route by route.

Source: Kubernetes API concepts, "Resource URIs".
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from kproxy.sandbox.apiserver.admission import Options
from kproxy.sandbox.apiserver.deletion import DeleteOptions
from kproxy.sandbox.apiserver.resources import BY_PATH, Resource
from kproxy.sandbox.apiserver.selectors import Selector, parse_fields, parse_labels
from kproxy.sandbox.apiserver.status import Json, bad_request, forbidden, invalid, no_such_path
from kproxy.sandbox.apiserver.store import Key

Query = Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Target:
    """What a path names: a collection if `name` is empty, else an object or its subresource."""

    resource: Resource
    namespace: str = ""
    name: str = ""
    subresource: str = ""

    @property
    def key(self) -> Key:
        return (self.namespace, self.name)


def target(path: str) -> Target:
    """Read a path; raises NotFound for anything that is not a served resource."""
    steps = path.strip("/").split("/")
    if steps[:2] == ["api", "v1"]:
        group, version, rest = "", "v1", steps[2:]
    elif steps[0] == "apis" and len(steps) > 3:
        group, version, rest = steps[1], steps[2], steps[3:]
    else:
        raise no_such_path()
    namespace = ""
    if rest[:1] == ["namespaces"] and len(rest) >= 3 and (group, version, rest[2]) in BY_PATH:
        namespace, rest = rest[1], rest[2:]
    resource = BY_PATH.get((group, version, rest[0])) if rest else None
    if resource is None or len(rest) > 3 or bool(namespace) > resource.namespaced:
        raise no_such_path()
    name, subresource = (*rest[1:], "", "")[:2]
    if subresource and subresource not in resource.subresources:
        raise no_such_path()
    if name and resource.namespaced and not namespace:
        raise no_such_path()
    return Target(resource, namespace, name, subresource)


def is_true(query: Query, name: str) -> bool:
    return query.get(name, "") in {"true", "1", "True"}


def selector(asked: Target, query: Query) -> Selector:
    """Return the label and field selectors of a list or watch; a named object selects itself."""
    labels = parse_labels(query.get("labelSelector", ""))
    text = query.get("fieldSelector", "")
    if asked.name:
        text = f"{text},metadata.name={asked.name}"
    return Selector(labels, parse_fields(text, asked.resource.selectable))


def options(asked: Target, query: Query, agent: str) -> Options:
    """Return what a write asks for; the field manager defaults to the user agent's first word."""
    if query.get("dryRun", "All") not in {"All", ""}:
        raise bad_request(f'invalid dryRun: Unsupported value: "{query["dryRun"]}": supported values: "All"')
    return Options(
        dry_run=query.get("dryRun") == "All",
        field_validation=query.get("fieldValidation") or "Warn",
        manager=query.get("fieldManager") or agent.partition("/")[0],
        subresource=asked.subresource,
    )


def delete_options(query: Query, body: Json) -> DeleteOptions:
    """Merge DeleteOptions of the body with those of the query, as the API server does."""
    preconditions = body.get("preconditions") or {}
    grace = body.get("gracePeriodSeconds", query.get("gracePeriodSeconds"))
    policy = body.get("propagationPolicy") or query.get("propagationPolicy")
    return DeleteOptions(
        dry_run=body.get("dryRun") == ["All"] or query.get("dryRun") == "All",
        grace_seconds=None if grace is None else int(grace),
        orphan=policy == "Orphan" or is_true(query, "orphanDependents") or body.get("orphanDependents") is True,
        uid=preconditions.get("uid") or "",
        resource_version=preconditions.get("resourceVersion") or "",
    )


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list, at which revision; None for the present."""

    revision: int | None = None
    after: Key | None = None
    limit: int = 0


def revision(text: str) -> int:
    """Return a resourceVersion as a number, 0 when it is empty or "0"; raises BadRequest otherwise."""
    if not text:
        return 0
    if not text.isdecimal():
        raise bad_request(f'Invalid value: "{text}": strconv.ParseUint: parsing "{text}": invalid syntax')
    return int(text)


def page(query: Query) -> Page:
    """Read limit, continue, resourceVersion and resourceVersionMatch; raises BadRequest for contradictions."""
    limit = int(query.get("limit") or 0)
    wanted, match = query.get("resourceVersion", ""), query.get("resourceVersionMatch", "")
    if match and not wanted:
        raise bad_request("resourceVersionMatch is forbidden unless resourceVersion is provided")
    if query.get("continue"):
        if wanted not in {"", "0"}:
            raise bad_request("specifying resource version is not allowed when using continue")
        return _continued(query["continue"], limit)
    number = revision(wanted)
    if match == "Exact" or (limit and number and not match):
        return Page(number, limit=limit)
    # From "0", lists come from the API server's cache, which ignores the limit: clients must expect it.
    return Page(limit=0 if wanted == "0" else limit)


def _continued(token: str, limit: int) -> Page:
    try:
        state = msgspec.json.decode(base64.urlsafe_b64decode(token.encode() + b"=" * (-len(token) % 4)))
        return Page(int(state["rv"]), (state["namespace"], state["name"]), limit)
    except (binascii.Error, msgspec.DecodeError, KeyError, TypeError, ValueError) as error:
        raise bad_request("continue key is not valid: encoded from another server or damaged") from error


def continue_token(number: int, last: Key) -> str:
    state = {"v": "meta.k8s.io/v1", "rv": number, "namespace": last[0], "name": last[1]}
    return base64.urlsafe_b64encode(msgspec.json.encode(state)).decode().rstrip("=")


@dataclass(frozen=True, slots=True)
class WatchRequest:
    """Where a watch starts and what it wants besides changes."""

    start: int | None
    """Changes after this revision; None: the present objects first, then changes."""
    initial_end: bool = False
    """Whether a bookmark must mark the end of the present objects."""
    bookmarks: bool = False
    seconds: float = 0


def watch_request(asked: Target, query: Query, *, streaming_lists: bool) -> WatchRequest:
    """Read a watch's query; raises Invalid where sendInitialEvents is misused or not supported."""
    wanted, match = query.get("resourceVersion", ""), query.get("resourceVersionMatch", "")
    initial = query.get("sendInitialEvents", "")
    causes = []
    if initial and not streaming_lists:
        why = "sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled"
        causes.append(forbidden("sendInitialEvents", why))
    elif initial and match != "NotOlderThan":
        why = "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
        causes.append(forbidden("resourceVersionMatch", why))
    elif match and not initial:
        why = "resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided"
        causes.append(forbidden("resourceVersionMatch", why))
    if causes:
        raise invalid("ListOptions", "meta.k8s.io", asked.resource.plural, causes)
    streams = initial in {"true", "1"}
    bookmarks = is_true(query, "allowWatchBookmarks")
    number = revision(wanted)
    return WatchRequest(
        start=None if streams or (not number and initial not in {"false", "0"}) else number,
        initial_end=streams and bookmarks,
        bookmarks=bookmarks,
        seconds=float(query.get("timeoutSeconds") or 0),
    )
