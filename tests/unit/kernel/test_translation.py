"""What the kernel is asked for; that it does it is tests/netns/test_transparent.py's."""

from __future__ import annotations

import errno
import os
import socket
import sys

import pytest

from kproxy.kernel import netlink, translation
from kproxy.kernel.translation import Translations
from kproxy.model.enums import IPFamily, Protocol

PORT, TARGET_PORT = b"\x12\x34", b"\x56\x78"
FLOW = {
    IPFamily.IPV4: [socket.inet_aton(ip) for ip in ("169.254.73.130", "10.0.0.1", "192.0.2.9")],
    IPFamily.IPV6: [socket.inet_pton(socket.AF_INET6, ip) for ip in ("fd6b::9", "fd00::1", "2001:db8::9")],
}


class Door:
    """Answers everything alike."""

    def __init__(self, answer: bytes | int) -> None:
        self.raw = self
        self.answer = answer
        self.sent: list[bytes] = []

    def send(self, message: bytes) -> None:
        self.sent.append(message)

    def recv(self, size: int, flags: int) -> bytes:
        assert flags == socket.MSG_DONTWAIT
        if isinstance(self.answer, int):
            raise OSError(self.answer, os.strerror(self.answer))
        return self.answer[:size]

    def close(self) -> None:
        self.sent.clear()


def acknowledged(number: int) -> bytes:
    return (
        netlink.HEADER.pack(36, netlink.ERROR, 0, 0, 0) + (-number).to_bytes(4, sys.byteorder, signed=True) + bytes(16)
    )


def made(
    monkeypatch: pytest.MonkeyPatch, family: IPFamily, door: Door, protocol: Protocol = Protocol.TCP
) -> Translations:
    monkeypatch.setattr(translation, "NetfilterSocket", lambda: door)
    return Translations(family, protocol)


def read(message: bytes) -> dict[str, bytes]:
    """Path of attribute numbers → payload, of a message whose attributes below ``deep`` are nested."""
    found: dict[str, bytes] = {}

    def walk(start: int, end: int, path: str) -> None:
        for number, first, last in netlink.attributes(message, start, end):
            name = f"{path}{number}"
            if name in {"1", "2", "1.1", "1.2", "2.1", "2.2", "6"}:
                walk(first, last, f"{name}.")
            else:
                found[name] = message[first:last]

    walk(netlink.BODY, len(message), "")
    return found


@pytest.mark.parametrize("family", IPFamily)
def test_an_entry_is_asked_for_with_both_directions_and_whom_the_target_sees(
    monkeypatch: pytest.MonkeyPatch, family: IPFamily
) -> None:
    door = Door(acknowledged(0))
    source, target, seen = FLOW[family]
    assert made(monkeypatch, family, door).add(source, PORT, target, TARGET_PORT, seen) == 0
    here, there, first = ("1", "2", "1") if family is IPFamily.IPV4 else ("3", "4", "4")
    assert read(door.sent[0]) == {
        f"1.1.{here}": source,
        f"1.1.{there}": target,
        "1.2.1": b"\6",
        "1.2.2": PORT,
        "1.2.3": TARGET_PORT,
        f"2.1.{here}": target,
        f"2.1.{there}": source,
        "2.2.1": b"\6",
        "2.2.2": TARGET_PORT,
        "2.2.3": PORT,
        "7": b"\0\0\0\x3c",
        f"6.{first}": seen,
    }
    length, kind, flags, _, _ = netlink.HEADER.unpack_from(door.sent[0])
    assert (length, kind) == (len(door.sent[0]), 0x100)
    assert flags == netlink.REQUEST | netlink.ACK | netlink.CREATE | netlink.EXCL


@pytest.mark.parametrize("family", IPFamily)
def test_to_hold_an_entry_makes_none_and_changes_nobodys_address(
    monkeypatch: pytest.MonkeyPatch, family: IPFamily
) -> None:
    door = Door(acknowledged(errno.ENOENT))
    source, target, _ = FLOW[family]
    assert made(monkeypatch, family, door, Protocol.UDP).hold(source, PORT, target, TARGET_PORT) == errno.ENOENT
    asked = read(door.sent[0])
    assert (asked["7"], asked["1.2.1"]) == (b"\0\0\0\x3c", b"\x11")
    assert not [name for name in asked if name.startswith("6")]
    assert netlink.HEADER.unpack_from(door.sent[0])[2] == netlink.REQUEST | netlink.ACK


@pytest.mark.parametrize("answer", [errno.EEXIST, errno.EPERM, errno.ENOMEM])
def test_what_the_kernel_says_against_it_is_passed_on(monkeypatch: pytest.MonkeyPatch, answer: int) -> None:
    source, target, seen = FLOW[IPFamily.IPV4]
    for door in Door(acknowledged(answer)), Door(answer):
        translations = made(monkeypatch, IPFamily.IPV4, door)
        assert translations.add(source, PORT, target, TARGET_PORT, seen) == answer
        translations.close()
        assert door.sent == []
