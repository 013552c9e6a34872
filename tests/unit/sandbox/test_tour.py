"""How answers are judged; the questions themselves with real packets: tests/netns/test_sandbox_demo.py."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import cast

import pytest

from kproxy.sandbox import tour
from kproxy.sandbox.host import Host
from kproxy.sandbox.probe import Answer
from kproxy.sandbox.tour import Question, Seen
from kproxy.sandbox.world import World

POD, NODE = SimpleNamespace(name="shell", ips=("10.0.0.2",)), SimpleNamespace(name="node-1", ips=("192.0.2.1",))
WORLD = cast(
    "World",
    SimpleNamespace(hosts={"shell": POD, "node-1": NODE}, nodes=[NODE], families=(4,), host={"shell": POD}.__getitem__),
)


def asked(*answers: Answer, servers: frozenset[str] = frozenset({"a"}), seen: Seen | None = Seen.ITSELF) -> Question:
    """A question whose answers come in turns, for ever."""
    turns: Iterator[Answer] = iter(())

    async def ask(_host: Host) -> Answer:
        nonlocal turns
        try:
            return next(turns)
        except StopIteration:
            turns = iter(answers)
            return next(turns)

    return Question("shell", "target", ask, servers, seen)


def ok(name: str, peer: str = "10.0.0.2:1234") -> Answer:
    return Answer("ok", name, "10.0.0.9:80", peer, source="10.0.0.2:1234")


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tour, "PATIENCE", 0.05)
    monkeypatch.setattr(tour, "_PAUSE", 0)


async def test_all_servers_are_awaited_and_then_counted() -> None:
    result = await tour.go(WORLD, asked(ok("a"), ok("b"), servers=frozenset("ab")))
    assert (result.problem, dict(result.servers)) == ("", {"a": 3, "b": 3})
    assert result.sources == {"10.0.0.2": "shell"}


async def test_refusals_are_forgiven_while_rules_follow() -> None:
    assert (await tour.go(WORLD, asked(Answer("refused"), ok("a")))).problem == ""


@pytest.mark.parametrize(
    ("question", "problem"),
    [
        (asked(ok("stranger")), "stranger answered"),
        (asked(ok("a", "192.0.2.1:1")), r"saw 192.0.2.1 \(node-1\), not shell"),
        (asked(ok("a"), seen=Seen.NODE), r"saw 10.0.0.2 \(shell\), not a node"),
        (asked(ok("a", "198.51.100.1:1")), r"saw 198.51.100.1 \(nobody\)"),
        (asked(Answer("timeout")), "no answer from a in time; the last attempt: timeout"),
        (asked(Answer("ok", status=502)), "the last attempt: HTTP status 502"),
        (asked(ok("a"), servers=frozenset("ab")), "no answer from b in time"),
    ],
)
async def test_what_is_wrong_is_said(question: Question, problem: str) -> None:
    result = await tour.go(WORLD, question)
    with pytest.raises(AssertionError, match=problem):
        assert not result.problem, result.problem


async def test_behind_a_proxy_the_source_is_whom_the_proxy_saw() -> None:
    answer = Answer("ok", "a", peer="10.0.0.77:1", forwarded_for="10.0.0.2", status=200)
    assert (await tour.go(WORLD, asked(answer))).problem == ""


async def test_a_name_servers_values_are_its_answer() -> None:
    answer = Answer("ok", values=("10.96.0.1",))
    result = await tour.go(WORLD, asked(answer, servers=frozenset({"10.96.0.1"}), seen=None))
    assert (result.problem, result.servers["10.96.0.1"], result.sources) == ("", tour.FEWEST, {})
