"""Batches of datagrams, over real sockets. Through a listener: test_datagrams."""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from collections.abc import Iterator

import pytest

from kproxy.backend.userspace import mmsg
from kproxy.backend.userspace.mmsg import SLOTS, WIDTH, Inbox, Outbox, SingleInbox, SingleOutbox, padded, unpack

FAMILIES = [socket.AF_INET, socket.AF_INET6]
LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}
BOTH = [(Inbox, Outbox), (SingleInbox, SingleOutbox)]


@pytest.fixture(params=FAMILIES)
def pair(request: pytest.FixtureRequest) -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two sockets on loopback."""
    with socket.socket(request.param, socket.SOCK_DGRAM) as one, socket.socket(request.param, socket.SOCK_DGRAM) as two:
        for each in (one, two):
            each.bind((LOOPBACK[request.param], 0))
            each.setblocking(False)
        yield one, two


def receive(inbox: Inbox, sock: socket.socket) -> list[tuple[bytes, bytes]]:
    """All that there is: who sent it, and what."""
    got: list[tuple[bytes, bytes]] = []
    while True:
        try:
            batch = inbox.receive(sock, WIDTH[socket.AddressFamily(sock.family)], 7)
        except BlockingIOError:
            return got
        got += [(peer.tobytes(), data[:length].tobytes()) for peer, data, length, _, _ in batch]


@pytest.mark.parametrize("boxes", BOTH)
def test_what_is_received_can_be_answered(
    pair: tuple[socket.socket, socket.socket], boxes: tuple[type[Inbox], type[Outbox]]
) -> None:
    one, two = pair
    inbox, outbox = boxes[0](), boxes[1]()
    sent = [bytes([number]) * number for number in range(100)]
    for data in sent:
        one.sendto(data, two.getsockname())
    got = receive(inbox, two)
    assert [data for _, data in got] == sent
    assert {unpack(peer) for peer, _ in got} == {one.getsockname()}
    assert {peer[:4] for peer, _ in got} == {struct.pack("=I", 7)}
    for at in range(0, 100, SLOTS):
        for peer, data in got[at : at + SLOTS]:
            outbox.data[outbox.count][: len(data)] = data
            outbox.put(len(data), padded(peer))
        assert outbox.send(two) == 0
    assert [one.recv(200) for _ in sent] == sent


@pytest.mark.parametrize("boxes", BOTH)
def test_one_that_cannot_be_sent_keeps_nobody_waiting(boxes: tuple[type[Inbox], type[Outbox]]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one, socket.socket(type=socket.SOCK_DGRAM) as two:
        one.bind(("127.0.0.1", 0))
        one.setblocking(False)
        two.sendto(b"hello", one.getsockname())
        ((peer, _),) = receive(boxes[0](), one)
        nobody = peer[:8] + socket.inet_aton("255.255.255.255")  # needs SO_BROADCAST
        outbox = boxes[1]()
        for name in (nobody, peer, nobody, nobody, peer):
            outbox.data[outbox.count][:1] = b"x"
            outbox.put(1, padded(name))
        assert outbox.send(one) == 3
        assert [two.recv(9), two.recv(9)] == [b"x", b"x"]
        assert outbox.send(one) == 0


def test_when_the_queue_is_full_the_rest_is_lost_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    results = iter([(2, 0), (-1, errno.EINTR), (1, 0), (-1, errno.EAGAIN)])

    def sendmmsg(*_: object) -> int:
        sent, error = next(results)
        ctypes.set_errno(error)
        return sent

    monkeypatch.setattr(mmsg, "_sendmmsg", sendmmsg)
    outbox = Outbox()
    for _ in range(10):
        outbox.put(1, bytes(32))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        assert outbox.send(sock) == 7
    assert outbox.count == 0


@pytest.mark.parametrize("code", [errno.ENOSYS, errno.EPERM])
def test_where_the_calls_are_not_to_be_had_it_is_done_one_by_one(code: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        ctypes.set_errno(code)
        return -1

    mmsg.is_available.cache_clear()
    monkeypatch.setattr(mmsg, "_recvmmsg", refuse)
    try:
        assert not mmsg.is_available()
        inbox = mmsg.inbox()
        assert isinstance(inbox, SingleInbox)
        assert isinstance(mmsg.outbox(inbox), SingleOutbox)
    finally:
        mmsg.is_available.cache_clear()


def test_they_are_to_be_had_here() -> None:
    assert mmsg.is_available()
    assert type(mmsg.inbox()) is Inbox
    assert mmsg._missing() == -1
    assert ctypes.get_errno() == errno.ENOSYS


def test_what_an_earlier_datagram_met_is_raised() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one, socket.socket(type=socket.SOCK_DGRAM) as two:
        two.bind(("127.0.0.1", 0))
        one.connect(two.getsockname())
        two.close()
        one.send(b"?")
        with pytest.raises(ConnectionRefusedError):
            Inbox().receive(one, WIDTH[socket.AF_INET], 7)


def test_what_is_passed_on_uses_the_memory_of_what_was_received() -> None:
    inbox = Inbox()
    outbox = Outbox(inbox)
    inbox.data[0][:2] = b"hi"
    assert outbox.data[0][:2] == b"hi"
    assert len(outbox._memory) * 100 < len(inbox._memory)
