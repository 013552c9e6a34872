"""The nouns of iptables: table, chain, rule, match, target. Values only; ``text.py`` alone knows their syntax.

A rule of ours uses the fewer of them. The others are what other programs write and what a tracer can follow.
``Unknown`` and ``UnknownTarget`` carry the rest of what a dump may hold, so that a tracer can say "depends on …"
instead of guessing.
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


class OtherProtocol(Struct, frozen=True, gc=False):
    """``-p`` with none of ours."""

    name: str  # as printed: icmp, ipv6-icmp, gre, 200
    number: int = -1  # -1: a name that we do not know, of which we know only that it is none of ours
    negated: bool = False


class Fragment(Struct, frozen=True, gc=False):
    """``-f``: a second or further fragment; conntrack puts packets together, so rules behind it never see one."""

    negated: bool = False


class Comment(Struct, frozen=True, gc=False):
    text: str


class TcpFlags(Struct, frozen=True, gc=False):
    """Of the flags in ``mask`` those in ``set`` are set and the others are not; ``--syn`` is SYN of FIN,SYN,RST,ACK."""

    mask: tuple[str, ...]  # FIN, SYN, RST, PSH, ACK, URG
    set: tuple[str, ...]
    negated: bool = False


class Ports(Struct, frozen=True, gc=False):
    """``-m tcp`` and its like: destination ports ``low`` to ``high``; no port at all where both are 0."""

    protocol: Protocol
    low: int = 0
    high: int = 0
    source_low: int = 0  # read from dumps; we never write source ports
    source_high: int = 0
    negated: bool = False  # of the destination ports
    source_negated: bool = False
    flags: TcpFlags | None = None


class Multiport(Struct, frozen=True, gc=False):
    """A list of ports and ranges; ``side`` dports, sports, or ports: the one or the other of the packet's."""

    side: str
    ranges: tuple[tuple[int, int], ...]
    negated: bool = False


class IpRange(Struct, frozen=True, gc=False):
    """Addresses from the first to the last of a pair; None matches any."""

    source: tuple[str, str] | None = None
    destination: tuple[str, str] | None = None
    source_negated: bool = False
    destination_negated: bool = False


class Criterion(Struct, frozen=True, gc=False):
    """Another thing that is asked of a flow, by the option's name.

    --ctproto (a number), --ctorigsrc, --ctorigdst, --ctreplsrc, --ctrepldst (address or CIDR), the same four with
    ``port`` behind (low:high or one), --ctstatus (NONE, EXPECTED, SEEN_REPLY, ASSURED, CONFIRMED), --ctexpire,
    --ctdir (ORIGINAL, REPLY).
    """

    option: str
    value: str
    negated: bool = False


class Conntrack(Struct, frozen=True, gc=False):
    states: tuple[str, ...]  # NEW, ESTABLISHED, RELATED, INVALID, DNAT, ... as printed; empty: any
    negated: bool = False
    criteria: tuple[Criterion, ...] = ()  # all must hold besides


class State(Struct, frozen=True, gc=False):
    """``-m state``, the older conntrack."""

    states: tuple[str, ...]
    negated: bool = False


class Mark(Struct, frozen=True, gc=False):
    value: int
    mask: int
    negated: bool = False


class ConnMark(Struct, frozen=True, gc=False):
    """The mark of the flow."""

    value: int
    mask: int
    negated: bool = False


class AddressType(Struct, frozen=True, gc=False):
    source: str = ""  # LOCAL, ... or several with commas between them
    destination: str = ""
    source_negated: bool = False
    destination_negated: bool = False
    limit: str = ""  # "in", "out": local means of that interface


class Statistic(Struct, frozen=True, gc=False):
    """True for one packet in ``1 / probability``; 0 < probability < 1."""

    probability: float


class Nth(Struct, frozen=True, gc=False):
    """True for one packet in ``every``, by counting those that come by; ``packet`` is where that begins."""

    every: int
    packet: int
    negated: bool = False


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
    text: str  # as printed, with its -m


