"""The way to an endpoint, by itself: whom is tried, how long, and who has the sockets in the end."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import resource
import socket
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

import pytest
from msgspec.structs import replace

from kproxy.backend.userspace.approach import Approach, Approaches
from kproxy.backend.userspace.balance import Balancer
from kproxy.backend.userspace.endpoints import ServicePort
from kproxy.backend.userspace.reactor import Reactor, Socket
from kproxy.backend.userspace.rules import Listener, Rule
from kproxy.model.enums import Protocol
from kproxy.plan.plan import Target
from tests.unit.backend.userspace.pairs import becomes
from tests.unit.backend.userspace.sockets import DEADLINE, free_port, key, settings, silent

ANYWHERE = Listener("127.0.0.1", 1, Protocol.TCP)
Outcome = tuple[Target, OSError | None]


class Way:
    """Approaches without listeners; how each ended."""

    def __init__(self, deadlines: Sequence[float]) -> None:
        self.reactor = Reactor(4096)
        self.outcomes: list[Outcome] = []
        self.approaches = Approaches(self.reactor, reached=self._reached, gave_up=self._gave_up)
        self.relay = settings(connect_deadlines=tuple(deadlines), eject_after=0)
        self.service = ServicePort(key(), self.relay)

    def toward(self, *order: Target, **relay: Any) -> Approach:
        """Begun, to endpoints in this order."""
        balancer = Balancer(self.service, chance=lambda: 0, clients=1)
        balancer.follow(Rule(ANYWHERE, self.service.key, order, replace(self.relay, **relay)), 0)
        approach = Approach(self.approaches, Socket(), balancer, "192.0.2.1", 0)
        approach.begin()
        return approach

    def follow(self, approach: Approach, *order: Target) -> None:
        """The rule changes."""
        approach.balancer.follow(Rule(ANYWHERE, self.service.key, order, self.relay), 1)

    async def go(self, *order: Target) -> Outcome:
        approach = self.toward(*order)
        await becomes(lambda: bool(self.outcomes))
        approach.fail()  # is nothing any more
        return self.outcomes.pop()

    def _reached(self, approach: Approach, _mask: int) -> None:
        self._end(approach, None)
        self.reactor.close(approach.sock)

    def _gave_up(self, approach: Approach, error: OSError) -> None:
        self._end(approach, error)

    def _end(self, approach: Approach, error: OSError | None) -> None:
        self.outcomes.append((approach.endpoint.target, error))
        approach.client.close()


@contextlib.asynccontextmanager
async def way(*deadlines: float) -> AsyncIterator[Way]:
    made = Way(deadlines)
    try:
        async with asyncio.timeout(DEADLINE):
            yield made
    finally:
        made.approaches.stop()
        made.reactor.stop()


def dead() -> Target:
    return Target("127.0.0.1", free_port(), local=False)


@contextlib.contextmanager
def alive(ip: str = "127.0.0.1") -> Iterator[Target]:
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    with socket.create_server((ip, 0), family=family) as server:
        yield Target(ip, server.getsockname()[1], local=False)


async def test_any_number_of_refusals_keeps_nobody_from_the_one_that_lives() -> None:
    async with way(5.0) as made:
        with alive() as target:
            assert await made.go(*(dead() for _ in range(20)), target) == (target, None)


@pytest.mark.parametrize("ip", ["127.0.0.1", "::1"])
async def test_the_first_that_answers_is_reached(ip: str) -> None:
    async with way(5.0, 5.0) as made:
        with alive(ip) as target:
            assert await made.go(target, dead()) == (target, None)
            assert not any(made.reactor.handlers)


async def test_the_last_refusal_is_the_reason() -> None:
    async with way(5.0, 5.0) as made:
        last = dead()
        target, error = await made.go(dead(), last)
        assert target == last
        assert error is not None
        assert error.errno == errno.ECONNREFUSED


async def test_a_silent_one_is_tried_again_after_the_others_while_there_are_deadlines() -> None:
    async with way(0.01, 0.01, 0.01) as made:
        with silent() as swallows, silent() as other:
            target, error = await made.go(swallows, other)
            assert isinstance(error, TimeoutError)
            assert target == swallows


async def test_one_that_is_slow_at_first_is_reached_in_the_end() -> None:
    async with way(0.01, 5.0) as made:
        guests = silent()
        with guests as swallows:
            going = asyncio.create_task(made.go(swallows))
            await becomes(lambda: list(made.approaches._waiting) == [5.0])
            guests.make_room()
            assert await going == (swallows, None)


async def test_an_earlier_deadline_is_not_kept_waiting_by_a_later_one() -> None:
    async with way(0.01, 5.0) as made:
        with silent() as swallows:
            first = made.toward(swallows, connect_deadlines=(5.0,))
            second = made.toward(swallows)
            await becomes(lambda: second._stage == 1)
            assert not first.is_over
            for each in (first, second):
                each.fail()
            assert [type(error) for _, error in made.outcomes] == [ConnectionAbortedError] * 2


async def test_short_of_files_nobody_else_is_tried() -> None:
    async with way(5.0) as made:
        with alive() as target:
            with socket.socket() as probe:
                files = probe.fileno() + 1  # enough for the client, and no more
            soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
            resource.setrlimit(resource.RLIMIT_NOFILE, (files, hard))
            try:
                made.toward(target, dead())
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            ((tried, error),) = made.outcomes
            assert tried == target
            assert error is not None
            assert error.errno == errno.EMFILE


async def test_services_with_other_deadlines_wait_beside_each_other_and_leave_no_queue_behind() -> None:
    async with way(0.01) as made:
        with silent() as swallows:
            patient = made.toward(swallows, connect_deadlines=(5.0, 5.0))
            hasty = [made.toward(swallows, connect_deadlines=(n / 1000,)) for n in (30, 20, 10)]
            assert sorted(made.approaches._waiting) == [0.01, 0.02, 0.03, 5.0]
            await becomes(lambda: len(made.outcomes) == 3)
            assert all(each.is_over for each in hasty)
            assert list(made.approaches._waiting) == [5.0]
            patient.fail()
            assert [each.endpoint.active for each in (patient, *hasty)] == [0] * 4


async def test_when_the_rule_changes_on_the_way_the_newest_one_says_who_else_there_is() -> None:
    async with way(0.05, 5.0) as made:
        with silent() as swallows, alive() as left, alive() as came:
            approach = made.toward(swallows, left)
            made.follow(approach, swallows, came)
            await becomes(lambda: bool(made.outcomes))
            assert made.outcomes == [(came, None)]
            assert made.service.tally.retries == 1


async def test_one_that_came_on_the_way_is_tried_before_those_that_were_slow() -> None:
    async with way(0.05, 0.05, 5.0) as made:
        with silent() as swallows, silent() as other, alive() as came:
            approach = made.toward(swallows, other)
            await becomes(lambda: approach._stage == 1)
            made.follow(approach, swallows, other, came)
            await becomes(lambda: bool(made.outcomes))
            assert made.outcomes == [(came, None)]


async def test_one_that_was_slow_and_has_left_is_not_tried_again() -> None:
    async with way(0.05, 0.05, 5.0) as made:
        with silent() as swallows, silent() as other:
            approach = made.toward(swallows, other)
            await becomes(lambda: approach._stage == 1)
            made.follow(approach, other)
            await becomes(lambda: approach._stage == 2)
            assert approach.endpoint.target == other
            approach.fail()


async def test_refusals_and_deadlines_eject_and_what_we_lack_does_not() -> None:
    async with way(0.01) as made:
        made.relay = replace(made.relay, eject_after=1)
        with silent() as swallows, silent() as other:
            for failing in (dead(), swallows):
                approach = made.toward(failing, other)
                await becomes(lambda approach=approach: bool(approach.endpoint.target == other or approach.is_over))  # type: ignore[misc]
                assert [each.target for each in approach.balancer.endpoints if each.ejections] == [failing]
                approach.fail()
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(Approach, "_dial", _without_ports)
                approach = made.toward(other)
            assert approach.is_over
            assert approach.endpoint.failures == 0


def _without_ports(_: Approach) -> Socket:
    raise OSError(errno.EADDRNOTAVAIL, "no more ports")
