"""How our relay serves one Service: what its annotations ask for, and what is in force.

A Service asks by annotations ``kproxy.io/...``; what it leaves out, or asks for wrongly, is the node's default
(``relay_*`` in config.py). What is accepted stands in source/convert_relay.py, and a Wish holds nothing else. Two that
ask for the same are equal, in whatever order and spelling, so that an edit that means nothing is no change.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from kproxy.config import Balance, ProxyMode


class Relay(Struct, frozen=True):
    """Durations are seconds; 0 means none, unless it says otherwise."""

    balance: Balance
    connections: int  # at once; 0: no limit of its own. Sessions, for UDP
    connect_deadlines: tuple[float, ...]  # one attempt each
    idle: float  # a connection on which nothing moves for so long is reset
    silence: float  # a connection on which nothing ever moved is reset after that
    drain: float  # a connection to an endpoint that gets no new ones is reset after that
    eject_after: int  # failures to connect, one after another; 0: endpoints are never ejected
    eject_seconds: tuple[float, float]  # for how long: the first time, and at most
    eject_floor: float  # share of the endpoints that stays
    slow_start: float  # in which a new endpoint's share grows to a full one
    transparent: bool  # endpoints see the client's address, where rules would let them


class Wish(Struct, frozen=True):
    """What one Service asks for."""

    mode: ProxyMode | None = None  # None: the node's
    overrides: tuple[tuple[str, Any], ...] = ()  # fields of Relay with their values, by name; each once, in one order


NO_WISH = Wish()
