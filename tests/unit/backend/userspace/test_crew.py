"""Workers as processes, on loopback: what they serve, and what becomes of it when one ends.

How one process serves is test_streams' and test_datagrams'; what is said to workers is test_messages', how a worker
ends that is left alone test_worker's.
"""

from __future__ import annotations

import asyncio
import errno
import os
import resource
import signal

import pytest

from kproxy.backend.userspace.ancillary import dropped
from kproxy.backend.userspace.seat import Ended, LeftOut
from kproxy.errors import KernelError
from kproxy.plan.plan import Target
from tests.unit.backend.userspace.crews import (
    Asker,
    crewed,
    datagram_endpoint,
    open_files,
    rule_of,
    said,
)
from tests.unit.backend.userspace.sockets import DEADLINE, TCP, UDP, dial, endpoint, free_port, until
from tests.unit.backend.userspace.test_streams import echo

LOOP = "uvloop"  # the daemon's; channels are tested on both


async def test_no_worker_runs_before_the_first_rule_and_each_serves_both_families_after_it() -> None:
    async with crewed() as made, endpoint(echo) as target, endpoint(echo, "::1") as other:
        listener = made.crew.open("127.0.0.1", TCP)
        assert await made.crew.push([]) == []
        assert made.pids() == []
        assert await made.crew.push([rule_of(listener, target)]) == []
        assert len(made.pids()) == 2
        await made.dial_each(listener)
        reader, writer = await dial((await made.serve(other, ip="::1")).port, "::1")
        await said(reader, writer)
        writer.close()
        tally = await made.tally()
        assert tally.flows >= tally.active >= 4


async def test_a_change_of_endpoints_ends_no_connection_and_nothing_is_sent_twice() -> None:
    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(1)
        writer.write(b"other")
        await writer.drain()

    async with crewed() as made, endpoint(echo) as first, endpoint(other) as second:
        listener = await made.serve(first)
        before = await made.dial_each(listener)
        await made.again(listener, second)
        told = [seat._sent for seat in made.crew._seats]
        await made.again(listener, second)
        assert [seat._sent for seat in made.crew._seats] == told
        for reader, writer in (each for streams in before.values() for each in streams):
            await said(reader, writer)
        reader, writer = await made.dial(listener)
        writer.write(b"x")
        assert await reader.read() == b"other"
        writer.close()


async def test_who_comes_while_a_worker_is_dead_is_served_and_only_its_own_connections_end() -> None:
    async with crewed() as made, endpoint(echo) as target:
        listener = await made.serve(target)
        victim, survivor = made.pids()
        connections = await made.dial_each(listener)
        flows = (await made.tally()).flows
        done, broken, is_over = 0, 0, False

        async def knock() -> None:
            nonlocal done, broken
            while not is_over:
                reader, writer = await dial(listener.port)  # nobody is ever refused
                try:
                    await said(reader, writer)
                    done += 1
                except (asyncio.IncompleteReadError, ConnectionError):  # it was the dead one's already
                    broken += 1
                writer.close()

        async with asyncio.TaskGroup() as group:
            for _ in range(4):
                group.create_task(knock())
            await until(lambda: done > 20)
            os.kill(victim, signal.SIGKILL)
            await made.started(3)
            enough = done + 50
            await until(lambda: done > enough)
            is_over = True
        assert broken <= 4
        assert (await made.tally()).flows >= flows + 50  # the counters of the dead one stay
        while (await made.tally()).active != 2:  # and its flows are gone
            pass
        for reader, writer in connections[survivor]:
            await said(reader, writer)
            writer.close()
        for reader, _ in connections[victim]:
            with pytest.raises(ConnectionResetError):
                await reader.readexactly(1)
        assert (await made.ended())[:3] == (0, victim, "was ended by SIGKILL")
        assert made.crew.replaced == 1
        await made.dial_each(listener, most=1)


