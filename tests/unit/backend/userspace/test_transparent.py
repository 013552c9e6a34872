"""Whom a dialled socket speaks for, with a kernel that answers as it is told; the real one is tests/netns'."""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator

import pytest

from kproxy.backend.userspace import transparent
from kproxy.backend.userspace.rules import Keeping
from kproxy.backend.userspace.transparent import Keeper
from kproxy.errors import KernelError
from kproxy.model.enums import IPFamily, Protocol
from kproxy.plan.plan import Target

HERE, THERE = Target("10.1.0.7", 80, local=True), Target("10.2.0.7", 80, local=False)
SOURCES = "127.20.0.0/30"  # a bind to which works here
PODS = Keeping("10.0.0.0/8", SOURCES, "10.0.0.0/8")


class Kernel:
    """In place of kernel/translation.py: ``answers`` to additions, 0 when they are used up."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.forgot = False
        self.added: list[tuple[bytes, ...]] = []
        self.held: list[tuple[bytes, ...]] = []
        self.opened = self.closed = 0

    def __call__(self, family: IPFamily, protocol: Protocol) -> Kernel:
        assert (family, protocol) == (IPFamily.IPV4, Protocol.UDP)
        self.opened += 1
        return self

    def add(self, *flow: bytes) -> int:
        self.added.append(flow)
        return self.answers.pop(0) if self.answers else 0

    def hold(self, *flow: bytes) -> int:
        self.held.append(flow)
        return errno.ENOENT if self.forgot else 0

    def close(self) -> None:
        self.closed += 1


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    made = Kernel()
    monkeypatch.setattr(transparent, "Translations", made)
    return made


@pytest.fixture
def sock() -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        yield made


def drawn(*numbers: float) -> Callable[[], float]:
    """One after the other, the last one for ever."""
    left = list(numbers)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


def packed(*ips: str) -> tuple[bytes, ...]:
    return tuple(map(socket.inet_aton, ips))


def test_the_kernel_is_told_before_the_socket_has_an_address(kernel: Kernel, sock: socket.socket) -> None:
    assert Keeper(Protocol.UDP, drawn(0.5)).keep(sock, PODS, "10.3.0.1", THERE)
    source, target, client = packed("127.20.0.2", "10.2.0.7", "10.3.0.1")
    assert kernel.added == [(source, (1024).to_bytes(2, "big"), target, (80).to_bytes(2, "big"), client)]
    assert sock.getsockname() == ("127.20.0.2", 1024)


@pytest.mark.parametrize(
    ("keeping", "client", "target"),
    [
        (PODS, "10.1.0.7", HERE),  # its own client
        (PODS, "192.0.2.9", HERE),
        (Keeping("10.0.0.0/8", SOURCES), "10.3.0.1", THERE),
        (PODS, "10.3.0.1", Target("198.51.100.1", 80, local=False)),
        (Keeping("0.0.0.0/0", SOURCES), "127.0.0.1", HERE),
        (Keeping("0.0.0.0/0", SOURCES), "169.254.7.7", HERE),
        (Keeping("::/0", "::1/128"), "::1", Target("fd00::7", 80, local=True)),
        (Keeping("::/0", "::1/128"), "fe90::1", Target("fd00::7", 80, local=True)),
        (Keeping("::/0", "::1/128"), "fe80::1%eth0", Target("fd00::7", 80, local=True)),
    ],
)
def test_nobody_is_spoken_for_whose_answers_would_not_come_back(
    kernel: Kernel, sock: socket.socket, keeping: Keeping, client: str, target: Target
) -> None:
    assert Keeper(Protocol.UDP).keep(sock, keeping, client, target)
    assert kernel.added == []
    assert sock.getsockname() == ("0.0.0.0", 0)


def test_what_is_taken_is_drawn_again(kernel: Kernel, sock: socket.socket) -> None:
    kernel.answers = [errno.EEXIST]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        other.bind(("127.20.0.2", 1024))
        assert Keeper(Protocol.UDP, drawn(0, 0.5, 0.75)).keep(sock, PODS, "10.3.0.1", HERE)
    assert [flow[0] for flow in kernel.added] == [*packed("127.20.0.0", "127.20.0.2", "127.20.0.3")]
    assert sock.getsockname() == ("127.20.0.3", 1024)


@pytest.mark.parametrize(("answer", "draws"), [(errno.EPERM, 1), (errno.ENOMEM, 1), (errno.EEXIST, 8)])
def test_where_the_kernel_refuses_the_socket_can_be_used_all_the_same(
    kernel: Kernel, sock: socket.socket, answer: int, draws: int
) -> None:
    kernel.answers = [answer] * 8
    assert not Keeper(Protocol.UDP).keep(sock, PODS, "10.3.0.1", HERE)
    assert len(kernel.added) == draws
    assert sock.getsockname() == ("0.0.0.0", 0)


def test_where_the_network_is_not_this_nodes_it_is_not_tried_again(kernel: Kernel, sock: socket.socket) -> None:
    assert not Keeper(Protocol.UDP).keep(sock, Keeping("10.0.0.0/8", "192.0.2.0/24"), "10.3.0.1", HERE)
    assert len(kernel.added) == 1


def test_where_the_kernel_has_no_door_it_is_asked_once(monkeypatch: pytest.MonkeyPatch, sock: socket.socket) -> None:
    asked = []

    def refuse(*what: object) -> None:
        asked.append(what)
        raise KernelError("no netfilter netlink socket")

    monkeypatch.setattr(transparent, "Translations", refuse)
    keeper = Keeper(Protocol.UDP)
    assert [keeper.keep(sock, PODS, "10.3.0.1", HERE) for _ in range(2)] == [False, False]
    keeper.close()
    assert len(asked) == 1


def test_flows_are_held_by_turns_while_their_sockets_are_open_and_told_again_if_forgotten(
    kernel: Kernel, sock: socket.socket
) -> None:
    keeper = Keeper(Protocol.UDP)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other:
        assert keeper.keep(sock, PODS, "10.3.0.1", HERE)
        keeper.renew()
        assert keeper.keep(other, PODS, "10.3.0.2", HERE)
        for _ in range(4):
            keeper.renew()
        assert sorted(kernel.held) == sorted(flow[:4] for flow in kernel.added)
    kernel.held.clear()
    kernel.forgot = True
    told = list(kernel.added)
    for _ in range(4):
        keeper.renew()
    assert kernel.held == [told[0][:4]]
    assert kernel.added == [*told, told[0]]
    keeper.close()
    assert (kernel.opened, kernel.closed) == (1, 1)
