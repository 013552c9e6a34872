"""Netlink messages to sightings: what nf_tables tells of a traced packet, and what the legacy tables log of one.

nf_tables names a rule by its handle, a number that is never used twice in a table. The legacy tables name it by its
place in the chain, in a log line (``TRACE: nat:KUBE-SERVICES:rule:3``), and with it comes the packet as it is then.
Nothing here trusts a length: a message that is cut short gives a sighting with less in it, or none.
Source: linux/netfilter/nf_tables.h, nfnetlink_log.h; net/ipv4/netfilter/ip_tables.c, trace_packet.
"""

from __future__ import annotations

import re
import socket
import struct
from collections.abc import Callable, Mapping

from kproxy.kernel import netlink
from kproxy.kernel.trace_table import MARK_CHAIN, NFPROTO_INET, TABLE
from kproxy.model.enums import IPFamily
from kproxy.model.sighting import Header, Kind, Sighting

NFT_TRACE = netlink.NFT | 17
LOGGED = 4 << 8  # NFNL_SUBSYS_ULOG, NFULNL_MSG_PACKET
_FAMILIES = {2: IPFamily.IPV4, 10: IPFamily.IPV6}
_VERDICTS = {0: "drop", 1: "accept", 3: "queue", -1: "continue", -2: "break", -3: "jump", -4: "goto", -5: "return"}
_KINDS = {1: Kind.POLICY, 2: Kind.RETURN, 3: Kind.RULE}
_LOGGED = re.compile(r"TRACE: ([^: ]+):([^: ]+):(rule|return|policy):(\d+) ?")
_PROTOCOLS = {6: "TCP", 17: "UDP", 132: "SCTP", 1: "ICMP", 58: "ICMPv6"}
_WITH_PORTS = frozenset({6, 17, 132})
# Bytes of the transport header, and of the data behind it, that no rule rewrites: TCP's sequence number, what a
# datagram says (an IPv6 packet has no identification), an echo's number. nf_tables tells the first 20 bytes, no more.
_UNCHANGED = {6: (4, 8), 17: (8, 20), 132: (12, 20), 1: (6, 16), 58: (6, 16)}
_EXTENSIONS = frozenset({0, 43, 60})  # of IPv6, which stand before TCP and the like
_FRAGMENT = 44

InterfaceNames = Callable[[int], str]


def interface_name(index: int) -> str:
    try:
        return socket.if_indextoname(index)
    except OSError:
        return f"interface {index}" if index else ""


def read_nft(part: bytes, name_of: InterfaceNames = interface_name) -> Sighting | None:
    """One NFT_MSG_TRACE; None for any other message, or one of neither IP family."""
    fields = _fields(part, NFT_TRACE)
    family = _FAMILIES.get(_big(fields, 15))
    kind = _KINDS.get(_big(fields, 4))
    if family is None or kind is None:
        return None
    if kind is Kind.RULE and not _big(fields, 3):  # how Linux 6 tells of the end of a chain
        kind = Kind.RETURN
    table, chain = netlink.text(fields.get(1)), netlink.text(fields.get(2))
    verdict = _verdict(fields.get(5, b"")) if kind is not Kind.POLICY else _VERDICTS.get(_big(fields, 16), "")
    return Sighting(
        variant="nft",
        family=family,
        table=table,
        chain=chain,
        kind=kind,
        rule=_big(fields, 3),
        verdict=verdict,
        packet=_big(fields, 6),
        header=read_header(family, fields.get(8, b""), fields.get(9, b"")),
        in_interface=name_of(_big(fields, 10)),
        out_interface=name_of(_big(fields, 12)),
        is_mark=table == TABLE and chain == MARK_CHAIN and part[netlink.HEADER.size] == NFPROTO_INET,
    )


def read_legacy(part: bytes, name_of: InterfaceNames = interface_name) -> Sighting | None:
    """One packet that nfnetlink_log sends; None for what other rules log."""
    fields = _fields(part, LOGGED)
    found = _LOGGED.match(netlink.text(fields.get(10)))
    family = _FAMILIES.get(part[netlink.HEADER.size]) if len(part) > netlink.HEADER.size else None
    if found is None or family is None:
        return None
    return Sighting(
        variant="legacy",
        family=family,
        table=found[1],
        chain=found[2],
        kind=Kind(found[3]),
        rule=int(found[4]),
        header=read_packet(family, fields.get(9, b"")),
        in_interface=name_of(_big(fields, 4)),
        out_interface=name_of(_big(fields, 5)),
    )


def _fields(part: bytes, kind: int) -> Mapping[int, bytes]:
    if len(part) < netlink.BODY or netlink.HEADER.unpack_from(part)[1] != kind:
        return {}
    return {number: part[first:last] for number, first, last in netlink.attributes(part, netlink.BODY, len(part))}


def _big(fields: Mapping[int, bytes], number: int) -> int:
    return int.from_bytes(fields.get(number, b"")[:8], "big")


def _verdict(nest: bytes) -> str:
    code = netlink.find(nest, 0, len(nest), 1)
    return "" if code is None else _VERDICTS.get(int.from_bytes(code, "big", signed=True), "")


# --- headers --------------------------------------------------------------------------------------------------


def read_packet(family: IPFamily, data: bytes) -> Header | None:
    """A packet from its network header on."""
    if family is IPFamily.IPV4:
        length = (data[0] & 0xF) * 4 if data else 0
        return read_header(family, data, data[length:] if length >= 20 else b"")
    _, at = _skip_extensions(data)
    return read_header(family, data, data[at:])


def read_header(family: IPFamily, network: bytes, transport: bytes) -> Header | None:
    """None where the network header is cut short."""
    if len(network) < (20 if family is IPFamily.IPV4 else 40):
        return None
    if family is IPFamily.IPV4:
        number, source, destination = network[9], network[12:16], network[16:20]
        identity = [*struct.unpack_from(">HH", network, 2)]  # total length, identification
        domain = socket.AF_INET
    else:
        (number, _), source, destination = _skip_extensions(network), network[8:24], network[24:40]
        identity = [*struct.unpack_from(">H", network, 4)]  # payload length
        domain = socket.AF_INET6
    ports = struct.unpack_from(">HH", transport) if number in _WITH_PORTS and len(transport) >= 4 else (0, 0)
    if first_last := _UNCHANGED.get(number):
        identity.append(int.from_bytes(transport[slice(*first_last)], "big"))
    return Header(
        source=socket.inet_ntop(domain, source),
        source_port=ports[0],
        destination=socket.inet_ntop(domain, destination),
        port=ports[1],
        protocol=_PROTOCOLS.get(number, str(number)),
        identity=tuple(identity),
    )


def _skip_extensions(data: bytes) -> tuple[int, int]:
    """(protocol, where its header begins) behind an IPv6 header."""
    if len(data) < 40:
        return -1, len(data)
    number, at = data[6], 40
    while number in _EXTENSIONS and at + 2 <= len(data):
        number, at = data[at], at + (data[at + 1] + 1) * 8
    if number == _FRAGMENT and at + 8 <= len(data):
        number, at = data[at], at + 8
    return number, at
