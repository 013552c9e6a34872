"""The UDP sockets that may have something to read, of which the loop knows one file.

A wakeup serves up to ``SLOTS`` sockets, without a handle and a call of the loop for each. The epoll is level-triggered,
unlike what serves connections: one datagram is read of each session that has any, so that each gets its turn and
nothing is asked in vain. An edge wants reads until one finds nothing, which is an exception; measured with 64 flows it
costs a tenth more where each has one datagram under way, and a tenth less where each has eight.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable

from kproxy.backend.userspace import mmsg


class Watch:
    """``turn`` is called when somebody has sent something."""

    def __init__(self, turn: Callable[[Watch], None]) -> None:
        """Raises OSError."""
        self.inbox = mmsg.inbox()
        self.outbox = mmsg.outbox()
        self.through = mmsg.outbox(self.inbox)
        self.epoll = select.epoll()
        self._loop = asyncio.get_running_loop()
        self._loop.add_reader(self.epoll.fileno(), turn, self)

    def add(self, sock: socket.socket) -> None:
        """Raises OSError."""
        self.epoll.register(sock.fileno(), select.EPOLLIN)

    def remove(self, sock: socket.socket) -> None:
        self.epoll.unregister(sock.fileno())

    def close(self) -> None:
        self._loop.remove_reader(self.epoll.fileno())
        self.epoll.close()
