"""The manual page: what is in it, and what the programs say that show it (Debian's man-db, groff, mandoc)."""

from __future__ import annotations

import re
import shutil
import subprocess

import pytest

from kproxy import __version__, cli
from kproxy.cli.help import More
from kproxy.cli.man import render
from kproxy.cli.vocabulary import Command, Flag, Heading, Vocabulary, read_vocabulary

VOCABULARY = read_vocabulary()
PAGE = render(VOCABULARY, __version__)
SECTIONS = [
    *("NAME", "SYNOPSIS", "DESCRIPTION", "COMMANDS", "FILES", "ENVIRONMENT", "EXIT STATUS", "EXAMPLES", "SEE ALSO")
]


def program(*argv: str) -> subprocess.CompletedProcess[str]:
    """It reads the page from standard input."""
    if not shutil.which(argv[0]):
        pytest.skip(f"{argv[0]} is not installed")
    return subprocess.run(argv, input=PAGE, capture_output=True, text=True, check=False, timeout=60)


def shown() -> str:
    """As a terminal of 80 columns has it, without bold and underline."""
    return re.sub(r".\x08", "", program("mandoc", "-T", "utf8", "-O", "width=78").stdout)


def page_of(*commands: Command) -> str:
    return render(Vocabulary("kproxy", "", More(), commands, ()), "1")


def test_it_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["man"]) == 0
    assert capsys.readouterr().out == PAGE


def test_sections_stand_in_their_order() -> None:
    assert re.findall(r'^\.SH "(.*)"$', PAGE, re.MULTILINE) == SECTIONS


def test_every_command_and_flag_is_there() -> None:
    for command in VOCABULARY.commands:
        assert f'.SS "kproxy {command.name}"\n' in PAGE
        for flag in command.flags:
            for name in flag.names:
                assert f"\\fB{name.replace('-', chr(92) + '-')}\\fP" in PAGE


def test_a_heading_is_shown_once_and_named_where_it_comes_again() -> None:
    assert PAGE.count("\\fB\\-\\-cluster\\-cidr\\fP") == 1 + PAGE.partition('.SH "EXAMPLES"')[2].count(
        "cluster-cidr\\fP"
    )
    assert "Also \\fB\\-\\-config\\fP, \\[u201C]the cluster\\[u201D] and" in PAGE
    assert PAGE.count("\\-\\-ipvs\\-*") == 1


def test_every_exit_status_and_example_is_there() -> None:
    flat = " ".join(PAGE.split())
    for command in VOCABULARY.commands:
        for text in command.more.statuses.values():
            assert text.replace("-", "\\-") in flat
        for _, purpose in command.more.examples:
            assert purpose.replace("-", "\\-").split("`")[0] in flat


def test_nothing_of_a_text_is_taken_for_roff() -> None:
    flag = Flag(("--a",), ".so /etc/passwd\n\n'br \\fIx `a'b~^\\` …", "X\\Y")
    page = page_of(Command("c", "", ".TH\n\n\\", (Heading("t", (flag,)),), More()))
    body = page.partition(".SS")[2].partition(".SH")[0]
    assert body.splitlines()[1:] == [
        *("\\&.TH", ".PP", "\\e", ".PP", "\\fBT\\fP"),
        *(".TP", "\\fB\\-\\-a\\fP \\fIX\\eY\\fP", "\\&.so /etc/passwd", ".PP"),
        "\\&'br \\efIx \\fBa\\(aqb\\(ti\\(ha\\e\\fP \\[u2026]",
    ]


def test_a_line_that_is_filled_cannot_begin_a_macro() -> None:
    page = page_of(Command("c", "", f"{'x' * 77} .so /etc/passwd {'y' * 60} 'br", (), More()))
    assert not re.search(r"^(\.so|')", page, re.MULTILINE)
    assert "\n\\&.so /etc/passwd" in page


def test_groff_has_nothing_to_say() -> None:
    assert program("groff", "-man", "-ww", "-T", "utf8", "-z").stderr == ""


def test_man_shows_it_without_a_warning() -> None:
    said = program("man", "--warnings", "-l", "-")
    assert (said.returncode, said.stderr) == (0, "")
    assert "serve this node until told to stop" in re.sub(r".\x08", "", said.stdout).lower()


def test_mandoc_misses_the_date_alone() -> None:
    """The version in the foot says which page it is; a date of printing would say nothing."""
    said = program("mandoc", "-T", "lint")
    assert [line.partition(": ")[2] for line in said.stdout.splitlines()] == [
        '<stdin>:1:14: WARNING: missing date, using "": TH'
    ]


def test_it_fits_eighty_columns_and_can_be_copied() -> None:
    text = shown()
    assert [line for line in text.splitlines() if len(line) > 80] == []
    assert "kproxy explain dump.txt --from 10.244.1.7 --to 10.96.0.10:53/udp" in text
    assert "echo 'source <(kproxy completion bash)' >> ~/.bashrc" in text
    assert 'kproxy completion zsh > "${fpath[1]}/_kproxy"' in text
