"""The nouns of iptables: table, chain, rule, match, target. Values only; ``text.py`` alone knows their syntax.

A rule of ours uses the matches named here. ``Unknown`` and ``UnknownTarget`` carry what other programs wrote and what
a dump may hold, so that a tracer can say "depends on …" instead of guessing.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from msgspec import Struct

from kproxy.model.enums import Protocol


class Table(StrEnum):
    FILTER = "filter"
    NAT = "nat"
    MANGLE = "mangle"


# --- matches --------------------------------------------------------------------------------------------------


class Source(Struct, frozen=True, gc=False):
    cidr: str  # with its prefix length, as iptables-save prints it: 10.0.0.1/32
    negated: bool = False


class Destination(Struct, frozen=True, gc=False):
    cidr: str
    negated: bool = False


class InInterface(Struct, frozen=True, gc=False):
    name: str  # a trailing + matches any rest
    negated: bool = False


class OutInterface(Struct, frozen=True, gc=False):
    name: str
    negated: bool = False


class OfProtocol(Struct, frozen=True, gc=False):
    protocol: Protocol
    negated: bool = False


class Comment(Struct, frozen=True, gc=False):
    text: str


class Ports(Struct, frozen=True, gc=False):
    """``-m tcp`` and its like: destination ports ``low`` to ``high``; no port at all where both are 0."""

    protocol: Protocol
    low: int = 0
    high: int = 0
    source_low: int = 0  # read from dumps; we never write source ports
    source_high: int = 0
    negated: bool = False  # of the destination ports


class Conntrack(Struct, frozen=True, gc=False):
    states: tuple[str, ...]  # NEW, ESTABLISHED, RELATED, INVALID, DNAT, ... in the order that is printed
    negated: bool = False


class Mark(Struct, frozen=True, gc=False):
    value: int
    mask: int
    negated: bool = False


class AddressType(Struct, frozen=True, gc=False):
    source: str = ""  # LOCAL, ...
    destination: str = ""


class Statistic(Struct, frozen=True, gc=False):
    """True for one packet in ``1 / probability``; 0 < probability < 1."""

    probability: float


class RecentCheck(Struct, frozen=True, gc=False):
    """The source was recorded in list ``name`` in the last ``seconds``; older entries are reaped."""

    name: str
    seconds: int
    reap: bool = True


class RecentSet(Struct, frozen=True, gc=False):
    """Record the source in list ``name``; always true."""

    name: str


class Nfacct(Struct, frozen=True, gc=False):
    """Count in an nfacct object; always true."""

    name: str


class Unknown(Struct, frozen=True, gc=False):
    text: str


Match = (
    Source
    | Destination
    | InInterface
    | OutInterface
    | OfProtocol
    | Comment
    | Ports
    | Conntrack
    | Mark
    | AddressType
    | Statistic
    | RecentCheck
    | RecentSet
    | Nfacct
    | Unknown
)

# --- targets --------------------------------------------------------------------------------------------------


class Jump(Struct, frozen=True, gc=False):
    chain: str


class Verdict(StrEnum):
    ACCEPT = "ACCEPT"
    DROP = "DROP"
    RETURN = "RETURN"


class RejectWith(Struct, frozen=True, gc=False):
    kind: str  # icmp-port-unreachable, icmp6-port-unreachable, tcp-reset, ...


class Dnat(Struct, frozen=True, gc=False):
    ip: str
    port: int


class Masquerade(Struct, frozen=True, gc=False):
    random_fully: bool


class SetMark(Struct, frozen=True, gc=False):
    """``--set-xmark value/mask``: clear the mask's bits, then exclusive-or the value."""

    value: int
    mask: int


class UnknownTarget(Struct, frozen=True, gc=False):
    text: str


Target = Jump | Verdict | RejectWith | Dnat | Masquerade | SetMark | UnknownTarget


# --- rules and chains -----------------------------------------------------------------------------------------


class Rule(NamedTuple):
    """Matches in the order in which iptables-save prints them; a rule without target only counts."""

    matches: tuple[Match, ...]
    target: Target | None


class Chain(NamedTuple):
    table: Table
    name: str
    rules: tuple[Rule, ...]


class Entry(NamedTuple):
    """A rule of ours in a built-in chain: where a packet enters our chains."""

    table: Table
    hook: str  # INPUT, FORWARD, OUTPUT, PREROUTING, POSTROUTING
    rule: Rule
