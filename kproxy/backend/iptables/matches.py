"""One fragment of a saved rule to the match that it is: ``-s 10.0.0.1/32``, ``! -p tcp``, ``-m tcp --dport 80``.

A fragment of which anything is not understood stays ``Unknown``, as it was printed.

Source of the forms: the save functions in extensions/lib{xt,ipt,ip6t}_*.c of iptables 1.8.9, and what the programs of
both variants print (recorded/every-noun.txt beside the tests).
"""

from __future__ import annotations

import re
from collections.abc import Callable

from kproxy.backend.iptables import rules as r
from kproxy.backend.iptables.options import (
    ALL,
    WORD,
    Options,
    read_address,
    read_cidr,
    read_mark,
    read_number,
    read_range,
    unquote,
)
from kproxy.backend.iptables.rules import Match
from kproxy.model.enums import Protocol

_WORD = re.compile(WORD)
_COMMENT = "-m comment --comment "


def read_match(fragment: str) -> Match:
    """Raises ValueError where an option that needs a value ends the rule."""
    if fragment.startswith(_COMMENT):
        return _comment(fragment)
    negated = fragment.startswith("! ")
    option, _, value = (fragment[2:] if negated else fragment).partition(" ")
    if option == "-f" and not value:
        return r.Fragment(negated)
    if not value and (option == "-m" or option in _PLAIN):
        raise ValueError(f"nothing after {option}")
    try:
        if option in _PLAIN and " " not in value:
            return _PLAIN[option](value, negated) or r.Unknown(fragment)
        if option == "-m" and not negated:
            return _extension(fragment, value) or r.Unknown(fragment)
    except ValueError:  # a value that is none
        pass
    return r.Unknown(fragment)


def _extension(fragment: str, text: str) -> Match | None:
    name, _, words = text.partition(" ")
    if name not in _EXTENSIONS:
        return None
    options = Options(name, fragment, words)
    match = _EXTENSIONS[name](options)
    return match if options.finished else None


def _comment(fragment: str) -> Match:
    word = fragment.removeprefix(_COMMENT)
    if not _WORD.fullmatch(word):
        return r.Unknown(fragment)
    return r.Comment(unquote(word))


# As iptables prints them; a name that is not here is none of TCP, UDP and SCTP all the same.
_NUMBERS = {
    "icmp": 1,
    "igmp": 2,
    "ipencap": 4,
    "ipv6": 41,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "ipv6-icmp": 58,
    "icmpv6": 58,
    "ospf": 89,
    "pim": 103,
    "vrrp": 112,
    "mobility-header": 135,
    "ipv6-mh": 135,
    "udplite": 136,
    "dccp": 33,
}
_OURS = {6, 17, 132}


def _protocol(value: str, negated: bool) -> Match | None:
    if value.isascii() and value.islower() and value.upper() in Protocol.__members__:
        return r.OfProtocol(Protocol(value.upper()), negated)
    if value.isdecimal():
        number = read_number(value, 255, least=1)
        return None if number in _OURS else r.OtherProtocol(value, number, negated)
    return r.OtherProtocol(value, _NUMBERS.get(value, -1), negated) if value.islower() and value != "all" else None


_PLAIN: dict[str, Callable[[str, bool], Match | None]] = {
    "-s": lambda value, negated: r.Source(read_cidr(value), negated),
    "-d": lambda value, negated: r.Destination(read_cidr(value), negated),
    "-i": r.InInterface,
    "-o": r.OutInterface,
    "-p": _protocol,
}

_FLAGS = frozenset({"FIN", "SYN", "RST", "PSH", "ACK", "URG"})
_SYN = (("FIN", "SYN", "RST", "ACK"), ("SYN",))


def _ports(options: Options) -> Match | None:
    destination, negated = options.take("--dport")
    source, source_negated = options.take("--sport")
    flags = _tcp_flags(options) if options.name == "tcp" else None
    protocol = Protocol(options.name.upper())
    return r.Ports(protocol, *read_range(destination), *read_range(source), negated, source_negated, flags)


def _tcp_flags(options: Options) -> r.TcpFlags | None:
    text, negated = options.take("--tcp-flags")
    if not text:
        return None
    mask, _, those = text.partition(" ")
    read = [tuple(flags.split(",")) if flags != "NONE" else () for flags in (mask, those)]
    if not _FLAGS.issuperset(read[0] + read[1]):
        raise ValueError(text)
    return r.TcpFlags(read[0], read[1], negated)


def _multiport(options: Options) -> Match | None:
    (side, (value, negated)), *others = options.rest().items()
    if others or side not in {"--dports", "--sports", "--ports"}:
        return None
    ranges = tuple(read_range(each or "?") for each in value.split(","))
    return r.Multiport(side[2:], ranges, negated)


