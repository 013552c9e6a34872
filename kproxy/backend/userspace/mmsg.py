"""Many datagrams with one call of the kernel: recvmmsg(2) and sendmmsg(2), which the socket module does not have.

Memory for all of them is laid out once as the kernel reads it, and read and written through views of it: no address
becomes a tuple, no buffer is made. An address is the bytes that the kernel gave, which serve as a key as they are.
By ctypes, for it is in every Python; cffi was measured and is no faster. Every argument has a type, or ctypes would
cut addresses to 32 bits.

The memory is a bytearray: a process that is forked gets its own, where an anonymous ``mmap`` would be shared.

Where the calls cannot be had (no such function in libc, a seccomp filter that refuses, 32 bits) the same is done one
by one with the socket module.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import socket
import struct
from collections.abc import Callable, Iterable
from typing import Any

from kproxy.backend.userspace.ancillary import SPACE, cut_by, message, split

SLOTS = 64
WIDTH = {socket.AF_INET: 8, socket.AF_INET6: 28}  # bytes of a sockaddr that tell one from another
_NAME_LENGTH = 28  # what the kernel wants at least; of sockaddr_in it ignores what is behind
_HEADER, _VECTOR, _NAME = 64, 16, 32  # struct mmsghdr, struct iovec, room for a sockaddr
# A little more than the largest datagram, so that slots do not all begin in the same set of the processor's cache.
_LARGEST = 65536
_DATA = _LARGEST + 192
# struct mmsghdr in words of 8 bytes: name, its length, vector, how many, control, its length, flags, received
_CONTROL_LENGTH_AT = 5
_RECEIVED_AT = 14  # in words of 4
_SOCKADDR, _SOCKADDR6 = struct.Struct("=H2s4s"), struct.Struct("=H2sI16sI")
_PORT = struct.Struct("!H")


def _missing(*_: object) -> int:
    ctypes.set_errno(errno.ENOSYS)
    return -1


def _calls() -> tuple[Callable[..., int], Callable[..., int]] | None:
    libc = ctypes.CDLL(None, use_errno=True)
    try:
        receive, send = libc.recvmmsg, libc.sendmmsg
    except AttributeError:
        return None
    receive.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)
    send.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int)
    return receive, send


_recvmmsg, _sendmmsg = _calls() or (_missing, _missing)


@functools.cache
def is_available() -> bool:
    """Whether this system lets us have the calls. Raises OSError where no socket can be opened."""
    return ctypes.sizeof(ctypes.c_void_p) == 8 and _Slots().is_permitted()


# A peer's address, the memory of the datagram, its bytes, the bytes and the memory of what came beside it.
Received = tuple[memoryview, memoryview, int, int, memoryview]


class _Slots:
    """Memory for as many datagrams as one call takes; with ``data``, that of others is used for what they carry."""

    def __init__(self, data: _Slots | None = None) -> None:
        beside = SLOTS * (_HEADER + _VECTOR + _NAME + SPACE)
        self._memory = bytearray(beside if data else beside + SLOTS * _DATA)
        self._address = ctypes.addressof(ctypes.c_char.from_buffer(self._memory))
        whole = memoryview(self._memory)
        vectors = SLOTS * _HEADER
        names = vectors + SLOTS * _VECTOR
        controls = names + SLOTS * _NAME
        self._headers = whole[:vectors]
        self._words, self._halves = self._headers.cast("Q"), self._headers.cast("I")
        self._vectors = whole[vectors:names].cast("Q")
        self._names = {
            width: [whole[at : at + width] for at in range(names, controls, _NAME)] for width in WIDTH.values()
        }
        self._controls = [whole[at : at + SPACE] for at in range(controls, beside, SPACE)]
        self.data: list[memoryview] = (
            data.data if data else [whole[at : at + _LARGEST] for at in range(beside, len(whole), _DATA)]
        )
        self.data_address: int = data.data_address if data else self._address + beside
        for slot in range(SLOTS):
            self._vectors[2 * slot], self._vectors[2 * slot + 1] = self.data_address + slot * _DATA, _LARGEST
            self._words[8 * slot] = self._address + names + slot * _NAME
            self._halves[16 * slot + 2] = _NAME_LENGTH
            self._words[8 * slot + 2] = self._address + vectors + slot * _VECTOR
            self._words[8 * slot + 3] = 1
            self._words[8 * slot + 4] = self._address + controls + slot * SPACE
            self._words[8 * slot + _CONTROL_LENGTH_AT] = SPACE

    def is_permitted(self) -> bool:
        """Whether this system lets us have the calls. Raises OSError where no socket can be opened."""
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as trial:
            if _sendmmsg(trial.fileno(), self._address, 0, socket.MSG_DONTWAIT):
                return False
            _recvmmsg(trial.fileno(), self._address, 1, socket.MSG_DONTWAIT, None)
            return ctypes.get_errno() == errno.EAGAIN


class Inbox(_Slots):
    """What was received."""

    def __init__(self) -> None:
        super().__init__()
        self._fresh = memoryview(bytes(self._headers))
        self._used = 0

    def receive(self, sock: socket.socket, width: int) -> Iterable[Received]:
        """Up to ``SLOTS`` datagrams, valid until the next call. ``width``: of the socket's family.

        Raises OSError, also for an earlier datagram that was sent from here.
        """
        # The kernel wrote into these how much it used.
        used = self._used * _HEADER
        self._headers[:used] = self._fresh[:used]
        count = _recvmmsg(sock.fileno(), self._address, SLOTS, socket.MSG_DONTWAIT, None)
        self._used = max(count, 0)
        if count < 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code))
        return zip(
            self._names[width],
            self.data,
            self._halves[_RECEIVED_AT : 16 * count : 16].tolist(),
            self._words[_CONTROL_LENGTH_AT : 8 * count : 8].tolist(),
            self._controls,
            strict=False,
        )


class Outbox(_Slots):
    """What is to be sent by one socket. ``data[count]`` is where the next one goes."""

    def __init__(self, data: Inbox | None = None) -> None:
        """``data``: what is received there is passed on as it is, in its order."""
        super().__init__(data)
        self.count = 0
        self._segments: dict[int, tuple[int, bytes]] = {}

    def put(self, length: int, peer: bytes, local: bytes, segment: int) -> None:
        """The next one is there: its bytes, to whom, as whom (ancillary.py), and what it is to be cut by."""
        slot = self.count
        self._vectors[2 * slot + 1] = length
        self._names[len(peer)][slot][:] = peer
        control = local
        if segment:
            self._segments[slot] = segment, local
            control += message(*cut_by(segment))
        size = self._words[8 * slot + _CONTROL_LENGTH_AT] = len(control)
        if size:
            self._controls[slot][:size] = control
        self.count = slot + 1

    def send(self, sock: socket.socket) -> int:
        """All of them; how many datagrams the kernel did not take."""
        lost = at = 0
        while at < self.count:
            sent = self._send(sock, at, self.count - at)
            if sent > 0:
                at += sent
                continue
            if (error := ctypes.get_errno()) in {errno.EAGAIN, errno.ENOBUFS}:  # the rest would fare no better
                lost += self.count - at
                break
            if error != errno.EINTR:
                lost += self._cut(sock, at)
                at += 1
        self.count = 0
        self._segments.clear()
        return lost

    def _send(self, sock: socket.socket, slot: int, count: int) -> int:
        return int(_sendmmsg(sock.fileno(), self._address + slot * _HEADER, count, socket.MSG_DONTWAIT))

    def _cut(self, sock: socket.socket, slot: int) -> int:
        """Send by pieces what cannot be sent as it is; how many of them the kernel did not take."""
        if slot not in self._segments:
            return 1
        segment, local = self._segments[slot]
        start, length = self._vectors[2 * slot], self._vectors[2 * slot + 1]
        self._words[8 * slot + _CONTROL_LENGTH_AT] = len(local)
        lost = 0
        for at in range(0, length, segment):
            self._vectors[2 * slot], self._vectors[2 * slot + 1] = start + at, min(segment, length - at)
            lost += self._send(sock, slot, 1) != 1
        self._vectors[2 * slot] = start
        return lost


class SingleInbox(Inbox):
    """One at a time."""

    def receive(self, sock: socket.socket, width: int) -> Iterable[Received]:
        length, messages, _, address = sock.recvmsg_into([self.data[0]], SPACE)
        name, control = self._names[width][0], self._controls[0]
        name[:] = _pack(address)[:width]
        beside = b"".join(message(*each) for each in messages)
        control[: len(beside)] = beside
        return [(name, self.data[0], length, len(beside), control)]


class SingleOutbox(Outbox):
    """One at a time."""

    def __init__(self, data: Inbox | None = None) -> None:
        super().__init__(data)
        self._waiting: list[tuple[int, bytes, bytes, int]] = []

    def put(self, length: int, peer: bytes, local: bytes, segment: int) -> None:
        self._waiting.append((length, peer, local, segment or length or 1))
        self.count += 1

    def send(self, sock: socket.socket) -> int:
        lost = 0
        for data, (length, peer, local, segment) in zip(self.data, self._waiting, strict=False):
            for at in range(0, length or 1, segment):
                try:
                    sock.sendmsg([data[at : min(at + segment, length)]], split(local), 0, unpack(peer))
                except OSError:
                    lost += 1
        self._waiting.clear()
        self.count = 0
        return lost


def unpack(peer: bytes) -> tuple[str | int, ...]:
    """A sockaddr as the socket module takes it."""
    if len(peer) == WIDTH[socket.AF_INET]:
        _, port, ip = _SOCKADDR.unpack(peer)
        return socket.inet_ntop(socket.AF_INET, ip), *_PORT.unpack(port)
    _, port, flow, ip, scope = _SOCKADDR6.unpack(peer)
    return socket.inet_ntop(socket.AF_INET6, ip), *_PORT.unpack(port), socket.ntohl(flow), scope


def _pack(address: tuple[Any, ...]) -> bytes:
    ip, port = address[0].partition("%")[0], _PORT.pack(address[1])
    if len(address) == 2:
        return _SOCKADDR.pack(socket.AF_INET, port, socket.inet_pton(socket.AF_INET, ip))
    _, _, flow, scope = address
    ip6 = socket.inet_pton(socket.AF_INET6, ip)
    return _SOCKADDR6.pack(socket.AF_INET6, port, socket.htonl(flow), ip6, scope)


def inbox() -> Inbox:
    return Inbox() if is_available() else SingleInbox()


def outbox(data: Inbox | None = None) -> Outbox:
    return Outbox(data) if is_available() else SingleOutbox(data)
