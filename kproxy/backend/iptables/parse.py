"""Text to rules: what iptables-save prints, from us, from kube-proxy or from anybody.

What is not understood stays in the rule as ``Unknown`` text, for a dump of a broken cluster is read because something
unusual is in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from msgspec import Struct

from kproxy.backend.iptables import rules as r
from kproxy.backend.iptables.rules import Match, Rule, Target, Verdict
from kproxy.errors import UnreadableDump
from kproxy.model.enums import Protocol


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
    chains: dict[str, SavedChain] | None = None
    for number, raw in enumerate(lines, first):
        line = raw.rstrip("\r\n")
        if not line or line.startswith("#"):
            continue
        if line.startswith("*") and (name := table_of(line)):
            chains = tables.setdefault(name, {})
        elif chains is None:
            raise UnreadableDump(number, f"{shorten(line)} stands before any *table line")
        elif line == "COMMIT":
            chains = None
        elif line.startswith(":"):
            _read_chain(chains, line, number)
        elif line.startswith(("-A ", "[")):
            _read_rule(chains, line, number)
        else:
            raise UnreadableDump(number, f"{shorten(line)} is neither a chain nor a rule")
    return tables


_TABLE = re.compile(r"\*([a-z][a-z0-9_-]*)\s*", re.ASCII | re.IGNORECASE)


def table_of(line: str) -> str:
    """The name in a line that begins a table; empty for any other line."""
    found = _TABLE.fullmatch(line)
    return found[1] if found else ""


def parse_rule(text: str) -> tuple[str, Rule]:
    """``-A CHAIN ...`` → (chain, rule). Raises ValueError where the line has another form."""
    words = _split(text)
    if len(words) < 2 or words[0] != "-A":
        raise ValueError("no -A CHAIN at its beginning")
    return words[1], _RuleReader(words[2:]).read()


def _read_chain(chains: dict[str, SavedChain], line: str, number: int) -> None:
    words = line[1:].split()
    if len(words) < 2:
        raise UnreadableDump(number, f"{shorten(line)} is not a chain line")
    chains[words[0]] = SavedChain(words[0], words[1], number, [])


_COUNTED = re.compile(r"\[(\d+):(\d+)\] (.*)")


def _read_rule(chains: dict[str, SavedChain], line: str, number: int) -> None:
    packets = octets = -1
    if counted := _COUNTED.fullmatch(line):
        packets, octets, line = int(counted[1]), int(counted[2]), counted[3]
    try:
        name, rule = parse_rule(line)
    except ValueError as problem:
        raise UnreadableDump(number, f"{shorten(line)}: {problem}") from problem
    if name not in chains:
        raise UnreadableDump(number, f"a rule of chain {shorten(name)}, which was not declared")
    chains[name].rules.append(SavedRule(rule, number, packets, octets))


def shorten(line: str) -> str:
    text = ascii(line)
    return text if len(text) <= 80 else f"{text[:76]}...'"


_WORD = re.compile(r'"((?:[^"\\]|\\.)*)"|(\S+)')


def _split(text: str) -> list[str]:
    if '"' not in text:
        return text.split()
    return [
        re.sub(r"\\(.)", r"\1", quoted) if quoted or not bare else bare
        for quoted, bare in (found.groups(default="") for found in _WORD.finditer(text))
    ]


class _RuleReader:
    """One rule's words, read from left to right."""

    def __init__(self, words: list[str]) -> None:
        self.words = words
        self.at = 0
        self.matches: list[Match] = []

    def read(self) -> Rule:
        negated = False
        while self.at < len(self.words):
            word = self._next()
            if word == "!":
                negated = True
                continue
            if word in {"-j", "-g"}:
                return Rule(tuple(self.matches), self._target(word))
            if word == "-m":
                self._extension(self._next())
            elif word in _PLAIN:
                self.matches.append(_PLAIN[word](self._next(), negated))
            else:
                self._unknown([*(["!"] if negated else []), word])
            negated = False
        return Rule(tuple(self.matches), None)

    def _next(self) -> str:
        if self.at >= len(self.words):
            raise ValueError(f"nothing after {self.words[-1]}")
        self.at += 1
        return self.words[self.at - 1]

    def _rest(self) -> list[str]:
        """The options up to the next match or target."""
        start = self.at
        while self.at < len(self.words) and not self._at_boundary():
            self.at += 2 if self.words[self.at] == "--comment" else 1  # a comment may look like an option
        return self.words[start : self.at]

    def _at_boundary(self) -> bool:
        word = self.words[self.at]
        if word == "!":
            following = self.words[self.at + 1 : self.at + 2]
            return bool(following) and following[0] in _PLAIN
        return word in {"-m", "-j", "-g"} or word in _PLAIN

    def _extension(self, name: str) -> None:
        options = self._rest()
        reader = _EXTENSIONS.get(name)
        match = reader(name, _Options(options)) if reader else None
        self.matches.append(match or r.Unknown(" ".join(["-m", name, *options])))

    def _unknown(self, words: list[str]) -> None:
        self.matches.append(r.Unknown(" ".join([*words, *self._rest()])))

    def _target(self, how: str) -> Target:
        name = self._next()
        options = self.words[self.at :]
        self.at = len(self.words)
        if how == "-g":
            return r.UnknownTarget(" ".join(["-g", name, *options]))
        if not options and name in Verdict.__members__:
            return Verdict(name)
        reader = _TARGETS.get(name)
        if reader is None:
            return r.UnknownTarget(" ".join(["-j", name, *options])) if options else _jump(name)
        return reader(_Options(options)) or r.UnknownTarget(" ".join(["-j", name, *options]))


