"""Pipes between real connections. When a flow uses one is test_flow's."""

from __future__ import annotations

import fcntl
import random
import resource
import socket
from collections.abc import Iterator

import pytest

from kproxy.backend.userspace import pipes
from kproxy.backend.userspace.pipes import Pipe, Pipes

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def pair() -> Iterator[Pair]:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()) as one:
        other, _ = server.accept()
        with other:
            for each in (one, other):
                each.setblocking(False)
            yield one, other


def test_what_is_filled_in_is_poured_out(pair: Pair) -> None:
    one, other = pair
    pool = Pipes(limit=1, size=65536)
    pipe = pool.take()
    assert pipe is not None
    with pytest.raises(BlockingIOError):
        pipe.fill(other.fileno())
    one.send(b"abc")
    assert pipe.fill(other.fileno()) == 3
    assert pipe.pour(other.fileno())
    assert one.recv(9) == b"abc"
    one.shutdown(socket.SHUT_WR)
    assert pipe.fill(other.fileno()) == 0
    pool.give(pipe)
    pool.close()


def test_it_is_never_filled_beyond_its_size_however_large_a_page(pair: Pair) -> None:
    one, other = pair
    one.send(b"x" * 200_000)
    pipe = Pipe(16384)
    assert pipe.fill(other.fileno()) <= 16384
    pipe.close()


def test_it_never_holds_more_than_its_size_and_keeps_what_is_not_taken(pair: Pair) -> None:
    one, other = pair
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    other.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    pool = Pipes(limit=1, size=16384)
    pipe = pool.take()
    assert pipe is not None
    sent = poured = 0
    while True:
        sent += one.send(b"x" * 50_000)
        poured += pipe.fill(other.fileno())
        assert pipe.held <= 16384
        if not pipe.pour(other.fileno()):
            break
    assert pipe.held > 0
    pool.give(pipe)  # closed, for what is in it must not reach somebody else
    assert pool._empty == []


def test_there_are_no_more_than_may_be_and_empty_ones_are_used_again() -> None:
    pool = Pipes(limit=2, size=65536)
    one, other = pool.take(), pool.take()
    assert one is not None
    assert other is not None
    assert pool.take() is None
    pool.give(one)
    assert pool.take() is one
    pool.give(one)
    pool.give(other)
    assert pool.taken == 0
    pool.close()
    assert pool._empty == []


def test_the_first_quarter_has_all_the_room_however_they_come_and_go() -> None:
    pool = Pipes(limit=8, size=65536)
    chance = random.Random(1)
    have: list[Pipe] = []
    most = 0
    for _ in range(500):
        if have and chance.random() < 0.4:
            pool.give(have.pop(chance.randrange(len(have))))
        elif pipe := pool.take():
            assert pipe.room == (65536 if len(have) < 2 else 16384)
            have.append(pipe)
        most = max(most, sum(each.room for each in have))
    assert most == pipes.held_by_all(8, 65536) == 2 * 65536 + 6 * 16384
    for each in have:
        pool.give(each)
    pool.close()


def test_few_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipes, "_KEPT", 1)
    pool = Pipes(limit=2, size=65536)
    both = [pool.take(), pool.take()]
    for each in both:
        assert each is not None
        pool.give(each)
    assert len(pool._empty) == 1
    pool.close()


def test_without_files_to_open_there_is_none(pair: Pair) -> None:
    pool = Pipes(limit=9, size=65536)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(each.fileno() for each in pair) + 1, hard))
    try:
        assert pool.take() is None
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert pool.taken == 0


def test_a_pipe_of_the_usual_size_will_do(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> int:
        raise PermissionError

    monkeypatch.setattr(fcntl, "fcntl", refuse)
    Pipe(1 << 20).close()
