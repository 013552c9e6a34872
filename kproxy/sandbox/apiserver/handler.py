"""The HTTP face: from a request to an answer, by way of the registry.

Every request is recorded, may meet an injected fault, is authenticated, and is then dispatched by what its path
names. Refusals travel as StatusError and become a Status here, in one place. No answer is compressed: on loopback
it costs more than it saves.

Source: Kubernetes API concepts.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import msgspec
import yaml
from aiohttp import web

from kproxy.sandbox.apiserver import encode, protobuf, routes, status
from kproxy.sandbox.apiserver.discovery import AGGREGATED, aggregated, documents
from kproxy.sandbox.apiserver.faults import Faults, error_of
from kproxy.sandbox.apiserver.patch import JSON_PATCH, MERGE_PATCH, STRATEGIC_MERGE_PATCH
from kproxy.sandbox.apiserver.registry import Outcome, Registry
from kproxy.sandbox.apiserver.routes import Target
from kproxy.sandbox.apiserver.scale import scale_of, scaled
from kproxy.sandbox.apiserver.status import Json, StatusError
from kproxy.sandbox.apiserver.store import Stored
from kproxy.sandbox.apiserver.watch import Ending, Watch, error_event, write_all

BODY_LIMIT = 3 * 1024 * 1024
"""Bytes; larger request bodies get 413, as from the API server."""
_JSON = "application/json"
_APPLY = ("application/apply-patch+yaml", "application/apply-patch+json")
_READABLE = (_JSON, "application/yaml", protobuf.MEDIA_TYPE, *_APPLY, "application/octet-stream")
_PATCHES = (JSON_PATCH, MERGE_PATCH, STRATEGIC_MERGE_PATCH, *_APPLY)
_HEALTH = frozenset({"/healthz", "/livez", "/readyz"})
_REMEMBERED_REQUESTS = 50_000
Verb = Callable[[web.Request, Target], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class RecordedRequest:
    """One request as it arrived."""

    method: str
    path: str
    query: Mapping[str, str]
    user_agent: str

    @property
    def is_watch(self) -> bool:
        return routes.is_true(self.query, "watch")


@dataclass(slots=True)
class Handler:
    """Answers every request of one server; `token` is the bearer token to demand, empty for none."""

    registry: Registry
    token: str = ""
    bookmark_every: float = 60.0
    faults: Faults = field(default_factory=Faults)
    requests: deque[RecordedRequest] = field(default_factory=lambda: deque(maxlen=_REMEMBERED_REQUESTS))
    watches: dict[Watch, web.Request] = field(default_factory=dict)
    arrived: asyncio.Condition = field(default_factory=asyncio.Condition)
    """Notified after every recorded request."""
    _documents: dict[str, Json] = field(default_factory=documents)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Answer one request; never raises for what a client can cause."""
        agent = request.headers.get("User-Agent", "")
        self.requests.append(RecordedRequest(request.method, request.path, dict(request.query), agent))
        async with self.arrived:
            self.arrived.notify_all()
        try:
            if failure := self.faults.next_failure(request.method, request.path_qs):
                raise error_of(failure)
            self._authenticate(request)
            return await self._dispatch(request)
        except StatusError as error:
            return _refusal(error)

    def end_watches(self, ending: Ending) -> int:
        """End every watch that is running; returns how many."""
        running = list(self.watches.items())
        for watch, request in running:
            watch.end(ending)
            if ending is Ending.DROP and request.transport is not None:
                request.transport.abort()
        return len(running)

    def _authenticate(self, request: web.Request) -> None:
        if not self.token or request.path in _HEALTH:
            return
        transport = request.transport
        if transport is not None and transport.get_extra_info("peercert"):
            return  # the TLS handshake has verified it
        if request.headers.get("Authorization", "") != f"Bearer {self.token}":
            raise status.unauthorized()

    async def _dispatch(self, request: web.Request) -> web.StreamResponse:
        path = request.path.rstrip("/") or "/"
        if path in _HEALTH:
            return web.Response(text="ok")
        if path in {"/api", "/apis"} and "apidiscovery.k8s.io;v=v2;" in request.headers.get("Accept", ""):
            return _answer(msgspec.json.encode(aggregated(path)), content_type=AGGREGATED)
        if path in self._documents:
            return _answer(msgspec.json.encode(self._documents[path]))
        return await self._verb(request, routes.target(path))

    async def _verb(self, request: web.Request, target: Target) -> web.StreamResponse:
        method, named = request.method, bool(target.name)
        verbs: Mapping[str, tuple[bool, Verb]] = {
            "GET": (True, self._get),
            "POST": (not named, self._post),
            "PUT": (named, self._put),
            "PATCH": (named, self._patch),
            "DELETE": (not target.subresource, self._delete),
        }
        allowed, answer = verbs.get(method, (False, self._get))
        if not allowed:
            raise status.method_not_allowed()
        return await answer(request, target)

    # --- reading ---------------------------------------------------------------------------------------------

    async def _get(self, request: web.Request, target: Target) -> web.StreamResponse:
        as_table = _wants_table(request)
        if routes.is_true(request.query, "watch"):
            return await self._watch(request, target, as_table=as_table)
        if not target.name:
            return _answer(self._list(target, request.query, as_table=as_table))
        stored = self.registry.get(target.resource, target.key)
        if target.subresource == "scale":
            return _answer(msgspec.json.encode(scale_of(stored.document())))
        if as_table:
            metadata = {"resourceVersion": str(stored.revision)}
            return _answer(encode.rows(target.resource, [stored], metadata, self.registry.now()))
        return _answer(encode.body(target.resource, stored))

    def _list(self, target: Target, query: routes.Query, *, as_table: bool) -> bytes:
        store = self.registry.store
        selector = routes.selector(target, query)
        page = routes.page(query)
        revision = store.revision if page.revision is None else page.revision
        found = store.objects(target.resource.stored_in, target.namespace, at=page.revision)
        if page.after is not None:
            found = (stored for stored in found if stored.key > page.after)
        chosen: list[Stored] = [stored for stored in found if selector.accepts(stored)]
        metadata: Json = {"resourceVersion": str(revision)}
        if page.limit and len(chosen) > page.limit:
            if not selector:
                metadata["remainingItemCount"] = len(chosen) - page.limit
            chosen = chosen[: page.limit]
            metadata["continue"] = routes.continue_token(revision, chosen[-1].key)
        if as_table:
            return encode.rows(target.resource, chosen, metadata, self.registry.now())
        return encode.listing(target.resource, chosen, metadata)

    async def _watch(self, request: web.Request, target: Target, *, as_table: bool) -> web.StreamResponse:
        wanted = routes.watch_request(target, request.query, streaming_lists=self.faults.streaming_lists)
        selector = routes.selector(target, request.query)
        now: Callable[[], datetime] = self.registry.now
        watch = Watch(target.resource, target.namespace, selector, wanted, as_table=as_table, now=now)
        response = web.StreamResponse(headers={"Content-Type": _JSON, "Cache-Control": "no-cache, private"})
        try:
            events = watch.opening(self.registry.store)
        except StatusError as error:
            if error.code != 410:
                raise
            events = [error_event(error)]
            watch.end(Ending.CLOSE)
        # Registered in the same step in which the opening events were read: no change falls in between.
        self.watches[watch] = request
        try:
            await response.prepare(request)
            await write_all(response, events)
            await watch.run(response, self.registry.store, self.bookmark_every)
            if watch.ending is not Ending.DROP:
                await response.write_eof()
        except ConnectionError:
            pass  # the client went away, or a fault cut it off
        finally:
            del self.watches[watch]
        return response

    # --- writing ---------------------------------------------------------------------------------------------

    async def _post(self, request: web.Request, target: Target) -> web.Response:
        document = await _document(request)
        if target.resource.namespaced and not target.namespace:
            raise status.method_not_allowed()
        options = routes.options(target, request.query, request.headers.get("User-Agent", ""))
        return _written(target, self.registry.create(target.resource, target.namespace, document, options))

    async def _put(self, request: web.Request, target: Target) -> web.Response:
        document = await _document(request)
        options = routes.options(target, request.query, request.headers.get("User-Agent", ""))
        if target.subresource == "scale":
            old = self.registry.get(target.resource, target.key).document()
            return self._scaled(target, scaled(target.resource.served(old), document))
        return _written(target, self.registry.put(target.resource, target.key, document, options))

    async def _patch(self, request: web.Request, target: Target) -> web.Response:
        options = routes.options(target, request.query, request.headers.get("User-Agent", ""))
        media_type = request.content_type
        if media_type not in _PATCHES:
            raise status.unsupported_media(media_type, _PATCHES)
        if media_type in _APPLY:
            config = await _document(request)
            return _written(target, self.registry.apply(target.resource, target.key, config, options))
        patch = _decoded(await request.read())
        if target.subresource == "scale":
            old = self.registry.get(target.resource, target.key).document()
            change = patch if isinstance(patch, dict) else {}
            return self._scaled(target, scaled(target.resource.served(old), change))
        outcome = self.registry.patch(target.resource, target.key, media_type, patch, options)
        return _written(target, outcome)

    def _scaled(self, target: Target, deployment: Json) -> web.Response:
        outcome = self.registry.update(target.resource, target.key, deployment)
        return _answer(msgspec.json.encode(scale_of(outcome.content)))

    async def _delete(self, request: web.Request, target: Target) -> web.Response:
        body = await _document(request) if request.can_read_body else {}
        options = routes.delete_options(request.query, body)
        resource = target.resource
        if not target.name:
            selector = routes.selector(target, request.query)
            gone = self.registry.delete_collection(resource, target.namespace, selector, options)
            head = {"kind": f"{resource.kind}List", "apiVersion": resource.api_version}
            metadata = {"resourceVersion": str(self.registry.store.revision)}
            return _answer(msgspec.json.encode(head | {"metadata": metadata, "items": gone}))
        content, finished = self.registry.delete(resource, target.key, options)
        if not finished:
            return _answer(msgspec.json.encode(resource.served(content)))
        details = {"name": target.name, "kind": resource.plural, "uid": content["metadata"].get("uid", "")}
        if resource.group:
            details["group"] = resource.group
        success = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
        return _answer(msgspec.json.encode(success))


