"""How help looks on a terminal of eighty columns, and what is said of words. What flags mean: tests/unit/settings."""

from __future__ import annotations

import pytest

from kproxy import cli
from kproxy.cli.help import DONE, FAILED, MISUNDERSTOOD, More, Parser, statuses_of
from kproxy.cli.parser import build

COMMANDS = list(build()[1].choices)


def help_of(command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], columns: int) -> str:
    monkeypatch.setenv("COLUMNS", str(columns))
    with pytest.raises(SystemExit):
        cli.main([*command.split(), "--help"])
    return capsys.readouterr().out


@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_help_fits_eighty_columns(
    command: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shown = help_of(command, monkeypatch, capsys, 80)
    assert [line for line in shown.splitlines() if len(line) > 80] == []
    assert shown.startswith(f"usage: kproxy {command}".rstrip())


def test_paragraphs_are_as_wide_as_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    narrow, wide = (help_of("trace", monkeypatch, capsys, columns) for columns in (60, 140))
    assert narrow.split() == wide.split()
    assert len(narrow.splitlines()) > len(wide.splitlines())


def test_commands_are_listed_without_a_line_for_the_word_command(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    listed = help_of("", monkeypatch, capsys, 80).partition("commands:\n")[2].partition("\n\n")[0]
    assert [line.split()[0] for line in listed.splitlines() if line[2] != " "] == COMMANDS


def test_what_stands_around_the_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    parser = Parser(prog="p", add_help=False)
    more = More(
        forms=("A", ""),
        remarks="one one one one one one one one one one one\n\ntwo",
        examples=(("p --a-command-that-is-longer-than-the-line-is x", "what for"),),
        statuses={0: "done " * 10},
        after="last",
    )
    parser.say_more(more)
    assert parser.format_help() == (
        "usage: p A\n       p\n\n"
        "one one one one one one one one one\none one\n\ntwo\n\n"
        "examples:\n  p --a-command-that-is-longer-than-the-line-is x\n      what for\n\n"
        "exit status:\n  0  done done done done done done\n     done done done done\nlast\n"
    )


def test_what_a_command_does_not_say_itself_is_what_holds_for_all() -> None:
    assert statuses_of("plan")[MISUNDERSTOOD] == statuses_of("")[MISUNDERSTOOD]
    assert statuses_of("plan")[FAILED] != statuses_of("")[FAILED]
    assert statuses_of("cleanup")[DONE] == "done"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("completion", "kproxy completion: bash|zsh|fish: is missing"),
        ("completion csh", "kproxy completion: csh: give bash, zsh or fish"),
        ("man x", "x: not expected here"),
    ],
)
def test_what_is_wrong_with_a_word(line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(line.split()) == MISUNDERSTOOD
    assert said in capsys.readouterr().err
