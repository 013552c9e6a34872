"""``explain``'s output: where it goes, JSON, redacted, a page, what fits a terminal."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import termios
from contextlib import suppress
from pathlib import Path

import pytest

from tests.unit.cli.conftest import Explain
from tests.unit.cli.examples import TO_WEB


def test_json_says_what_it_is(explain: Explain, dump: str) -> None:
    found = json.loads(explain(dump, "--json"))
    assert (found["kproxy"], found["type"]) == ("explain/v1", "summary")
    assert [each["service"] for each in found["services"]] == ["default/web"]
    asked = json.loads(explain(dump, *TO_WEB, "--json"))
    assert (asked["type"], asked["fate"]) == ("packet", "delivered")


def test_the_schema_needs_no_dump(explain: Explain) -> None:
    assert json.loads(explain("--schema"))["title"] == "kproxy explain/v1"


def test_redacted_output_names_nothing(explain: Explain, dump: str) -> None:
    for words in (("--json",), (), TO_WEB, ("service", "default/web")):
        said = explain(dump, *words, "--redact")
        is_json = "--json" in words
        assert (said.startswith("names, addresses and hashes are invented (--redact)\n\n")) is not is_json
        assert ('"redacted": true' in said) is is_json
        assert said.status == 0
        for name in ("web", "10.96.0.80", "10.244.0.7", "LOLE4ISW44XBNF3G"):
            assert name not in said
        assert "30080" in said or "8080" in said


def test_what_is_not_found_names_nothing_either(explain: Explain, dump: str) -> None:
    said = explain(dump, "service", "default/wep", "--redact")
    assert said.status == 3
    assert "ask without --redact" in said.err
    assert "default/web" not in said.err


def test_a_page_is_written_whole(explain: Explain, dump: str, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text("old", encoding="utf-8")
    assert explain(dump, f"--html={page}") == f"Wrote {page}\n"
    assert "default/web" in page.read_text(encoding="utf-8")
    assert sorted(each.name for each in tmp_path.iterdir()) == ["dump.txt", "report.html"]
    explain(dump, f"--html={page}", "--redact")
    assert "default/web" not in page.read_text(encoding="utf-8")
    assert "dump.txt" not in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(("name", "problem"), [("", "plain file"), ("none/report.html", "folder that can be written")])
def test_a_page_that_cannot_be_written_is_a_sentence(
    explain: Explain, dump: str, tmp_path: Path, name: str, problem: str
) -> None:
    said = explain(dump, f"--html={tmp_path / name}")
    assert said.status == 3
    assert problem in said.err


def test_colour_is_asked_for_or_seen(explain: Explain, dump: str) -> None:
    assert "\x1b[" not in explain(dump)
    assert "\x1b[" in explain(dump, "--colour=always")
    assert "\x1b[" not in explain(dump, "--color=never")


def on_a_terminal(columns: int, *words: str, **environment: str) -> list[str]:
    """What a person would see, line by line."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (40, columns))
    variables = {"PATH": "/usr/bin:/bin", "TERM": "xterm", **environment}
    command = (sys.executable, "-m", "kproxy", "explain", *words)
    with subprocess.Popen(command, stdout=theirs, env=variables) as process:
        os.close(theirs)
        seen = b""
        with suppress(OSError):  # EIO: the other side is closed
            while piece := os.read(ours, 1 << 16):
                seen += piece
        assert process.wait() == 0
    os.close(ours)
    return seen.decode().replace("\r\n", "\n").split("\n")


def test_a_terminal_gets_what_fits_it(tmp_path: Path) -> None:
    rules = "".join(
        f'-A KUBE-SERVICES -d 10.96.0.{nth}/32 -p tcp -m comment --comment "default/s{nth:02} has no endpoints" '
        "-m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable\n"
        for nth in range(60)
    )
    dump = tmp_path / "dump"
    dump.write_text(
        f"*filter\n:INPUT ACCEPT [0:0]\n:KUBE-SERVICES - [0:0]\n-A INPUT -j KUBE-SERVICES\n{rules}COMMIT\n",
        encoding="utf-8",
    )
    plain = on_a_terminal(80, str(dump), NO_COLOR="1")
    assert max(map(len, plain)) <= 80
    assert len([line for line in plain if line.startswith("default/s")]) == 40
    assert any(line.startswith("… and 20 more; name one: kproxy explain DUMP service") for line in plain)
    whole = on_a_terminal(80, str(dump), "--all")
    assert len([line for line in whole if line.startswith("\x1b[1mdefault/s")]) == 60
    assert "\x1b[" not in "".join(on_a_terminal(80, str(dump), TERM="dumb"))


def test_a_terminal_that_lacks_a_letter_sees_its_code(dump: str) -> None:
    command = (sys.executable, "-m", "kproxy", "explain", dump, "--from=host", "--to=ü")
    environment = {"PYTHONIOENCODING": "ascii", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
