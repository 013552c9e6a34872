"""``/debug``: what the process is doing, and how much it says about it; only with ``--profiling``.

The paths are Go's pprof's, and what stands under them is what Python can say honestly, as text: the stacks of all tasks
and threads for goroutines, sampled stacks in the collapsed format of flame graphs for the CPU profile, tracemalloc's
largest holders for the heap. Go's binary profiles describe a Go program; what has no counterpart is 404 with the
reason. A profile runs in a thread, one at a time and for a bounded time, and costs what a hundred looks a second cost.

``/debug/flags/v`` takes a PUT with a number and sets the verbosity; answers are kube-proxy's (spec: runtime.md 10).
"""

from __future__ import annotations

import asyncio
import io
import sys
import threading
import time
import traceback
import tracemalloc
from collections import Counter
from types import FrameType

from kproxy.daemon import log
from kproxy.daemon.server import Page, Question
from kproxy.daemon.status import TEXT, Answer

_LONGEST = 60  # seconds a profile may take
_DEFAULT = 30
_GAP = 0.01  # seconds between two looks
_HOLDERS = 100  # lines of a heap
_WITHOUT = {
    "allocs": "Python does not count allocations; heap shows what is held",
    "block": "no lock is waited for in this program; goroutine shows what every task waits for",
    "mutex": "no lock is waited for in this program; goroutine shows what every task waits for",
    "symbol": "the profiles here hold names, not addresses",
    "threadcreate": "Python does not remember who started a thread; goroutine shows every thread",
    "trace": "there is no execution trace in Python; profile shows where time goes",
}
_INDEX = """/debug/pprof/

cmdline    the command line
goroutine  stacks of all tasks and threads
heap       the largest holders of memory; needs PYTHONTRACEMALLOC=1 in the environment
profile    sampled stacks for ?seconds=N (30), collapsed, for flame graphs
"""


def pages() -> dict[str, Page]:
    profiler = _Profiler()
    return {
        "/debug/pprof": _index,
        "/debug/pprof/": _index,
        "/debug/pprof/cmdline": lambda _: _text("\0".join(sys.orig_argv)),
        "/debug/pprof/goroutine": lambda _: _text(show_stacks()),
        "/debug/pprof/heap": _heap,
        "/debug/pprof/profile": profiler.answer,
        **{f"/debug/pprof/{name}": _absent(why) for name, why in _WITHOUT.items()},
        "/debug/flags": _flags,
        "/debug/flags/": _flags,
        "/debug/flags/v": _verbosity,
    }


def show_stacks() -> str:
    """Every task of this loop and every thread, outermost call first."""
    said = io.StringIO()
    tasks = sorted(asyncio.all_tasks(), key=lambda task: task.get_name())
    said.write(f"{len(tasks)} tasks, {threading.active_count()} threads\n")
    for task in tasks:
        said.write("\n")
        task.print_stack(file=said)
    names = {thread.ident: thread.name for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():  # noqa: SLF001 -- the documented way to see other threads
        said.write(f"\nThread {names.get(ident, ident)}\n{''.join(traceback.format_stack(frame))}")
    return said.getvalue()


class _Profiler:
    def __init__(self) -> None:
        self._busy = False

    async def answer(self, question: Question) -> Answer:
        asked = question.query.get("seconds", "") or str(_DEFAULT)
        if not (asked.isascii() and asked.isdigit() and 1 <= int(asked[:9]) <= _LONGEST):
            return _text(f"seconds={asked[:20]}: give 1 to {_LONGEST}\n", status=400)
        if self._busy:
            return _text("a profile is being taken already; try again later\n", status=409)
        self._busy, ended = True, threading.Event()
        try:
            stacks = await asyncio.to_thread(sample, int(asked), ended)
        finally:  # also where the daemon ends meanwhile, which would wait for the thread
            ended.set()
            self._busy = False
        return _text("".join(f"{stack} {times}\n" for stack, times in stacks.most_common()))


def sample(seconds: float, ended: threading.Event) -> Counter[str]:
    """How often each stack was met, of all threads but the caller's, until the time is over or somebody ends it."""
    stacks = Counter[str]()
    here, end = threading.get_ident(), time.monotonic() + seconds
    while time.monotonic() < end and not ended.wait(_GAP):
        for ident, frame in sys._current_frames().items():  # noqa: SLF001 -- as above
            if ident != here:
                stacks[_collapse(frame)] += 1
    return stacks


def _collapse(frame: FrameType | None) -> str:
    calls = []
    while frame is not None:
        module = frame.f_globals.get("__name__", "?")
        calls.append(f"{module}.{frame.f_code.co_qualname}".replace(";", ","))
        frame = frame.f_back
    return ";".join(reversed(calls))


def _heap(_: Question) -> Answer:
    if not tracemalloc.is_tracing():
        return _text("memory is not traced: start kproxy with PYTHONTRACEMALLOC=1 in its environment\n", status=404)
    holders = tracemalloc.take_snapshot().statistics("lineno")
    held, peak = tracemalloc.get_traced_memory()
    lines = [f"{held} bytes held, {peak} at most", *(str(holder) for holder in holders[:_HOLDERS])]
    return _text("\n".join(lines) + "\n")


def _verbosity(question: Question) -> Answer:
    if question.method != "PUT":
        return _text("unsupported http method\n", status=406)
    wanted = question.body.decode(errors="replace").strip()
    if not (wanted.isascii() and wanted.isdigit() and len(wanted) < 3):
        return _text(f"failed set klog.logging.verbosity {wanted[:20]!r}: give a number from 0 to 99\n", status=400)
    log.set_verbosity(int(wanted))
    return _text(f"successfully set klog.logging.verbosity to {wanted}\n")


def _flags(_: Question) -> Answer:
    return _text(f"/debug/flags/\n\nv  verbosity, now {log.verbosity()}: PUT a number to /debug/flags/v\n")


def _index(_: Question) -> Answer:
    absent = "".join(f"\n{name:12} not here: {why}" for name, why in sorted(_WITHOUT.items()))
    return _text(f"{_INDEX}{absent}\n")


def _absent(why: str) -> Page:
    return lambda _: _text(f"404 page not found: {why}\n", status=404)


def _text(text: str, *, status: int = 200) -> Answer:
    return Answer(status, text.encode(errors="replace"), TEXT)