async def test_datagrams_wait_for_the_successor_and_other_workers_keep_their_sessions() -> None:
    async with crewed() as made, datagram_endpoint() as target:
        listener = await made.serve(target, protocol=UDP)
        askers = [Asker(listener.port) for _ in range(16)]
        before = [await each.session() for each in askers]
        os.kill(made.pids()[0], signal.SIGKILL)
        after = await asyncio.gather(*(each.session() for each in askers))
        kept = sum(one == other for one, other in zip(before, after, strict=True))
        assert 0 < kept < len(askers)
        await made.started(3)
        assert [await each.session() for each in askers] == after
        for each in askers:
            each.socket.close()


async def test_whom_a_worker_leaves_out_is_told() -> None:
    async with crewed(workers=1) as made, endpoint(echo) as alive:
        dead = Target("127.0.0.1", free_port(), local=False)
        listener = await made.serve(alive, dead)  # three failures eject it; of two endpoints one may go
        for _ in range(6):
            reader, writer = await made.dial(listener)
            await said(reader, writer)
        await made.crew.refresh(DEADLINE)
        (event,) = (each for each in made.events if isinstance(each, LeftOut))
        assert [(each.target, each.failures, each.seconds) for each in event.ejections] == [(str(dead), 3, 5.0)]


async def test_a_worker_that_hangs_is_replaced() -> None:
    async with crewed(relay_beat=0.05, relay_beats=12) as made, endpoint(echo) as target:
        listener = await made.serve(target)
        victim = made.pids()[1]
        os.kill(victim, signal.SIGSTOP)
        ended = await made.ended()
        assert (ended.pid, ended.why) == (victim, "did not answer for 0.6 s")
        await made.started(3)
        await made.dial_each(listener, most=1)


async def test_rules_do_not_wait_for_a_worker_that_cannot_be_started(monkeypatch: pytest.MonkeyPatch) -> None:
    async with crewed(relay_patience=0.5) as made, endpoint(echo) as target:
        with monkeypatch.context() as patched:
            patched.setattr("kproxy.backend.userspace.seat.COMMAND", ("/bin/false",))
            listener = made.crew.open("127.0.0.1", TCP)
            with pytest.raises(KernelError, match="no worker"):
                await made.crew.push([rule_of(listener, target)])
            waits = [each.wait for each in made.events if isinstance(each, Ended) and each.seat == 0]
            assert (await made.ended()).why == "ended with status 1"
            assert waits[:2] == [0.1, 0.2]
        reader, writer = await dial(listener.port)  # who comes waits
        await said(reader, writer)
        writer.close()


async def test_what_is_shut_lets_its_flows_live_and_leaves_no_file() -> None:
    async with crewed() as made, endpoint(echo) as target, datagram_endpoint() as asked:
        await made.serve(target)
        idle = [open_files(), *map(open_files, made.pids())]
        for _ in range(3):
            listeners = [made.crew.open("127.0.0.1", protocol) for protocol in (TCP, UDP) for _ in range(20)]
            rules = [rule_of(each, target if each.protocol is TCP else asked) for each in listeners]
            assert await made.crew.push(rules) == []
            reader, writer = await made.dial(listeners[0])
            await said(reader, writer)
            made.crew.shut(listeners)
            assert len(made.crew.open_listeners) == 1
            await until(lambda: len(made.crew._openings) == 1)
            await said(reader, writer)
            with pytest.raises(ConnectionRefusedError):
                await dial(listeners[0].port)
            writer.close()
            await writer.wait_closed()
        await until(lambda: [open_files(), *map(open_files, made.pids())] == idle)


async def test_a_worker_that_is_short_of_files_says_so_and_is_given_the_socket_again() -> None:
    async with crewed(workers=1) as made, endpoint(echo) as target:
        await made.serve(target)
        (pid,) = made.pids()
        soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (open_files(pid) + 3, hard))
        listeners = [made.crew.open("127.0.0.1", TCP) for _ in range(10)]
        failures = await made.crew.push([rule_of(each, target) for each in listeners])
        assert {failure.error.errno for failure in failures} == {errno.EMFILE}
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))
        reader, writer = await made.dial(listeners[-1])
        await said(reader, writer)
        writer.close()
        assert made.pids() == [pid]