# Targets that are programs of the kernel, not chains; a jump to anything else is a jump to a chain.
_KERNEL_TARGETS = frozenset({
    *("AUDIT", "CHECKSUM", "CLASSIFY", "CONNMARK", "CONNSECMARK", "CT", "DSCP", "HL", "IDLETIMER", "LED", "LOG"),
    *("NETMAP", "NFLOG", "NFQUEUE", "NOTRACK", "QUEUE", "RATEEST", "REDIRECT", "SECMARK", "SET", "SNAT"),
    *("SYNPROXY", "TCPMSS", "TCPOPTSTRIP", "TEE", "TOS", "TPROXY", "TRACE", "TTL"),
})  # fmt: skip


def _jump(name: str) -> Target:
    return r.UnknownTarget(f"-j {name}") if name in _KERNEL_TARGETS else r.Jump(name)


class _Options:
    """``--name value`` pairs with ``!``; every option must be taken, or the whole match stays unknown."""

    def __init__(self, words: list[str]) -> None:
        self.values: dict[str, tuple[str, bool]] = {}
        negated = False
        name = ""
        for word in words:
            if name == "--comment" and not self.values[name][0]:
                self.values[name] = (word, False)
            elif word == "!":
                negated = True
            elif word.startswith("--"):
                name = word
                self.values[name] = ("", negated)
                negated = False
            elif name:
                value, was = self.values[name]
                self.values[name] = (f"{value} {word}".lstrip(), was)

    def take(self, name: str) -> tuple[str, bool]:
        return self.values.pop(name, ("", False))

    def text(self, name: str) -> str:
        return self.take(name)[0]

    def flag(self, name: str) -> bool:
        return self.values.pop(name, None) is not None

    @property
    def empty(self) -> bool:
        return not self.values


_PLAIN: dict[str, Callable[[str, bool], Match]] = {
    "-s": r.Source,
    "-d": r.Destination,
    "-i": r.InInterface,
    "-o": r.OutInterface,
    "-p": lambda value, negated: (
        r.OfProtocol(Protocol(value.upper()), negated)
        if value.upper() in Protocol.__members__
        else r.Unknown(f"{'! ' if negated else ''}-p {value}")
    ),
}


def _ports(name: str, options: _Options) -> Match | None:
    destination, negated = options.take("--dport")
    source, source_negated = options.take("--sport")
    if not options.empty or source_negated:
        return None
    low, high = _range(destination)
    source_low, source_high = _range(source)
    return r.Ports(Protocol(name.upper()), low, high, source_low, source_high, negated)


def _range(text: str) -> tuple[int, int]:
    if not text:
        return 0, 0
    low, _, high = text.partition(":")
    return int(low), int(high or low)


def _conntrack(_: str, options: _Options) -> Match | None:
    states, negated = options.take("--ctstate")
    return r.Conntrack(tuple(states.split(",")), negated) if states and options.empty else None


def _mark(_: str, options: _Options) -> Match | None:
    value, negated = options.take("--mark")
    number, mask = _value_and_mask(value)
    return r.Mark(number, mask, negated) if value and options.empty else None


def _value_and_mask(text: str) -> tuple[int, int]:
    value, _, mask = text.partition("/")
    return int(value or "0", 0), int(mask or "0xffffffff", 0)


def _address_type(_: str, options: _Options) -> Match | None:
    source, source_negated = options.take("--src-type")
    destination, negated = options.take("--dst-type")
    if not options.empty or source_negated or negated:
        return None
    return r.AddressType(source, destination)


def _statistic(_: str, options: _Options) -> Match | None:
    mode, _negated = options.take("--mode")
    probability, negated = options.take("--probability")
    return r.Statistic(float(probability)) if mode == "random" and not negated and options.empty else None


def _recent(_: str, options: _Options) -> Match | None:
    name = options.text("--name")
    options.take("--mask")
    if not options.flag("--rsource"):
        return None
    if options.flag("--set"):
        return r.RecentSet(name) if options.empty else None
    check, reap, seconds = options.flag("--rcheck"), options.flag("--reap"), options.text("--seconds")
    return r.RecentCheck(name, int(seconds), reap) if check and seconds and options.empty else None


_EXTENSIONS: dict[str, Callable[[str, _Options], Match | None]] = {
    "tcp": _ports,
    "udp": _ports,
    "sctp": _ports,
    "comment": lambda _, options: r.Comment(options.text("--comment")),
    "conntrack": _conntrack,
    "mark": _mark,
    "addrtype": _address_type,
    "statistic": _statistic,
    "recent": _recent,
    "nfacct": lambda _, options: r.Nfacct(options.text("--nfacct-name")),
}


def _dnat(options: _Options) -> Target | None:
    ip, _, port = options.text("--to-destination").rpartition(":")
    return r.Dnat(ip.strip("[]"), int(port)) if ip and port.isdecimal() and options.empty else None


def _set_mark(options: _Options) -> Target | None:
    text = options.text("--set-xmark")
    return r.SetMark(*_value_and_mask(text)) if text and options.empty else None


def _masquerade(options: _Options) -> Target | None:
    random_fully = options.flag("--random-fully")
    return r.Masquerade(random_fully) if options.empty else None


def _reject(options: _Options) -> Target | None:
    kind = options.text("--reject-with") or "icmp-port-unreachable"
    return r.RejectWith(kind) if options.empty else None


_TARGETS: dict[str, Callable[[_Options], Target | None]] = {
    "DNAT": _dnat,
    "MARK": _set_mark,
    "MASQUERADE": _masquerade,
    "REJECT": _reject,
}
