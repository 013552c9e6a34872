"""What rules can see: a packet on its way, and the node that it comes to.

Values only; ``judge.py`` asks them, ``rewrite.py`` makes the next one. What is not known is not left out but has a
value of its own, so that nobody takes it for something else.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_address, ip_network

from msgspec import Struct

from kproxy.model.enums import IPFamily
from kproxy.model.packet import Packet

SOME_ADDRESS = frozenset({"0.0.0.0", "::"})  # noqa: S104 -- stands for "one of the node's, which the kernel chooses"


def some_address(family: IPFamily) -> str:
    return "::" if family is IPFamily.IPV6 else "0.0.0.0"  # noqa: S104 -- see SOME_ADDRESS


class Tracked(Struct, frozen=True):
    """A flow that conntrack knows: nat is not asked about its packets, what it did to the first one is repeated.

    ``states``: NEW as long as nobody has answered, which is what conntrack(8) calls UNREPLIED.
    """

    destination: str = ""  # that DNAT wrote; empty: it wrote none
    port: int = 0
    source: str = ""  # that SNAT or MASQUERADE wrote; empty: they wrote none
    states: tuple[str, ...] = ("ESTABLISHED",)
    mark: int = 0  # CONNMARK's


class Host(Struct, frozen=True):
    """What the rules ask of the node."""

    addresses: frozenset[str] = frozenset()  # local addresses besides loopback
    remembered: frozenset[str] = frozenset()  # xt_recent lists that hold the packet's source
    routes: tuple[tuple[str, str], ...] = ()  # (CIDR, interface); where none fits, the way out is not known
    flow: Tracked | None = None  # of which the packet is; None: it is the first of its flow

    def is_local(self, address: str) -> bool:
        if not address:
            return False
        return address in self.addresses or address in SOME_ADDRESS or ip_address(address).is_loopback

    def interface_to(self, address: str) -> str | None:
        """By which interface a packet leaves; None: not known."""
        if not address:
            return None
        if self.is_local(address):
            return "lo"
        fitting = [(network(cidr)[2], name) for cidr, name in self.routes if is_within(address, cidr)]
        return max(fitting)[1] if fitting else None


class State(Struct, frozen=True):
    """A packet on its way, as far as rules can see it. Of ``packet`` a port 0 is not known, nor an empty address."""

    packet: Packet
    original: Packet  # as it was sent
    hook: str = ""  # PREROUTING, INPUT, FORWARD, OUTPUT, POSTROUTING
    way_in: str | None = ""  # the interface; empty: none; None: not known
    way_out: str | None = ""
    states: frozenset[str] = frozenset({"INVALID"})  # NEW, DNAT, ...; before conntrack has seen it: INVALID
    flow_mark: int = 0
    recorded: frozenset[str] = frozenset()  # xt_recent lists that hold the source by now
    rewritten: bool = False  # it went through DNAT
    steered: bool = False  # TPROXY gave it to a socket of the node
    source: str = ""  # what SNAT made of it, such as 192.0.2.1-192.0.2.9
    masquerade: bool = False  # its source is replaced

    @property
    def has_flow(self) -> bool:
        return self.states.isdisjoint(("INVALID", "UNTRACKED"))


def is_known(address: str) -> bool:
    return bool(address) and address not in SOME_ADDRESS


@lru_cache(maxsize=65536)
def network(cidr: str) -> tuple[int, int, int]:
    """(version, address, mask); a mask may be any pattern of bits, as in 10.0.0.1/255.0.0.255. Raises ValueError."""
    text, _, mask = cidr.partition("/")
    address = ip_address(text)
    if mask == str(address.max_prefixlen):  # nearly all: an address of a Service or of an endpoint
        return address.version, int(address), (1 << address.max_prefixlen) - 1
    if mask and not mask.isdecimal():
        bits = int(ip_address(mask))
        return address.version, int(address) & bits, bits
    found = ip_network(cidr, strict=False)
    return found.version, int(found.network_address), int(found.netmask)


@lru_cache(maxsize=65536)
def number(address: str) -> tuple[int, int]:
    parsed = ip_address(address)
    return parsed.version, int(parsed)


def is_within(address: str, cidr: str) -> bool:
    version, start, mask = network(cidr)
    own_version, own = number(address)
    return version == own_version and own & mask == start
