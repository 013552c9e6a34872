"""What people give instead of a dump, and what to give: a sentence for each, before any line is read as a rule.

Only input whose first line that counts is no ``*table`` line comes here, besides what is no text at all, so no dump is
ever taken for something else.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import islice

from kproxy.backend.iptables.parse import shorten, table_of
from kproxy.errors import UnreadableDump

_SAVE = "give the output of iptables-save or ip6tables-save of that node"

# --- bytes ----------------------------------------------------------------------------------------------------

_COMPRESSED = (
    (b"\x1f\x8b", "gzip", "gunzip it"),
    (b"\xfd7zXZ\0", "xz", "unxz it"),
    (b"BZh", "bzip2", "bunzip2 it"),
    (b"\x28\xb5\x2f\xfd", "zstd", "unzstd it"),
    (b"PK\x03\x04", "zip", "unzip it"),
)
_TAR = (257, b"ustar")
_WIDE = re.compile(rb"\xff\xfe|\xfe\xff|(?:[\t\n\r -~]\0){8}|(?:\0[\t\n\r -~]){8}")


def check_bytes(data: bytes) -> None:
    """Raises UnreadableDump for what is no text."""
    for magic, what, remedy in _COMPRESSED:
        if data.startswith(magic):
            raise UnreadableDump(0, f"it is compressed ({what})", remedy=f"{remedy} and give what comes out")
    if data.startswith(_TAR[1], _TAR[0]):
        raise UnreadableDump(0, "it is a tar archive", remedy="unpack it and give the dump that is in it")
    if _WIDE.match(data):
        why = "it is text in UTF-16, as PowerShell's > writes it"
        raise UnreadableDump(0, why, remedy="convert it: iconv -f UTF-16 -t UTF-8")
    if not data.strip():
        remedy = "run iptables-save as root; where it prints nothing, the node has no rules of that variant"
        raise UnreadableDump(0, "it is empty", remedy=remedy)
    if (place := data.find(0)) >= 0:
        raise UnreadableDump(data.count(b"\n", 0, place) + 1, "holds a NUL byte: this is no text")


# --- text -----------------------------------------------------------------------------------------------------

_NFTABLES = (
    "this is the output of nft list ruleset",
    "reading it comes with an nftables mode; give the output of iptables-save of the same node (iptables-nft-save)",
)
_OBJECTS = (
    "these are objects of the cluster, as kubectl prints them",
    f"give them with --objects FILE, and as the dump {_SAVE.removeprefix('give ')}",
)
_KINDS = tuple(
    (re.compile(pattern, re.IGNORECASE), why, remedy)
    for pattern, why, remedy in (
        (r"table (?:ip|ip6|inet|arp|bridge|netdev) \S+ \{", *_NFTABLES),
        (r'\{\s*"nftables"', *_NFTABLES),
        (r'(?:\{|"(?:kind|apiVersion|items)":|apiVersion:|- apiVersion:)', *_OBJECTS),
        (
            r"(?-i:(?:NAMESPACE +)?NAME +(?:TYPE|READY|STATUS|ENDPOINTS|ADDRESSTYPE|CLUSTER-IP|AGE)\b)",
            "this is a table that kubectl printed, which leaves out most of what it knows",
            f"give its output with -o json to --objects FILE, and as the dump {_SAVE.removeprefix('give ')}",
        ),
        (r"<(?:!doctype|html|\?xml|head|body)", "this is a web page", _SAVE),
        (
            r"Chain \S+ \((?:policy |\d+ references)",
            "this is the output of iptables -L, which leaves half of every rule out",
            _SAVE,
        ),
        (
            r"-[PN] \S+|-A \S+|\[\d+:\d+\] -A|:\S+ \S+ \[",
            "rules without a *table line, as iptables -S or grep prints them: nothing says which table they are in",
            _SAVE,
        ),
        (r"(?:ipv[46] +\d+ +)?(?:tcp|udp|sctp|icmp) +\d+ .*src=", "this is the output of conntrack -L", _SAVE),
        (
            r"IP Virtual Server version",
            "this is the output of ipvsadm: the node's kube-proxy runs in its ipvs mode",
            "only the rules of its iptables mode can be read",
        ),
    )
)
_LOOKED_AT = 20  # lines


def check_start(lines: Sequence[str]) -> None:
    """Raises UnreadableDump where the first line that counts begins no table."""
    found = [(number, line.strip()) for number, line in islice(_counting(lines), _LOOKED_AT)]
    if not found:
        remedy = "run iptables-save as root; a warning in it may name the program that sees other rules"
        raise UnreadableDump(0, "it holds comments alone, and no table", remedy=remedy)
    for number, line in found:
        if table_of(line):
            _check_copy(lines, found[0], number)
            return
        for pattern, why, remedy in _KINDS:
            if pattern.match(line):
                raise UnreadableDump(number, why, remedy=remedy)


def _check_copy(lines: Sequence[str], first: tuple[int, str], table: int) -> None:
    """A dump that went through a terminal or a page. ``first``: the line that counts; ``table``: where one begins."""
    if lines[table - 1][:1].isspace():
        raise UnreadableDump(table, "is indented, and iptables-save prints no such line", remedy=_UNINDENT)
    number, line = first
    if number != table:
        why = f"{shorten(line)} stands before any *table line, and is nothing that iptables-save prints"
        raise UnreadableDump(number, why, remedy="remove what was copied besides its output")


_UNINDENT = "take the blanks away: sed 's/^[[:blank:]]*//'"


def _counting(lines: Sequence[str]) -> Iterator[tuple[int, str]]:
    return ((number, line) for number, line in enumerate(lines, 1) if line.strip() and not line.startswith("#"))