Match = (
    Source
    | Destination
    | InInterface
    | OutInterface
    | OfProtocol
    | OtherProtocol
    | Fragment
    | Comment
    | Ports
    | Multiport
    | IpRange
    | Conntrack
    | State
    | Mark
    | ConnMark
    | AddressType
    | Statistic
    | Nth
    | RecentCheck
    | RecentSet
    | Nfacct
    | Unknown
)

# --- targets --------------------------------------------------------------------------------------------------


class Jump(Struct, frozen=True, gc=False):
    chain: str


class Goto(Struct, frozen=True, gc=False):
    """``-g``: what comes to the end of ``chain``, or meets RETURN, returns to where the present chain was called."""

    chain: str


class Verdict(StrEnum):
    ACCEPT = "ACCEPT"
    DROP = "DROP"
    RETURN = "RETURN"


class RejectWith(Struct, frozen=True, gc=False):
    kind: str  # icmp-port-unreachable, icmp6-port-unreachable, tcp-reset, ...


class Dnat(Struct, frozen=True, gc=False):
    """To one address and one port."""

    ip: str
    port: int
    random: bool = False  # means nothing where there is one port
    persistent: bool = False


class DnatRange(Struct, frozen=True, gc=False):
    """Every other DNAT: the kernel chooses among addresses and ports, or leaves one as it is."""

    first: str  # empty: the address stays
    last: str
    low: int = 0  # 0: the port stays
    high: int = 0
    random: bool = False
    persistent: bool = False  # a client gets the same address each time


class Snat(Struct, frozen=True, gc=False):
    first: str  # empty: the address stays
    last: str
    low: int = 0  # 0: the port stays if it is free
    high: int = 0
    random: bool = False
    random_fully: bool = False
    persistent: bool = False


class Masquerade(Struct, frozen=True, gc=False):
    random_fully: bool
    low: int = 0  # 0: the port stays if it is free
    high: int = 0
    random: bool = False


class Redirect(Struct, frozen=True, gc=False):
    """DNAT to the node itself: to 127.0.0.1 or ::1 in OUTPUT, to the incoming interface's address elsewhere."""

    low: int = 0  # 0: the port stays
    high: int = 0
    random: bool = False


class Tproxy(Struct, frozen=True, gc=False):
    """To a socket of the node, without a rewrite; the packet is accepted, its mark ``mark & ~mask ^ value``."""

    port: int  # 0: the packet's own
    ip: str  # 0.0.0.0 or ::: the incoming interface's
    value: int
    mask: int


class SetMark(Struct, frozen=True, gc=False):
    """``--set-xmark value/mask``: clear the mask's bits, then exclusive-or the value."""

    value: int
    mask: int


class SetConnMark(Struct, frozen=True, gc=False):
    """The same to the flow's mark."""

    value: int
    mask: int


class SaveMark(Struct, frozen=True, gc=False):
    """Packet to flow: clear ``flow_mask`` in the flow's mark, then exclusive-or the packet's in ``packet_mask``."""

    packet_mask: int  # --nfmask
    flow_mask: int  # --ctmask


class RestoreMark(Struct, frozen=True, gc=False):
    """Flow to packet: clear ``packet_mask`` in the packet's mark, then exclusive-or the flow's in ``flow_mask``."""

    packet_mask: int
    flow_mask: int


class Notrack(Struct, frozen=True, gc=False):
    """The packet goes on and belongs to no flow: its state is UNTRACKED and it meets no rule of nat."""

    text: str  # "-j CT --notrack", "-j NOTRACK"


class PassOn(Struct, frozen=True, gc=False):
    """Something is done, such as LOG, that changes nothing a rule of ours asks about; the packet goes on."""

    text: str  # as printed, with its -j


class Queue(Struct, frozen=True, gc=False):
    """A program of the node decides what becomes of the packet (NFQUEUE, QUEUE)."""

    text: str


class UnknownTarget(Struct, frozen=True, gc=False):
    """Ends the packet's way here or does not, and may change it."""

    text: str  # as printed, with its -j


Target = (
    Jump
    | Goto
    | Verdict
    | RejectWith
    | Dnat
    | DnatRange
    | Snat
    | Masquerade
    | Redirect
    | Tproxy
    | SetMark
    | SetConnMark
    | SaveMark
    | RestoreMark
    | Notrack
    | PassOn
    | Queue
    | UnknownTarget
)


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
