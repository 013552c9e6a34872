"""A flow: one conntrack entry, by the few fields that a service proxy compares."""

from __future__ import annotations

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
