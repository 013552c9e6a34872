"""What travels beside a datagram: where it was sent to, and how many datagrams it really is.

A sender with segmentation offload (QUIC) hands the kernel up to 64 KiB and the size to cut it by; a receiver that asks
gets them uncut, with that size (UDP_GRO, UDP_SEGMENT: udp(7)). Passed on as such it costs what one datagram does; the
borders between datagrams are kept either way. Unless asked, the kernel cuts for us.

A socket bound to a wildcard must answer from the address that was dialled, or the client takes the answer for a
stranger's: the address comes with each datagram (IP_PKTINFO: ip(7), ipv6(7)) and goes out with the answers to it.

The numbers are those of linux/udp.h, asm-generic/socket.h and linux/sock_diag.h; Python names only some.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from functools import lru_cache
from typing import NamedTuple

UDP_SEGMENT, UDP_GRO = 103, 104
_SO_SNDBUFFORCE, _SO_RCVBUFFORCE, _SO_MEMINFO = 32, 33, 55
_IP_PKTINFO = 8
_DROPS = 8  # which word of SO_MEMINFO
_MEMINFO = struct.Struct("=9I")
_HEAD = struct.Struct("@Nii")  # cmsghdr: length, level, type
_U16, _INT = struct.Struct("=H"), struct.Struct("=i")
_PKTINFO4, _PKTINFO6 = struct.Struct("=i4s4s"), struct.Struct("=16sI")
_JOINED = (socket.SOL_UDP, UDP_GRO)
SPACE = 128  # bytes that the messages of one datagram fit into


Message = tuple[int, int, bytes]  # level, type, payload


class Beside(NamedTuple):
    """``segment``: the bytes of each datagram but the last, 0: it is one; ``local``: what answers are sent with."""

    segment: int = 0
    local: bytes = b""


NOTHING = Beside()


@lru_cache(maxsize=1024)  # a flow's are the same again and again
def parse(control: bytes) -> Beside:
    """Control messages as the kernel writes them."""
    segment, local = 0, b""
    for level, kind, body in split(control):
        if (level, kind) == _JOINED:
            (segment,) = _INT.unpack_from(body)
        elif (level, kind) == (socket.IPPROTO_IP, _IP_PKTINFO):
            _, _, destination = _PKTINFO4.unpack_from(body)
            local = message(level, kind, _PKTINFO4.pack(0, destination, bytes(4)))
        elif (level, kind) == (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO):
            destination, _ = _PKTINFO6.unpack_from(body)  # the link of a link-local client is in its own address
            local = message(level, kind, _PKTINFO6.pack(destination, 0))
    return Beside(segment, local)


def split(control: bytes) -> list[Message]:
    """Messages as the socket module has them."""
    found, at = [], 0
    while at + _HEAD.size <= len(control):
        length, level, kind = _HEAD.unpack_from(control, at)
        found.append((level, kind, control[at + _HEAD.size : at + length]))
        at += max(_aligned(length), _HEAD.size)
    return found


def message(level: int, kind: int, body: bytes) -> bytes:
    """One message as the kernel has it."""
    length = _HEAD.size + len(body)
    return _HEAD.pack(length, level, kind) + body + bytes(_aligned(length) - length)


@lru_cache(maxsize=1024)
def cut_by(segment: int) -> Message:
    """The message that has the kernel cut what is sent, as ``socket.sendmsg`` takes it."""
    return socket.SOL_UDP, UDP_SEGMENT, _U16.pack(segment)


def accept_joined(sock: socket.socket) -> None:
    """From now on datagrams may come uncut; whoever receives them must look for the segment size."""
    with contextlib.suppress(OSError):  # kernels before 5.0 cut always
        sock.setsockopt(socket.SOL_UDP, UDP_GRO, 1)


def ask_destination(sock: socket.socket) -> None:
    """Have the address that was dialled with each datagram. Raises OSError."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVPKTINFO, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_PKTINFO, 1)


def widen(sock: socket.socket, size: int) -> None:
    """Queues of ``size`` bytes both ways; without CAP_NET_ADMIN as much of it as net.core.{r,w}mem_max allows."""
    for forced, asked in ((_SO_RCVBUFFORCE, socket.SO_RCVBUF), (_SO_SNDBUFFORCE, socket.SO_SNDBUF)):
        try:
            sock.setsockopt(socket.SOL_SOCKET, forced, size)
        except PermissionError:
            sock.setsockopt(socket.SOL_SOCKET, asked, size)


def dropped(sock: socket.socket) -> int:
    """Datagrams that the kernel threw away since the socket was opened, for its queue was full; 0 before Linux 4.12."""
    with contextlib.suppress(OSError):
        return int(_MEMINFO.unpack(sock.getsockopt(socket.SOL_SOCKET, _SO_MEMINFO, _MEMINFO.size))[_DROPS])
    return 0


def _aligned(length: int) -> int:
    return (length + 7) & ~7 if _HEAD.size == 16 else (length + 3) & ~3
