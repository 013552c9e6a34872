"""Text to rules: what iptables-save prints, from us, from kube-proxy or from anybody.

What is not understood stays in the rule as ``Unknown`` text, for a dump of a broken cluster is read because something
unusual is in it.

A dump of a large cluster says few things many times: ``-p tcp``, ``-m tcp --dport 80``, a Service's comment in each of
its rules. So a rule is cut into fragments, one for each match and one for the target, and every distinct fragment is
read once in a dump; equal fragments are one object. Rejected: reading word by word, which took thrice as long, and
keeping rules as text until somebody asks, for every question asks about all of them.
"""

from __future__ import annotations

import gc
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from msgspec import Struct

from kproxy.backend.iptables.matches import read_match
from kproxy.backend.iptables.options import WORD
from kproxy.backend.iptables.rules import Match, Rule, Target
from kproxy.backend.iptables.targets import read_target
from kproxy.errors import UnreadableDump


class SavedRule(NamedTuple):
    rule: Rule
    line: int  # from 1
    packets: int = -1  # -1: the dump has no counters
    bytes: int = -1


class SavedChain(Struct):
    name: str
    policy: str  # ACCEPT or DROP of a built-in chain; "-" for the others
    line: int
    rules: list[SavedRule]


SavedTables = dict[str, dict[str, SavedChain]]  # by table name, by chain name


def parse_save(lines: Iterable[str], *, first: int = 1, into: SavedTables | None = None) -> SavedTables:
    """Read a whole dump. Raises UnreadableDump at the first line that iptables-save cannot have printed.

    ``first``: the number of the first line. ``into``: what was read before, of which this is another part.
    """
    tables: SavedTables = {} if into is None else into
    with no_collection():
        _read(lines, first, tables)
    return tables


@contextmanager
def no_collection() -> Iterator[None]:
    """Without the garbage collector's rounds: each looks at all that was made, and none of it is in a cycle."""
    was = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was:
            gc.enable()


def _read(lines: Iterable[str], first: int, tables: SavedTables) -> None:
    chains: dict[str, SavedChain] | None = None
    reader = _Reader()
    for number, raw in enumerate(lines, first):
        line = raw.rstrip("\r\n")
        if not line or line.startswith("#"):
            continue
        if line.startswith("*") and (name := table_of(line)):
            if chains is not None:
                raise UnreadableDump(number, f"table {name} begins before the COMMIT of the table above")
            chains = tables.setdefault(name, {})
        elif chains is None:
            raise UnreadableDump(number, f"{shorten(line)} stands before any *table line")
        elif line == "COMMIT":
            chains = None
        elif line.startswith(":"):
            _read_chain(chains, line, number)
        elif line.startswith(("-A ", "[")):
            _read_rule(chains, reader, line, number)
        else:
            raise UnreadableDump(number, f"{shorten(line)} is neither a chain nor a rule")


_TABLE = re.compile(r"\*([a-z][a-z0-9_-]*)\s*", re.ASCII | re.IGNORECASE)


def table_of(line: str) -> str:
    """The name in a line that begins a table; empty for any other line."""
    found = _TABLE.fullmatch(line)
    return found[1] if found else ""


def parse_rule(text: str) -> tuple[str, Rule]:
    """``-A CHAIN ...`` → (chain, rule). Raises ValueError where the line has another form."""
    return _Reader().read(text)


def _read_chain(chains: dict[str, SavedChain], line: str, number: int) -> None:
    words = line[1:].split(" ")
    if len(words) < 2 or not (words[0] and words[1]):
        raise UnreadableDump(number, f"{shorten(line)} is not a chain line")
    if (before := chains.get(words[0])) is not None:
        why = f"chain {shorten(words[0])} is declared a second time, after line {before.line}"
        raise UnreadableDump(number, why, remedy="give one dump of each family and variant")
    chains[words[0]] = SavedChain(words[0], words[1], number, [])


_COUNTED = re.compile(r"\[([0-9]{1,20}):([0-9]{1,20})\] ")


def _read_rule(chains: dict[str, SavedChain], reader: _Reader, line: str, number: int) -> None:
    packets = octets = -1
    text = line
    if line.startswith("["):
        if (counted := _COUNTED.match(line)) is None:
            raise UnreadableDump(number, f"{shorten(line)} does not begin as a rule does, with or without counters")
        packets, octets, text = int(counted[1]), int(counted[2]), line[counted.end() :]
    try:
        name, rule = reader.read(text)
    except ValueError as problem:
        raise UnreadableDump(number, f"{shorten(line)}: {problem}") from problem
    if name not in chains:
        raise UnreadableDump(number, f"a rule of chain {shorten(name)}, which was not declared")
    chains[name].rules.append(SavedRule(rule, number, packets, octets))


def shorten(line: str) -> str:
    text = ascii(line[:81])
    return text if len(text) <= 80 else f"{text[:76]}...'"


# --- one rule -------------------------------------------------------------------------------------------------

# A match reaches to the next option of one letter, a target to the end. What is free text may look like an option;
# iptables-save quotes it only where it holds more than letters, digits, - and _.
_NEXT = r"(?! (?:! )?-[A-Za-z](?: |$))"
_FREE = r"--(?:comment|name|string|hex-string|helper|nfacct-name|hashlimit-name)"
_OFTEN = r"""-m comment --comment "[^"\\]*"|(?:! )?-[sdp] [^ "]+"""
_FRAGMENT = re.compile(rf"-[jg] .+|(?:{_OFTEN})(?= -)|(?:! )?{WORD}(?: {_FREE} {WORD}|{_NEXT} {WORD})*", re.DOTALL)
_WORD = re.compile(WORD)


class _Matches(dict[str, Match]):
    def __missing__(self, fragment: str) -> Match:
        match = self[fragment] = read_match(fragment)
        return match


class _Targets(dict[str, Target]):
    def __missing__(self, fragment: str) -> Target:
        target = self[fragment] = read_target(fragment)
        return target


class _Reader:
    """Rules to values; whatever is read a second time is the value of the first."""

    def __init__(self) -> None:
        self._matches = _Matches()
        self._targets = _Targets()

    def read(self, text: str) -> tuple[str, Rule]:
        option, _, rest = text.partition(" ")
        name, _, rest = rest.partition(" ")
        if option != "-A" or not name:
            raise ValueError("no -A CHAIN at its beginning")
        fragments = _cut(rest)
        target = None
        if fragments and fragments[-1].startswith(("-j", "-g")):
            target = self._targets[fragments.pop()]
        return name, Rule(tuple(map(self._matches.__getitem__, fragments)), target)


def _cut(rest: str) -> list[str]:
    """A rule's fragments."""
    fragments = _FRAGMENT.findall(rest)
    if " ".join(fragments) == rest:
        return fragments
    # Some programs print a space too many. Whatever else is between words is not as iptables-save prints it.
    words = _WORD.findall(rest)
    if "".join(words).replace(" ", "") != rest.replace(" ", ""):
        raise ValueError("a quotation has no end")
    return _FRAGMENT.findall(" ".join(words))
