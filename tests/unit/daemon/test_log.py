"""Lines as klog writes them."""

import io
import json
import logging
import re
from collections.abc import Iterator

import pytest

from kproxy.config import ProxyMode
from kproxy.daemon.log import Log, configure, set_verbosity, verbosity
from kproxy.model.enums import IPFamily, Protocol
from kproxy.model.keys import ObjectKey, ServicePortKey


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    root, ours = logging.getLogger(), logging.getLogger("kproxy")
    handlers, levels = root.handlers[:], (root.level, ours.level)
    written = io.StringIO()
    configure(2, written)
    yield written
    configure(0, written)  # forgets modules
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


def test_json_has_klogs_keys(stream: io.StringIO) -> None:
    configure(2, stream, form="json")
    log = Log("kproxy.test")
    log.verbose(2, "It works", family="IPv4", rules=3, full=True, msg="a\nb\u2028")
    log.warning("Odd")
    log.error("Broken", err=ValueError("why"))
    log.crash("Oh", ValueError("why"))
    first, odd, broken, crash = map(json.loads, stream.getvalue().splitlines())
    assert 1.6e12 < first.pop("ts") < 1e13
    assert re.fullmatch(r"daemon/test_log\.py:\d+", first.pop("caller"))
    assert first == {"msg": "It works", "v": 2, "family": "IPv4", "rules": 3, "full": True, "msg_": "a\nb\u2028"}
    assert (odd["v"], odd["severity"]) == (0, "warning")
    assert ("v" in broken, broken["err"]) == (False, "why")
    assert "ValueError: why" in crash["stacktrace"]


def test_a_module_can_have_a_verbosity_of_its_own(stream: io.StringIO) -> None:
    before = Log("kproxy.daemon.quiet")
    configure(0, stream, modules=[("qui*", 3), ("kproxy/source/*", 2)])
    before.verbose(3, "by its name")
    Log("kproxy.source.other").verbose(2, "by its path")
    Log("kproxy.daemon.other").verbose(1, "not at all")
    assert re.findall(r'] "(.*)"', stream.getvalue()) == ["by its name", "by its path"]


def test_verbosity_changes_while_we_run(stream: io.StringIO) -> None:
    set_verbosity(5)
    Log("kproxy.test").verbose(5, "shown")
    assert (verbosity(), "shown" in stream.getvalue()) == (5, True)


def test_an_object_has_one_name_in_both_formats(stream: io.StringIO) -> None:
    names: dict[str, object] = {
        "service": ServicePortKey("default", "web", "http", Protocol.TCP),
        "object": ObjectKey("default", "web"),
    }
    configure(0, stream, form="json")
    Log("kproxy.test").info("Here", family=IPFamily.IPV4, mode=ProxyMode.USERSPACE, **names)
    line = json.loads(stream.getvalue())
    assert (line["service"], line["object"]) == ("default/web:http", "default/web")
    assert (line["family"], line["mode"]) == ("IPv4", "userspace")
    configure(0, stream)
    Log("kproxy.test").info("Here", **names)
    assert stream.getvalue().endswith('"Here" service="default/web:http" object="default/web"\n')