def _wants_table(request: web.Request) -> bool:
    return "as=Table" in request.headers.get("Accept", "").partition(",")[0]


def _answer(body: bytes, *, code: int = 200, content_type: str = _JSON) -> web.Response:
    headers = {"Content-Type": content_type, "Cache-Control": "no-cache, private"}
    return web.Response(body=body, status=code, headers=headers)


def _written(target: Target, outcome: Outcome) -> web.Response:
    body = msgspec.json.encode(target.resource.served(outcome.content))
    answer = _answer(body, code=201 if outcome.created else 200)
    for warning in outcome.warnings:
        answer.headers.add("Warning", f'299 - "{warning.replace(chr(34), chr(92) + chr(34))}"')
    return answer


def _refusal(error: StatusError) -> web.Response:
    answer = _answer(msgspec.json.encode(error.document()), code=error.code)
    if "retryAfterSeconds" in error.details:
        answer.headers["Retry-After"] = str(error.details["retryAfterSeconds"])
    return answer


async def _document(request: web.Request) -> Json:
    """Read a body that must be one object; without a content type it is taken for JSON."""
    raw = await request.read()
    media_type = request.content_type
    if media_type not in _READABLE:
        raise status.unsupported_media(media_type, _READABLE)
    if media_type == protobuf.MEDIA_TYPE:
        return protobuf.decode(raw)
    document = _decoded_yaml(raw) if "yaml" in media_type else _decoded(raw)
    if not isinstance(document, dict):
        raise status.bad_request("the body of the request must be one object")
    return document


def _decoded(raw: bytes) -> Any:
    try:
        return msgspec.json.decode(raw)
    except msgspec.DecodeError as error:
        raise status.bad_request(f"the object provided could not be decoded: {error}") from error


def _decoded_yaml(raw: bytes) -> Any:
    try:
        return yaml.safe_load(raw)
    except yaml.YAMLError as error:
        raise status.bad_request(f"the object provided could not be decoded: {error}") from error
