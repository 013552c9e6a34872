"""A seat whose worker does not do what workers do. What real ones do is test_crew's."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import Callable

import pytest

from kproxy.backend.userspace import messages, seat
from kproxy.backend.userspace.counts import Tally
from kproxy.backend.userspace.messages import frame
from kproxy.backend.userspace.share import Share
from kproxy.errors import KernelError
from kproxy.model.keys import ServicePortKey
from kproxy.plan.plan import Target
from tests.unit.backend.userspace.crews import crewed, rule_of
from tests.unit.backend.userspace.sockets import TCP, until

LOOP = "uvloop"
SOMEBODY = Target("127.0.0.1", 9, local=False)
READY = frame(messages.Ready(Share(1, 1, 1)))
# Reads the first order, says what its argument says, in hexadecimal, and waits for the end.
TALKER = """
import os, sys
os.read(0, 1 << 16)
os.write(0, bytes.fromhex(sys.argv[1]))
while os.read(0, 1 << 16):
    pass
os._exit(3)
"""


def talker(said: bytes) -> tuple[str, ...]:
    return (sys.executable, "-I", "-S", "-c", TALKER, said.hex())


async def why_it_ended(**settings: object) -> str:
    async with crewed(workers=1, **settings) as made:
        pushing = asyncio.ensure_future(made.crew.push([rule_of(made.crew.open("127.0.0.1", TCP), SOMEBODY)]))
        ended = await made.ended()
        pushing.cancel()
        return ended.why


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"\xff" * 64, "a frame of 4294967295 bytes and 65535 files"),
        (frame(messages.Ask(1)), "not understood: "),
        (frame(messages.Served(1)), "something before it was ready"),
        (READY + READY, "ready twice"),
        (READY + frame(messages.Served(9)), "it serves what it was not told"),
        (READY + frame(messages.Told(9)), "an answer that nobody asked for"),
        (READY + frame(messages.Counted(((ServicePortKey("a", "b", "", TCP), Tally(connects=[])),))), "a tally of a/b"),
        (READY + frame(messages.Told(0), 3), "a frame without its 3 files"),
    ],
    ids=["no frame", "an order", "too early", "twice", "served too much", "told too much", "no tally", "no files"],
)
async def test_a_worker_that_says_what_no_worker_says_is_replaced(
    monkeypatch: pytest.MonkeyPatch, said: bytes, why: str
) -> None:
    monkeypatch.setattr(seat, "COMMAND", talker(said))
    assert (await why_it_ended()).startswith(why)


async def test_the_last_words_of_a_worker_say_why_it_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    dying = TALKER.partition("while")[0]
    said = frame(messages.Failed("failed:\n a mistake"))
    monkeypatch.setattr(seat, "COMMAND", (*talker(b"")[:-2], dying, said.hex()))
    assert await why_it_ended() == "failed: a mistake"


async def test_a_worker_that_never_gets_ready_is_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seat, "COMMAND", talker(b""))
    assert await why_it_ended(relay_beat=0.05, relay_worker_start=0.2) == "did not answer for 0.2 s"


async def test_a_worker_that_takes_nothing_is_replaced_and_what_waits_for_it_is_bounded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    deaf = TALKER.partition("while")[0] + "import time\ntime.sleep(600)"
    monkeypatch.setattr(seat, "COMMAND", (*talker(b"")[:-2], deaf, READY.hex()))
    async with crewed(workers=1, relay_patience=0.3, relay_beat=0.1, relay_beats=8) as made:
        listeners = [made.crew.open("127.0.0.1", TCP) for _ in range(20)]
        targets = [Target("127.0.0.1", port, local=False) for port in range(1, 2000)]
        for number in range(20):  # each of which is a megabyte
            rules = [rule_of(each, *targets[number:]) for each in listeners]
            pushing = asyncio.ensure_future(made.crew.push(rules))
            await asyncio.sleep(0)
            pushing.cancel()
        (one,) = made.crew._seats
        assert one._channel is None or len(one._channel._leaving) <= 2  # rules and a question
        assert (await made.ended()).why == "did not answer for 0.8 s"


async def test_that_no_process_can_be_started_is_told_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: socket.socket) -> None:
        raise BlockingIOError(11, "Resource temporarily unavailable")

    start: Callable[[socket.socket], object] = seat._start
    monkeypatch.setattr(seat, "_start", refuse)
    async with crewed(workers=1, relay_patience=0.1) as made:
        with pytest.raises(KernelError):
            await made.crew.push([rule_of(made.crew.open("127.0.0.1", TCP), SOMEBODY)])
        ended = await made.ended()
        assert (ended.pid, ended.why[:20]) == (0, "could not be started")
        monkeypatch.setattr(seat, "_start", start)
        await made.started(1)
        await until(lambda: made.crew._seats[0].is_settled)
