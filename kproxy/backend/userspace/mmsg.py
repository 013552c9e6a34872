"""Many datagrams with one call of the kernel: recvmmsg(2) and sendmmsg(2), which the socket module does not have.

Memory for all of them is laid out once as the kernel reads it, and read and written through views of it: no address
becomes a tuple, no buffer is made. An address is the bytes that the kernel gave, which serve as a key as they are,
with the number of the socket that it is known at in front. What is the same for all of a batch is written at once.
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
import sys
from array import array
from collections.abc import Callable, Iterable
from typing import Any

from kproxy.backend.userspace.ancillary import SPACE, cut_by, message, split

SLOTS = 64
WIDTH = {socket.AF_INET: 8, socket.AF_INET6: 28}  # bytes of a sockaddr that tell one from another
_NAME_LENGTH = 28  # what the kernel wants at least; of sockaddr_in it ignores what is behind
_HEADER, _VECTOR = 64, 16  # struct mmsghdr, struct iovec
_NUMBER, _NAME = 4, 32  # bytes of the number in front of a sockaddr, and room for both
_NO_CONTROL = memoryview(array("Q", bytes(8 * SLOTS)))
# A little more than the largest datagram, so that slots do not all begin in the same set of the processor's cache.
_LARGEST = 65536
_DATA = _LARGEST + 192
# struct mmsghdr in words of 8 bytes: name, its length, vector, how many, control, its length, flags, received
_CONTROL_LENGTH_AT = 5
_RECEIVED_AT = 14  # in words of 4
_SOCKADDR, _SOCKADDR6 = struct.Struct("=H2s4s"), struct.Struct("=H2sI16sI")
_FAMILY, _PORT = struct.Struct("=H"), struct.Struct("!H")


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


# A peer's address behind the number, the memory of the datagram, its bytes, and both of what came beside it.
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
        self._whole_names = whole[names:controls]
        self._names = {
            width: [whole[at : at + _NUMBER + width] for at in range(names, controls, _NAME)]
            for width in WIDTH.values()
        }
        self._controls = [whole[at : at + SPACE] for at in range(controls, beside, SPACE)]
        self.data: list[memoryview] = (
            data.data if data else [whole[at : at + _LARGEST] for at in range(beside, len(whole), _DATA)]
        )
        self.data_address: int = data.data_address if data else self._address + beside
        for slot in range(SLOTS):
            self._vectors[2 * slot], self._vectors[2 * slot + 1] = self.data_address + slot * _DATA, _LARGEST
            self._words[8 * slot] = self._address + names + slot * _NAME + _NUMBER
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
        self._number = 0
        self._numbers = self._whole_names.cast("I")[:: _NAME // 4]

    def receive(self, sock: socket.socket, width: int, number: int) -> Iterable[Received]:
        """Up to ``SLOTS`` datagrams, valid until the next call. ``width``: of the socket's family.

        Raises OSError, also for an earlier datagram that was sent from here.
        """
        if number != self._number:
            self._numbers[:] = memoryview(array("I", [number]) * SLOTS)
            self._number = number
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
        self._lengths: list[int] = []
        self._peers: list[bytes] = []
        self._beside: dict[int, tuple[bytes, int]] = {}

    @property
    def count(self) -> int:
        return len(self._lengths)

    def put(self, length: int, peer: bytes, local: bytes = b"", segment: int = 0) -> None:
        """The next one is there: its bytes, to whom (``padded``), as whom (ancillary.py), what it is to be cut by."""
        if local or segment:
            self._beside[len(self._lengths)] = local, segment
        self._lengths.append(length)
        self._peers.append(peer)

    def send(self, sock: socket.socket) -> int:
        """All of them; how many datagrams the kernel did not take."""
        count = len(self._lengths)
        self._vectors[1 : 2 * count : 2] = memoryview(array("Q", self._lengths))
        self._whole_names[: _NAME * count] = b"".join(self._peers)
        self._words[_CONTROL_LENGTH_AT : 8 * count : 8] = _NO_CONTROL[:count]
        for slot, (local, segment) in self._beside.items():
            control = local + message(*cut_by(segment)) if segment else local
            self._controls[slot][: len(control)] = control
            self._words[8 * slot + _CONTROL_LENGTH_AT] = len(control)
        lost = self._send_all(sock, count)
        self._forget()
        return lost

    def _forget(self) -> None:
        self._lengths.clear()
        self._peers.clear()
        self._beside.clear()

    def _send_all(self, sock: socket.socket, count: int) -> int:
        lost = at = 0
        while at < count:
            sent = self._send(sock, at, count - at)
            if sent > 0:
                at += sent
                continue
            if (error := ctypes.get_errno()) in {errno.EAGAIN, errno.ENOBUFS}:  # the rest would fare no better
                return lost + count - at
            if error != errno.EINTR:
                lost += self._cut(sock, at)
                at += 1
        return lost

    def _send(self, sock: socket.socket, slot: int, count: int) -> int:
        return int(_sendmmsg(sock.fileno(), self._address + slot * _HEADER, count, socket.MSG_DONTWAIT))

    def _cut(self, sock: socket.socket, slot: int) -> int:
        """Send by pieces what cannot be sent as it is; how many of them the kernel did not take."""
        local, segment = self._beside.get(slot, (b"", 0))
        if not segment:
            return 1
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

    def receive(self, sock: socket.socket, width: int, number: int) -> Iterable[Received]:
        length, messages, _, address = sock.recvmsg_into([self.data[0]], SPACE)
        name, control = self._names[width][0], self._controls[0]
        name[:] = number.to_bytes(_NUMBER, sys.byteorder) + _pack(address)[:width]
        beside = b"".join(message(*each) for each in messages)
        control[: len(beside)] = beside
        return [(name, self.data[0], length, len(beside), control)]


class SingleOutbox(Outbox):
    """One at a time."""

    def send(self, sock: socket.socket) -> int:
        lost = 0
        for slot, (length, peer) in enumerate(zip(self._lengths, self._peers, strict=True)):
            local, segment = self._beside.get(slot, (b"", 0))
            step = segment or length or 1
            for at in range(0, length or 1, step):
                try:
                    sock.sendmsg([self.data[slot][at : min(at + step, length)]], split(local), 0, unpack(peer))
                except OSError:
                    lost += 1
        self._forget()
        return lost


def padded(peer: bytes) -> bytes:
    """A peer that was received, as it is sent to."""
    return peer.ljust(_NAME, b"\0")


def unpack(peer: bytes) -> tuple[str | int, ...]:
    """A sockaddr, behind its number, as the socket module takes it."""
    if _FAMILY.unpack_from(peer, _NUMBER) == (socket.AF_INET,):
        _, port, ip = _SOCKADDR.unpack_from(peer, _NUMBER)
        return socket.inet_ntop(socket.AF_INET, ip), *_PORT.unpack(port)
    _, port, flow, ip, scope = _SOCKADDR6.unpack_from(peer, _NUMBER)
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
