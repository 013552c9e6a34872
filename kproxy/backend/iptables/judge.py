"""Does a packet match? One judge for each noun of ``rules.py``.

A judge says yes or no, gives a probability where chance decides, or says in text what the answer depends on, where
something decides that neither rules nor packet show. It never guesses: an interface by which a packet will leave is
known only if the host's routes are, and an address that the kernel chooses (of MASQUERADE, of REDIRECT) matches no
particular network for certain.

Source of the rules: the match functions of net/netfilter/xt_*.c and net/ipv{4,6}/netfilter/ip{,6}_tables.c in Linux.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from ipaddress import IPv4Address, ip_address, ip_network
from typing import Any

from msgspec import Struct

from kproxy.backend.iptables import rules as r
from kproxy.backend.iptables.rules import Match, Rule
from kproxy.backend.iptables.text import render_rule
from kproxy.model.enums import IPFamily
from kproxy.model.packet import Packet

Answer = bool | float | str  # a float: a probability; a text: what it depends on

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
    mark: int = 0  # of the flow (CONNMARK)


class Host(Struct, frozen=True):
    """What the rules ask of the node."""

    addresses: frozenset[str] = frozenset()  # local addresses besides loopback
    remembered: frozenset[str] = frozenset()  # xt_recent lists that hold the packet's source
    routes: tuple[tuple[str, str], ...] = ()  # (CIDR, interface); where none fits, the way out is not known
    flow: Tracked | None = None  # of which the packet is; None: it is the first of its flow

    def is_local(self, address: str) -> bool:
        return address in self.addresses or address in SOME_ADDRESS or ip_address(address).is_loopback

    def interface_to(self, address: str) -> str | None:
        """By which interface a packet leaves; None: not known."""
        if self.is_local(address):
            return "lo"
        fitting = [(network(cidr)[2], name) for cidr, name in self.routes if is_within(address, cidr)]
        return max(fitting)[1] if fitting else None


class State(Struct, frozen=True):
    """A packet on its way, as far as rules can see it."""

    packet: Packet
    hook: str = ""  # PREROUTING, INPUT, FORWARD, OUTPUT, POSTROUTING
    way_in: str | None = ""  # the interface; empty: none; None: not known
    way_out: str | None = ""
    states: frozenset[str] = frozenset({"INVALID"})  # NEW, DNAT, ...; before conntrack has seen it: INVALID
    flow_mark: int = 0
    recorded: frozenset[str] = frozenset()  # xt_recent lists that hold the source by now
    rewritten: bool = False  # it went through DNAT
    source: str = ""  # what SNAT made of it, such as 192.0.2.1-192.0.2.9
    masquerade: bool = False  # its source is replaced


def judge(match: Match, state: State, host: Host) -> Answer:
    return JUDGES.get(type(match), _depends)(match, state, host)


def words(match: Match) -> str:
    """As iptables-save prints it."""
    return render_rule("-", Rule((match,), None)).removeprefix("-A - ")


# --- addresses and interfaces ---------------------------------------------------------------------------------


def _source(match: r.Source, state: State, _: Host) -> Answer:
    return _address(state.packet.source, match.cidr, match)


def _destination(match: r.Destination, state: State, _: Host) -> Answer:
    return _address(state.packet.destination, match.cidr, match)


def _address(address: str, cidr: str, match: r.Source | r.Destination) -> Answer:
    if address in SOME_ADDRESS:
        return words(match)
    try:
        return is_within(address, cidr) != match.negated
    except ValueError:
        return words(match)  # somebody edited this dump


@lru_cache(maxsize=65536)
def network(cidr: str) -> tuple[int, int, int]:
    """(version, address, mask); a mask may be any pattern of bits, as in 10.0.0.1/255.0.0.255. Raises ValueError."""
    text, _, mask = cidr.partition("/")
    address = ip_address(text)
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


def _in_interface(match: r.InInterface, state: State, _: Host) -> Answer:
    return _interface(match, state.way_in)


def _out_interface(match: r.OutInterface, state: State, _: Host) -> Answer:
    return _interface(match, state.way_out)


def _interface(match: r.InInterface | r.OutInterface, name: str | None) -> Answer:
    if name is None:
        return words(match)
    pattern = match.name
    named = name.startswith(pattern[:-1]) if pattern.endswith("+") else name == pattern
    return named != match.negated


def _address_type(match: r.AddressType, state: State, host: Host) -> Answer:
    answers = [
        _has_type(address, kinds, host)
        for address, kinds in ((state.packet.source, match.source), (state.packet.destination, match.destination))
        if kinds
    ]
    if False in answers:
        return False
    return words(match) if None in answers else True


_TOLD_BY_ADDRESS = {"LOCAL", "UNICAST", "MULTICAST", "BROADCAST"}


def _has_type(address: str, kinds: str, host: Host) -> bool | None:
    """None: routes decide, which are not known."""
    wanted = set(kinds.split(","))
    parsed = ip_address(address)
    if host.is_local(address):
        # IPv6 asks the address alone whether it is unicast, IPv4 the routes, which say local.
        return "LOCAL" in wanted or (parsed.version == 6 and "UNICAST" in wanted)
    if parsed.is_multicast:
        return "MULTICAST" in wanted
    if parsed == IPv4Address("255.255.255.255"):
        return "BROADCAST" in wanted
    if "UNICAST" in wanted:
        return True
    return None if wanted - _TOLD_BY_ADDRESS else False


# --- protocols and ports --------------------------------------------------------------------------------------


def _protocol(match: r.OfProtocol, state: State, _: Host) -> Answer:
    return (state.packet.protocol is match.protocol) != match.negated


def _ports(match: r.Ports, state: State, _: Host) -> Answer:
    packet = state.packet
    if packet.protocol is not match.protocol:
        return False
    if (match.low or match.high) and (match.low <= packet.port <= match.high) == match.negated:
        return False
    if not (match.source_low or match.source_high):
        return True
    if packet.source_port == 0:
        return words(match)
    return match.source_low <= packet.source_port <= match.source_high


# --- the flow, the mark, chance, memory -----------------------------------------------------------------------


def _conntrack(match: r.Conntrack, state: State, _: Host) -> Answer:
    return (not state.states.isdisjoint(match.states)) != match.negated


def _mark(match: r.Mark, state: State, _: Host) -> Answer:
    return (state.packet.mark & match.mask == match.value) != match.negated


def _statistic(match: r.Statistic, _: State, __: Host) -> Answer:
    return match.probability if 0 < match.probability < 1 else match.probability >= 1


def _recent_check(match: r.RecentCheck, state: State, host: Host) -> Answer:
    return match.name in host.remembered or match.name in state.recorded


def _always(_: Match, __: State, ___: Host) -> Answer:
    return True


def _depends(match: Match, _: State, __: Host) -> Answer:
    return words(match)


JUDGES: dict[type, Callable[[Any, State, Host], Answer]] = {
    r.Source: _source,
    r.Destination: _destination,
    r.InInterface: _in_interface,
    r.OutInterface: _out_interface,
    r.AddressType: _address_type,
    r.OfProtocol: _protocol,
    r.Ports: _ports,
    r.Conntrack: _conntrack,
    r.Mark: _mark,
    r.Statistic: _statistic,
    r.RecentCheck: _recent_check,
    r.RecentSet: _always,
    r.Nfacct: _always,
    r.Comment: _always,
    r.Unknown: _depends,
}
