"""Tell the cluster: Events on the objects that need somebody's attention.

Nothing waits for an Event and nothing fails with one: ``record`` only files it, and a task of its own posts, at a
bounded rate, to an API server that may be away. The same Event again within ten minutes is not posted but counted, and
the count goes out as a series with the next one; a flood of different ones is cut off and counted in one log line.
Names are kube-proxy's (``reportingController: kube-proxy``; spec: runtime.md 11), because alerts filter by them.

Rejected: posting from the sync loop, which would make rules wait for the API server; counting up by PATCH, which
needs a right that some clusters do not give and an object that may have expired.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import OrderedDict
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, Never, Protocol
from urllib.parse import quote

from msgspec import Struct

from kproxy.daemon.log import Log
from kproxy.errors import ApiError, BadCredentials, InvalidObject
from kproxy.model.keys import ObjectKey
from kproxy.plan.plan import HealthCheck

_log = Log(__name__)
_CONTROLLER = "kube-proxy"
_NOTE_LIMIT = 1024  # bytes, by the API
_API_VERSIONS = {"Service": "v1", "Node": "v1", "Endpoints": "v1", "EndpointSlice": "discovery.k8s.io/v1"}
_REMEMBERED = 1000  # Events that wait at most
_QUIET = 600.0  # seconds in which the same Event is only counted
_BURST = 25
_PERIOD = 1.0  # seconds between Events once the burst is used up


class Event(Struct, frozen=True):
    kind: str  # of the object that it is about
    regarding: ObjectKey
    reason: str
    note: str
    warning: bool = True
    action: str = "Sync"
    uid: str = ""


class Poster(Protocol):
    """The part of the API client that Events need."""

    async def post(self, path: str, body: bytes, *, what: str) -> None:
        """Create an object. Raises ApiError."""
        ...


class _Filed(Struct):
    count: int = 0  # since it was posted last
    posted: float = float("-inf")  # on the loop's clock


class Recorder:
    """``poster`` None: there is no API server, and what Events say is in the log alone."""

    def __init__(self, poster: Poster | None, host: str, wall: Callable[[], float] = time.time) -> None:
        self._poster = poster
        self._host = host
        self._wall = wall
        self._filed: OrderedDict[Event, _Filed] = OrderedDict()
        self._waiting: OrderedDict[Event, None] = OrderedDict()
        self._wake = asyncio.Event()
        self._dropped = 0
        self._serial = itertools.count(1)

    def record(self, event: Event) -> None:
        """File it; never blocks, never raises."""
        if self._poster is None:
            return
        if event not in self._waiting and len(self._waiting) >= _REMEMBERED:
            self._dropped += 1
            return
        filed = self._filed.setdefault(event, _Filed())
        filed.count += 1
        self._filed.move_to_end(event)
        while len(self._filed) > 2 * _REMEMBERED:
            self._filed.popitem(last=False)
        if asyncio.get_running_loop().time() >= filed.posted + _QUIET:
            self._waiting[event] = None
            self._wake.set()

    async def run(self) -> Never:
        """Post what is filed, a burst first and then one each second."""
        loop = asyncio.get_running_loop()
        allowance, since = float(_BURST), loop.time()
        while True:
            while not self._waiting:
                self._wake.clear()
                await self._wake.wait()
            now = loop.time()
            allowance, since = min(_BURST, allowance + (now - since) / _PERIOD), now
            if allowance < 1:
                await asyncio.sleep((1 - allowance) * _PERIOD)
                continue
            allowance -= 1
            event, _ = self._waiting.popitem(last=False)
            await self._send(event)

    async def _send(self, event: Event) -> None:
        if self._poster is None:
            return
        filed = self._filed.setdefault(event, _Filed(count=1))
        namespace = event.regarding.namespace or "default"
        # quoted, because a malformed object's namespace can be anything, a path included
        path = f"/apis/events.k8s.io/v1/namespaces/{quote(namespace, safe='')}/events"
        body = json.dumps(self._render(event, namespace, filed.count)).encode()
        filed.posted, filed.count = asyncio.get_running_loop().time(), 0
        try:
            await self._poster.post(path, body, what="create events")
        except (ApiError, BadCredentials) as error:
            _log.verbose(1, "Event not delivered", reason=event.reason, object=event.regarding, err=error)
        if self._dropped:
            _log.warning("Too many events, some were not delivered", dropped=self._dropped)
            self._dropped = 0

    def _render(self, event: Event, namespace: str, count: int) -> dict[str, Any]:
        now = _micro(self._wall())
        regarding = {
            "kind": event.kind,
            "name": event.regarding.name,
            "namespace": event.regarding.namespace,
            "apiVersion": _API_VERSIONS.get(event.kind, ""),
            "uid": event.uid,
        }
        rendered: dict[str, Any] = {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": self._name(event), "namespace": namespace},
            "eventTime": now,
            "reportingController": _CONTROLLER,
            "reportingInstance": f"{_CONTROLLER}-{self._host}"[:128],
            "action": event.action,
            "reason": event.reason,
            "regarding": {key: value for key, value in regarding.items() if value},
            "note": _cut(event.note),
            "type": "Warning" if event.warning else "Normal",
        }
        if count > 1:
            rendered["series"] = {"count": count, "lastObservedTime": now}
        return rendered

    def _name(self, event: Event) -> str:
        return f"{event.regarding.name[:200]}.{int(self._wall() * 1000):x}.{next(self._serial):x}"


def starting(node: str) -> Event:
    return Event("Node", ObjectKey("", node), "Starting", "", warning=False, action="StartKubeProxy", uid=node)


def invalid(problem: InvalidObject, *, reason: str = "InvalidObject", uid: str = "") -> Event:
    """An object that is not served as it is written: which field, why, what to do."""
    namespace, _, name = problem.name.rpartition("/")
    note = f"{problem.field} {problem.why}; {problem.remedy}"
    return Event(problem.kind, ObjectKey(namespace, name), reason, note, uid=uid)


def unopened(check: HealthCheck, address: str, why: str) -> Event:
    note = f"node port {check.port} on {address} cannot be opened: {why}; the load balancer will not use this node"
    return Event("Service", check.service, "FailedToStartServiceHealthcheck", note, action="Listen", uid=check.uid)


def _micro(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, tz=UTC):%Y-%m-%dT%H:%M:%S.%f}Z"


def _cut(note: str) -> str:
    raw = note.encode()
    return note if len(raw) <= _NOTE_LIMIT else raw[: _NOTE_LIMIT - 3].decode(errors="ignore") + "…"
