"""One iptables rule, read and refused as iptables' own parser and the extensions do: the grammar of fake_tables.py.

Only what a service proxy writes is known; anything else is refused, as a kernel without that match would.
Source: iptables-extensions(8); the messages are those of iptables 1.8.9.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import ip_address, ip_network

from kproxy.model.enums import IPFamily

# Bytes. The programs cut a longer one without a word, and every comparison with the kernel would then find a
# difference; the one place where the twin is stricter.
COMMENT_LIMIT = 255
VERDICTS = frozenset({"ACCEPT", "DROP", "RETURN"})
_PROTOCOLS = frozenset({"tcp", "udp", "sctp", "icmp", "ipv6-icmp", "all"})
_STATES = frozenset({"INVALID", "ESTABLISHED", "NEW", "RELATED", "UNTRACKED", "SNAT", "DNAT"})
_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)"|(\S+)')

Check = Callable[[str], object]


class Refused(Exception):
    """``line`` counts from 1 over the whole input."""

    def __init__(self, why: str, line: int = 0) -> None:
        super().__init__(why)
        self.why = why
        self.line = line


def split_words(line: str) -> list[str]:
    """The words of a rule; quotes hold words together, backslashes in them escape."""
    if '"' not in line:
        return line.split()
    return [plain or re.sub(r"\\(.)", r"\1", quoted) for quoted, plain in _TOKEN.findall(line)]


# --- what an option's value must be -------------------------------------------------------------------------------


def demand(holds: bool, why: str) -> None:
    if not holds:
        raise Refused(why)


def _port_range(text: str) -> None:
    for part in text.split(":"):
        demand(part.isdecimal() and int(part) <= 65535, f"invalid port/service `{text}' specified")


def _mark(text: str) -> None:
    for part in text.split("/"):
        try:
            good = 0 <= int(part, 0) < 1 << 32
        except ValueError:
            good = False
        demand(good, f"bad mark value `{text}'")


def _probability(text: str) -> None:
    try:
        good = 0 <= float(text) <= 1
    except ValueError:
        good = False
    demand(good, f"bad probability `{text}'")


def _states(text: str) -> None:
    for part in text.split(","):
        demand(part in _STATES, f'Bad ctstate "{part}"')


def _number(text: str) -> None:
    demand(text.isdecimal(), f"`{text}' is not a number")


def _comment(text: str) -> None:
    demand(len(text.encode()) <= COMMENT_LIMIT, "comment is too long")


def _one_of(*words: str) -> Check:
    return lambda text: demand(text in words, f"`{text}' is not one of {', '.join(words)}")


def _anything(text: str) -> None:
    demand(bool(text), "an empty value")


_PORTS: dict[str, Check | None] = {"--dport": _port_range, "--sport": _port_range}
# Match → option → check of its value; None: the option takes no value
MATCHES: dict[str, dict[str, Check | None]] = {
    "comment": {"--comment": _comment},
    "tcp": _PORTS,
    "udp": _PORTS,
    "sctp": _PORTS,
    "addrtype": {"--dst-type": _one_of("LOCAL", "UNICAST"), "--src-type": _one_of("LOCAL", "UNICAST")},
    "conntrack": {"--ctstate": _states},
    "mark": {"--mark": _mark},
    "nfacct": {"--nfacct-name": _anything},
    "statistic": {
        "--mode": _one_of("random", "nth"),
        "--probability": _probability,
        "--every": _number,
        "--packet": _number,
    },
    "recent": {
        "--name": _anything,
        "--seconds": _number,
        "--mask": _anything,
        **dict.fromkeys(("--set", "--rcheck", "--update", "--remove", "--reap", "--rsource"), None),
    },
}
_FULLY: dict[str, Check | None] = {"--random-fully": None, "--random": None}
# Target → (tables that allow it, options)
TARGETS: dict[str, tuple[tuple[str, ...], dict[str, Check | None]]] = {
    "MARK": (
        ("mangle", "nat", "filter", "raw"),
        dict.fromkeys(("--set-xmark", "--set-mark", "--or-mark", "--xor-mark", "--and-mark"), _mark),
    ),
    "MASQUERADE": (("nat",), _FULLY),
    "DNAT": (("nat",), {"--to-destination": _anything, **_FULLY}),
    "SNAT": (("nat",), {"--to-source": _anything, **_FULLY}),
    "REJECT": (("filter",), {"--reject-with": _anything}),
}


class RuleCheck:
    """Reads one rule word by word, as iptables' own parser does."""

    def __init__(self, family: IPFamily, table: str, rule: str) -> None:
        self._family = family
        self._table = table
        self._words = split_words(rule)
        self._position = 0
        self._options: dict[str, Check | None] = {}
        self._matches: list[str] = []
        self._protocol = ""
        self.target = ""
        while self._position < len(self._words):
            word = self._next()
            if word == "!":
                word = self._next()
            self._option(word)
        for match in self._matches:
            needs_protocol = match in {"tcp", "udp", "sctp"}
            demand(not needs_protocol or self._protocol == match, f"match {match} needs -p {match}")

    def _next(self) -> str:
        demand(self._position < len(self._words), "an option without its value")
        self._position += 1
        return self._words[self._position - 1]

    def _option(self, word: str) -> None:
        if word in {"-s", "-d"}:
            self._address(self._next())
        elif word in {"-i", "-o"}:
            name = self._next()
            demand(len(name) < 16, f"interface name `{name}' must be shorter than 16 characters")
        elif word == "-p":
            self._protocol = self._next()
            demand(self._protocol in _PROTOCOLS, f"unknown protocol `{self._protocol}' specified")
        elif word == "-m":
            name = self._next()
            demand(name in MATCHES, f"Couldn't load match `{name}':No such file or directory")
            self._matches.append(name)
            self._options |= MATCHES[name]
        elif word in {"-j", "-g"}:
            self._jump(self._next())
        else:
            demand(word in self._options, f"unknown option `{word}'")
            check = self._options[word]
            if check is not None:
                value = self._next()
                check(value)
                if word in {"--to-destination", "--to-source"}:
                    self._endpoint(value)

    def _jump(self, target: str) -> None:
        demand(not self.target, "multiple -j flags not allowed")
        self.target = target
        if target in TARGETS:
            tables, options = TARGETS[target]
            demand(self._table in tables, f"{target} is only allowed in table {', '.join(tables)}")
            self._options |= options

    def _address(self, text: str) -> None:
        try:
            good = ip_network(text, strict=False).version == self._version
        except ValueError:
            good = False
        demand(good, f"host/network `{text}' not found")

    def _endpoint(self, text: str) -> None:
        """address, address:port, [address]:port"""
        match = re.fullmatch(r"\[([^\]]+)\](?::(\d+))?|([^:]+)(?::(\d+))?|(.*)", text)
        address = (match[1] or match[3] or match[5] or "") if match else ""
        port = (match[2] or match[4] or "1") if match else "0"
        try:
            good = ip_address(address).version == self._version
        except ValueError:
            good = False
        demand(good, f'Bad IP address "{text}"')
        demand(1 <= int(port) <= 65535, f'Port `{port}\' not valid in "{text}"')

    @property
    def _version(self) -> int:
        return 4 if self._family is IPFamily.IPV4 else 6
