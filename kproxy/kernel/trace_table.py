"""The trace rule, as nf_tables messages: a table that belongs to one socket and is gone when that socket is.

Two built-in chains (packets from elsewhere, packets of the node itself) lead to chain ``scope``, whose rules say which
packets are meant; from there all go to the only rule that does anything: ``limit rate …; meta nftrace set 1``. One
rule, so one limit for all. The bit makes nf_tables and the legacy tables alike tell what becomes of the packet.

First packets of flows only, unless all are wanted: rules of nat are asked about no others. They are known from
conntrack, so the rule stands right behind it (priority -199) and table raw is not seen; with all packets it stands
before everything but the reassembly of fragments (-400).

The flag ``owner`` (Linux 5.12) ties the table to the socket: Ctrl-C, a crash or SIGKILL closes it, and the kernel
removes the table itself. The messages are made here rather than by nft(8): ``nft -i`` reads its pipe line by line and
cannot take such a table, the program may be missing on a node with legacy iptables, and what was typed on a command
line reaches the kernel as numbers, so there is nothing to escape.
Source: linux/netfilter/nf_tables.h; what ``nft --debug=netlink`` says of the same rules.
"""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Iterable, Iterator, Sequence

from msgspec import Struct

from kproxy.kernel.netlink import CREATE, EXCL, NFT, attribute, nested
from kproxy.model.enums import IPFamily, Protocol

TABLE = "kproxy-trace"
MARK_CHAIN = "pace"
SCOPE_CHAIN = "scope"
BURST = 5  # packets that may come at once: a resolver asks for A and AAAA in the same moment
NFPROTO_INET = 1

NEW_TABLE, GET_TABLE, DELETE_TABLE = NFT | 0, NFT | 1, NFT | 2
NEW_CHAIN, NEW_RULE = NFT | 3, NFT | 6
_APPEND = 0x800
_OWNER = 2  # NFT_TABLE_F_OWNER
_PREROUTING, _OUTPUT = 0, 3
_BEHIND_CONNTRACK, _BEFORE_RAW = -199, -350
_REGISTER, _VERDICT_REGISTER = 1, 0
_JUMP, _GOTO = -3, -4
_EQUAL, _UNEQUAL = 0, 1
_LIIFNAME, _NFTRACE, _NFPROTO, _L4PROTO = 6, 12, 15, 16  # NFT_META_*
_CT_STATE, _STATE_NEW = 0, struct.pack("=I", 8)
_NETWORK, _TRANSPORT = 1, 2  # NFT_PAYLOAD_*_HEADER
_FIB_ADDRESS_TYPE, _FIB_DESTINATION, _LOCAL = 3, 1 << 1, struct.pack("=I", 2)
_IFNAMSIZ = 16
_LOOPBACK = "lo"
_COMMENTED = "kproxy trace, process "
_COMMENT = re.compile(rb"kproxy trace, process (\d{1,10})\0")
_NUMBERS = {Protocol.TCP: 6, Protocol.UDP: 17, Protocol.SCTP: 132}
_DOMAINS = {IPFamily.IPV4: socket.AF_INET, IPFamily.IPV6: socket.AF_INET6}
_SOURCE_AT = {IPFamily.IPV4: 12, IPFamily.IPV6: 8}
_DESTINATION_AT = {IPFamily.IPV4: 16, IPFamily.IPV6: 24}

Request = tuple[int, int, int, bytes]  # type, flags, family, body


class Selector(Struct, frozen=True):
    """Packets that are meant: everything given must hold."""

    family: IPFamily
    source: str = ""  # empty: any; addresses are canonical
    destination: str = ""
    port: int = 0  # 0: any; with a port goes a protocol
    protocol: Protocol | None = None
    interface: str = ""  # where it comes in
    local: bool = False  # the destination is an address of the node


def requests(selectors: Iterable[Selector], *, rate: int, every: bool, process: int) -> list[Request]:
    """One transaction that makes the table.

    ``rate``: packets a second; ``every``: not only the first of a flow; ``process``: our number, for who finds it.
    """
    selectors = tuple(selectors)
    priority = _BEFORE_RAW if every else _BEHIND_CONNTRACK
    condition = () if every else _is_new()
    is_loopback = any(selector.interface == _LOOPBACK for selector in selectors)
    return [
        (NEW_TABLE, CREATE | EXCL, NFPROTO_INET, _named(1) + _number(2, _OWNER) + attribute(6, _comment(process))),
        _chain(MARK_CHAIN),
        _chain(SCOPE_CHAIN),
        _rule(MARK_CHAIN, _limit(rate), *_set_trace()),
        *(_rule(SCOPE_CHAIN, *_conditions(selector), _go(_GOTO, MARK_CHAIN)) for selector in selectors),
        *_hooked("prerouting", _PREROUTING, priority, *condition, *(() if is_loopback else _is_from_elsewhere())),
        *_hooked("output", _OUTPUT, priority, *condition),
    ]


