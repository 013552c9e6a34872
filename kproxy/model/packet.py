"""A packet as the first of its flow, for tracers: where it comes from and where it wants to go."""

from __future__ import annotations

from msgspec import Struct

from kproxy.model.enums import IPFamily, Protocol, family_of


class Packet(Struct, frozen=True):
    source: str
    destination: str
    port: int
    protocol: Protocol = Protocol.TCP
    source_port: int = 40000
    in_interface: str = "eth0"  # meaningless when from_host
    from_host: bool = False  # made by a process on the node: meets OUTPUT, not PREROUTING
    mark: int = 0

    @property
    def family(self) -> IPFamily:
        return family_of(self.destination)
