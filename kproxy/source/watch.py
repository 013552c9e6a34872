"""List, then watch, for ever: an async generator of changes that loses nothing and ends only by cancellation.

Decided here: what is asked for (spec: model.md 1), where a watch resumes, and how long to stay away after a failure.

* The initial list is streamed when the server can (KEP-3157: it needs no page of megabytes on either side) and fetched
  in pages where it cannot; what the server refused once is not asked again.
* A consumer sees a list as one change, never a part of it.
* Each event and each bookmark moves the position; an end of the stream resumes from it. A 410, an ERROR event of
  any code, or a line that cannot be read starts over with a list, for then nobody knows what was missed.
* The server ends a watch after 5 to 10 minutes, and a link that is silent for longer than that is dead.

Rejected: the ``kubernetes`` package's ``Watch`` (resumes an expired version with the same version, ignores bookmarks,
has no read deadline) and an informer with callbacks ("synced" becomes a flag that somebody forgets).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing

from msgspec import Struct

from kproxy.config import Config, EndpointsSource
from kproxy.errors import ApiError, BadCredentials, KproxyError, ResourceExpired
from kproxy.model.change import Change, Listed, Rejection
from kproxy.model.enums import Kind
from kproxy.model.keys import ObjectKey
from kproxy.source import wire
from kproxy.source.client import Client
from kproxy.source.convert import Converter, NotOurs, Outcome, Usable, gather

_REFUSED_STREAMING = frozenset({400, 406, 415, 422})  # what servers that do not know sendInitialEvents answer
_ABSENT = frozenset({403, 404})
_RARELY = 600.0  # seconds between questions for a resource that this cluster does not have
_PATIENCE = 2  # request deadlines that a streamed list may take; beyond, pages are asked for
_BATCH = 500  # objects converted before other tasks get a turn

Report = Callable[[Kind, KproxyError | None], None]
Hear = Callable[[], None]


class Selection(Struct, frozen=True):
    """One kind of object, and which of them."""

    kind: Kind
    path: str
    labels: str = ""
    fields: str = ""
    optional: bool = False  # an old cluster may not have it, and is served without it

    @property
    def plural(self) -> str:
        return self.path.rpartition("/")[2]


def resources(config: Config) -> tuple[Selection, ...]:
    """Everything that a service proxy watches."""
    name = config.service_proxy_name
    label = "service.kubernetes.io/service-proxy-name"
    endpoints = (
        Selection(Kind.ENDPOINTS, "/api/v1/endpoints", labels="!service.kubernetes.io/headless")
        if config.endpoints_source is EndpointsSource.ENDPOINTS
        else Selection(
            Kind.ENDPOINT_SLICE, "/apis/discovery.k8s.io/v1/endpointslices", labels="!service.kubernetes.io/headless"
        )
    )
    return (
        Selection(
            Kind.SERVICE,
            "/api/v1/services",
            labels=f"{label}={name}" if name else f"!{label}",
            fields="spec.clusterIP!=None",
        ),
        endpoints,
        Selection(Kind.NODE, "/api/v1/nodes", fields=f"metadata.name={config.hostname}"),
        Selection(Kind.SERVICE_CIDR, "/apis/networking.k8s.io/v1/servicecidrs", optional=True),
    )


def _ignore(*_said: object) -> None:
    pass


async def watch(
    client: Client,
    selection: Selection,
    config: Config,
    *,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    chance: random.Random | None = None,
    clock: Callable[[], float] = time.monotonic,
    report: Report = _ignore,
    hear: Hear = _ignore,
) -> AsyncGenerator[Change, None]:
    """The changes of one kind. ``report`` hears of each contact (None) and of each failure that we retry.

    ``hear`` is called for each line that the server sends.
    """
    chance = chance or random.Random()  # noqa: S311 -- jitter, no secret
    backoff = Backoff(config.backoff, chance, clock)
    reflector = _Reflector(client, selection, config, chance, report, hear)
    absent = False
    while True:
        started, problem = clock(), None
        try:
            async with aclosing(reflector.session()) as changes:
                async for change in changes:
                    yield change
        except (ApiError, BadCredentials) as error:
            problem = error
            # That this cluster does not have the resource is an answer, and for an old one a lasting one.
            report(selection.kind, None if selection.optional and _is_unknown(error) else error)
        if selection.optional and isinstance(problem, ApiError) and problem.status in _ABSENT:
            if not absent:
                yield Listed(selection.kind, ())
            absent = True
            await sleep(_RARELY * chance.uniform(0.5, 1.5))
        elif problem is not None:
            await sleep(max(backoff.next(), getattr(problem, "wait", 0.0)))
        elif clock() - started < config.backoff[1]:
            # A server that hangs up at once would otherwise be asked again at once, for ever.
            await sleep(backoff.next())


def _is_unknown(error: ApiError | BadCredentials) -> bool:
    return isinstance(error, ApiError) and error.status == 404


class Backoff:
    """How long to wait after a failure: doubling, with full jitter, from the start again after a healthy while."""

    def __init__(self, limits: tuple[float, float], chance: random.Random, clock: Callable[[], float]) -> None:
        self._first, self._longest = limits
        self._chance, self._clock = chance, clock
        self._failures = 0
        self._last = clock()

    def next(self) -> float:
        """Seconds to wait now."""
        if self._clock() - self._last > 2 * self._longest:
            self._failures = 0
        ceiling = min(self._longest, self._first * 2 ** min(self._failures, 30))
        self._failures += 1
        wait = self._chance.uniform(0, ceiling)
        self._last = self._clock() + wait
        return wait


class _Reflector:
    """Where we stand with one resource."""

    def __init__(
        self, client: Client, selection: Selection, config: Config, chance: random.Random, report: Report, hear: Hear
    ) -> None:
        self._client, self._selection, self._config = client, selection, config
        self._chance, self._report, self._hear = chance, report, hear
        self._converter = Converter(service_proxy_name=config.service_proxy_name)
        self._position: str | None = None  # resourceVersion to resume from; None: list first
        self._listed_before = False
        self._streams = True  # until the server refuses to stream an initial list
        self._opened = False

    async def session(self) -> AsyncGenerator[Change, None]:
        """From wherever we stand until the stream ends or fails."""
        try:
            if self._position is None and self._streams:
                try:
                    async with aclosing(self._follow(initial=True)) as changes:
                        async for change in changes:
                            yield change
                except ApiError as error:
                    if not self._is_no_streaming(error):
                        raise
                    self._streams = False
                else:
                    if self._has_listed():
                        return
                    self._streams = False  # ended before the list was complete
            if self._position is None:
                yield await self._list()
            async with aclosing(self._follow(initial=False)) as changes:
                async for change in changes:
                    yield change
        except ResourceExpired:
            self._position = None
            raise

    def _has_listed(self) -> bool:
        return self._position is not None

    def _is_no_streaming(self, error: ApiError) -> bool:
        """Refused, or begun and never completed: then the same question will not get another answer."""
        return self._position is None and (self._opened or error.status in _REFUSED_STREAMING)

    async def _list(self) -> Listed:
        kind, what = self._selection.kind, f"list {self._selection.plural}"
        # Any version will do for a start, and costs the server nothing; later a cached version could lead us back.
        query = self._query() | ({} if self._listed_before else {"resourceVersion": "0"})
        limit, token = {"limit": str(self._config.list_page)}, ""
        outcomes: list[Outcome] = []
        while True:
            try:
                body = await self._client.get(
                    self._selection.path,
                    {"continue": token} | self._query() | limit if token else query | limit,
                    what=what,
                )
            except ResourceExpired:
                if not token:
                    raise
                # The pages took longer than the server keeps a version: start again, and take all of it at once.
                limit, token, outcomes = {}, "", []
                continue
            try:
                page = wire.decode_page(body)
            except wire.UNREADABLE as error:
                raise ApiError(f"{self._client.server} answered no list when asked to {what}: {error}") from error
            for start in range(0, len(page.items or []), _BATCH):
                outcomes += [self._converter.convert(kind, item) for item in (page.items or [])[start : start + _BATCH]]
                await asyncio.sleep(0)
            metadata = page.metadata or wire.ListMetadata()
            token = metadata.continue_ or ""
            if not token:
                break
        self._arrive(metadata.resource_version or "")
        return gather(kind, outcomes)

    def _arrive(self, version: str) -> None:
        self._position, self._listed_before = version, True
        self._report(self._selection.kind, None)

    async def _follow(self, *, initial: bool) -> AsyncGenerator[Change, None]:
        """One watch request. ``initial``: it begins with the list, which ends with a bookmark that says so."""
        seconds = self._chance.randint(*self._config.watch_seconds)
        patience = seconds + self._config.read_grace
        query = self._query() | {"watch": "true", "allowWatchBookmarks": "true", "timeoutSeconds": str(seconds)}
        if initial:
            query |= {"sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan"}
        else:
            query |= {"resourceVersion": self._position or ""}
        gathered: dict[ObjectKey, Outcome] | None = {} if initial else None
        self._opened = False
        # A server that does not know the question never ends its answer, and in a busy cluster it is never silent.
        enough = asyncio.get_running_loop().time() + _PATIENCE * self._config.request_deadline
        async with self._client.stream(
            self._selection.path,
            query,
            what=f"watch {self._selection.plural}",
            silence=min(patience, self._config.request_deadline) if initial else patience,
        ) as stream:
            self._opened = True
            self._report(self._selection.kind, None)  # not at the first line: a quiet cluster sends none for minutes
            async for line in stream:
                self._hear()
                event, metadata = self._read(line)
                if gathered is None:
                    if event.type != "BOOKMARK":
                        yield self._change(event)
                    self._position = metadata.resource_version or self._position
                elif event.type != "BOOKMARK":
                    self._gather(gathered, event, metadata)
                    if asyncio.get_running_loop().time() > enough:
                        raise ApiError(f"{self._client.server} does not end its list of {self._selection.plural}")
                elif metadata.annotations and metadata.annotations.initial_events_end == "true":
                    self._arrive(metadata.resource_version or "")
                    stream.silence = patience
                    yield gather(self._selection.kind, gathered.values())
                    gathered = None

    def _read(self, line: bytes) -> tuple[wire.Event, wire.Metadata]:
        plural, server = self._selection.plural, self._client.server
        try:
            event = wire.decode_event(line)
        except wire.UNREADABLE as error:
            text = f"{server} sent something unreadable to watch {plural} ({error}); listing them again"
            raise ResourceExpired(text) from error
        match event.type:
            case "ADDED" | "MODIFIED" | "DELETED" | "BOOKMARK":
                return event, wire.identify(event.object)
            case "ERROR":
                status = wire.decode_status(event.object)
                said = " ".join((status.message or status.reason or "no reason given").split())[:300]
                text = f"{server} ended the watch of {plural} ({status.code}: {said}); listing them again"
                raise ResourceExpired(text, status=status.code or 0)
            case unknown:
                text = f"{server} sent an event of unknown type {unknown[:40]!r} to watch {plural}; listing them again"
                raise ResourceExpired(text)

    def _change(self, event: wire.Event) -> Change:
        if event.type == "DELETED":
            return self._converter.removed(self._selection.kind, event.object)
        return self._converter.changed(self._selection.kind, event.object)

    def _gather(self, gathered: dict[ObjectKey, Outcome], event: wire.Event, metadata: wire.Metadata) -> None:
        if event.type == "DELETED":
            gathered.pop(self._converter.key(self._selection.kind, metadata), None)
            return
        outcome = self._converter.convert(self._selection.kind, event.object)
        match outcome:
            case Usable():
                gathered[outcome.object.key] = outcome
            case NotOurs() | Rejection():
                gathered[outcome.key] = outcome

    def _query(self) -> dict[str, str]:
        chosen = {"labelSelector": self._selection.labels, "fieldSelector": self._selection.fields}
        return {name: text for name, text in chosen.items() if text}
