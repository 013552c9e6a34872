"""Lines as klog writes them."""

import io
import logging
import re
from collections.abc import Iterator

import pytest

from kproxy.daemon.log import Log, configure


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root, ours = logging.getLogger(), logging.getLogger("kproxy")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    written = io.StringIO()
    configure(2, written)
    yield written
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    ours.setLevel(levels[1])


def test_a_line_has_klogs_header_and_quoted_values(stream: io.StringIO) -> None:
    Log("kproxy.test").info("It works", family="IPv4", rules=3, full=True, seconds=0.25)
    line = stream.getvalue()
    assert re.fullmatch(
        r"I\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ test_log\.py:\d+\] "
        r'"It works" family="IPv4" rules=3 full=true seconds=0\.25\n',
        line,
    ), line


def test_a_hostile_value_cannot_forge_a_line(stream: io.StringIO) -> None:
    Log("kproxy.test").warning("Skipped", object='a"\nE0101 00:00:00.000000 1 x.go:1] "forged\u2028\x85')
    assert len(stream.getvalue().splitlines()) == 1


def test_verbosity_is_a_threshold(stream: io.StringIO) -> None:
    log = Log("kproxy.test")
    log.verbose(2, "shown")
    log.verbose(3, "hidden")
    assert "shown" in stream.getvalue()
    assert "hidden" not in stream.getvalue()


def test_a_crash_brings_its_traceback(stream: io.StringIO) -> None:
    Log("kproxy.test").crash("Oh", ValueError("why"))
    assert stream.getvalue().startswith("E")
    assert "ValueError: why" in stream.getvalue()


def test_libraries_speak_from_warnings_up(stream: io.StringIO) -> None:
    logging.getLogger("somebody").info("chatter")
    logging.getLogger("somebody").warning("problem %d", 7)
    assert "chatter" not in stream.getvalue()
    assert '"problem 7"' in stream.getvalue()
