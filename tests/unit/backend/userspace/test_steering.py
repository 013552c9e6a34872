"""One client, one worker, in both families and protocols; the crew's own tests are test_crew.py's."""

from __future__ import annotations

import socket
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from kproxy.backend.userspace.openings import Openings
from kproxy.model.enums import Protocol

WORKERS = 3
CLIENTS = [f"127.0.1.{number}" for number in range(1, 25)]


@pytest.fixture
def openings() -> Iterator[Openings]:
    made = Openings(WORKERS, 1000)
    yield made
    for each in list(made):
        made.close(each)


def ask(openings: Openings, protocol: Protocol, client: str, times: int) -> Counter[int]:
    """Which sockets a client came to; each is waited for, as what loopback carries is there when ``send`` returns."""
    (listener,) = openings
    kind = socket.SOCK_STREAM if protocol is Protocol.TCP else socket.SOCK_DGRAM
    family = socket.AF_INET6 if ":" in client else socket.AF_INET
    found: Counter[int] = Counter()
    with ExitStack() as stack:
        for _ in range(times):
            sock = stack.enter_context(socket.socket(family, kind))
            sock.bind((client, 0))
            sock.connect((listener.ip, listener.port))
            sock.send(b"x")
            found[next(seat for seat in range(WORKERS) if takes(openings.of(listener, seat), protocol))] += 1
    return found


def takes(sock: socket.socket, protocol: Protocol) -> bool:
    sock.setblocking(False)
    try:
        if protocol is Protocol.TCP:
            sock.accept()[0].close()
        else:
            sock.recv(1)
    except BlockingIOError:
        return False
    return True


@pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP])
def test_a_client_comes_to_one_worker_and_clients_to_all(openings: Openings, protocol: Protocol) -> None:
    listener = openings.open("127.0.0.1", protocol)
    openings.steer(listener, by_client=True)
    found = [ask(openings, protocol, client, 6) for client in CLIENTS]
    assert {len(each) for each in found} == {1}
    assert {seat for each in found for seat in each} == set(range(WORKERS))


@pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP])
def test_without_affinity_one_client_is_spread_again(openings: Openings, protocol: Protocol) -> None:
    listener = openings.open("127.0.0.1", protocol)
    openings.steer(listener, by_client=True)
    openings.steer(listener, by_client=False)
    assert len(ask(openings, protocol, CLIENTS[0], 60)) > 1


@pytest.mark.parametrize("protocol", [Protocol.TCP, Protocol.UDP])
def test_a_client_comes_to_one_worker_by_ipv6(openings: Openings, protocol: Protocol) -> None:
    listener = openings.open("::1", protocol)
    openings.steer(listener, by_client=True)
    assert len(ask(openings, protocol, "::1", 40)) == 1


def test_a_lonely_worker_needs_no_steering() -> None:
    alone = Openings(1, 1000)
    listener = alone.open("127.0.0.1", Protocol.TCP)
    alone.steer(listener, by_client=True)
    alone.close(listener)
