"""What the kernel tells of a traced packet: at each rule that it met, one sighting.

nf_tables and the legacy tables tell it in different words (kernel/sightings.py reads both); here they are one noun, and
explain/passages.py strings a packet's sightings together.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from kproxy.model.enums import IPFamily


class Kind(StrEnum):
    RULE = "rule"  # a rule matched
    RETURN = "return"  # the end of a chain was reached
    POLICY = "policy"  # the end of a built-in chain was reached, and its policy decided


class Header(Struct, frozen=True):
    """As the packet looked then: a table's rules may have rewritten it before."""

    source: str
    source_port: int  # 0: the protocol has none
    destination: str
    port: int
    protocol: str  # TCP, UDP, SCTP, ICMP, ICMPv6, or a number
    identity: tuple[int, ...]  # what nobody rewrites: identification, length, sequence number, first bytes of data

    @property
    def sender(self) -> tuple[object, ...]:
        """The same for a packet on its whole way, until its source is rewritten, which is the last thing done."""
        return (self.source, self.source_port, self.protocol, self.identity)

    @property
    def receiver(self) -> tuple[object, ...]:
        """The same from where its destination was rewritten, whatever becomes of its source."""
        return (self.destination, self.port, self.protocol, self.identity)


class Sighting(Struct, frozen=True):
    variant: str  # "nft", "legacy"
    family: IPFamily
    table: str
    chain: str
    kind: Kind
    rule: int = 0  # nft: its handle; legacy: its place in the chain, from 1; 0: none
    verdict: str = ""  # accept, drop, jump, goto, return, continue, ...; empty: not told (legacy)
    packet: int = 0  # the kernel's number for the packet; 0: not told (legacy)
    header: Header | None = None  # nft tells it once for each built-in chain
    in_interface: str = ""
    out_interface: str = ""
    is_mark: bool = False  # it is our own rule: the trace of this packet begins