async def test_stopped_workers_let_flows_end_and_nobody_in() -> None:
    async with crewed() as made, endpoint(echo) as target:
        listener = await made.serve(target)
        connections = await made.dial_each(listener, most=1)
        stopping = asyncio.ensure_future(made.crew.stop(60.0))
        for reader, writer in (each for streams in connections.values() for each in streams):
            await said(reader, writer)
            writer.close()
        await stopping
        assert made.events[2:] == []
        with pytest.raises(ConnectionRefusedError):
            await dial(listener.port)
        (tally,) = made.crew.tallies.values()
        assert (tally.active, tally.received) == (0, tally.sent)


async def test_flows_that_do_not_end_are_reset_when_workers_stop() -> None:
    async with crewed(workers=1) as made, endpoint(echo) as target:
        listener = await made.serve(target)
        reader, writer = await made.dial(listener)
        await said(reader, writer)
        await made.crew.stop(0.0)
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        writer.close()


async def test_workers_share_the_cap_of_a_service_port_and_one_that_dies_takes_its_part_along() -> None:
    async with crewed() as made, endpoint(echo) as target:
        listener = made.crew.open("127.0.0.1", TCP)
        assert await made.crew.push([rule_of(listener, target, connections=6)]) == []
        assert len(made.crew._rows) == 1

        async def try_it() -> bool:
            try:
                await said(*await made.dial(listener))
            except (asyncio.IncompleteReadError, ConnectionError):
                return False
            return True

        async def fill(count: int) -> None:
            served = 0
            while served < count:  # one too many may be refused while the others have not looked
                served += await try_it()
            for _ in range(20):
                assert not await try_it()

        await fill(6)
        assert (await made.tally()).active == 6
        os.kill(made.pids()[0], signal.SIGKILL)
        await made.started(3)
        await fill(6 - (await made.tally()).active)
        assert (await made.tally()).active == 6
        assert (await made.tally()).refused["service limit"] >= 20
        made.crew.shut([listener])
        made.hang_up()
        while (await made.tally()).active:
            pass
        while made.crew.tallies or made.crew._rows:
            made.crew._forget()
            await asyncio.sleep(0.01)


async def test_a_worker_that_hangs_or_is_being_replaced_does_not_hold_up_the_end() -> None:
    async with crewed(relay_patience=0.3, relay_worker_backoff=(60.0, 60.0)) as made, endpoint(echo) as target:
        while True:  # such patience is little for a start
            try:
                listener = await made.serve(target)
                break
            except KernelError:
                continue
        await made.started(2)
        with pytest.raises(ValueError, match="is not open"):
            await made.crew.push([rule_of(listener._replace(port=1), target)])
        dead, hung = made.pids()
        os.kill(dead, signal.SIGKILL)
        await made.ended()
        os.kill(hung, signal.SIGSTOP)
        await made.crew.refresh(0.05)  # what it told before is still there
        await made.crew.stop(0.0)
        assert made.pids() == []


async def test_what_a_socket_lost_before_is_not_counted_again_by_who_gets_it() -> None:
    async with crewed(workers=1) as made, datagram_endpoint() as target:
        listener = await made.serve(target, protocol=UDP)
        os.kill(made.pids()[0], signal.SIGSTOP)
        asker = Asker(listener.port)
        full = made.crew.socket_of(listener, 0)
        while dropped(full) < 200:
            asker.socket.send(b"x" * 60_000)
        os.kill(made.pids()[0], signal.SIGKILL)
        await made.started(2)
        await asker.session()  # the socket is read, and all that it held is gone on
        assert (await made.tally()).dropped < dropped(full)
        asker.socket.close()
