"""What the parent and a worker of the relay say to each other, and how it is framed.

The parent orders (``Begin`` once, then ``Serve``, ``Ask``, ``Stop``), the worker reports. Orders and reports carry
numbers that only grow, so an answer says what it answers. Rules are sent as they are, one by one, and only those that
changed; sockets come beside a frame, as files, in the order of the rules that are ``fresh``.

A frame is its length, how many files belong to it, and one message as MessagePack. Both ends check everything that
they read by its type: neither can be made to fail by the other, only to part with it. Rejected: pickle, which runs
what it reads, and JSON, which takes three times as long for this.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import TypeVar

import msgspec
from msgspec import Struct

from kproxy.backend.userspace.counts import Tally
from kproxy.backend.userspace.endpoints import Ejection
from kproxy.backend.userspace.rules import Listener, Rule
from kproxy.backend.userspace.share import Share
from kproxy.config import Config
from kproxy.model.keys import ServicePortKey

MOST_FILES = 250  # of one frame; the kernel takes 253 (SCM_MAX_FD)
MOST_BYTES = 64 << 20  # of one frame: a rule with half a million endpoints
_HEADER = struct.Struct("!IH")  # length of the message, number of files


class BadMessage(ValueError):
    """What came is nothing that is ever said here."""


# --- orders: what the parent says -----------------------------------------------------------------------------


class Begin(Struct, frozen=True, tag=True):
    """The first order; the board's file comes with it. ``seat`` counts from 0."""

    config: Config
    seat: int
    workers: int


class Serve(Struct, frozen=True, tag=True):
    """From now on serve ``rules``, each instead of the one that its listener had, and no longer ``gone``."""

    number: int
    rules: tuple[Rule, ...] = ()
    fresh: tuple[int, ...] = ()  # positions in ``rules`` of those whose sockets come with this
    gone: tuple[Listener, ...] = ()
    rows: tuple[tuple[ServicePortKey, int], ...] = ()  # on the board, of those that have a cap


class Ask(Struct, frozen=True, tag=True):
    """Say that you are there, and what you counted: in any case if it is ``urgent``, else as often as that is cheap."""

    number: int
    urgent: bool = False


class Stop(Struct, frozen=True, tag=True):
    """Let nobody in after ``linger`` seconds, end when nobody is left, ``grace`` seconds from now at the latest."""

    linger: float
    grace: float


Order = Begin | Serve | Ask | Stop


# --- reports: what a worker says ------------------------------------------------------------------------------


class Ready(Struct, frozen=True, tag=True):
    """The answer to ``Begin``."""

    share: Share


class Served(Struct, frozen=True, tag=True):
    """Every ``Serve`` up to ``number`` is in force, but for listeners that could not be opened (error numbers)."""

    number: int
    failed: tuple[tuple[Listener, int], ...] = ()


class Counted(Struct, frozen=True, tag=True):
    """What was added to the tallies of some service ports."""

    tallies: tuple[tuple[ServicePortKey, Tally], ...]


class Ejected(Struct, frozen=True, tag=True):
    """Endpoints that this worker leaves out for a while."""

    ejections: tuple[Ejection, ...]


class Told(Struct, frozen=True, tag=True):
    """The answer to every ``Ask`` up to ``number``: ``Counted`` before this is all that there was to say."""

    number: int


class Failed(Struct, frozen=True, tag=True):
    """Last words of a worker that cannot go on."""

    why: str


Report = Ready | Served | Counted | Ejected | Told | Failed

# --- frames ---------------------------------------------------------------------------------------------------

_Message = TypeVar("_Message")
_encoder = msgspec.msgpack.Encoder()
_orders: msgspec.msgpack.Decoder[Order] = msgspec.msgpack.Decoder(Order)
_reports: msgspec.msgpack.Decoder[Report] = msgspec.msgpack.Decoder(Report)


def frame(message: Order | Report, files: int = 0) -> bytes:
    said = _encoder.encode(message)
    return _HEADER.pack(len(said), files) + said


def order(said: bytes) -> Order:
    """Raises BadMessage."""
    return _decoded(_orders, said)


def report(said: bytes) -> Report:
    """Raises BadMessage."""
    return _decoded(_reports, said)


def _decoded(decoder: msgspec.msgpack.Decoder[_Message], said: bytes) -> _Message:
    try:
        return decoder.decode(said)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise BadMessage(f"not understood: {error}") from None


class Frames:
    """Cuts a stream of bytes into messages."""

    def __init__(self) -> None:
        self._waiting = bytearray()

    def feed(self, data: bytes) -> Iterator[tuple[bytes, int]]:
        """The messages that are complete by now, each with its number of files. Raises BadMessage."""
        self._waiting += data
        while len(self._waiting) >= _HEADER.size:
            length, files = _HEADER.unpack_from(self._waiting)
            if length > MOST_BYTES or files > MOST_FILES:
                raise BadMessage(f"a frame of {length} bytes and {files} files")
            end = _HEADER.size + length
            if len(self._waiting) < end:
                return
            said = bytes(self._waiting[_HEADER.size : end])
            del self._waiting[:end]
            yield said, files
