"""Dials endpoints so that they see the client's address, and not this node's.

The socket is bound to an address of ``Keeping.sources``, and before it connects, the kernel is told to rewrite that to
the client's (kernel/translation.py). Which address and port of that network it is matters to nobody, so both are drawn
by lot: other workers draw from the same ones, and a pair is taken only as long as the kernel remembers its latest
conversation with the same endpoint, two minutes after its end.

Not kept is the address of whom the endpoint's answers would not come back from: of an endpoint that is its own client
(hairpin), and addresses that mean something on this node or its links alone.

Where the kernel refuses, the client is served without: better from a strange address than not at all. That is counted
(``Tally.hidden``).

The kernel forgets a UDP flow that was not answered after half a minute, but its session lives longer. So sessions are
held in its memory as long as they live (``renew``).
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable
from functools import lru_cache
from random import random
from typing import NamedTuple

from kproxy.backend.userspace.reactor import Socket
from kproxy.backend.userspace.rules import Keeping
from kproxy.errors import KernelError
from kproxy.kernel.translation import Translations
from kproxy.model.enums import IPFamily, Protocol
from kproxy.plan.plan import Target

_DRAWS = 8  # of an address and port, until one is free
_FIRST_PORT, _PORTS = 1024, 65536 - 1024
_FREEBIND = 78  # IPV6_FREEBIND: IPv6 wants an address of an interface, not one that is only routed here
_TAKEN = frozenset({errno.EEXIST, errno.EADDRINUSE})
_TURNS = 4  # in which flows are held; all at once would keep others waiting


class _Network(NamedTuple):
    number: int
    mask: int
    size: int


class _Flow(NamedTuple):
    """Of UDP, as on the wire."""

    socket: Socket
    source: bytes
    port: bytes
    target: bytes
    target_port: bytes
    client: bytes


class Keeper:
    """Of one protocol; opens what it needs when it is first asked. ``chance``: a number from 0 up to but not 1."""

    def __init__(self, protocol: Protocol, chance: Callable[[], float] = random) -> None:
        self._protocol = protocol
        self._chance = chance
        self._doors: dict[bool, Translations | None] = {}  # by whether of IPv6; None: there is no such door
        self._flows: list[list[_Flow]] = [[] for _ in range(_TURNS)]  # of UDP, to be held
        self._turn = 0

    def keep(self, sock: Socket, keeping: Keeping, client: str, target: Target) -> bool:
        """Let the target see the client's address on this socket, which is neither bound nor connected.

        False: it should, and will not. The socket can be used in any case.
        """
        if client == target.ip or "%" in client or not (target.local or keeping.beyond):
            return True
        is_ipv6 = ":" in client
        domain = socket.AF_INET6 if is_ipv6 else socket.AF_INET
        seen, to = socket.inet_pton(domain, client), socket.inet_pton(domain, target.ip)
        if _stays_here(seen) or not _within(seen, keeping.clients) or not (target.local or _within(to, keeping.beyond)):
            return True
        return self._translate(sock, keeping.sources, seen, to, target.port.to_bytes(2, "big"))

    def renew(self) -> None:
        """Hold some of the flows whose sockets are open, others with the next call: each needs it every 25 seconds."""
        self._turn = (self._turn + 1) % _TURNS
        flows = self._flows[self._turn] = [each for each in self._flows[self._turn] if each.socket.fileno() >= 0]
        for flow in flows:
            door = self._doors[len(flow.client) == 16]
            if door is not None and door.hold(*flow[1:5]) == errno.ENOENT:
                door.add(*flow[1:])

    def close(self) -> None:
        for door in self._doors.values():
            if door is not None:
                door.close()
        self._doors.clear()
        self._flows = [[] for _ in range(_TURNS)]

    def _translate(self, sock: Socket, sources: str, seen: bytes, to: bytes, port: bytes) -> bool:
        is_ipv6 = len(seen) == 16
        if is_ipv6 not in self._doors:
            self._doors[is_ipv6] = self._opened(is_ipv6=is_ipv6)
        if (door := self._doors[is_ipv6]) is None:
            return False
        network = _network(sources)
        for _ in range(_DRAWS):
            drawn, number = divmod(int(self._chance() * network.size * _PORTS), _PORTS)
            source = (network.number + drawn).to_bytes(len(seen), "big")
            own = (number + _FIRST_PORT).to_bytes(2, "big")
            code = door.add(source, own, to, port, seen) or _bind(sock, source, number + _FIRST_PORT)
            if code == 0:
                if self._protocol is Protocol.UDP:
                    self._flows[self._turn].append(_Flow(sock, source, own, to, port, seen))
                return True
            if code not in _TAKEN:
                break
        return False

    def _opened(self, *, is_ipv6: bool) -> Translations | None:
        try:
            return Translations(IPFamily.IPV6 if is_ipv6 else IPFamily.IPV4, self._protocol)
        except KernelError:
            return None


def _bind(sock: Socket, source: bytes, port: int) -> int:
    """An error number, 0 for success. After a failure, what the kernel was told is forgotten by and by."""
    is_ipv6 = len(source) == 16
    try:
        if is_ipv6:
            sock.setsockopt(socket.IPPROTO_IPV6, _FREEBIND, 1)
        sock.bind((socket.inet_ntop(socket.AF_INET6 if is_ipv6 else socket.AF_INET, source), port))
    except OSError as error:
        return error.errno or errno.EIO
    return 0


def _stays_here(address: bytes) -> bool:
    """Loopback or link-local."""
    if len(address) == 4:
        return address[0] == 127 or address[:2] == b"\xa9\xfe"
    return address == b"\0" * 15 + b"\1" or (address[0] == 0xFE and address[1] & 0xC0 == 0x80)


def _within(address: bytes, cidr: str) -> bool:
    number, mask, _ = _network(cidr)
    return int.from_bytes(address, "big") & mask == number


@lru_cache(maxsize=64)
def _network(cidr: str) -> _Network:
    text, _, length = cidr.partition("/")
    packed = socket.inet_pton(socket.AF_INET6 if ":" in text else socket.AF_INET, text)
    free = len(packed) * 8 - int(length)
    mask = (1 << len(packed) * 8) - (1 << free)
    return _Network(int.from_bytes(packed, "big") & mask, mask, 1 << free)
