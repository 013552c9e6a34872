"""One watch: a queue that the store fills and a response that empties it.

Changes are pushed into the queue of every open watch in the moment of the write, so compaction never hurts a watch
that is running, only one that starts too far back, as on a real server. Everything queued is written at once.

A watch ends by its own timeout, by the server's end, by the client's, or by a fault: cut off without a word
(`Ending.DROP`) or with the ERROR event that says Expired (`Ending.EXPIRE`).

Source: Kubernetes API concepts, "Efficient detection of changes", "Watch bookmarks", "Streaming lists".
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from datetime import datetime
from enum import Enum, auto

import msgspec
from aiohttp import web

from kproxy.sandbox.apiserver import encode
from kproxy.sandbox.apiserver.resources import Resource
from kproxy.sandbox.apiserver.routes import WatchRequest
from kproxy.sandbox.apiserver.selectors import Selector
from kproxy.sandbox.apiserver.status import StatusError, expired, too_large
from kproxy.sandbox.apiserver.store import Change, Store

_CHUNK = 1 << 18
"""Bytes written at once: large enough that 10,000 initial events cost few system calls."""


class Ending(Enum):
    CLOSE = auto()
    DROP = auto()
    EXPIRE = auto()


class Watch:
    """A running watch of one collection."""

    def __init__(
        self,
        resource: Resource,
        namespace: str,
        selector: Selector,
        request: WatchRequest,
        *,
        as_table: bool,
        now: Callable[[], datetime],
    ) -> None:
        self.resource = resource
        self.namespace = namespace
        self.selector = selector
        self.request = request
        self.as_table = as_table
        self.now = now
        self.ending: Ending | None = None
        self._queue: deque[Change] = deque()
        self._bookmark_due = False
        self._wake = asyncio.Event()

    def offer(self, change: Change) -> None:
        """Queue a change if it is of this watch's collection and namespace."""
        if change.collection != self.resource.stored_in:
            return
        if not self.namespace or self.namespace == change.new.key[0]:
            self._queue.append(change)
            self._wake.set()

    def send_bookmark(self) -> None:
        """Make a watch that asked for bookmarks send one now."""
        self._bookmark_due = self.request.bookmarks
        self._wake.set()

    def end(self, ending: Ending) -> None:
        self.ending = ending
        self._wake.set()

    def opening(self, store: Store) -> list[bytes]:
        """Return the events up to now: present objects or missed changes; raises StatusError if impossible."""
        start = self.request.start
        if start is None:
            stored = store.objects(self.resource.stored_in, self.namespace)
            present = [each for each in stored if self.selector.accepts(each)]
            events = encode.initial(self.resource, present, self.now(), as_table=self.as_table)
            if self.request.initial_end:
                events.append(encode.bookmark(self.resource, store.revision, initial_end=True))
            return events
        if start > store.revision:
            raise too_large(start, store.revision)
        missed = store.collections[self.resource.stored_in].after(start)
        return [self._encode(each) for each in missed if not self.namespace or each.new.key[0] == self.namespace]

    async def run(self, response: web.StreamResponse, store: Store, bookmark_every: float) -> None:
        """Write events until the watch ends; the opening ones must have been written."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.request.seconds if self.request.seconds else float("inf")
        while self.ending is None and loop.time() < deadline:
            patience = min(deadline - loop.time(), bookmark_every)
            if not await self._woken(patience):
                self._bookmark_due = self.request.bookmarks
            await write_all(response, self._drain(store))
        if self.ending is Ending.EXPIRE:
            error = expired("The resourceVersion for the provided watch is too old.")
            await response.write(error_event(error))

    async def _woken(self, patience: float) -> bool:
        try:
            async with asyncio.timeout(max(patience, 0)):
                await self._wake.wait()
        except TimeoutError:
            return False
        self._wake.clear()
        return True

    def _drain(self, store: Store) -> list[bytes]:
        events = [self._encode(change) for change in self._queue]
        self._queue.clear()
        if self._bookmark_due:
            self._bookmark_due = False
            events.append(encode.bookmark(self.resource, store.revision))
        return events

    def _encode(self, change: Change) -> bytes:
        return encode.change_event(self.resource, change, self.selector, self.now(), as_table=self.as_table)


async def write_all(response: web.StreamResponse, events: list[bytes]) -> None:
    """Write events in few large pieces."""
    piece: list[bytes] = []
    size = 0
    for each in events:
        piece.append(each)
        size += len(each)
        if size >= _CHUNK:
            await response.write(b"".join(piece))
            piece, size = [], 0
    if size:
        await response.write(b"".join(piece))


def error_event(error: StatusError) -> bytes:
    return encode.event("ERROR", msgspec.json.encode(error.document()))
