"""Netfilter's netlink sockets: messages packed and walked by hand.

conntrack.py, nfacct.py and monitor.py need a handful of fixed messages each, some of them 130,000 at a time. pyroute2's
encoder and decoder were measured 30 to 240 times slower than struct on exactly these, so it serves addresses only.
Calls are blocking with a deadline; who may meet many messages runs them in a thread.
Source: netlink(7), linux/netfilter/nfnetlink.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
import time
from collections.abc import Iterator, Sequence
from typing import Self

from kproxy.errors import KernelError, NotPermitted

NETLINK_NETFILTER = 12
HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
NFGEN = struct.Struct("=BBH")  # address family, version, resource id (big endian, 0 here)
ATTRIBUTE = struct.Struct("=HH")
BODY = HEADER.size + NFGEN.size  # where attributes begin

REQUEST, ACK, ROOT, MATCH, CREATE, EXCL = 0x1, 0x4, 0x100, 0x200, 0x400, 0x200
DUMP = ROOT | MATCH
DUMP_INTERRUPTED = 0x10
ERROR, DONE = 2, 3
_NESTED = 0x8000
_TYPE_MASK = 0x3FFF
_RECEIVE = 1 << 20

_BATCH_BEGIN, _BATCH_END = 0x10, 0x11

# nf_tables (linux/netfilter/nf_tables.h)
_NFT_SUBSYSTEM = 10
NFT = _NFT_SUBSYSTEM << 8
NEWGEN, GETGEN = NFT | 15, NFT | 16


def attribute(number: int, payload: bytes) -> bytes:
    length = ATTRIBUTE.size + len(payload)
    return ATTRIBUTE.pack(length, number) + payload + bytes(-length % 4)


def nested(number: int, *attributes: bytes) -> bytes:
    return attribute(number | _NESTED, b"".join(attributes))


def message(kind: int, flags: int, family: int, body: bytes = b"", sequence: int = 0) -> bytes:
    length = BODY + len(body)
    return HEADER.pack(length, kind, flags | REQUEST, sequence, 0) + NFGEN.pack(family, 0, 0) + body


def attributes(data: bytes | memoryview, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(number, first byte of the payload, first byte after it) of each attribute between two offsets."""
    while start + 4 <= end:
        length, number = ATTRIBUTE.unpack_from(data, start)
        if length < 4:
            return
        yield number & _TYPE_MASK, start + 4, min(start + length, end)
        start += (length + 3) & ~3


def find(data: bytes | memoryview, start: int, end: int, number: int) -> bytes | None:
    """The payload of the first attribute of that number."""
    for found, first, last in attributes(data, start, end):
        if found == number:
            return bytes(data[first:last])
    return None


def text(payload: bytes | None) -> str:
    return "" if payload is None else payload.rstrip(b"\0").decode(errors="replace")


