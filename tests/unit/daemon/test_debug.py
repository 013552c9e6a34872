"""What a profiler is told, and the verbosity that changes while we run."""

from __future__ import annotations

import asyncio
import logging
import threading
import tracemalloc
from collections.abc import Iterator
from typing import Any

import pytest

from kproxy.daemon import debug, log
from kproxy.daemon.debug import pages, sample, show_stacks
from kproxy.daemon.server import Question
from kproxy.daemon.status import Answer


@pytest.fixture(autouse=True)
def level() -> Iterator[None]:
    root = logging.getLogger("kproxy")
    before = root.level
    log.set_verbosity(1)
    yield
    root.setLevel(before)


async def ask(path: str, **question: Any) -> tuple[int, str]:
    found = pages()[path](Question(**question))
    answer = found if isinstance(found, Answer) else await found
    return answer.status, answer.body.decode()


async def test_stacks_name_tasks_and_threads() -> None:
    async def waits_here() -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(waits_here(), name="patience")
    await asyncio.sleep(0)
    said = show_stacks()
    task.cancel()
    assert "patience" in said
    assert "waits_here" in said
    assert "Thread MainThread" in said


def test_a_sampled_thread_is_named_by_its_calls() -> None:
    done = threading.Event()
    thread = threading.Thread(target=done.wait, args=(30,))
    thread.start()
    stacks = sample(0.05, threading.Event())
    done.set()
    thread.join()
    assert any(stack.endswith("threading.Event.wait;threading.Condition.wait") for stack in stacks)


async def test_one_profile_is_taken_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(debug, "sample", lambda _seconds, _ended: (release.wait(30), debug.Counter({"a;b": 2}))[1])
    page = pages()["/debug/pprof/profile"]
    first = asyncio.ensure_future(page(Question({"seconds": "5"})))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    second = await page(Question({"seconds": "5"}))  # type: ignore[misc]
    release.set()
    assert (second.status, (await first).body) == (409, b"a;b 2\n")


@pytest.mark.parametrize("seconds", ["0", "61", "-1", "1e3", "9" * 30])
async def test_a_profile_has_a_bounded_time(seconds: str) -> None:
    assert (await ask("/debug/pprof/profile", query={"seconds": seconds}))[0] == 400


async def test_memory_is_told_where_it_is_traced() -> None:
    assert "PYTHONTRACEMALLOC" in (await ask("/debug/pprof/heap"))[1]
    tracemalloc.start()
    try:
        held = bytearray(1_000_000)
        code, text = await ask("/debug/pprof/heap")
        assert (code, "test_debug.py" in text) == (200, True), text
        del held
    finally:
        tracemalloc.stop()


async def test_what_python_cannot_say_is_a_sentence() -> None:
    for name in ("trace", "symbol", "block", "mutex", "allocs", "threadcreate"):
        code, text = await ask(f"/debug/pprof/{name}")
        assert (code, text.startswith("404 page not found: ")) == (404, True)
    assert "goroutine  " in (await ask("/debug/pprof/"))[1]
    assert "pytest" in (await ask("/debug/pprof/cmdline"))[1]


async def test_a_put_sets_the_verbosity() -> None:
    assert await ask("/debug/flags/v", method="PUT", body=b"4\n") == (
        200,
        "successfully set klog.logging.verbosity to 4\n",
    )
    assert log.verbosity() == 4
    assert "now 4" in (await ask("/debug/flags"))[1]
    assert (await ask("/debug/flags/v", method="PUT", body=b"loud"))[0] == 400
    assert (await ask("/debug/flags/v"))[0] == 406
    assert log.verbosity() == 4
