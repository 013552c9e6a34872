"""A server whose objects change while it is watched, and that does not always say so in good order.

The server is always right about what it holds: a list gives exactly that. Its watch may repeat events, send objects
that cannot be read, bookmarks out of turn, lines without sense, errors, and may hang up at any moment. What arrives is
cut into chunks anywhere, as networks do.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

from hypothesis import strategies as st

from kproxy.errors import ApiError, ResourceExpired
from kproxy.model.enums import Kind
from kproxy.model.keys import ObjectKey
from kproxy.source.convert import Converter
from kproxy.source.lines import Splitter
from kproxy.source.wire import identify
from tests.fuzz.hostile import BROKEN_BYTES, encode, mutated
from tests.fuzz.objects import OBJECTS

_LONG = 2 << 20  # bytes of an annotation
KINDS = (Kind.SERVICE, Kind.ENDPOINT_SLICE)


_TOLD = {"put", "delete"}
_DEEDS = st.sampled_from(
    ["put"] * 4
    + ["delete"] * 4
    + ["spoilt"] * 2
    + ["bookmark", "end", "noise", "error", "cut", "hangup", "long"]
)  # fmt: skip


class Act(NamedTuple):
    """``do``: put, delete, bookmark, end (of an initial list), noise, cut or hangup."""

    do: str
    data: bytes = b""


class Story(NamedTuple):
    kind: Kind
    acts: list[Act]
    sizes: list[int]  # of chunks, used in turn
    streams: bool  # initial lists
    early: int  # acts that happen while an initial list is streamed


class Over(BaseException):
    """The story is over, and the reader must not take it for an error of the API."""


@st.composite
def stories(draw: st.DrawFn) -> Story:
    kind = draw(st.sampled_from(KINDS))
    acts = [_act(draw, kind) for _ in range(draw(st.sampled_from([12, 8, 4, 1])))]
    sizes = draw(st.lists(st.sampled_from([1, 7, 100, 4096, 1 << 20]), min_size=1, max_size=3))
    if any(len(act.data) > _LONG for act in acts):
        sizes = [1 << 16]
    return Story(kind, acts, sizes, draw(st.booleans()), draw(st.sampled_from([0, 1, 6])))


def _act(draw: st.DrawFn, kind: Kind) -> Act:
    do = draw(_DEEDS)
    match do:
        case "put" | "delete" | "long":
            written = draw(OBJECTS[kind]())
            if do == "long" and draw(st.integers(0, 9)) == 0:
                written["metadata"]["annotations"] = {"note": "x" * _LONG}
            return Act("put" if do == "long" else do, encode(written))
        case "spoilt":
            return Act("put", encode(draw(mutated(draw(OBJECTS[kind]())))))
        case "noise":
            return Act(
                "noise",
                draw(
                    st.sampled_from([*BROKEN_BYTES, b'{"type":"ADDED"}', b'{"type":"NEW","object":{}}', b'{"type":7}'])
                ),
            )
        case "error":
            code = draw(st.sampled_from([410, 500, 0, "410", None, 10**30]))
            return Act(
                "noise",
                json.dumps({"type": "ERROR", "object": {"kind": "Status", "code": code, "message": "a\nb"}}).encode(),
            )
        case _:
            return Act(do)


class StoryTeller:
    """Stands for ``source.client.Client``; raises ``Over`` when there is nothing more to tell."""

    server = "https://story"

    def __init__(self, story: Story) -> None:
        self.story = story
        self.objects: dict[ObjectKey, bytes] = {}
        self._left = [*story.acts]
        self._version = 0
        self._converter = Converter()
        self._told_all = 0

    async def get(self, _path: str, query: Mapping[str, str], *, what: str) -> bytes:
        del what
        if query.get("resourceVersion") == "gone":
            raise ResourceExpired("too old")
        items = b",".join(self.objects.values())
        return b'{"metadata":{"resourceVersion":"%d"},"items":[%s]}' % (self._version, items)

    @asynccontextmanager
    async def stream(self, _path: str, query: Mapping[str, str], *, what: str, silence: float) -> AsyncIterator[Any]:
        del what, silence
        initial = "sendInitialEvents" in query
        if initial and not self.story.streams:
            raise ApiError("what is sendInitialEvents?", status=400)
        yield _Lines(self._cut(self._chunks(initial=initial)))

    async def _chunks(self, *, initial: bool) -> AsyncIterator[bytes]:
        """One session. The end of the story comes after a session in which everything was said."""
        for line in self._initial() if initial else ():
            yield line
        while self._left:
            act = self._left.pop(0)
            match act.do:
                case "put" | "delete":
                    yield self._change(act)
                case "bookmark" | "end":
                    yield self._line("BOOKMARK", self._bookmark(end=act.do == "end"))
                case "noise":
                    # Whoever does not list again after that has missed something. An empty line is no event.
                    if act.data.strip() and self._left and self._left[0].do in _TOLD:
                        self._change(self._left.pop(0))
                    yield act.data + b"\n"
                case "cut":
                    yield b'{"type":"ADDED","object":{"metadata":{"na'
                    return
                case _:
                    return
        if self._told_all:
            raise Over
        self._told_all = 1

    def _initial(self) -> Iterator[bytes]:
        for data in [*self.objects.values()]:
            yield self._line("ADDED", data)
        for _ in range(self.story.early):
            if self._left and self._left[0].do in _TOLD:
                yield self._change(self._left.pop(0))
        yield self._line("BOOKMARK", self._bookmark(end=True))

    def _change(self, act: Act) -> bytes:
        """Let it happen; the line that tells of it. Half of the deletions are of what is there."""
        key, data = self._converter.key(self.story.kind, identify(act.data)), act.data
        self._version += 1
        if act.do == "delete":
            if key not in self.objects and self._version % 2:
                key, data = next(iter(self.objects.items()), (key, data))
            self.objects.pop(key, None)
            return self._line("DELETED", data)
        known = key in self.objects
        self.objects[key] = data
        return self._line(
            "MODIFIED" if known != (self._version % 5 == 0) else "ADDED", data
        )  # now and then the wrong word

    def _bookmark(self, *, end: bool) -> bytes:
        annotations = {"k8s.io/initial-events-end": "true"} if end else {}
        return encode({"metadata": {"resourceVersion": str(self._version), "annotations": annotations}})

    @staticmethod
    def _line(kind: str, data: bytes) -> bytes:
        return b'{"type":"%s","object":%s}\n' % (kind.encode(), data)

    async def _cut(self, chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """The same bytes in pieces of other sizes."""
        number = 0
        async for chunk in chunks:
            start = 0
            while start < len(chunk):
                size = self.story.sizes[number % len(self.story.sizes)]
                yield chunk[start : start + size]
                start, number = start + size, number + 1


class _Lines:
    """Stands for ``source.client.Stream``."""

    silence = 0.0

    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks

    async def __aiter__(self) -> AsyncIterator[bytes]:
        splitter = Splitter()
        async for chunk in self._chunks:
            for line in splitter.feed(chunk):
                yield line