def removal() -> Request:
    return (DELETE_TABLE, 0, NFPROTO_INET, _named(1))


def lookup() -> Request:
    return (GET_TABLE, 0, NFPROTO_INET, _named(1))


def process_of(userdata: bytes) -> str:
    """Whose table it is, from its comment; empty: it does not say."""
    found = _COMMENT.match(userdata[2:])
    return found[1].decode() if found else ""


def _comment(process: int) -> bytes:
    """As nft(8) stores one: type 0, the length, the text."""
    text = f"{_COMMENTED}{process}".encode() + b"\0"
    return bytes([0, len(text)]) + text


# --- tables, chains, rules ------------------------------------------------------------------------------------


def _named(number: int) -> bytes:
    return _text(number, TABLE)


def _text(number: int, text: str) -> bytes:
    return attribute(number, text.encode() + b"\0")


def _number(number: int, value: int) -> bytes:
    return attribute(number, struct.pack(">i" if value < 0 else ">I", value))


def _chain(name: str) -> Request:
    return (NEW_CHAIN, CREATE, NFPROTO_INET, _named(1) + _text(3, name))


def _hooked(name: str, hook: int, priority: int, *conditions: bytes) -> Iterator[Request]:
    where = nested(4, _number(1, hook), _number(2, priority))
    yield (NEW_CHAIN, CREATE, NFPROTO_INET, _named(1) + _text(3, name) + where + _text(7, "filter"))
    yield _rule(name, *conditions, _go(_JUMP, SCOPE_CHAIN))


def _rule(chain: str, *expressions: bytes) -> Request:
    return (NEW_RULE, CREATE | _APPEND, NFPROTO_INET, _named(1) + _text(2, chain) + nested(4, *expressions))


# --- expressions ----------------------------------------------------------------------------------------------


def _expression(name: str, *fields: bytes) -> bytes:
    return nested(1, _text(1, name), nested(2, *fields))


def _conditions(selector: Selector) -> Sequence[bytes]:
    family = selector.family
    found = [*_meta_is(_NFPROTO, bytes([_DOMAINS[family]]))]
    if selector.interface:
        found += _meta_is(_LIIFNAME, selector.interface.encode().ljust(_IFNAMSIZ, b"\0"))
    for address, place in ((selector.source, _SOURCE_AT), (selector.destination, _DESTINATION_AT)):
        if address:
            found += _payload_is(_NETWORK, place[family], socket.inet_pton(_DOMAINS[family], address))
    if selector.protocol is not None:
        found += _meta_is(_L4PROTO, bytes([_NUMBERS[selector.protocol]]))
    if selector.port:
        found += _payload_is(_TRANSPORT, 2, struct.pack(">H", selector.port))
    if selector.local:
        found += [
            _expression("fib", _number(1, _REGISTER), _number(2, _FIB_ADDRESS_TYPE), _number(3, _FIB_DESTINATION)),
            _compare(_LOCAL),
        ]
    return found


def _compare(value: bytes, how: int = _EQUAL) -> bytes:
    return _expression("cmp", _number(1, _REGISTER), _number(2, how), nested(3, attribute(1, value)))


def _meta_is(what: int, value: bytes, how: int = _EQUAL) -> tuple[bytes, bytes]:
    return _expression("meta", _number(2, what), _number(1, _REGISTER)), _compare(value, how)


def _payload_is(base: int, offset: int, value: bytes) -> tuple[bytes, bytes]:
    fields = (_number(1, _REGISTER), _number(2, base), _number(3, offset), _number(4, len(value)))
    return _expression("payload", *fields), _compare(value)


def _is_new() -> tuple[bytes, bytes, bytes]:
    state = _expression("ct", _number(2, _CT_STATE), _number(1, _REGISTER))
    mask = (nested(4, attribute(1, _STATE_NEW)), nested(5, attribute(1, bytes(4))))
    bits = _expression("bitwise", _number(1, _REGISTER), _number(2, _REGISTER), _number(3, 4), *mask)
    return state, bits, _compare(bytes(4), _UNEQUAL)


def _is_from_elsewhere() -> tuple[bytes, bytes]:
    """What comes in through lo was marked when it went out, and need not use up the rate twice."""
    return _meta_is(_LIIFNAME, _LOOPBACK.encode().ljust(_IFNAMSIZ, b"\0"), _UNEQUAL)


def _limit(rate: int) -> bytes:
    return _expression(
        "limit", attribute(1, struct.pack(">Q", rate)), attribute(2, struct.pack(">Q", 1)), _number(3, BURST)
    )


def _set_trace() -> tuple[bytes, bytes]:
    one = _expression("immediate", _number(1, _REGISTER), nested(2, attribute(1, b"\1")))
    return one, _expression("meta", _number(2, _NFTRACE), _number(3, _REGISTER))


def _go(how: int, chain: str) -> bytes:
    verdict = nested(2, nested(2, _number(1, how), _text(2, chain)))
    return _expression("immediate", _number(1, _VERDICT_REGISTER), verdict)