class NetfilterSocket:
    """A netlink socket with a deadline for each call; usable as a context manager."""

    def __init__(self, deadline: float = 10.0) -> None:
        try:
            self.raw = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
            self.raw.bind((0, 0))
        except OSError as error:
            raise KernelError(
                f"no netfilter netlink socket ({error.strerror}); is CONFIG_NETFILTER_NETLINK on?"
            ) from error
        self._deadline = deadline
        self._until = 0.0
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.raw.close()

    def ask(self, kind: int, flags: int, family: int, body: bytes, purpose: str) -> list[bytes]:
        """Send one request; returns the messages that answer it, a dump to its end.

        Raises KernelError, NetlinkError where the kernel refuses, NotPermitted.
        """
        self.send(kind, flags, family, body, purpose)
        answers: list[bytes] = []
        while True:
            for part in split(self.receive(purpose)):
                _, answer, _, _, _ = HEADER.unpack_from(part)
                if answer == ERROR and (number := error_number(part)):
                    raise failure(number, purpose)
                if answer in {ERROR, DONE}:
                    return answers
                answers.append(part)
            if not flags & (DUMP | ACK):
                return answers

    def send(self, kind: int, flags: int, family: int, body: bytes, purpose: str) -> None:
        """Send one request and start its deadline; for callers that walk the answer themselves."""
        self._sequence += 1
        self._begin()
        try:
            self.raw.send(message(kind, flags, family, body, self._sequence))
        except OSError as error:
            raise failure(error.errno or 0, purpose) from error

    def send_all(self, messages: Sequence[tuple[int, int, int, bytes]], purpose: str) -> list[int]:
        """Send requests together, each acknowledged; returns their error numbers, 0 for success, in order."""
        first = self._sequence + 1
        packed = []
        for kind, flags, family, body in messages:
            self._sequence += 1
            packed.append(message(kind, flags | ACK, family, body, self._sequence))
        self._begin()
        try:
            self.raw.send(b"".join(packed))
        except OSError as error:
            raise failure(error.errno or 0, purpose) from error
        results: dict[int, int] = {}
        while len(results) < len(messages):
            for part in split(self.receive(purpose)):
                _, kind, _, sequence, _ = HEADER.unpack_from(part)
                if kind == ERROR and sequence >= first:
                    results[sequence] = error_number(part)
        return [results[first + index] for index in range(len(messages))]

    def change_nft(self, kind: int, family: int, body: bytes, purpose: str) -> None:
        """One change of nf_tables. Raises as ``ask``."""
        self.transact([(kind, 0, family, body)], purpose)

    def transact(self, changes: Sequence[tuple[int, int, int, bytes]], purpose: str) -> None:
        """Changes of nf_tables (type, flags, family, body), which takes them in transactions: all or none.

        Raises as ``ask``.
        """
        frame = NFGEN.pack(0, 0, socket.htons(_NFT_SUBSYSTEM))
        first, last = (HEADER.pack(BODY, edge, REQUEST, 0, 0) + frame for edge in (_BATCH_BEGIN, _BATCH_END))
        waiting = set()
        packed = []
        for kind, flags, family, body in changes:
            self._sequence += 1
            waiting.add(self._sequence)
            packed.append(message(kind, flags | ACK, family, body, self._sequence))
        self._begin()
        try:
            self.raw.send(first + b"".join(packed) + last)
        except OSError as error:
            raise failure(error.errno or 0, purpose) from error
        while waiting:
            for part in split(self.receive(purpose)):
                _, answer, _, sequence, _ = HEADER.unpack_from(part)
                if answer == ERROR and (number := error_number(part)):  # of a change, or of the whole transaction
                    raise failure(number, purpose)
                if answer == ERROR:
                    waiting.discard(sequence)

    def _begin(self) -> None:
        self._until = time.monotonic() + self._deadline

    def receive(self, purpose: str) -> bytes:
        """The next buffer: one or more whole messages."""
        while True:
            left = self._until - time.monotonic()
            if left <= 0:
                raise KernelError(f"{purpose}: no answer from the kernel within {self._deadline:g} s")
            self.raw.settimeout(left)
            try:
                return self.raw.recv(_RECEIVE)
            except TimeoutError:
                continue
            except OSError as error:
                raise failure(error.errno or 0, purpose) from error


def split(data: bytes) -> Iterator[bytes]:
    """The messages of a received buffer."""
    position = 0
    while position + HEADER.size <= len(data):
        length = int.from_bytes(data[position : position + 4], sys.byteorder)
        if length < HEADER.size:
            return
        yield data[position : position + length]
        position += (length + 3) & ~3


def error_number(part: bytes) -> int:
    """The errno of an error message, 0 for an acknowledgement."""
    return -int.from_bytes(part[HEADER.size : HEADER.size + 4], sys.byteorder, signed=True)


def failure(number: int, purpose: str) -> KernelError:
    """The typed error for an error number; the number is on it as ``errno``."""
    reason = os.strerror(number)
    if number in {errno.EPERM, errno.EACCES}:
        return NotPermitted(f"{purpose}: {reason}; run kproxy as root or give it CAP_NET_ADMIN")
    return NetlinkError(f"{purpose}: {reason}", number)


class NetlinkError(KernelError):
    """The kernel refused a request."""

    def __init__(self, message: str, number: int) -> None:
        super().__init__(message)
        self.errno = number


def nft_generation() -> int:
    """The number of the present nf_tables ruleset; every transaction that changes anything raises it."""
    with NetfilterSocket() as door:
        for part in door.ask(GETGEN, 0, 0, b"", "read the nf_tables generation"):
            payload = find(part, BODY, len(part), 1)
            if payload is not None:
                return int.from_bytes(payload, "big")
    return 0
