"""What comes beside datagrams, as bytes. Through the kernel: test_datagrams."""

from __future__ import annotations

import socket
import struct
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.backend.userspace.ancillary import (
    NOTHING,
    UDP_GRO,
    Beside,
    ask_destination,
    dropped,
    message,
    parse,
    split,
    widen,
)

IP, IPV6, SOL_UDP = socket.IPPROTO_IP, socket.IPPROTO_IPV6, socket.SOL_UDP
HERE = socket.inet_aton("192.0.2.1")


def test_answers_go_out_from_the_address_that_was_dialled_and_on_whatever_link() -> None:
    control = message(IP, 8, struct.pack("=i", 7) + socket.inet_aton("192.0.2.9") + HERE)
    assert parse(control) == Beside(0, message(IP, 8, struct.pack("=i", 0) + HERE + bytes(4)))
    six = socket.inet_pton(socket.AF_INET6, "fd00::1")
    control = message(IPV6, socket.IPV6_PKTINFO, six + struct.pack("=I", 7))
    assert parse(control) == Beside(0, message(IPV6, socket.IPV6_PKTINFO, six + bytes(4)))


def test_the_segment_size_is_found_beside_others() -> None:
    pktinfo = message(IP, 8, struct.pack("=i", 7) + HERE * 2)
    assert parse(message(SOL_UDP, UDP_GRO, struct.pack("=i", 1200)) + pktinfo).segment == 1200
    assert parse(pktinfo + message(SOL_UDP, UDP_GRO, struct.pack("=i", 1))) == Beside(1, parse(pktinfo).local)


@given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300), st.binary(max_size=40))))
def test_splitting_undoes_joining(messages: list[tuple[int, int, bytes]]) -> None:
    assert split(b"".join(message(*each) for each in messages)) == messages


@given(st.binary(max_size=200))
def test_nothing_that_is_not_a_message_keeps_us(control: bytes) -> None:
    assert len(split(control)) <= len(control)


def test_nothing_beside_is_nothing() -> None:
    assert parse(b"") == NOTHING


@pytest.mark.parametrize("may_force", [True, False])
def test_queues_are_as_wide_as_asked_or_as_the_system_lets_us(may_force: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not may_force:
        monkeypatch.setattr("kproxy.backend.userspace.ancillary._SO_RCVBUFFORCE", 0)
        monkeypatch.setattr("kproxy.backend.userspace.ancillary._SO_SNDBUFFORCE", 0)

    class Guarded(socket.socket):
        def setsockopt(self, level: int, option: int, value: int) -> None:  # type: ignore[override]
            if option == 0:
                raise PermissionError
            super().setsockopt(level, option, value)

    with Guarded(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        widen(sock, 50_000)
        sizes = [sock.getsockopt(socket.SOL_SOCKET, each) for each in (socket.SO_RCVBUF, socket.SO_SNDBUF)]
        assert sizes == [100_000] * 2  # doubled: socket(7)


def test_the_kernel_tells_what_it_threw_away() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink, socket.socket(type=socket.SOCK_DGRAM) as source:
        sink.bind(("127.0.0.1", 0))
        widen(sink, 4096)
        assert dropped(sink) == 0
        for _ in range(100):
            source.sendto(bytes(1000), sink.getsockname())
        kept = 0
        sink.setblocking(False)
        with suppress(BlockingIOError):
            while sink.recv(2000):
                kept += 1
        assert dropped(sink) == 100 - kept > 0


def test_a_socket_of_another_kind_has_no_destinations_to_tell() -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        with pytest.raises(OSError, match="not supported"):
            ask_destination(sock)
        assert dropped(sock) == 0
