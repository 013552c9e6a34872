"""A flow: one conntrack entry, by the few fields that a service proxy compares; and what flows carry."""

from __future__ import annotations

from typing import NamedTuple

from msgspec import Struct

from kproxy.model.enums import Protocol


class Flow(Struct, frozen=True, gc=False):
    protocol: Protocol
    source: str  # original direction
    source_port: int
    destination: str  # original direction: what the client dialled
    port: int
    reply_source: str  # who answers: the endpoint after DNAT, else the destination itself
    reply_port: int
    reply_destination: str = ""  # where answers go: the client, or this node after masquerading
    reply_destination_port: int = 0


class Destination(NamedTuple):
    """What a client dialled; ``ip`` is empty for a node port, whichever address it was."""

    protocol: Protocol
    ip: str
    port: int


class Traffic(NamedTuple):
    """Some flows, and what they carried. Bytes are those of whole IP packets, as the kernel counts them."""

    flows: int = 0
    bytes_in: int = 0  # from the clients
    bytes_out: int = 0  # the answers

    def plus(self, other: Traffic) -> Traffic:
        return Traffic(self[0] + other[0], self[1] + other[1], self[2] + other[2])

    def minus(self, other: Traffic) -> Traffic:
        return Traffic(self[0] - other[0], self[1] - other[1], self[2] - other[2])


NO_TRAFFIC = Traffic()
