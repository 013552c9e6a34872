"""The runner on a loop whose time jumps. When rounds are due is in test_schedule.py."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from kproxy.daemon.runner import Runner
from kproxy.daemon.schedule import Omitted, Schedule
from kproxy.errors import KernelError
from kproxy.model.enums import IPFamily

Jump = Callable[[Any], Any]


class Rounds:
    """Work that takes a second and notes when it began; ``outcomes`` says which rounds fail or leave something out."""

    def __init__(self, *outcomes: Exception | bool | None) -> None:
        self.outcomes = list(outcomes)
        self.began: list[tuple[float, bool]] = []

    async def __call__(self, full: bool) -> Omitted:
        loop = asyncio.get_running_loop()
        self.began.append((loop.time() - 1000.0, full))
        await asyncio.sleep(1.0)
        outcome = self.outcomes.pop(0) if self.outcomes else None
        if isinstance(outcome, Exception):
            raise outcome
        return frozenset({"web"}) if outcome is False else frozenset()


async def play(work: Rounds, script: Callable[[Runner], Any], seconds: float) -> None:
    runner = Runner(IPFamily.IPV4, Schedule(minimum=2.0, retry=30.0, idle=3600.0), work)
    async with asyncio.TaskGroup() as group:
        task = group.create_task(runner.run())
        await script(runner)
        await asyncio.sleep(seconds)
        task.cancel()


def test_nothing_runs_before_a_request(jump: Jump) -> None:
    work = Rounds()

    async def script(_runner: Runner) -> None:
        pass

    jump(play(work, script, 10_000))
    assert work.began == []


def test_what_a_round_left_out_is_tried_again(jump: Jump) -> None:
    work = Rounds(False, False, True)

    async def script(runner: Runner) -> None:
        runner.request()

    jump(play(work, script, 1000))
    assert work.began == [(0.0, True), (31.0, True), (92.0, True)]


def test_many_requests_during_a_round_are_one_more_after_the_minimum(jump: Jump) -> None:
    work = Rounds()

    async def script(runner: Runner) -> None:
        runner.request()
        await asyncio.sleep(0.5)
        for _ in range(50):
            runner.request()

    jump(play(work, script, 100))
    assert work.began == [(0.0, True), (3.0, False)]


def test_an_idle_runner_compares_with_the_kernel_each_hour(jump: Jump) -> None:
    work = Rounds()

    async def script(runner: Runner) -> None:
        runner.request()

    jump(play(work, script, 7300))
    assert work.began == [(0.0, True), (3601.0, True), (7202.0, True)]


def test_healing_begins_within_two_seconds(jump: Jump) -> None:
    work = Rounds()

    async def script(runner: Runner) -> None:
        runner.request()
        await asyncio.sleep(1.25)
        runner.request(healing=True)

    jump(play(work, script, 100))
    assert work.began == [(0.0, True), (1.5, True)]


def test_a_failure_is_retried_and_said_once(jump: Jump, caplog: pytest.LogCaptureFixture) -> None:
    work = Rounds(KernelError("no"), KernelError("no"), None)

    troubles: list[str] = []

    async def script(runner: Runner) -> None:
        runner.request()
        for _ in range(2):
            await asyncio.sleep(5)
            troubles.append(runner.trouble)

    with caplog.at_level("INFO", logger="kproxy"):
        jump(play(work, script, 100))
    assert work.began == [(0.0, True), (3.0, True), (8.0, True)]
    assert troubles == ["no", ""]
    assert [record.message for record in caplog.records] == [
        "Sync failed, trying again; rules in the kernel stay",
        "Sync works again",
    ]


def test_a_mistake_of_ours_is_survived(jump: Jump, caplog: pytest.LogCaptureFixture) -> None:
    work = Rounds(ZeroDivisionError(), None)

    async def script(runner: Runner) -> None:
        runner.request()

    jump(play(work, script, 100))
    assert len(work.began) == 2
    assert caplog.records[0].exc_info is not None
