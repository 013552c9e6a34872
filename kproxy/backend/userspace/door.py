"""An open listener: its socket, and whom it serves at present.

A listener for loopback is bound to one loopback address and, where the kernel lets us, to the loopback device: even
with route_localnet on, which lets neighbours address 127.0.0.1, their packets arrive on another device and find nobody.
A connection may be begun again at once where an old one is in TIME_WAIT (SO_REUSEADDR, TCP alone: for UDP that option
would take the port of a process that has it, too). SO_REUSEPORT is never set there: a port has one owner, and who is
second is told.
"""

from __future__ import annotations

import _socket
import contextlib
import socket

from kproxy.backend.userspace.balance import Balancer
from kproxy.backend.userspace.rules import Listener, Rule
from kproxy.kernel.files import within_half
from kproxy.model.enums import Protocol

_LOOPBACK_DEVICE = b"lo\0"


class Door:
    """``rule`` may change while the door is open; flows that came in by an earlier one stay."""

    def __init__(self, rule: Rule, balancer: Balancer, sock: socket.socket) -> None:
        self.rule = rule
        self.balancer = balancer
        self.listener = rule.listener
        self.socket = sock

    def close(self) -> None:
        self.socket.close()


def open_on_loopback(listener: Listener) -> socket.socket:
    """Raises OSError."""
    sock = within_half(unbound(listener))
    try:
        with contextlib.suppress(PermissionError):  # kernels before 5.7 want CAP_NET_RAW for it
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, _LOOPBACK_DEVICE)
        return bind(sock, listener)
    except BaseException:
        sock.close()
        raise


def unbound(listener: Listener) -> socket.socket:
    """A socket of the listener's kind. Raises OSError."""
    kind = socket.SOCK_STREAM if listener.protocol is Protocol.TCP else socket.SOCK_DGRAM
    return dial(listener.ip, kind)


def bind(sock: socket.socket, listener: Listener) -> socket.socket:
    """The same, bound and listening. Raises OSError; then the socket is the caller's to close."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if listener.protocol is Protocol.TCP:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((listener.ip, listener.port))
    if listener.protocol is Protocol.TCP:
        sock.listen(socket.SOMAXCONN)
    return sock


def mark(sock: socket.socket | _socket.socket, number: int) -> bool:
    """Have its packets known as the relay's, so that no rule leads them back to it; False: this process may not."""
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_MARK, number)
    except PermissionError:
        return False
    return True


def dial(ip: str, kind: socket.SocketKind) -> socket.socket:
    """A socket with which an endpoint's address can be dialled. Raises OSError."""
    return socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, kind | socket.SOCK_NONBLOCK)
