"""What one process may have. That workers say it is test_worker's."""

from __future__ import annotations

import resource

import pytest

from kproxy.backend.userspace.share import raise_files, share
from kproxy.config import Config


@pytest.mark.parametrize(
    ("files", "workers", "expected"),
    [
        (1 << 20, 1, (10, 6)),
        (1 << 20, 4, (3, 2)),  # rounded up
        (1024, 1, (10, 6)),
        (16, 1, (6, 4)),
        (1, 1, (1, 1)),
    ],
)
def test_a_worker_gets_its_part_as_far_as_it_has_files(files: int, workers: int, expected: tuple[int, int]) -> None:
    config = Config(relay_connections=10, relay_udp_sessions=6)
    assert share(config, files, workers) == (*expected, files)


def test_a_family_that_is_full_leaves_files_for_pipes_and_listeners() -> None:
    config = Config(relay_connections=1 << 30, relay_udp_sessions=1 << 30)
    mine = share(config, 1 << 20)
    assert 2 * mine.connections + 2 * config.relay_pipes < (1 << 20) * 4 // 5
    assert mine.sessions == 1 << 18


def test_the_soft_limit_becomes_the_hard_one(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [100, 1000]

    def setrlimit(_: int, wanted: tuple[int, int]) -> None:
        if wanted[0] > 1000:
            raise ValueError("not allowed to raise maximum limit")
        limits[:] = wanted

    monkeypatch.setattr(resource, "getrlimit", lambda _: tuple(limits))
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    assert raise_files() == 1000 == limits[0] == raise_files()
    limits[:] = [100, 2000]
    assert raise_files() == 100