def _ip_range(options: Options) -> Match | None:
    source, source_negated = options.take("--src-range")
    destination, negated = options.take("--dst-range")
    if not source and not destination:
        return None
    return r.IpRange(_pair(source), _pair(destination), source_negated, negated)


def _pair(text: str) -> tuple[str, str] | None:
    if not text:
        return None
    first, _, last = text.partition("-")
    return read_address(first), read_address(last)


_STATES = frozenset({"INVALID", "NEW", "RELATED", "ESTABLISHED", "UNTRACKED", "SNAT", "DNAT"})


def _states(text: str) -> tuple[str, ...]:
    states = tuple(text.split(",")) if text else ()
    if not _STATES.issuperset(states):
        raise ValueError(text)
    return states


_SIDES = tuple(f"--ct{way}{end}" for way in ("orig", "repl") for end in ("src", "dst"))
_CRITERIA: dict[str, Callable[[str], object]] = {
    "--ctproto": lambda value: read_number(value, 255),
    **dict.fromkeys(_SIDES, read_cidr),
    **dict.fromkeys((f"{side}port" for side in _SIDES), read_range),
    "--ctstatus": lambda value: _words(value, {"NONE", "EXPECTED", "SEEN_REPLY", "ASSURED", "CONFIRMED"}),
    "--ctexpire": lambda value: [read_number(each, ALL) for each in value.split(":", 1)],
    "--ctdir": lambda value: _words(value, {"ORIGINAL", "REPLY"}),
}


def _words(text: str, known: set[str]) -> None:
    if not known.issuperset(text.split(",")):
        raise ValueError(text)


def _conntrack(options: Options) -> Match | None:
    states, negated = options.take("--ctstate")
    criteria = []
    for option, (value, against) in options.rest().items():
        if option not in _CRITERIA or not value:
            return None
        _CRITERIA[option](value)
        criteria.append(r.Criterion(option, value, against))
    return r.Conntrack(_states(states), negated, tuple(criteria)) if states or criteria else None


def _state(options: Options) -> Match | None:
    states, negated = options.take("--state")
    return r.State(_states(states), negated) if states else None


def _of_mark(noun: type[r.Mark | r.ConnMark]) -> Callable[[Options], Match | None]:
    def read(options: Options) -> Match | None:
        text, negated = options.take("--mark")
        return noun(*read_mark(text), negated)

    return read


_TYPES = re.compile(r"[A-Z]+(?:,[A-Z]+)*")


def _address_type(options: Options) -> Match | None:
    source, source_negated = options.take("--src-type")
    destination, negated = options.take("--dst-type")
    limits = [limit for limit in ("in", "out") if options.flag(f"--limit-iface-{limit}")]
    if len(limits) > 1 or not (source or destination):
        return None
    if not all(_TYPES.fullmatch(types) for types in (source, destination) if types):
        return None
    return r.AddressType(source, destination, source_negated, negated, *limits)


_PROBABILITY = re.compile(r"[01]\.[0-9]{1,20}")


def _statistic(options: Options) -> Match | None:
    match options.text("--mode"):
        case "random":
            text = options.text("--probability")
            return r.Statistic(float(text)) if _PROBABILITY.fullmatch(text) and float(text) <= 1 else None
        case "nth":
            every, negated = options.take("--every")
            return r.Nth(read_number(every, ALL, least=1), read_number(options.text("--packet"), ALL), negated)
        case _:
            return None


_WHOLE = {"", "255.255.255.255", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"}


def _recent(options: Options) -> Match | None:
    name = options.text("--name")
    if options.text("--mask") not in _WHOLE or not options.flag("--rsource") or not name:
        return None
    if options.flag("--set"):
        return r.RecentSet(name)
    check, reap, seconds = options.flag("--rcheck"), options.flag("--reap"), options.text("--seconds")
    return r.RecentCheck(name, read_number(seconds, ALL), reap) if check else None


def _nfacct(options: Options) -> Match | None:
    name = options.text("--nfacct-name")
    return r.Nfacct(name) if name else None


_EXTENSIONS: dict[str, Callable[[Options], Match | None]] = {
    "tcp": _ports,
    "udp": _ports,
    "sctp": _ports,
    "multiport": _multiport,
    "iprange": _ip_range,
    "conntrack": _conntrack,
    "state": _state,
    "mark": _of_mark(r.Mark),
    "connmark": _of_mark(r.ConnMark),
    "addrtype": _address_type,
    "statistic": _statistic,
    "recent": _recent,
    "nfacct": _nfacct,
}
