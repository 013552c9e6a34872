"""The relay's listening sockets, held open by the parent: for each listener as many as there are workers.

They share one port (SO_REUSEPORT), and the kernel picks a socket for each client by a hash. All of them stay open as
long as the listener does, whoever serves them: a worker that ends leaves its socket's queue to its successor, and the
clients of the other workers stay where they are (datagrams.py says why their number must not change).

The port is the kernel's choice and nobody else's. The first socket is bound before it is made to share, so the kernel
gives it a port that no other socket has, whether that would share or not; then it lets the others in. Binding all of
them to share from the beginning could give two listeners of ours one port, and each the other's clients. Since Linux
4.6 a socket may begin to share after it was bound, and one of another user never joins.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator

from kproxy.backend.userspace.door import unbound
from kproxy.backend.userspace.rules import Listener
from kproxy.backend.userspace.steering import steer
from kproxy.errors import KernelError
from kproxy.model.enums import Protocol


class Openings:
    """``count``: sockets for each listener; ``most``: of all of them, for this process has other uses for files."""

    def __init__(self, count: int, most: int) -> None:
        self._count = count
        self._most = most
        self._sockets: dict[Listener, tuple[socket.socket, ...]] = {}

    def __contains__(self, listener: Listener) -> bool:
        return listener in self._sockets

    def __len__(self) -> int:
        return len(self._sockets)

    def __iter__(self) -> Iterator[Listener]:
        return iter(list(self._sockets))  # in one step, see open

    def of(self, listener: Listener, seat: int) -> socket.socket:
        return self._sockets[listener][seat]

    def open(self, ip: str, protocol: Protocol, port: int = 0) -> Listener:
        """``port`` 0: any free one. Raises OSError. May be called in a thread."""
        made: list[socket.socket] = []
        if (len(self) + 1) * self._count > self._most:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
        try:
            first = _bound(Listener(ip, port, protocol), made)
            listener = Listener(ip, int(first.getsockname()[1]), protocol)
            _share(first)
            for _ in range(1, self._count):
                _bound(listener, made, shares=True)
            if protocol is Protocol.TCP:  # not before all are bound: from now on clients may come
                for each in made:
                    each.listen(socket.SOMAXCONN)
        except BaseException:
            for each in made:
                each.close()
            raise
        self._sockets[listener] = tuple(made)
        return listener

    def steer(self, listener: Listener, *, by_client: bool) -> None:
        """Whether a client always comes to the same one of its sockets. Raises KernelError."""
        if self._count > 1:
            try:
                steer(self._sockets[listener][0], self._count, by_client=by_client)
            except OSError as error:
                raise KernelError(f"the kernel did not take the choice of a worker for {listener}: {error}") from error

    def close(self, listener: Listener) -> None:
        """Ours; the socket itself ends when no worker has it, either."""
        for each in self._sockets.pop(listener, ()):
            each.close()


def _share(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)


def _bound(listener: Listener, made: list[socket.socket], *, shares: bool = False) -> socket.socket:
    sock = unbound(listener)
    made.append(sock)
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    if shares:
        _share(sock)
    if listener.port and listener.protocol is Protocol.TCP:  # where an old connection is in TIME_WAIT
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((listener.ip, listener.port))
    return sock
