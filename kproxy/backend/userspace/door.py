"""An open listener: its socket, and whom it serves at present.

The socket is bound to one loopback address and, where the kernel lets us, to the loopback device: even with
route_localnet on, which lets neighbours address 127.0.0.1, their packets arrive on another device and find nobody.
A connection may be begun again at once where an old one is in TIME_WAIT (SO_REUSEADDR, TCP alone: for UDP that option
would take the port of a process that has it, too). SO_REUSEPORT is never set: a port has one owner, and who is
second is told.
"""

from __future__ import annotations

import contextlib
import socket

from kproxy.backend.userspace.balance import Balancer
from kproxy.backend.userspace.rules import Listener, Rule
from kproxy.model.enums import Protocol

_LOOPBACK_DEVICE = b"lo\0"


class Door:
    """``rule`` may change while the door is open; flows that came in by an earlier one stay."""

    def __init__(self, rule: Rule, balancer: Balancer) -> None:
        """Raises OSError."""
        self.rule = rule
        self.balancer = balancer
        self.listener = rule.listener
        self.socket = _bound(rule.listener)

    def close(self) -> None:
        self.socket.close()


def _bound(listener: Listener) -> socket.socket:
    family = socket.AF_INET6 if ":" in listener.ip else socket.AF_INET
    is_tcp = listener.protocol is Protocol.TCP
    sock = socket.socket(family, (socket.SOCK_STREAM if is_tcp else socket.SOCK_DGRAM) | socket.SOCK_NONBLOCK)
    try:
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        with contextlib.suppress(PermissionError):  # kernels before 5.7 want CAP_NET_RAW for it
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, _LOOPBACK_DEVICE)
        if is_tcp:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((listener.ip, listener.port))
        if is_tcp:
            sock.listen(socket.SOMAXCONN)
    except BaseException:
        sock.close()
        raise
    return sock


def dial(ip: str, kind: socket.SocketKind) -> socket.socket:
    """A socket with which an endpoint's address can be dialled. Raises OSError."""
    return socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, kind | socket.SOCK_NONBLOCK)
