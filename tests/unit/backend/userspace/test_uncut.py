"""Datagrams that a sender left uncut, through a listener, with real sockets."""

from __future__ import annotations

import contextlib
import socket
import struct

import pytest

from kproxy.backend.userspace.ancillary import UDP_SEGMENT
from tests.unit.backend.userspace.datagram_ends import Fountain, Log, content, counts_of, cut, free_port, udp
from tests.unit.backend.userspace.sockets import UDP, listening, rule, rules, until

SO_NO_CHECK = 11

pytestmark = pytest.mark.usefixtures("how")


async def test_what_a_sender_left_uncut_arrives_cut_in_the_same_places() -> None:
    port, log = free_port(), Log()
    with log.socket, udp() as client:
        async with listening(rule(port, log.target, protocol=UDP)):
            client.connect(("127.0.0.1", port))
            for segment in [*range(1, 1401, 7), 1400]:
                data = content(min(segment * 5 + segment // 2, 65000))
                client.setsockopt(socket.SOL_UDP, UDP_SEGMENT, segment)
                client.send(data)
                assert [each for each, _ in await log.all(len(data))] == cut(data, segment)


async def test_what_an_endpoint_left_uncut_arrives_cut_in_the_same_places() -> None:
    port, fountain, log = free_port(), Fountain("f"), Log()
    with contextlib.closing(fountain), log.socket:
        async with listening(rule(port, fountain.target, protocol=UDP)) as listeners:
            for segment in range(1400, 0, -7):
                size = segment * 5 + segment // 2
                log.socket.sendto(struct.pack("!II", size, segment), ("127.0.0.1", port))
                assert [each for each, _ in await log.all(size)] == cut(content(size), segment)
            (session,) = listeners._datagrams._by_file.values()
            assert session.is_bulk


async def test_what_was_left_uncut_stays_so_for_those_who_can_take_it(how: str) -> None:
    port, fountain, log, far = free_port(), Fountain("f"), Log(joined=True), Log(joined=True)
    with contextlib.closing(fountain), log.socket, far.socket:
        async with listening(rule(port, fountain.target, protocol=UDP)) as listeners:
            for _ in range(10):
                log.socket.sendto(struct.pack("!II", 40000, 1200), ("127.0.0.1", port))
                got = await log.all(40000)
                assert b"".join(data for data, _ in got) == content(40000)
            if how == "many":
                assert got == [(content(40000), 1200)]
            listeners.reconcile(rules(rule(port, far.target, protocol=UDP)))
            log.socket.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 1200)
            log.socket.sendto(content(40000), ("127.0.0.1", port))
            assert await far.all(40000) == [(content(40000), 1200)]


async def test_where_the_kernel_cannot_cut_we_do() -> None:
    port, log, fountain = free_port(), Log(), Fountain("f")
    with contextlib.closing(fountain), log.socket, udp() as client:
        async with listening(rule(port, log.target, protocol=UDP)) as listeners:
            client.connect(("127.0.0.1", port))
            client.send(b"")
            await until(lambda: counts_of(listeners).active == 1)
            (session,) = listeners._datagrams._by_file.values()
            session.socket.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)  # without a checksum it will not
            client.setsockopt(socket.SOL_UDP, UDP_SEGMENT, 1100)
            client.send(content(20500))
            got = [data for data, _ in await log.all(20500)]
            assert [each for each in got if each] == cut(content(20500), 1100)
            listeners.reconcile(rules(rule(port, fountain.target, protocol=UDP)))
            (door,) = listeners._doors.values()
            door.socket.setsockopt(socket.SOL_SOCKET, SO_NO_CHECK, 1)
            for _ in range(10):
                log.socket.sendto(struct.pack("!II", 20500, 1100), ("127.0.0.1", port))
                assert [data for data, _ in await log.all(20500)] == cut(content(20500), 1100)
            assert counts_of(listeners).dropped == 0
