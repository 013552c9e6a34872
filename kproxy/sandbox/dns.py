"""Enough of the DNS wire format to ask one question and to answer it: A, AAAA and TXT, over UDP and TCP alike.

Written by hand because the sandbox needs a server that really answers on port 53 and the project needs no library
for it otherwise. No compression in what is written except the pointer to the question; what is read may use it.

Source of the rules: RFC 1035 sections 3 and 4, RFC 3596 (AAAA).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address

TYPES = {"A": 1, "TXT": 16, "AAAA": 28}
_NAMES = {number: name for name, number in TYPES.items()}
_INTERNET = 1
_HEADER = struct.Struct("!6H")  # id, flags, then the counts of questions, answers, authorities, additionals
_QUESTION = struct.Struct("!HH")  # type, class
_RECORD = struct.Struct("!HHHIH")  # name (a pointer), type, class, seconds to live, length
_POINTER_TO_QUESTION = 0xC000 | _HEADER.size
_IS_ANSWER, _AUTHORITATIVE, _RECURSION_WANTED = 0x8000, 0x0400, 0x0100
_OK, _FORMAT_ERROR, _NO_SUCH_NAME, _NOT_IMPLEMENTED = 0, 1, 3, 4
_OPCODE = 0x7800
_TTL = 5  # seconds, as short as CoreDNS's for cluster names

# What a name has under a record type; None when there is no such name at all.
Lookup = Callable[[str, str], Sequence[str] | None]


class Malformed(ValueError):
    """Bytes that are no DNS message."""


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer as its reader needs it: the response code (0 is success, 3 no such name) and the values."""

    ident: int
    code: int
    values: tuple[str, ...]


def ask(ident: int, name: str, kind: str) -> bytes:
    """The bytes of one question; ``kind`` is a key of TYPES."""
    header = _HEADER.pack(ident, _RECURSION_WANTED, 1, 0, 0, 0)
    return header + _write_name(name) + _QUESTION.pack(TYPES[kind], _INTERNET)


def answer(message: bytes, lookup: Lookup) -> bytes:
    """The bytes that answer ``message``; raises Malformed when they have not even a header."""
    if len(message) < _HEADER.size:
        raise Malformed("shorter than a header")
    ident, flags, questions, *_ = _HEADER.unpack_from(message)
    echoed = flags & (_OPCODE | _RECURSION_WANTED) | _IS_ANSWER | _AUTHORITATIVE
    if flags & _IS_ANSWER:
        raise Malformed("an answer, not a question")
    if flags & _OPCODE:
        return _HEADER.pack(ident, echoed | _NOT_IMPLEMENTED, 0, 0, 0, 0)
    try:
        name, kind, end = _read_question(message, questions)
    except Malformed:
        return _HEADER.pack(ident, echoed | _FORMAT_ERROR, 0, 0, 0, 0)
    question = message[_HEADER.size : end]
    values = lookup(name.lower(), _NAMES.get(kind, str(kind)))
    if values is None:
        return _HEADER.pack(ident, echoed | _NO_SUCH_NAME, 1, 0, 0, 0) + question
    records = [_write_record(kind, value) for value in values]
    return _HEADER.pack(ident, echoed | _OK, 1, len(records), 0, 0) + question + b"".join(records)


def read(message: bytes) -> Reply:
    """Understand an answer; raises Malformed."""
    ident, flags, questions, answers, _, _ = _unpack(_HEADER, message, 0)
    if not flags & _IS_ANSWER:
        raise Malformed("a question, not an answer")
    at = _HEADER.size
    for _ in range(questions):
        at = _read_name(message, at)[1] + 4
    values = []
    for _ in range(answers):
        at = _read_name(message, at)[1]
        kind, _, _, length = _unpack(struct.Struct("!HHIH"), message, at)
        at += 10
        values.append(_read_value(kind, message[at : at + length], length))
        at += length
    return Reply(ident, flags & 0xF, tuple(values))


def _read_question(message: bytes, questions: int) -> tuple[str, int, int]:
    """Name and type of the only question, and the offset behind it."""
    if questions != 1:
        raise Malformed("not exactly one question")
    name, end = _read_name(message, _HEADER.size)
    kind, _ = _unpack(_QUESTION, message, end)
    return name, kind, end + _QUESTION.size


def _write_name(name: str) -> bytes:
    labels = [label.encode("ascii") for label in name.strip(".").split(".") if label]
    if any(len(label) > 63 for label in labels):
        raise Malformed(f"{name!r} has a label of more than 63 bytes")
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def _read_name(message: bytes, at: int) -> tuple[str, int]:
    """The name at an offset and the offset behind it."""
    labels: list[str] = []
    end = None
    for _ in range(128):  # a name has at most 127 labels; more steps mean that pointers form a ring
        length = _byte(message, at)
        if length >= 0xC0:
            end = end or at + 2
            at = (length & 0x3F) << 8 | _byte(message, at + 1)
        elif length == 0:
            return ".".join(labels), end or at + 1
        else:
            label = message[at + 1 : at + 1 + length]
            if len(label) < length:
                break
            labels.append(label.decode("ascii", "backslashreplace"))
            at += 1 + length
    raise Malformed("a name without an end")


def _write_record(kind: int, value: str) -> bytes:
    if kind == TYPES["A"]:
        data = IPv4Address(value).packed
    elif kind == TYPES["AAAA"]:
        data = IPv6Address(value).packed
    else:
        text = value.encode()[:255]
        data = bytes([len(text)]) + text
    return _RECORD.pack(_POINTER_TO_QUESTION, kind, _INTERNET, _TTL, len(data)) + data


def _read_value(kind: int, data: bytes, length: int) -> str:
    if len(data) < length:
        raise Malformed("cut off in a record")
    match kind, length:
        case 1, 4:
            return str(IPv4Address(data))
        case 28, 16:
            return str(IPv6Address(data))
        case _:
            return data[1:].decode(errors="replace")


def _byte(message: bytes, at: int) -> int:
    if at >= len(message):
        raise Malformed("cut off")
    return message[at]


def _unpack(layout: struct.Struct, message: bytes, at: int) -> tuple[int, ...]:
    if len(message) < at + layout.size:
        raise Malformed("cut off")
    return layout.unpack_from(message, at)
