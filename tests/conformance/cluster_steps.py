"""Steps at the API server: objects come, change and go, and the server itself fails.

``requests`` tells what the proxy asked for. The server allows everything; whether a request is one of those that
kube-proxy's role allows is compared here (spec: runtime.md 13).
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from kproxy.sandbox.apiserver import routes
from kproxy.sandbox.apiserver.handler import RecordedRequest
from kproxy.sandbox.apiserver.status import StatusError
from tests.conformance import objects
from tests.conformance.scene import Action, Scene, Skipped

Json = dict[str, Any]
_PROXIES = ("kube-proxy", "kproxy")  # how their user agents begin
# system:node-proxier, and what every account may read (system:discovery)
_ALLOWED: Mapping[str, frozenset[str]] = {
    "services": frozenset({"list", "watch"}),
    "endpoints": frozenset({"list", "watch"}),
    "nodes": frozenset({"get", "list", "watch"}),
    "endpointslices": frozenset({"list", "watch"}),
    "servicecidrs": frozenset({"list", "watch"}),
    "events": frozenset({"create", "patch", "update"}),
}
_DISCOVERY = ("/api", "/apis", "/version", "/healthz", "/livez", "/readyz")
_EVENT_FIELDS = {"involvedObject": "regarding", "message": "note", "reportingComponent": "reportingController"}
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}


class ClusterSteps:
    def __init__(self, scene: Scene) -> None:
        self._scene = scene
        self._cluster = scene.cluster
        self._is_served = True

    def actions(self) -> dict[str, Action]:
        return {
            "apply": self._apply,
            "eps": self._eps,
            "churn": self._churn,
            "delete": self._delete,
            "delete_slice": self._delete_slice,
            "delete_object": self._delete_object,
            "lb": self._lb,
            "node": self._node,
            "object": self._object,
            "load": self._load,
            "bulk": self._bulk,
            "delete_bulk": self._delete_bulk,
            "apiserver": self._apiserver,
            "requests": self._requests,
            "events": self._events,
        }

    async def close(self) -> None:
        self._cluster.api.faults.clear()
        await self._apiserver("start")

    # --- objects ----------------------------------------------------------------------------------------------

    async def _apply(self, shorts: Json | list[Json]) -> bool:
        for short in [shorts] if isinstance(shorts, dict) else shorts:
            self._cluster.write(short)
        return True

    async def _eps(self, lists: dict[str, list[Any]]) -> bool:
        for name, endpoints in lists.items():
            self._cluster.set_endpoints(name, endpoints)
        return True

    async def _churn(self, step: Json) -> bool:
        """``{service, times, between: [eps, eps]}``: as many edits as fast as they can be written."""
        for number in range(step["times"]):
            self._cluster.set_endpoints(step["service"], step["between"][number % len(step["between"])])
            await asyncio.sleep(0)
        return True

    async def _delete(self, names: str | list[str]) -> bool:
        for name in [names] if isinstance(names, str) else names:
            self._cluster.delete(name)
        return True

    async def _delete_slice(self, names: str | list[str]) -> bool:
        for name in [names] if isinstance(names, str) else names:
            self._cluster.delete_slice(name)
        return True

    async def _delete_object(self, named: Json) -> bool:
        self._cluster.api.delete(named["kind"], named["name"], named.get("ns", "default"))
        return True

    async def _lb(self, lists: dict[str, list[Any]]) -> bool:
        for name, addresses in lists.items():
            self._cluster.balance(name, addresses)
        return True

    async def _node(self, change: Json) -> bool:
        change = dict(change)
        name, status = change.pop("name"), change.pop("status", None)
        if change:
            self._cluster.api.patch("Node", name, change)
        if status:
            self._cluster.api.set_status("Node", name, status)
        return True

    async def _object(self, document: Json) -> bool:
        self._cluster.api.apply(document)
        return True

    async def _load(self, documents: list[Json]) -> bool:
        self._cluster.api.load(documents)  # unseen, for what no API server would let pass
        return True

    async def _bulk(self, step: Json) -> bool:
        for short in objects.bulk(step):
            self._cluster.write(short)
            await asyncio.sleep(0)
        return True

    async def _delete_bulk(self, step: Json) -> bool:
        for number in range(step["count"]):
            self._cluster.delete(f"{step['prefix']}{number}")
        return True

    # --- the server -------------------------------------------------------------------------------------------

    async def _apiserver(self, what: str | Json) -> bool:
        """stop, start; drop, close and expire all watches; ``{fail: 503, path: pattern}``, ``{fail: nothing}``."""
        api = self._cluster.api
        if isinstance(what, dict):
            api.faults.clear()
            if what["fail"] != "nothing":
                api.faults.fail(what["fail"], times=what.get("times", 10**6), path=what.get("path", ""))
            return False
        endings = {"drop": api.drop_watches, "close": api.close_watches, "expire": api.expire_watches}
        if what in endings:
            api.compact()
            endings[what]()
            return True
        if what not in {"stop", "start"}:
            raise Skipped(f"API server step {what}")
        if what == "stop":
            await api.stop()
        elif not self._is_served:
            await api.start()
        self._is_served = what == "start"
        return self._is_served

    async def _requests(self, probe: Json) -> bool:
        """``forget`` what was asked; else what the proxy asked: queries ``of`` a resource, or what is not allowed."""
        if probe.get("forget"):
            self._cluster.api.requests.clear()
            return False

        async def look() -> Json:
            asked = list(_of_proxies(self._cluster.api.requests))
            if "of" in probe:
                return _queries(asked, probe)
            verbs = {(_verb(each), _resource(each.path)) for each in asked}
            return {
                "verbs": sorted(f"{verb} {resource}" for verb, resource in verbs),
                "not_allowed": sorted(f"{v} {r}" for v, r in verbs if v not in _ALLOWED.get(r, frozenset())),
            }

        await self._scene.settle(probe, look)
        return False

    async def _events(self, probe: Json) -> bool:
        """The Events of a reason: how many, and the first of them, in the words of both of the API's groups."""

        async def look() -> Json:
            found = [each for each in self._cluster.api.list("Event") if each.get("reason") == probe["reason"]]
            if not found:
                return {"count": 0, "first": None}
            named = {also: found[0][key] for key, also in _EVENT_FIELDS.items() if key in found[0]}
            return {"count": len(found), "first": {**found[0], **named}}

        await self._scene.settle(probe, look)
        return False


def _of_proxies(requests: deque[RecordedRequest]) -> Iterator[RecordedRequest]:
    for each in list(requests):
        if each.user_agent.startswith(_PROXIES) and each.path not in _DISCOVERY:
            yield each


def _queries(asked: list[RecordedRequest], probe: Json) -> Json:
    """The values of the parameters that the probe names, over all its requests; "" where one was left out."""
    of = [each for each in asked if _resource(each.path) == probe["of"] and each.is_watch == probe.get("watch", False)]
    values = {name: sorted({each.query.get(name, "") for each in of}) for name in probe.get("parameters", ())}
    return {"count": len(of), **values}


def _verb(request: RecordedRequest) -> str:
    if request.method != "GET":
        return _VERBS.get(request.method, request.method)
    if request.is_watch:
        return "watch"
    try:
        return "get" if routes.target(request.path).name else "list"
    except StatusError:
        return "get"


def _resource(path: str) -> str:
    """The resource that a path is about; the path itself where it is about none."""
    try:
        target = routes.target(path)
    except StatusError:
        return path
    return target.resource.plural + (f"/{target.subresource}" if target.subresource else "")
