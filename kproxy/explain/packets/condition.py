"""What an answer depends on, in words: conditions of rules that neither the rules nor the question decide.

The tracer gives them as iptables-save prints them, after ``not`` where the way is the one on which they fail. What
people meet often gets a sentence; the rest is quoted, for a wrong sentence is worse than iptables' own words.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

_NOT_ALL = "not all of: "
_BY_LO, _NOT_BY_LO = frozenset({"-i lo", "not ! -i lo"}), frozenset({"! -i lo", "not -i lo"})
_SIDES = {"src": "source", "dst": "destination"}


def _set(found: re.Match[str], holds: bool) -> str:
    sides = " and ".join(_SIDES.get(side, side) for side in found["sides"].split(","))
    return f"its {sides} {'is' if holds else 'is not'} in ipset {found['name']}"


def _interface(found: re.Match[str], holds: bool) -> str:
    way = "leaves" if found["way"] == "o" else "comes in"
    verb = way if holds else f"does not {'leave' if found['way'] == 'o' else 'come in'}"
    return f"it {verb} by interface {found['name']}"


def _address(found: re.Match[str], holds: bool) -> str:
    side = {"s": "source", "d": "destination"}[found["side"]]
    return f"its {side} is {'within' if holds else 'outside of'} {found['name']}"


def _owner(found: re.Match[str], holds: bool) -> str:
    whose = {"uid": "user", "gid": "group"}[found["kind"]]
    return f"the process {'belongs' if holds else 'does not belong'} to {whose} {found['name']}"


def _limit(found: re.Match[str], holds: bool) -> str:
    return f"its rate is {'within' if holds else 'above'} {found['name']} (limit)"


def _bridged(_: re.Match[str], holds: bool) -> str:
    return f"it {'comes' if holds else 'does not come'} in by a port of a bridge"


_WORDS: tuple[tuple[re.Pattern[str], Callable[[re.Match[str], bool], str]], ...] = (
    (re.compile(r"(?P<no>! )?-(?P<way>[io]) (?P<name>\S+)"), _interface),
    (re.compile(r"(?P<no>! )?-(?P<side>[sd]) (?P<name>\S+)"), _address),
    (re.compile(r"-m set (?P<no>! )?--match-set (?P<name>\S+) (?P<sides>\S+)"), _set),
    (re.compile(r"-m owner (?P<no>! )?--(?P<kind>uid|gid)-owner (?P<name>\S+)"), _owner),
    (re.compile(r"-m physdev (?P<no>! )?--physdev-is-in"), _bridged),
    (re.compile(r"-m limit (?P<no>! )?--limit (?P<name>\S+)(?: --limit-burst \d+)?"), _limit),
)
_LEADS = re.compile(r"where (?P<target>-[jg] .*) leads")
_TARGET = re.compile(r"(?P<target>-[jg] .*?) (?P<does>(?:drops|accepts|lets|chooses) .*)")


def without_loopback(depends: Sequence[str]) -> tuple[str, ...] | None:
    """What is left if the packet comes from elsewhere, and so not by lo; None: nothing can come this way then."""
    if not _BY_LO.isdisjoint(depends):
        return None
    return tuple(text for text in depends if text not in _NOT_BY_LO and not _fails(text))


def _fails(text: str) -> bool:
    """Whether one of several conditions is known to fail, which is why not all of them hold."""
    several = text.removeprefix(_NOT_ALL)
    return several != text and not _BY_LO.isdisjoint(several.split("; "))


def in_words(text: str) -> str:
    """One condition of a way."""
    if text.startswith((_NOT_ALL, "any of ", "none of ")):
        return text
    holds = not text.startswith("not ")
    bare = text.removeprefix("not ")
    for pattern, words in _WORDS:
        if found := pattern.fullmatch(bare):
            return words(found, holds == (found["no"] is None))
    if found := _LEADS.fullmatch(bare):
        return f"it goes where `{found['target']}` leads"
    if found := _TARGET.fullmatch(bare):
        return f"`{found['target']}` {found['does']}"
    return f"`{bare}` {'holds' if holds else 'does not hold'}"
