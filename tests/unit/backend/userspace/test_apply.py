"""Listeners come and go. What passes through them is test_streams' and test_datagrams'."""

from __future__ import annotations

import errno
import socket

import pytest
from msgspec.structs import replace

from kproxy.backend.userspace.reactor import Reactor
from kproxy.model.enums import Protocol
from kproxy.plan.plan import Target
from tests.unit.backend.userspace.sockets import TCP, UDP, dial, endpoint, free_port, key, listening, rule, rules, until
from tests.unit.backend.userspace.test_streams import echo

SOMEBODY = Target("127.0.0.1", 9, local=False)


@pytest.mark.parametrize("ip", ["127.0.0.1", "0.0.0.0"])
@pytest.mark.parametrize(("protocol", "kind"), [(TCP, socket.SOCK_STREAM), (UDP, socket.SOCK_DGRAM)])
async def test_a_port_that_a_program_has_is_reported_left_alone_and_taken_when_it_is_free(
    protocol: Protocol, kind: socket.SocketKind, ip: str
) -> None:
    async with listening() as listeners:
        with socket.socket(socket.AF_INET, kind) as holder:
            holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # even one that would share
            holder.bind((ip, 0))
            if protocol is TCP:
                holder.listen()
            taken, free = holder.getsockname()[1], free_port(protocol)
            wanted = rules(rule(taken, SOMEBODY, protocol=protocol), rule(free, SOMEBODY, protocol=protocol))
            for _ in range(2):
                (failure,) = listeners.reconcile(wanted)
                assert (failure.rule.listener.port, failure.error.errno) == (taken, errno.EADDRINUSE)
            assert [each.port for each in listeners.open] == [free]
        assert listeners.reconcile(wanted) == []
        assert {each.port for each in listeners.open} == {taken, free}


async def test_a_listener_that_cannot_be_watched_is_reported_and_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOSPC, "too many watches")

    async with listening() as listeners:
        wanted = rules(rule(free_port(), SOMEBODY))
        with monkeypatch.context() as patched:
            patched.setattr(Reactor, "register", refuse)
            (failure,) = listeners.reconcile(wanted)
        assert failure.error.errno == errno.ENOSPC
        assert not listeners.open
        assert listeners.reconcile(wanted) == []


async def test_nobody_can_take_a_port_that_is_open_and_everybody_once_it_is_shut() -> None:
    port = free_port(UDP)
    async with listening(rule(port, SOMEBODY, protocol=UDP)) as listeners:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as thief:
            thief.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with pytest.raises(OSError, match="in use"):
                thief.bind(("127.0.0.1", port))
            listeners.reconcile(rules())
            thief.bind(("127.0.0.1", port))


async def test_a_listener_whose_endpoints_change_stays_open() -> None:
    port = free_port()
    async with endpoint(echo) as first, endpoint(echo) as second, listening(rule(port, first)) as listeners:
        (door,) = listeners._doors.values()
        listeners.reconcile(rules(rule(port, second)))
        assert list(listeners._doors.values()) == [door]
        reader, writer = await dial(port)
        writer.write(b"x")
        assert await reader.readexactly(1) == b"x"
        writer.close()


async def test_families_do_not_share_a_socket() -> None:
    port = free_port(ip="::1")
    async with listening(rule(port, SOMEBODY, ip="::1"), rule(port, SOMEBODY)) as listeners:
        assert len(listeners.open) == 2


async def test_listeners_are_bound_to_the_loopback_device() -> None:
    async with listening(rule(free_port(), SOMEBODY), rule(free_port(UDP), SOMEBODY, protocol=UDP)) as listeners:
        for door in listeners._doors.values():
            device = door.socket.getsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, 16)
            assert device.rstrip(b"\0") == b"lo"


async def test_everything_is_shut_in_the_end() -> None:
    port = free_port()
    async with listening(rule(port, SOMEBODY)) as listeners:
        pass
    assert not listeners.open
    with pytest.raises(ConnectionRefusedError):
        await dial(port)


@pytest.mark.parametrize("protocol", [TCP, UDP])
async def test_a_tally_is_kept_until_its_rules_are_gone_and_its_flows_have_ended(protocol: Protocol) -> None:
    port, name = free_port(protocol), key(protocol)
    async with endpoint(echo) as target, listening(rule(port, target, protocol=protocol)) as listeners:
        if protocol is UDP:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
                client.sendto(b"?", ("127.0.0.1", port))
                await until(lambda: listeners.tallies()[name].flows == 1)
                assert listeners.release() == frozenset()
            listeners.reconcile(rules())  # which ends the session
        else:
            reader, writer = await dial(port)
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            listeners.reconcile(rules())
            assert listeners.release() == frozenset()
            writer.close()
        await until(lambda: listeners.tallies()[name].active == 0)
        assert listeners.tallies()[name].flows == 1
        assert listeners.release() == {name}
        assert listeners.tallies() == {}


async def test_a_listener_that_another_service_gets_counts_for_that_one_and_sends_to_its_endpoints() -> None:
    async with endpoint(echo) as first, endpoint(echo) as second:
        wanted = rule(free_port(), first)
        async with listening(wanted) as listeners:
            (door,) = listeners._doors.values()
            reader, writer = await dial(wanted.listener.port)
            writer.write(b"x")
            assert await reader.readexactly(1) == b"x"
            listeners.reconcile(rules(replace(wanted, key=key(name="other"), targets=(second,))))
            assert list(listeners._doors.values()) == [door]
            other, other_writer = await dial(wanted.listener.port)
            other_writer.write(b"y")
            assert await other.readexactly(1) == b"y"
            tallies = listeners.tallies()
            assert [tallies[key(name=name)].active for name in ("web", "other")] == [1, 1]
            for each in (writer, other_writer):
                each.close()
            await until(lambda: not any(each.active for each in tallies.values()))
            assert [tallies[key(name=name)].received for name in ("web", "other")] == [1, 1]
            assert listeners.release() == {key()}


async def test_a_session_of_a_listener_that_another_service_gets_ends() -> None:
    port, name = free_port(UDP), key(UDP, "other")
    async with listening(rule(port, SOMEBODY, protocol=UDP)) as listeners:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client, socket.socket(type=socket.SOCK_DGRAM) as sink:
            sink.bind(("127.0.0.1", 0))
            wanted = rule(port, Target("127.0.0.1", sink.getsockname()[1], local=False), protocol=UDP)
            listeners.reconcile(rules(wanted))
            client.sendto(b"?", ("127.0.0.1", port))
            await until(lambda: listeners.tallies()[key(UDP)].active == 1)
            listeners.reconcile(rules(replace(wanted, key=name)))  # the same endpoint
            assert [listeners.tallies()[each].active for each in (key(UDP), name)] == [0, 0]


async def test_a_listener_that_cannot_be_opened_leaves_nothing_to_be_kept() -> None:
    async with listening() as listeners:
        with socket.create_server(("127.0.0.1", 0)) as holder:
            assert listeners.reconcile(rules(rule(holder.getsockname()[1], SOMEBODY)))
        listeners.release()
        assert listeners.tallies() == {}
