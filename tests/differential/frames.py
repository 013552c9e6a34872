"""Packets as bytes: the first one of a flow, made from a model Packet, and what is read of those that arrive.

Each carries a token (a TCP sequence number, a UDP payload, an SCTP tag), by which it is known again after its addresses
and ports have been rewritten, and in the quotation of an ICMP error.
"""

from __future__ import annotations

import struct
from ipaddress import ip_address
from typing import NamedTuple

from kproxy.model.enums import Protocol
from kproxy.model.packet import Packet

_NUMBERS = {Protocol.TCP: 6, Protocol.UDP: 17, Protocol.SCTP: 132}
_ICMP, _ICMP6 = 1, 58
_SYN, _RST = 0x02, 0x04
_ERRORS = {_ICMP: {3}, _ICMP6: {1}}  # destination unreachable


class Read(NamedTuple):
    """``kind``: "first" of a flow, an "error" (ICMP) or a "reset" that answers it."""

    kind: str
    token: int
    source: str
    destination: str
    port: int
    source_port: int = 0


def build(packet: Packet, token: int) -> bytes:
    """An IP packet."""
    source, destination = ip_address(packet.source).packed, ip_address(packet.destination).packed
    number = _NUMBERS[packet.protocol]
    ports = struct.pack("!HH", packet.source_port, packet.port)
    match packet.protocol:
        case Protocol.TCP:
            body, at = ports + struct.pack("!IIBBHHH", token, 0, 5 << 4, _SYN, 65535, 0, 0), 16
        case Protocol.UDP:
            body, at = ports + struct.pack("!HHI", 12, 0, token), 6
        case Protocol.SCTP:  # a chunk INIT, whose tag the answer would bear
            body, at = ports + struct.pack("!IIBBHIIHHI", 0, 0, 1, 0, 20, token, 65535, 1, 1, 1), 8
    if packet.protocol is Protocol.SCTP:
        checksum = struct.pack("<I", _crc32c(body))
    else:
        pseudo = source + destination + struct.pack("!II", len(body), number)
        checksum = struct.pack("!H", _checksum(pseudo + body) or 0xFFFF)
    body = body[:at] + checksum + body[at + len(checksum) :]
    if len(source) == 16:
        return struct.pack("!IHBB", 6 << 28, len(body), number, 64) + source + destination + body
    head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(body), token & 0xFFFF, 0, 64, number, 0) + source + destination
    return head[:10] + struct.pack("!H", _checksum(head)) + head[12:] + body


def _checksum(data: bytes) -> int:
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def _crc32c(data: bytes) -> int:
    register = 0xFFFF_FFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F6_3B78 if register & 1 else 0)
    return register ^ 0xFFFF_FFFF


def read(data: bytes) -> Read | None:
    """What an IP packet says; None where it is none that we sent or caused."""
    number, source, destination, body = _open(data)
    source_port, port = struct.unpack_from("!HH", body) if len(body) >= 4 else (0, 0)
    match number:
        case 6 if len(body) >= 20:
            token, answered, flags = struct.unpack_from("!IIxB", body, 4)
            if flags & _RST:
                return Read("reset", (answered - 1) & 0xFFFF_FFFF, source, destination, 0)
            return Read("first", token, source, destination, port, source_port)
        case 17 if len(body) >= 12:
            return Read("first", int.from_bytes(body[8:12], "big"), source, destination, port, source_port)
        case 132 if len(body) >= 20 and body[12] == 1:
            return Read("first", int.from_bytes(body[16:20], "big"), source, destination, port, source_port)
        case 1 | 58 if len(body) > 28 and body[0] in _ERRORS[number]:
            quoted = read(body[8:])
            return quoted and quoted._replace(kind="error")
    return None


def _open(data: bytes) -> tuple[int, str, str, bytes]:
    """(protocol, source, destination, what is inside)"""
    if data[0] >> 4 == 4:
        length = (data[0] & 15) * 4
        return data[9], str(ip_address(data[12:16])), str(ip_address(data[16:20])), data[length:]
    return data[6], str(ip_address(data[8:24])), str(ip_address(data[24:40])), data[40:]
