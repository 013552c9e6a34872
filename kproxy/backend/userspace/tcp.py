"""What a relay of two TCP connections does, without sockets: events in, commands out.

Each direction ends by itself: an end of input from one side becomes an end of output on the other, whose answers go
on. A connection that breaks breaks the other one, too, by a reset, so that neither end takes a cut stream for a whole
one. While one side does not take what the other sends, the other is not read; that bounds what a flow can hold.

Orderly is only the end of both directions. Whatever else ends a flow, a deadline or the end of the program, resets
both sides.

This is the specification. ``flow`` does the same without making an object for each message, and a test lets the same
happen to both.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import Enum
from typing import NamedTuple


class Side(Enum):
    CLIENT = "client"
    ENDPOINT = "endpoint"

    @property
    def peer(self) -> Side:
        return Side.ENDPOINT if self is Side.CLIENT else Side.CLIENT


# --- what happens ---------------------------------------------------------------------------------------------


class Received(NamedTuple):
    side: Side
    data: bytes


class Ended(NamedTuple):
    """This side will send no more."""

    side: Side


class Broken(NamedTuple):
    """This side's connection is gone: a reset, or the network gave up."""

    side: Side


class Filled(NamedTuple):
    """This side takes no more for now."""

    side: Side


class Drained(NamedTuple):
    """This side takes more again."""

    side: Side


class Expired(NamedTuple):
    """Nothing was sent for too long, or we are to end."""


Event = Received | Ended | Broken | Filled | Drained | Expired

# --- what to do -----------------------------------------------------------------------------------------------


class Send(NamedTuple):
    side: Side  # to which
    data: bytes


class EndWrites(NamedTuple):
    side: Side


class Pause(NamedTuple):
    """Do not read from this side."""

    side: Side


class Resume(NamedTuple):
    side: Side


class Close(NamedTuple):
    """Everything was said: close once what is left has been sent."""

    side: Side


class Reset(NamedTuple):
    side: Side


Command = Send | EndWrites | Pause | Resume | Close | Reset


class Relay:
    """One flow; both connections are there, and neither is read yet when it begins."""

    __slots__ = ("_talking", "is_over")

    def __init__(self) -> None:
        self._talking = {Side.CLIENT, Side.ENDPOINT}  # those that may still send
        self.is_over = False

    @property
    def is_half_closed(self) -> bool:
        return len(self._talking) == 1

    def handle(self, event: Event) -> Iterator[Command]:
        """What to do about ``event``, to be done in order; nothing once the flow is over."""
        if self.is_over:
            return
        match event:
            case Received(side, data):
                yield Send(side.peer, data)
            case Filled(side) | Drained(side):
                if side.peer in self._talking:
                    yield Pause(side.peer) if isinstance(event, Filled) else Resume(side.peer)
            case Ended(side):
                self._talking.discard(side)
                yield EndWrites(side.peer)
                if not self._talking:
                    self.is_over = True
                    yield Close(Side.CLIENT)
                    yield Close(Side.ENDPOINT)
            case Broken(side):
                self.is_over = True
                yield Reset(side.peer)
            case Expired():  # pragma: no branch -- there is no seventh event; mypy checks
                self.is_over = True
                yield Reset(Side.CLIENT)
                yield Reset(Side.ENDPOINT)
