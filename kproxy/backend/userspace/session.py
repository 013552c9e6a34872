"""A client's conversation over UDP, as sockets: the listener's, which all share, and one towards its endpoint."""

from __future__ import annotations

import socket

from kproxy.backend.userspace import ancillary, mmsg
from kproxy.backend.userspace.door import Door, dial, mark
from kproxy.backend.userspace.endpoints import Endpoint
from kproxy.backend.userspace.transparent import Keeper
from kproxy.backend.userspace.watch import Watch


class Entry:
    """An open door as datagrams see it."""

    __slots__ = ("door", "drops", "number", "socket", "watch", "width")

    def __init__(self, door: Door, number: int, watch: Watch) -> None:
        self.door = door
        self.socket = door.socket
        self.watch = watch
        self.number = number  # part of keys: clients may have sessions at several doors
        self.width = mmsg.WIDTH[socket.AddressFamily(door.socket.family)]
        # That the kernel told of so far: a socket that another worker had may have lost some, which were that one's.
        self.drops = ancillary.dropped(door.socket)


class Session:
    """A client's socket towards its endpoint."""

    __slots__ = (
        "due",
        "endpoint",
        "entry",
        "is_bulk",
        "key",
        "large",
        "local",
        "peer",
        "receive",
        "send",
        "socket",
        "tally",
    )

    def __init__(
        self,
        entry: Entry,
        key: bytes,
        peer: bytes,
        local: bytes,
        endpoint: Endpoint,
        keeper: Keeper,
        ip: str,
        number: int,
    ) -> None:
        """``ip``: of the client; ``number``: the mark of packets to endpoints. Raises OSError."""
        self.entry = entry
        self.key = key
        self.peer = peer
        self.local = local  # what answers are sent with
        self.endpoint = endpoint
        self.tally = endpoint.service.tally
        self.due = 0.0  # when an answer is next noted
        self.is_bulk = False
        self.large = 0  # datagrams so far
        self.socket = dial(endpoint.target.ip, socket.SOCK_DGRAM)
        try:
            mark(self.socket, number)
            if (keeping := entry.door.balancer.keeping) is not None and not keeper.keep(
                self.socket, keeping, ip, endpoint.target
            ):
                self.tally.hidden += 1
            self.socket.connect(endpoint.address)
        except BaseException:
            self.socket.close()
            raise
        self.receive = self.socket.recv_into
        self.send = self.socket.send

    def be_bulk(self, buffer: int) -> None:
        """From now on its datagrams may be uncut. ``buffer``: bytes of them that may wait."""
        if not self.is_bulk:
            self.is_bulk = True
            ancillary.widen(self.socket, buffer)
            ancillary.accept_joined(self.socket)

    def was_answered(self, now: float) -> None:
        """Its endpoint is there. Noted now and then, for a datagram should not pay for it."""
        if self.endpoint.failures:
            self.endpoint.service.succeeded(self.endpoint, now)
