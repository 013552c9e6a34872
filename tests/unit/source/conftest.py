"""A scripted HTTP server on the loopback, and the shortest way to write an object as the API prints it."""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict, deque
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from msgspec.structs import replace

from kproxy.config import Config
from kproxy.source.client import Client
from kproxy.source.credentials import Credentials
from tests.unit.source.watching import Watching


@dataclass
class Answer:
    """One scripted answer. ``hold``: keep the connection open; ``cut``: break it off; ``silent``: say nothing."""

    status: int = 200
    chunks: tuple[bytes, ...] = ()
    headers: dict[str, str] = field(default_factory=dict)
    hold: bool = False
    cut: bool = False
    silent: bool = False
    pause: bool = False  # between the first chunk and the others, until the test resumes
    busy: bool = False  # says its chunks again and again


def body(value: object, status: int = 200, **headers: str) -> Answer:
    return Answer(status, (json.dumps(value).encode(),), headers)


def events(*lines: tuple[str, object] | bytes, hold: bool = False, cut: bool = False) -> Answer:
    """A watch's answer: (type, object) pairs, or raw lines."""
    chunks = (
        each if isinstance(each, bytes) else json.dumps({"type": each[0], "object": each[1]}).encode() + b"\n"
        for each in lines
    )
    return Answer(chunks=tuple(chunks), hold=hold, cut=cut)


class ScriptedServer:
    """Answers each path from its own script; when a script is over, it holds the request open."""

    def __init__(self) -> None:
        self.requests: list[web.Request] = []
        self.bodies: list[bytes] = []
        self._script: dict[str, deque[Answer]] = defaultdict(deque)
        self._over = asyncio.Event()
        self._resumed = asyncio.Event()
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        self._server = TestServer(app, host="127.0.0.1")

    def on(self, path: str, *answers: Answer) -> None:
        self._script[path].extend(answers)

    @property
    def url(self) -> str:
        return str(self._server.make_url("")).rstrip("/")

    def queries(self) -> list[dict[str, str]]:
        return [dict(request.query) for request in self.requests]

    async def _handle(self, request: web.Request) -> web.StreamResponse:
        self.requests.append(request)
        self.bodies.append(await request.read())
        script = self._script[request.path]
        answer = script.popleft() if script else Answer(hold=True)
        if answer.silent:
            await self._over.wait()
        response = web.StreamResponse(status=answer.status, headers=answer.headers)
        response.enable_chunked_encoding()
        await response.prepare(request)
        for number, chunk in enumerate(answer.chunks):
            if answer.pause and number == 1:
                await self._resumed.wait()
            await response.write(chunk)
        while answer.busy and not self._over.is_set():
            await response.write(b"".join(answer.chunks))
            await asyncio.sleep(0.01)
        if answer.hold:
            await self._over.wait()
        if answer.cut and request.transport:
            request.transport.abort()
        return response

    def resume(self) -> None:
        self._resumed.set()

    async def start(self) -> None:
        await self._server.start_server()

    async def stop(self) -> None:
        self._over.set()
        await self._server.close()


@pytest.fixture
async def server() -> AsyncIterator[ScriptedServer]:
    made = ScriptedServer()
    await made.start()
    yield made
    await made.stop()


@pytest.fixture
def config() -> Config:
    return Config(hostname="n1", request_deadline=5.0)


class Resolver:
    """Stands for the child process: hands out credentials in turn, the last one for ever."""

    def __init__(self, *credentials: Credentials | Exception) -> None:
        self.left = list(credentials)
        self.calls = 0

    async def __call__(self, _config: Config) -> Credentials:
        self.calls += 1
        found = self.left.pop(0) if len(self.left) > 1 else self.left[0]
        if isinstance(found, Exception):
            raise found
        return found


class Clock:
    """Time that moves only when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
async def client(server: ScriptedServer, config: Config) -> AsyncIterator[Client]:
    resolver = Resolver(Credentials(server=server.url, source="a test", authorization="Bearer first"))
    async with Client(config, resolve=resolver) as made:
        yield made


@pytest.fixture
def api() -> type[Api]:
    return Api


class Api:
    """Objects and answers as an API server prints them."""

    Answer = Answer
    Resolver = Resolver
    Clock = Clock
    ScriptedServer = ScriptedServer
    body = staticmethod(body)
    events = staticmethod(events)

    @staticmethod
    def service(name: str = "web", version: str = "1", **spec: Any) -> dict[str, Any]:
        given = {"clusterIP": "10.96.0.1", "ports": [{"name": "http", "protocol": "TCP", "port": 80}]} | spec
        return {"metadata": {"name": name, "namespace": "default", "resourceVersion": version}, "spec": given}

    @staticmethod
    def page(*items: object, version: str = "1", token: str = "") -> Answer:
        return body({"metadata": {"resourceVersion": version, "continue": token}, "items": list(items)})

    @staticmethod
    def status(code: int, message: str = "no", **headers: str) -> Answer:
        return body({"kind": "Status", "code": code, "message": message}, code, **headers)

    @staticmethod
    def bookmark(version: str, *, end: bool = False) -> tuple[str, object]:
        annotations = {"k8s.io/initial-events-end": "true"} if end else {}
        return ("BOOKMARK", {"metadata": {"resourceVersion": version, "annotations": annotations}})

    @staticmethod
    def encode(value: object) -> bytes:
        return json.dumps(value).encode()


@pytest.fixture
def paging(config: Config) -> Config:
    return replace(config, list_page=2)


@pytest.fixture
async def watching(client: Client, paging: Config, api: Any) -> AsyncIterator[Watching]:
    made = Watching(client, paging, api.Clock())
    async with aclosing(made.changes):
        yield made
