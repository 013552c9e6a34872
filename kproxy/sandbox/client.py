"""The sandbox's own side of the API: what its controllers, its kubelet and its demo ask the API server for.

It goes over HTTP like everybody else, so whatever works here works for kubectl. Objects stay JSON, because these
programs hand most fields through; the proxy's reader (source/) keeps only the few that it needs.

``Known`` is what a controller looks at: all objects of some kinds, kept fresh by watches, and an event that says
when to look again. Controllers compare what is with what should be and never ask which change came (spec: model.md 1
describes the same for kproxy); a watch that breaks is therefore simply begun again with a list.

Rejected: kproxy.source (typed for the four kinds that the proxy reads) and the kubernetes package (its watch loses
events; no asyncio).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from typing import Any, Self

import aiohttp

from kproxy.errors import ApiError, ApiUnreachable
from kproxy.sandbox.apiserver.resources import Resource, named

Json = dict[str, Any]
Name = tuple[str, str]  # namespace ("" where there is none) and name

_DEADLINE = 10.0  # seconds for one request
_WATCH_SECONDS = 600
_AGAIN = 0.2  # seconds before a broken watch is begun again
_LINE_LIMIT = 16 << 20  # bytes in one watched object
_APPLY = "application/apply-patch+yaml"
_MERGE = "application/merge-patch+json"


class ApiAnswer(ApiError):
    """The API server refused: ``code`` is HTTP's, ``reason`` and the text are the API's own."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        self.code = code
        self.reason = reason
        self.message = message
        super().__init__(f"{code} {reason}: {message}")


def name_of(item: Json) -> Name:
    """Namespace and name of an object."""
    metadata = item["metadata"]
    return metadata.get("namespace", ""), metadata["name"]


class Client:
    """Requests to one API server; ``async with`` closes its connections."""

    def __init__(self, url: str, *, manager: str = "kproxy-sandbox") -> None:
        self._url = url.rstrip("/")
        self._manager = manager
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        limits = aiohttp.ClientTimeout(total=None, sock_connect=_DEADLINE)
        connector = aiohttp.TCPConnector(limit=0)
        self._session = aiohttp.ClientSession(timeout=limits, connector=connector, read_bufsize=_LINE_LIMIT)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def get(self, kind: str, name: str, namespace: str = "") -> Json:
        return await self._request("GET", _path(named(kind), namespace, name))

    async def list(self, kind: str) -> Json:
        """All objects of a kind in all namespaces, as the list object."""
        return await self._request("GET", _path(named(kind)))

    async def create(self, item: Json) -> Json:
        resource = named(item["kind"])
        return await self._request("POST", _path(resource, _namespace(resource, item)), item)

    async def apply(self, item: Json) -> Json:
        """Create or change as ``kubectl apply --server-side`` does."""
        resource = named(item["kind"])
        path = _path(resource, _namespace(resource, item), item["metadata"]["name"])
        query = {"fieldManager": self._manager, "force": "true"}
        return await self._request("PATCH", path, item, media=_APPLY, query=query)

    async def patch(self, kind: str, name: str, namespace: str, change: Json, *, part: str = "") -> Json:
        """Merge a change into an object, or into its subresource ``part`` such as status."""
        path = _path(named(kind), namespace, name) + (f"/{part}" if part else "")
        return await self._request("PATCH", path, change, media=_MERGE)

    async def delete(self, kind: str, name: str, namespace: str = "", *, now: bool = False) -> None:
        """Delete an object; ``now`` means without a grace period. One that is gone already is no error."""
        options = {"gracePeriodSeconds": 0} if now else {}
        try:
            await self._request("DELETE", _path(named(kind), namespace, name), options)
        except ApiAnswer as answer:
            if answer.code != 404:
                raise

    async def watch(self, kind: str, version: str) -> AsyncIterator[tuple[str, Json]]:
        """Changes after ``version`` as (ADDED, MODIFIED or DELETED, object) until the server ends the stream."""
        query = {
            "watch": "true",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(_WATCH_SECONDS),
        }
        limits = aiohttp.ClientTimeout(total=None, sock_connect=_DEADLINE, sock_read=_WATCH_SECONDS + 30)
        try:
            async with self._open().get(self._url + _path(named(kind)), params=query, timeout=limits) as response:
                if response.status != 200:
                    raise _refusal(response.status, await response.text())
                while line := await response.content.readline():
                    event = json.loads(line)
                    if event["type"] == "ERROR":
                        raise _refusal(410, json.dumps(event["object"]))
                    if event["type"] != "BOOKMARK":
                        yield event["type"], event["object"]
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ApiUnreachable(f"watch of {kind} at {self._url}: {error}") from error

    async def _request(
        self, method: str, path: str, body: Json | None = None, *, media: str = "", query: Json | None = None
    ) -> Json:
        headers = {"Content-Type": media or "application/json"}
        data = None if body is None else json.dumps(body)
        try:
            async with (
                asyncio.timeout(_DEADLINE),
                self._open().request(method, self._url + path, data=data, headers=headers, params=query) as response,
            ):
                text = await response.text()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise ApiUnreachable(f"{method} {self._url}{path}: {error or 'no answer'}") from error
        if response.status >= 300:
            raise _refusal(response.status, text)
        answer: Json = json.loads(text)
        return answer

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            raise ApiUnreachable(f"{self._url}: use `async with Client(...)`")
        return self._session


