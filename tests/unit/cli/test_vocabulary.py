"""The parser as data. What shells and the manual page make of it: completion/, test_man."""

from __future__ import annotations

import argparse

from kproxy.cli import questions
from kproxy.cli.parser import SHELLS, build
from kproxy.cli.vocabulary import ANY, Command, Files, Flag, read_vocabulary
from kproxy.config import IptablesVariant, LoggingFormat

VOCABULARY = read_vocabulary()
COMMANDS = {command.name: command for command in VOCABULARY.commands}


def flag(command: str, name: str) -> Flag:
    (found,) = [each for each in COMMANDS[command].flags if name in each.names]
    return found


def test_all_that_help_shows_is_there_and_nothing_that_it_hides() -> None:
    _, commands = build()
    assert list(commands.choices) == list(COMMANDS)
    for name, parser in commands.choices.items():
        shown = [action for action in parser._actions if action.option_strings and action.help != argparse.SUPPRESS]
        expected = {(*action.option_strings,): action.help for action in shown if action.dest != "help"}
        assert {each.names: each.help for each in COMMANDS[name].flags} == expected
        assert COMMANDS[name].more.forms


def test_headings_are_helps() -> None:
    assert [heading.title for heading in COMMANDS["plan"].headings] == [
        *("options", "the configuration", "the cluster", "which traffic")
    ]
    assert COMMANDS["run"].headings[-1].title == "the log"


def test_values() -> None:
    assert flag("run", "--iptables-backend").words == tuple(IptablesVariant)
    assert flag("run", "--logging-format").words == tuple(LoggingFormat)
    assert flag("plan", "--family").words == ("4", "6", "both")
    assert flag("explain", "--from").words == ("host",)
    assert flag("trace", "--from").words == ()
    assert flag("explain", "--colour") == flag("trace", "--color")


def test_a_boolean_flags_value_is_behind_an_equals_sign_or_not_there() -> None:
    assert flag("run", "--masquerade-all").optional
    assert flag("run", "--masquerade-all").words == ("true", "false")
    assert not flag("run", "--cluster-cidr").optional
    assert flag("status", "--json").metavar == ""


def test_files_are_what_is_called_so() -> None:
    files = {name for command in COMMANDS.values() for each in command.flags if each.files for name in each.names}
    assert files == {
        *("--config", "--write-config-to", "--kubeconfig", "--manifests"),
        *("-f", "--files", "--objects", "--conntrack", "--html"),
    }
    assert flag("run", "--manifests").files is Files.DIRECTORIES


def test_what_may_be_given_twice() -> None:
    repeats = {name for command in COMMANDS.values() for each in command.flags if each.repeats for name in each.names}
    assert repeats == {"--local", "--objects", "--nodeport-addresses", "--feature-gates"}


def test_words_that_stand_alone() -> None:
    having = {name: command.operands for name, command in COMMANDS.items() if command.operands}
    assert having.keys() == {"explain", "completion"}
    assert having["completion"][ANY][0].words == SHELLS
    assert having["explain"][ANY][1].words == tuple(questions.THINGS)
    assert len(having["explain"][questions.DIFF]) == 3


def test_a_command_says_what_help_says() -> None:
    trace: Command = COMMANDS["trace"]
    assert trace.summary == "watch live packets pass through the rules, with the names of Services"
    assert trace.more.examples
    assert trace.more.statuses[3] == "no such packet came"
