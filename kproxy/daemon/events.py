"""Tell the cluster: Events on the objects that need somebody's attention.

Nothing waits for an Event and nothing fails with one: ``record`` only files it, and a task of its own posts, at a
bounded rate, to an API server that may be away. The same Event again is counted, and once in ten minutes the count is
told by patching the Event's series, as client-go does; where it has expired meanwhile a new one is posted, and where
the account may not patch nothing is. A flood of different ones is cut off and counted in one log line. Names are
kube-proxy's (``reportingController: kube-proxy``; spec: runtime.md 11), because alerts filter by them.

Rejected: posting from the sync loop, which would make rules wait for the API server.
"""

from __future__ import annotations

import asyncio
import contextlib
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
_GONE = frozenset({404, 409, 410})  # what is answered where the Event that we posted is no longer there
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

    async def patch(self, path: str, body: bytes, *, what: str) -> None:
        """Merge fields into an object. Raises ApiError."""
        ...


class _Filed(Struct):
    path: str = ""  # of the object that was posted; empty: none was, or it is gone
    count: int = 0  # since that one was posted, itself included
    told: float = float("-inf")  # when, on the loop's clock


class Recorder:
    """``poster`` None: there is no API server, and what Events say is in the log alone."""

    def __init__(self, poster: Poster | None, host: str, wall: Callable[[], float] = time.time) -> None:
        self._poster = poster
        self._host = host
        self._wall = wall
        self._filed: OrderedDict[Event, _Filed] = OrderedDict()
        self._waiting: dict[Event, float] = {}  # in order; when each may be told
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
        self._waiting.setdefault(event, filed.told + _QUIET)
        self._wake.set()

    async def run(self) -> Never:
        """Tell what is filed, a burst first and then one each second."""
        loop = asyncio.get_running_loop()
        allowance, since = float(_BURST), loop.time()
        while True:
            event = await self._next()
            now = loop.time()
            allowance, since = min(_BURST, allowance + (now - since) / _PERIOD), now
            if allowance < 1:
                await asyncio.sleep((1 - allowance) * _PERIOD)
                continue
            allowance -= 1
            del self._waiting[event]
            await self._send(event)

    async def tell(self, event: Event) -> None:
        """Post one Event at once, for who is about to end. Never raises ApiError."""
        await self._send(event)

    async def _next(self) -> Event:
        """The oldest whose time has come."""
        loop = asyncio.get_running_loop()
        while True:
            for event, due in self._waiting.items():
                if due <= loop.time():
                    return event
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout_at(min(self._waiting.values(), default=None)):
                    await self._wake.wait()

    async def _send(self, event: Event) -> None:
        if self._poster is None:
            return
        filed = self._filed.setdefault(event, _Filed(count=1))
        filed.told = asyncio.get_running_loop().time()
        try:
            if not (filed.path and await self._count_up(self._poster, filed)):
                await self._post(self._poster, event, filed)
        except (ApiError, BadCredentials) as error:
            _log.verbose(1, "Event not delivered", reason=event.reason, object=event.regarding, err=error)
        if self._dropped:
            _log.warning("Too many events, some were not delivered", dropped=self._dropped)
            self._dropped = 0

    async def _post(self, poster: Poster, event: Event, filed: _Filed) -> None:
        namespace, name = event.regarding.namespace or "default", self._name(event)
        # quoted, because a malformed object's namespace can be anything, a path included
        path = f"/apis/events.k8s.io/v1/namespaces/{quote(namespace, safe='')}/events"
        body = self._render(event, namespace, name)
        if filed.count > 1:
            body["series"] = self._series(filed.count)
        await poster.post(path, json.dumps(body).encode(), what="create events")
        filed.path = f"{path}/{quote(name, safe='')}"

    async def _count_up(self, poster: Poster, filed: _Filed) -> bool:
        """Patch what was posted; False: it is gone, and what happened since then is for a new one."""
        body = {"series": self._series(filed.count)}
        try:
            await poster.patch(filed.path, json.dumps(body).encode(), what="patch events")
        except ApiError as error:
            if error.status not in _GONE:
                raise
            filed.path, filed.count = "", 1
            return False
        return True

    def _series(self, count: int) -> dict[str, Any]:
        return {"count": count, "lastObservedTime": _micro(self._wall())}

    def _render(self, event: Event, namespace: str, name: str) -> dict[str, Any]:
        regarding = {
            "kind": event.kind,
            "name": event.regarding.name,
            "namespace": event.regarding.namespace,
            "apiVersion": _API_VERSIONS.get(event.kind, ""),
            "uid": event.uid,
        }
        return {
            "apiVersion": "events.k8s.io/v1",
            "kind": "Event",
            "metadata": {"name": name, "namespace": namespace},
            "eventTime": _micro(self._wall()),
            "reportingController": _CONTROLLER,
            "reportingInstance": f"{_CONTROLLER}-{self._host}"[:128],
            "action": event.action,
            "reason": event.reason,
            "regarding": {key: value for key, value in regarding.items() if value},
            "note": _cut(event.note),
            "type": "Warning" if event.warning else "Normal",
        }

    def _name(self, event: Event) -> str:
        return f"{event.regarding.name[:200]}.{int(self._wall() * 1000):x}.{next(self._serial):x}"


def starting(node: str) -> Event:
    return Event("Node", ObjectKey("", node), "Starting", "", warning=False, action="StartKubeProxy", uid=node)


def unserved(node: str, reason: str, why: str) -> Event:
    """A server that could not listen, and kproxy ends for it."""
    return Event("Node", ObjectKey("", node), reason, why, action="StartKubeProxy", uid=node)


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