class Known:
    """All objects of some kinds, by kind and name.

    ``next_change`` is an event that the next change of any of them sets: take it, look, then wait for it.
    """

    def __init__(self, client: Client, kinds: Sequence[str]) -> None:
        self.next_change = asyncio.Event()
        self._client = client
        self._objects: dict[str, dict[Name, Json]] = {kind: {} for kind in kinds}

    def all(self, kind: str) -> list[Json]:
        """The objects of a kind in the order of their names."""
        return [item for _, item in sorted(self._objects[kind].items())]

    def find(self, kind: str, namespace: str, name: str) -> Json | None:
        return self._objects[kind].get((namespace, name))

    async def when(self, condition: Callable[[], bool], deadline: float) -> bool:
        """Wait until the objects fulfil ``condition``; False when they do not within ``deadline`` seconds."""
        try:
            async with asyncio.timeout(deadline):
                while True:
                    change = self.next_change
                    if condition():
                        return True
                    await change.wait()
        except TimeoutError:
            return False

    async def catch_up(self, deadline: float) -> bool:
        """Wait until everything is known that the API server has now; False when that takes too long."""
        for kind, known in self._objects.items():
            listed = (await self._client.list(kind))["items"]
            versions = {name_of(item): int(item["metadata"]["resourceVersion"]) for item in listed}
            if not await self.when(partial(_includes, known, versions), deadline):
                return False
        return True

    async def start(self, tasks: asyncio.TaskGroup) -> None:
        """List every kind, then follow the changes in ``tasks``."""
        for kind in self._objects:
            tasks.create_task(self._follow(kind, await self._list(kind)), name=f"watch {kind}")

    def _tell(self) -> None:
        self.next_change.set()
        self.next_change = asyncio.Event()

    async def _list(self, kind: str) -> str:
        answer = await self._client.list(kind)
        self._objects[kind].clear()
        self._objects[kind].update({name_of(item): item for item in answer["items"]})
        self._tell()
        return str(answer["metadata"]["resourceVersion"])

    async def _follow(self, kind: str, version: str) -> None:
        while True:
            try:
                async for change, item in self._client.watch(kind, version):
                    version = item["metadata"]["resourceVersion"]
                    if change == "DELETED":
                        self._objects[kind].pop(name_of(item), None)
                    else:
                        self._objects[kind][name_of(item)] = item
                    self._tell()
            except ApiError:
                await asyncio.sleep(_AGAIN)
                version = await self._list(kind)


def _includes(known: Mapping[Name, Json], versions: Mapping[Name, int]) -> bool:
    """Whether all objects are known in these versions or later ones. Kubernetes' versions are ordered numbers."""
    return all(
        name in known and int(known[name]["metadata"]["resourceVersion"]) >= version
        for name, version in versions.items()
    )


def _namespace(resource: Resource, item: Json) -> str:
    return str(item["metadata"].get("namespace", "default")) if resource.namespaced else ""


def _path(resource: Resource, namespace: str = "", name: str = "") -> str:
    root = f"/apis/{resource.group}" if resource.group else "/api"
    inside = f"/namespaces/{namespace}" if namespace and resource.namespaced else ""
    return f"{root}/{resource.version}{inside}/{resource.plural}" + (f"/{name}" if name else "")


def _refusal(code: int, text: str) -> ApiAnswer:
    try:
        status = json.loads(text)
    except ValueError:
        return ApiAnswer(code, "", text.strip()[:400])
    return ApiAnswer(int(status.get("code") or code), status.get("reason", ""), status.get("message", ""))
