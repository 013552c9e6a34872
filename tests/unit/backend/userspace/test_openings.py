"""Sockets that share a port with each other and with nobody else."""

from __future__ import annotations

import errno
import socket

import pytest

from kproxy.backend.userspace.openings import Openings
from kproxy.model.enums import Protocol
from tests.unit.backend.userspace.crews import open_files
from tests.unit.backend.userspace.sockets import TCP, UDP, free_port

KINDS = {TCP: socket.SOCK_STREAM, UDP: socket.SOCK_DGRAM}
FAMILIES = {"127.0.0.1": socket.AF_INET, "::1": socket.AF_INET6}


@pytest.fixture
def openings() -> Openings:
    return Openings(3, 1000)


@pytest.mark.parametrize("protocol", KINDS)
@pytest.mark.parametrize("ip", FAMILIES)
def test_clients_are_shared_out_among_all_sockets(openings: Openings, ip: str, protocol: Protocol) -> None:
    listener = openings.open(ip, protocol)
    ours = [openings.of(listener, seat) for seat in range(3)]
    clients = []
    for _ in range(64):
        client = socket.socket(FAMILIES[ip], KINDS[protocol])
        client.connect((ip, listener.port))
        client.send(b"x")
        clients.append(client)
    counts = []
    for each in ours:
        count = 0
        try:
            while True:
                if protocol is TCP:
                    each.accept()[0].close()
                else:
                    each.recv(9)
                count += 1
        except BlockingIOError:
            counts.append(count)
    assert sum(counts) == 64
    assert all(counts)
    for client in clients:
        client.close()
    openings.close(listener)


@pytest.mark.parametrize("protocol", KINDS)
def test_nobody_gets_a_port_that_is_open_and_no_two_listeners_have_one(openings: Openings, protocol: Protocol) -> None:
    listeners = [openings.open("127.0.0.1", protocol) for _ in range(200)]
    assert len({each.port for each in listeners}) == 200 == len(openings)
    for option in (socket.SO_REUSEADDR, 0):
        with socket.socket(socket.AF_INET, KINDS[protocol]) as thief:
            if option:
                thief.setsockopt(socket.SOL_SOCKET, option, 1)
            with pytest.raises(OSError, match="in use"):
                thief.bind(("127.0.0.1", listeners[0].port))
    for each in listeners:
        openings.close(each)
        openings.close(each)
    assert len(openings) == 0


@pytest.mark.parametrize("protocol", KINDS)
def test_a_socket_that_would_share_is_not_shared_with(openings: Openings, protocol: Protocol) -> None:
    with socket.socket(socket.AF_INET, KINDS[protocol]) as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        holder.bind(("127.0.0.1", 0))
        if protocol is TCP:
            holder.listen()
        files = open_files()
        with pytest.raises(OSError, match="in use") as caught:
            openings.open("127.0.0.1", protocol, holder.getsockname()[1])
        assert caught.value.errno == errno.EADDRINUSE
        assert open_files() == files
        assert len(openings) == 0


def test_a_port_may_be_asked_for_where_an_old_connection_waits_for_its_end(openings: Openings) -> None:
    first = openings.open("127.0.0.1", TCP, free_port())
    client = socket.create_connection(("127.0.0.1", first.port))
    guests = []
    for seat in range(3):
        try:
            guests.append(openings.of(first, seat).accept()[0])
        except BlockingIOError:
            continue
    for each in (*guests, client):  # who closes first waits
        each.close()
    openings.close(first)
    again = openings.open("127.0.0.1", TCP, first.port)
    assert again == first
    openings.close(again)


def test_an_address_that_the_node_does_not_have_leaves_nothing_open(openings: Openings) -> None:
    files = open_files()
    with pytest.raises(OSError, match="assign requested address"):
        openings.open("192.0.2.1", TCP)
    assert open_files() == files


def test_listeners_leave_files_for_others() -> None:
    made = Openings(3, 7)
    try:
        for _ in range(2):
            made.open("127.0.0.1", Protocol.TCP)
        with pytest.raises(OSError, match="Too many open files"):
            made.open("127.0.0.1", Protocol.TCP)
    finally:
        for listener in list(made):
            made.close(listener)
