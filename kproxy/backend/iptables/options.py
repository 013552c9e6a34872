"""The words behind a match's or a target's name, and the values in them.

Every word must be understood, each option once and each value within its bounds; whoever reads a match or a target
takes each option and is told whether that was all. So an option of a later iptables, an ``[unsupported revision]`` and
a dump that somebody edited make a tracer say "depends on …", never a wrong thing.
"""

from __future__ import annotations

import re
from ipaddress import ip_network

WORD = r'(?:"(?:[^"\\]|\\.)*"|[^ "][^ ]*)'  # one argument as iptables-save prints it
ALL = 0xFFFF_FFFF  # of a mark
_WORD = re.compile(WORD)
_ESCAPED = re.compile(r"\\(.)")


class Options:
    """``--name value …`` with ``!`` before it. Each is taken once; ``finished`` tells whether that was all."""

    def __init__(self, name: str, fragment: str, words: str) -> None:
        self.name = name  # of the match or the target
        self.fragment = fragment
        self._values: dict[str, tuple[str, bool]] = {}
        self._strange = False
        negated, last = False, ""
        for word in _WORD.findall(words):
            if word == "!":
                self._strange |= negated
                negated = True
            elif word.startswith("--"):
                self._strange |= word in self._values
                self._values[word] = ("", negated)
                last, negated = word, False
            elif last and not negated:
                value, was = self._values[last]
                self._values[last] = (f"{value} {word}" if value else word, was)
            else:
                self._strange = True
        self._strange |= negated

    def take(self, option: str) -> tuple[str, bool]:
        """Its value and whether it is negated; an empty value where it is missing."""
        value, negated = self._values.pop(option, (None, False))
        self._strange |= value == ""
        return value or "", negated

    def text(self, option: str) -> str:
        """The value of an option that cannot be negated."""
        value, negated = self.take(option)
        self._strange |= negated
        return value

    def flag(self, option: str) -> bool:
        """Whether an option without a value is given."""
        value, negated = self._values.pop(option, (None, False))
        self._strange |= negated or bool(value)
        return value is not None

    def rest(self) -> dict[str, tuple[str, bool]]:
        """All that was not taken yet, in its order."""
        values, self._values = self._values, {}
        return values

    @property
    def finished(self) -> bool:
        """Nothing is left and nothing was strange."""
        return not self._values and not self._strange


# --- values: each raises ValueError for what iptables-save cannot have printed --------------------------------

_OCTET = r"(?:25[0-5]|2[0-4][0-9]|1[0-9]{2}|[1-9]?[0-9])"
IPV4 = rf"(?:{_OCTET}\.){{3}}{_OCTET}"
_IPV4_CIDR = re.compile(rf"{IPV4}(?:/(?:3[0-2]|[12]?[0-9]))?")
_IPV6_CIDR = re.compile(r"[0-9a-fA-F:.]+(?:/[0-9]{1,3})?")
_NUMBER = re.compile(r"[0-9]{1,10}")
_MARK = re.compile(r"(0x[0-9a-fA-F]{1,8}|[0-9]{1,10})(?:/(0x[0-9a-fA-F]{1,8}|[0-9]{1,10}))?")


def read_cidr(text: str) -> str:
    """An address with a prefix length or without; a mask with holes is none that a tracer could ask."""
    if _IPV4_CIDR.fullmatch(text):
        return text
    if ":" in text and _IPV6_CIDR.fullmatch(text):
        ip_network(text, strict=False)
        return text
    raise ValueError(text)


def read_address(text: str) -> str:
    if "/" in text:
        raise ValueError(text)
    return read_cidr(text)


def read_number(text: str, most: int = 0xFFFF, *, least: int = 0) -> int:
    if not _NUMBER.fullmatch(text) or not least <= int(text) <= most:
        raise ValueError(text)
    return int(text)


def read_range(text: str, between: str = ":", *, least: int = 0) -> tuple[int, int]:
    """Ports; 0 and 0, which no packet has, where there is no text."""
    if not text:
        return 0, 0
    first, _, last = text.partition(between)
    low = read_number(first, least=least)
    return low, read_number(last, least=max(low, 1)) if between in text else read_number(first, least=1)


def read_mark(text: str) -> tuple[int, int]:
    found = _MARK.fullmatch(text)
    if found is None:
        raise ValueError(text)
    value, mask = int(found[1], 0), int(found[2] or str(ALL), 0)
    if max(value, mask) > ALL:
        raise ValueError(text)
    return value, mask


def read_places(text: str) -> tuple[str, str, int, int]:
    """``[first-last]:low-high`` → (first, last, low, high), as DNAT and SNAT have it."""
    if text.startswith("["):
        addresses, _, ports = text[1:].partition("]:")
    elif text.count(":") > 1:
        addresses, ports = text, ""
    else:
        addresses, _, ports = text.partition(":")
    first, _, last = addresses.partition("-")
    if first:
        first, last = read_address(first), read_address(last or first)
    elif addresses or not ports:
        raise ValueError(text)
    return first, last, *read_range(ports, "-", least=1)


def unquote(word: str) -> str:
    if not word.startswith('"'):
        return word
    inside = word[1:-1]
    return _ESCAPED.sub(r"\1", inside) if "\\" in inside else inside
