"""Other names for what a cluster calls its things: the same one for the same thing, wherever it stands.

Names are numbered in the order in which they come. Hashes of chains become other hashes: they could be found out by
trying likely names of Services. Addresses keep what makes a dump readable: two that share a network of some length
share one of this length afterwards, private ranges stay private, and what is the same everywhere (loopback, multicast,
link-local, masks, 0.0.0.0/0) stays as it is. Every bit of an address is turned, or not, by a digest of a secret and the
bits before it (the scheme of Crypto-PAn; Xu and others, "Prefix-Preserving IP Address Anonymization", 2002). It does
not withstand somebody who knows a few of the addresses already and many of their neighbours; a ticket is not a
publication. The leading bits of a public address that it shares with a private range are seen, too.

The secret is made anew for every answer, so nothing can be looked up with this program; chance comes in as an argument.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache, lru_cache
from hashlib import blake2b
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_LETTERS = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567" * 8  # of base 32, for every byte
_TAIL = 8  # bits; neighbours have all others in common
_MOST_MET = 3000  # addresses; above, no secret avoids all of them
_TRIES = 64  # of secrets, until no alias is an address that stands in the answer
_KEPT: tuple[Network, ...] = tuple(
    map(ip_network, ("0.0.0.0/8", "127.0.0.0/8", "169.254.0.0/16", "224.0.0.0/3", "::/127", "ff00::/8"))
)
# Whatever is in one of these stays in it, and nothing else comes into it
_RANGES: tuple[Network, ...] = (
    *_KEPT,
    *map(
        ip_network,
        ("10.0.0.0/8", "100.64.0.0/10", "172.16.0.0/12", "192.168.0.0/16", "fc00::/8", "fd00::/8", "fe80::/10"),
    ),
    *map(ip_network, ("2000::/3", "64:ff9b::/96")),
)


class Aliases:
    """``secret``: what makes the aliases of this answer different from those of all others."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._names: dict[str, str] = {}
        self._counts: dict[str, int] = {}
        self._numbers = Numbers(secret)

    def name(self, name: str, kind: str = "word") -> str:
        """Of the first ``kind`` under which the name came."""
        if name not in self._names:
            number = self._counts[kind] = self._counts.get(kind, 0) + 1
            self._names[name] = f"{kind}-{number}"
        return self._names[name]

    def knows(self, name: str) -> bool:
        return name in self._names

    def hash(self, text: str) -> str:
        """Of as many letters, among those that a hash is made of."""
        digest = blake2b(text.encode(), key=self._secret, digest_size=min(len(text), blake2b.MAX_DIGEST_SIZE)).digest()
        return digest.translate(_LETTERS).decode()

    def digits(self, text: str) -> str:
        """As many hexadecimal digits."""
        return blake2b(text.encode(), key=self._secret).hexdigest().upper()[: len(text)]

    def meet(self, addresses: Iterable[Address]) -> None:
        """All addresses that will be asked for; their aliases shall be none of them, as long as they are few.

        Of ten thousand addresses of 10.0.0.0/8 some hit one another whatever the secret is.
        """
        known = set(addresses)
        if len(known) > _MOST_MET:
            return
        for nth in range(_TRIES):
            self._numbers = Numbers(self._secret + bytes([nth]))
            if not any(self._numbers.alias(each) in known for each in known if not is_kept(each)):
                return

    def address(self, address: Address, length: int | None = None) -> Address:
        """``length``: of the network whose address this is; the bits behind it are 0."""
        if is_kept(address):
            return address
        other = self._numbers.alias(address)
        if length is None or length >= address.max_prefixlen:
            return other
        return type(address)(int(other) >> (bits := address.max_prefixlen - length) << bits)


class Numbers:
    """Addresses to addresses, networks to networks."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret
        self._turns: dict[tuple[int, int, int], int] = {}
        self._beginnings: dict[tuple[int, int], int] = {}  # (length of addresses, all but the last byte) → their alias
        self._aliases: dict[Address, Address] = {}

    def alias(self, address: Address) -> Address:
        if (known := self._aliases.get(address)) is None:
            size, number = address.max_prefixlen, int(address)
            beginning = number >> _TAIL
            if (other := self._beginnings.get((size, beginning))) is None:
                other = self._beginnings[size, beginning] = self._turned(size, number, 0, range(size - _TAIL))
            turned = self._turned(size, number, other, range(size - _TAIL, size))
            known = self._aliases[address] = type(address)(turned)
        return known

    def _turned(self, size: int, number: int, other: int, depths: range) -> int:
        """``other``: the alias of the bits before these."""
        for depth in depths:
            before = number >> (size - depth)
            bit = number >> (size - depth - 1) & 1
            other = other << 1 | bit ^ self._turn(size, depth, before)
        return other

    def _turn(self, size: int, depth: int, before: int) -> int:
        """Whether the bit behind the ``depth`` bits ``before`` is the other one."""
        if (turn := self._turns.get((size, depth, before))) is None:
            if (depth, before) in _forks(size):
                turn = 0
            else:
                text = f"{size} {depth} {before:x}".encode()
                turn = blake2b(text, key=self._secret[:64], digest_size=1).digest()[0] & 1
            self._turns[size, depth, before] = turn
        return turn


@cache
def _forks(size: int) -> frozenset[tuple[int, int]]:
    """Beginnings of addresses behind which a range may still come."""
    return frozenset(
        (depth, int(each.network_address) >> (size - depth))
        for each in _RANGES
        if each.max_prefixlen == size
        for depth in range(each.prefixlen)
    )


def is_kept(address: Address) -> bool:
    """Whether it says nothing about a cluster: special addresses and masks."""
    return any(address.version == each.version and address in each for each in _KEPT)


@lru_cache(maxsize=1 << 17)
def read_address(text: str) -> Address | None:
    try:
        return ip_address(text)
    except ValueError:
        return None
