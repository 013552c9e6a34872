"""What may be typed, as plain data: read from the parser, for those who print it in another form than help's.

completion/ and man.py know nothing of argparse and the settings, and nothing is written down a second time: which flags
there are, under which heading, what help says and which values are fixed. What is a file is told by the metavar.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from enum import StrEnum

from msgspec import Struct

from kproxy.cli import questions
from kproxy.cli.help import More, Parser
from kproxy.cli.parser import build
from kproxy.gates import EXTERNAL_IPS
from kproxy.settings.kinds import LOCALHOST, PRIMARY
from kproxy.settings.table import BY_FLAG

ANY = ""  # of what may stand first among a command's operands: all that is not named
_FILES = {"FILE", "PATH"}
_DIRECTORIES = {"DIR"}
_BOOLEANS = ("true", "false")
_WORDS = {  # that stand among values which nobody can list
    "feature-gates": (f"{EXTERNAL_IPS}=false", f"{EXTERNAL_IPS}=true"),  # the others change nothing
    "nodeport-addresses": (PRIMARY, LOCALHOST),
}
# kube-proxy's flags that are commands here; they are no flags of the parser
_COMMANDS = {"--cleanup": "what the command cleanup does", "--version": "Kubernetes' version that is meant"}


class Files(StrEnum):
    NONE = ""
    ANY = "files"
    DIRECTORIES = "directories"


class Flag(Struct, frozen=True):
    """``optional``: the value is written as --flag=value or not at all. ``listed``: several, separated by commas."""

    names: tuple[str, ...]
    help: str
    metavar: str = ""  # empty: takes no value
    optional: bool = False
    words: tuple[str, ...] = ()
    files: Files = Files.NONE
    listed: bool = False
    repeats: bool = False


class Operand(Struct, frozen=True):
    """A word that is no flag."""

    words: tuple[str, ...] = ()
    files: Files = Files.NONE


class Heading(Struct, frozen=True):
    title: str
    flags: tuple[Flag, ...]
    note: str = ""


class Command(Struct, frozen=True):
    """``operands``: what may stand at each place, by the first of them; those of ``ANY`` say what that one may be."""

    name: str
    summary: str
    description: str
    headings: tuple[Heading, ...]
    more: More
    operands: Mapping[str, tuple[Operand, ...]] = {}

    @property
    def flags(self) -> tuple[Flag, ...]:
        return tuple(flag for heading in self.headings for flag in heading.flags)


class Vocabulary(Struct, frozen=True):
    program: str
    description: str
    more: More
    commands: tuple[Command, ...]
    instead: tuple[Flag, ...]  # flags without a command that ask for one


def read_vocabulary() -> Vocabulary:
    parser, commands = build()
    summaries = {each.dest: each.help or "" for each in commands._get_subactions()}  # noqa: SLF001 -- argparse has no other way
    return Vocabulary(
        program=parser.prog,
        description=parser.description or "",
        more=parser.more,
        commands=tuple(_command(name, summaries[name], each) for name, each in commands.choices.items()),
        instead=tuple(Flag((name,), text) for name, text in _COMMANDS.items()),
    )


def _command(name: str, summary: str, parser: Parser) -> Command:
    headings = []
    for group in parser._action_groups:  # noqa: SLF001 -- argparse tells of groups nowhere else
        actions = [each for each in group._group_actions if each.option_strings]  # noqa: SLF001 -- as above
        flags = tuple(_flag(each) for each in actions if each.help != argparse.SUPPRESS and each.dest != "help")
        if flags:
            headings.append(Heading(group.title or "", flags, group.description or ""))
    return Command(name, summary, parser.description or "", tuple(headings), parser.more, dict(_operands(name, parser)))


def _flag(action: argparse.Action) -> Flag:
    names = tuple(action.option_strings)
    metavar = action.metavar if isinstance(action.metavar, str) else ""
    choices = tuple(map(str, action.choices or ()))
    setting = BY_FLAG.get(names[-1].lstrip("-"))
    default = setting.default if setting else None
    if isinstance(default, StrEnum):
        choices = tuple(map(str, type(default)))
    optional = action.nargs == "?"
    literal = tuple(word for word in metavar.split("|") if word.islower())  # IP|host
    return Flag(
        names,
        action.help or "",
        "" if action.nargs == 0 else metavar or "|".join(choices),
        optional=optional,
        words=_BOOLEANS if optional else choices or _WORDS.get(action.dest, literal),
        files=_files(metavar),
        listed=action.dest in _WORDS,
        repeats=isinstance(action, argparse._AppendAction) or bool(setting and setting.kind.adds),  # noqa: SLF001 -- as above
    )


def _files(metavar: str) -> Files:
    if metavar in _DIRECTORIES:
        return Files.DIRECTORIES
    return Files.ANY if metavar in _FILES else Files.NONE


def _operands(name: str, parser: Parser) -> Iterator[tuple[str, tuple[Operand, ...]]]:
    if name == "explain":
        dump = Operand((questions.LIVE,), Files.ANY)
        first = Operand((questions.LIVE, questions.DIFF), Files.ANY)
        yield ANY, (first, Operand(tuple(questions.THINGS)), Operand())
        yield questions.DIFF, (first, dump, dump)
        return
    words = [tuple(map(str, each.choices)) for each in parser._actions if each.choices and not each.option_strings]  # noqa: SLF001 -- as above
    if words:
        yield ANY, tuple(map(Operand, words))
