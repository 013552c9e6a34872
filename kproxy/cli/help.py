"""What argparse prints, in our words: help that fits the terminal, and mistakes as sentences. No work is done here.

Forms, examples and exit statuses are kept as data, because the manual page (man.py) shows them as well, elsewhere and
in another shape. Paragraphs are filled to the width of the terminal; an example is never broken, for it is there to be
copied. Rejected: argparse's ``epilog`` with lines broken by hand, which suits one width.
"""

from __future__ import annotations

import argparse
import re
import shutil
import textwrap
from collections.abc import Iterator, Mapping
from functools import partial
from typing import Never

from msgspec import Struct

DONE, FAILED, MISUNDERSTOOD = range(3)
_MEANS = {
    DONE: "done",
    FAILED: "could not be done, and why is on standard error",
    MISUNDERSTOOD: "the command line, or the configuration file, is not understood",
}
_WORDS_ALONE = "the words of the command line are not understood"
# What a command's own exit statuses mean, where that is more; explain and trace say theirs themselves
_STATUSES: Mapping[str, Mapping[int, str]] = {
    "run": {
        DONE: "ended by SIGTERM or SIGINT; rules stay",
        FAILED: "could not start, or not go on, and why is on standard error; or its file changed",
        MISUNDERSTOOD: _WORDS_ALONE,
    },
    "cleanup": {FAILED: "something is left, and why is on standard error", MISUNDERSTOOD: _WORDS_ALONE},
    "plan": {
        DONE: "all is printed",
        FAILED: "something was left out, and why is on standard error; all else is printed",
    },
    "check": {
        DONE: "the kernel agrees with the cluster",
        FAILED: "something differs",
        MISUNDERSTOOD: "no answer: the command line is not understood, or the cluster or the kernel cannot be read",
    },
    "status": {DONE: "the daemon is healthy", FAILED: "it is not healthy, or does not run"},
    **{name: {MISUNDERSTOOD: _WORDS_ALONE} for name in ("completion", "man", "sandbox", "version")},
}


class Usage(Exception):
    """The command line has no meaning; the text is what to print. ``status``: the exit status."""

    def __init__(self, text: str, status: int = MISUNDERSTOOD) -> None:
        self.status = status
        super().__init__(text)


_wrap = partial(textwrap.wrap, break_long_words=False, break_on_hyphens=False)  # --a-flag stays one word


class More(Struct, frozen=True):
    """What help has around the flags."""

    forms: tuple[str, ...] = ("[FLAG ...]",)  # what may stand behind the command
    remarks: str = ""  # paragraphs
    examples: tuple[tuple[str, str], ...] = ()  # a command line, and what it is for
    statuses: Mapping[int, str] = {}
    after: str = ""  # the statuses


def statuses_of(command: str) -> Mapping[int, str]:
    """``command``: empty: what holds for all."""
    return {**_MEANS, **_STATUSES.get(command, {})}


class Formatter(argparse.HelpFormatter):
    def _fill_text(self, text: str, width: int, indent: str) -> str:
        paragraphs = (
            _wrap(each, width, initial_indent=indent, subsequent_indent=indent) for each in text.split("\n\n")
        )
        return "\n\n".join("\n".join(lines) for lines in paragraphs)

    def _split_lines(self, text: str, width: int) -> list[str]:
        return _wrap(text, width)

    def _format_action(self, action: argparse.Action) -> str:
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 -- to leave out the line with its metavar
            return "".join(self._format_action(each) for each in action._get_subactions())  # noqa: SLF001 -- as above
        return super()._format_action(action)


class Parser(argparse.ArgumentParser):
    misunderstood = MISUNDERSTOOD
    more = More()

    def error(self, message: str) -> Never:
        for pattern, said in _SENTENCES:
            if found := pattern.fullmatch(message):
                message = _said(said, found)
                break
        raise Usage(f"{self.prog}: {message}\nTry `{self.prog} --help`.", self.misunderstood)

    def flags(self) -> list[str]:
        """The names of those it shows."""
        shown = (action for action in self._actions if action.help != argparse.SUPPRESS)
        return [name.lstrip("-") for action in shown for name in action.option_strings if name.startswith("--")]

    def say_more(self, more: More) -> None:
        """Set what help has around the flags."""
        self.more = more
        self.usage = "\n       ".join(f"{self.prog} {form}".rstrip() for form in more.forms)

    def format_help(self) -> str:
        """As argparse does it, and what ``say_more`` set behind it."""
        width = shutil.get_terminal_size().columns - 2  # argparse's own margin
        return super().format_help() + "".join(f"{line}\n" for line in _ending(self.more, width))


def _ending(more: More, width: int) -> Iterator[str]:
    for paragraph in filter(None, more.remarks.split("\n\n")):
        yield from ("", *_wrap(paragraph, width))
    if more.examples:
        yield from ("", "examples:")
    for line, purpose in more.examples:
        yield f"  {line}"
        yield from _hanging(purpose, width, "      ", "      ")
    if more.statuses:
        yield from ("", "exit status:")
    for status, text in more.statuses.items():
        yield from _hanging(text, width, f"  {status}  ", "     ")
    if more.after:
        yield from _wrap(more.after, width)


def _hanging(text: str, width: int, first: str, others: str) -> list[str]:
    return _wrap(text, width, initial_indent=first, subsequent_indent=others)


# What argparse says, and what we say
_SENTENCES = tuple(
    (re.compile(pattern, re.DOTALL), said)
    for pattern, said in (
        (r"argument (?P<flag>\S+): expected (?:one|at least one) argument", "{flag}: a value is missing"),
        (
            r"argument (?P<flag>\S+): invalid choice: '(?P<value>.*)' \(choose from (?P<choices>.*)\)",
            "{flag}={value}: give {choices}",
        ),
        (r"argument (?P<flag>\S+): invalid int value: '(?P<value>.*)'", "{flag}={value}: give a whole number"),
        (r"argument (?P<flag>\S+): ignored explicit argument '(?P<value>.*)'", "{flag}={value}: takes no value"),
        (r"argument (?P<flag>\S+): not allowed with argument (?P<value>\S+)", "{flag} and {value}: give one of them"),
        (r"the following arguments are required: (?P<flag>.*)", "{flag}: is missing"),
    )
)


def _said(said: str, found: re.Match[str]) -> str:
    parts = found.groupdict()
    *some, last = parts.get("choices", "").replace("'", "").split(", ")
    choices = f"{', '.join(some)} or {last}" if some else last
    flag = max(parts["flag"].split("/"), key=len)  # of several spellings
    if not flag.startswith("-"):  # a word, which is its own name
        said = said.replace("{flag}=", "")
    return said.format(flag=flag, value=parts.get("value", ""), choices=choices)
