"""Starting programs: cost, deadline, kill of the whole group, streaming, typed errors; both event loops."""

from __future__ import annotations

import asyncio
import os
import select
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

import pytest
import uvloop

from kproxy.errors import KernelError, NotPermitted, ProgramFailed, ProgramMissing, ProgramTimeout
from kproxy.kernel.doors import Completed
from kproxy.kernel.run import STDERR_LIMIT, find_program, package_of, run

Go = Callable[[Awaitable[Completed]], Completed]


@pytest.fixture(params=[asyncio.SelectorEventLoop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def go(request: pytest.FixtureRequest) -> Iterator[Go]:
    with asyncio.Runner(loop_factory=request.param) as runner:
        yield runner.run  # type: ignore[misc]


def test_output_status_and_cost_are_reported(go: Go) -> None:
    done = go(run(("cat",), stdin=b"hello", deadline=20))
    assert (done.status, done.stdout, done.stderr) == (0, b"hello", "")
    assert done.pid > 0
    assert done.peak_rss > 100_000
    assert done.cpu_seconds >= 0


def test_megabytes_of_chunks_stream_in_and_out(go: Go) -> None:
    pieces: list[int] = []

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(64):
            yield bytes(65536)

    done = go(run(("cat",), stdin=chunks(), deadline=20, sink=lambda piece: pieces.append(len(piece))))
    assert done.stdout == b""
    assert sum(pieces) == 64 * 65536
    assert go(run(("wc", "-c"), stdin=(b"ab" for _ in range(1000)), deadline=20)).stdout.strip() == b"2000"


def test_a_program_that_does_not_read_its_input_is_no_error(go: Go) -> None:
    assert go(run(("true",), stdin=(bytes(65536) for _ in range(64)), deadline=20)).status == 0


def test_the_locale_and_the_environment_are_ours(go: Go, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "x")
    monkeypatch.setenv("XTABLES_LOCKFILE", "/run/other.lock")
    lines = set(go(run(("env",), deadline=20, environment={"EXTRA": "1"})).stdout.decode().splitlines())
    assert {"LC_ALL=C", "XTABLES_LOCKFILE=/run/other.lock", "EXTRA=1"} <= lines
    assert "SECRET=x" not in lines


def test_failure_carries_status_and_words(go: Go) -> None:
    with pytest.raises(ProgramFailed, match="status 3: broken") as caught:
        go(run(("sh", "-c", "echo broken >&2; exit 3"), deadline=20))
    assert caught.value.status == 3
    assert go(run(("sh", "-c", "exit 3"), deadline=20, check=False)).status == 3
    assert go(run(("sh", "-c", "kill -9 $$"), deadline=20, check=False)).status == 128 + 9


def test_what_a_program_says_is_bounded(go: Go) -> None:
    done = go(run(("sh", "-c", "head -c 1000000 /dev/zero >&2"), deadline=20))
    assert len(done.stderr) == STDERR_LIMIT


def test_a_missing_program_names_its_package(go: Go) -> None:
    with pytest.raises(ProgramMissing, match="Debian package iptables"):
        go(run(("iptables-nosuch", "-L"), deadline=20))
    assert package_of("/sbin/ip6tables-nft-restore") == "iptables"
    assert package_of("nft") == "nftables"
    assert find_program("nosuch-program") is None
    assert find_program("sh") is not None


def test_a_program_that_may_not_run_is_told_apart(go: Go, tmp_path: os.PathLike[str]) -> None:
    path = f"{os.fspath(tmp_path)}/plain"
    with open(path, "w") as plain:  # noqa: PTH123 -- no mode bits is the point
        plain.write("")
    with pytest.raises(NotPermitted, match="mode bits"):
        go(run((path,), deadline=20))


def test_a_program_that_cannot_be_started_is_a_sentence(go: Go, tmp_path: os.PathLike[str]) -> None:
    path = f"{os.fspath(tmp_path)}/nonsense"
    with open(path, "w") as nonsense:  # noqa: PTH123 -- as above
        nonsense.write("no program")
    os.chmod(path, 0o755)  # noqa: PTH101, S103 -- as above
    with pytest.raises(KernelError, match=r"cannot be started .*free memory, processes or open files"):
        go(run((path,), deadline=20))


def ends(pid: int) -> bool:
    """The process is gone, or its death, already sent, arrives."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 20)[0])
    finally:
        os.close(descriptor)


def test_at_the_deadline_the_whole_group_is_killed(go: Go) -> None:
    said: list[bytes] = []
    script = "sleep 1000 & echo $!; wait"
    with pytest.raises(ProgramTimeout, match=r"did not end within 0\.2 s"):
        go(run(("sh", "-c", script), deadline=0.2, sink=said.append))
    assert ends(int(b"".join(said)))


def test_cancellation_kills_too(go: Go) -> None:
    pids: list[int] = []

    async def scenario() -> Completed:
        started = asyncio.Event()

        def note(pid: int) -> None:
            pids.append(pid)
            started.set()

        task = asyncio.ensure_future(run(("sleep", "1000"), deadline=20, on_start=note))
        await started.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return await run(("true",), deadline=20)

    go(scenario())
    assert ends(pids[0])


def test_an_error_of_the_feeder_or_the_taker_is_its_own(go: Go) -> None:
    def broken(*_: object) -> Iterator[bytes]:
        raise ZeroDivisionError
        yield b""

    with pytest.raises(ZeroDivisionError):
        go(run(("cat",), stdin=broken(), deadline=20))
    with pytest.raises(ZeroDivisionError):
        go(run(("cat",), stdin=b"x", deadline=20, sink=lambda _: 1 // 0))


def test_the_interpreter_can_be_started(go: Go) -> None:
    assert go(run((sys.executable, "-c", "print(1)"), deadline=20)).stdout == b"1\n"
