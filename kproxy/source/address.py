"""Text to canonical IP address or CIDR, forgiving what older API servers let in.

IPv4 octets and prefix lengths with leading zeros are read as decimal and printed without them, IPv4-mapped IPv6
addresses become IPv4, and a CIDR loses its host bits (spec: model.md 2.3). A cluster brings 100,000 addresses, so the
usual spelling is checked by ``inet_pton`` and handed back as it came: 0.3 us where ``ipaddress`` takes 2 us.

Some addresses mean something else on every node, and no VIP, external IP or endpoint may be one (``is_reserved``):
loopback, link-local (a cloud's metadata are at 169.254.169.254), multicast, broadcast, unspecified. The API server
refuses most of them in endpoints and external IPs, but a load balancer's ingress may hold any, and manifests meet no
API server: whoever may write one would have what each node says to itself or asks of its cloud. kube-proxy writes such
rules. Cluster IPs are not asked: they come out of the ranges that the cluster's administrator chose.
"""

from __future__ import annotations

import ipaddress
import re
import socket

from kproxy.model.enums import family_of

_LONGEST = 128  # characters; nothing that names an address is longer
_SLOPPY_IPV4 = re.compile(r"([0-9]+)\.([0-9]+)\.([0-9]+)\.([0-9]+)", re.ASCII)
_SLOPPY_PREFIX = re.compile(r"[0-9]+", re.ASCII)
_RESERVED_IPV4 = ("127.", "169.254.", *(f"{first}." for first in range(224, 240)))
_RESERVED_IPV6 = re.compile("(?:fe[89ab][0-9a-f]|ff[0-9a-f]{2}):")
_RESERVED = frozenset({"0.0.0.0", "255.255.255.255", "::", "::1"})  # noqa: S104 -- refused, not bound


def parse_ip(text: str) -> str | None:
    """The canonical form of one address; None if it is none."""
    if ":" in text:
        return _parse_ipv6(text)
    try:
        socket.inet_pton(socket.AF_INET, text)
    except (OSError, ValueError):
        return _parse_sloppy_ipv4(text)
    return text


def is_reserved(ip: str) -> bool:
    """Whether a canonical address is none to claim as VIP or external IP, or to lead to."""
    if ":" in ip:
        return ip in _RESERVED or _RESERVED_IPV6.match(ip) is not None
    return ip in _RESERVED or ip.startswith(_RESERVED_IPV4)


def parse_cidr(text: str) -> str | None:
    """The canonical, masked form of one CIDR; None if it is none."""
    address, slash, prefix = text.partition("/")
    ip = parse_ip(address)
    if not slash or ip is None or len(text) > _LONGEST or not _SLOPPY_PREFIX.fullmatch(prefix):
        return None
    mapped = ":" in address and ":" not in ip
    length = int(prefix) - (96 if mapped else 0)
    if not 0 <= length <= family_of(ip).bits:
        return None
    return str(ipaddress.ip_network(f"{ip}/{length}", strict=False))


def _parse_ipv6(text: str) -> str | None:
    try:
        packed = socket.inet_pton(socket.AF_INET6, text)
    except (OSError, ValueError):
        return None
    canonical = socket.inet_ntop(socket.AF_INET6, packed)
    if "." not in canonical:
        return canonical
    # libc prints the last 32 bits of ::/96 and ::ffff:0:0/96 in dots. The first are plain IPv6, the second are IPv4.
    if canonical.startswith("::ffff:"):
        return socket.inet_ntop(socket.AF_INET, packed[12:])
    return str(ipaddress.IPv6Address(packed))


def _parse_sloppy_ipv4(text: str) -> str | None:
    match = _SLOPPY_IPV4.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        return None
    octets = [int(octet) for octet in match.groups()]
    return ".".join(map(str, octets)) if max(octets) <= 255 else None
