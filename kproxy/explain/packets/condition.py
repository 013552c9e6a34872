"""What an answer depends on, in words: conditions of rules that neither the rules nor the question decide.

The tracer gives them as iptables-save prints them, after ``not`` where the way is the one on which they fail. What
people meet often gets a sentence; the rest is quoted, for a wrong sentence is worse than iptables' own words. Of an
interface rules ask several times, first for a pattern and then for a name (Calico asks for each pod of the node), and
one sentence says what follows from all that.

``asks`` goes the other way: the question to settle, with what to type on the node to settle it.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Iterator, Sequence

from kproxy.backend.iptables.trace import MISSING
from kproxy.explain.answer import Fate, Question, Way
from kproxy.explain.packets.clauses import NOT_ALL, parts

_BY_LO, _NOT_BY_LO = frozenset({"-i lo", "not ! -i lo"}), frozenset({"! -i lo", "not -i lo"})
_INTERFACE = re.compile(r"(?P<fails>not )?(?P<no>! )?-(?P<way>[io]) (?P<name>\S+)")
_MOST_NAMES = 3
_SIDES = {"src": "source", "dst": "destination"}


def _set(found: re.Match[str], holds: bool) -> str:
    sides = " and ".join(_SIDES.get(side, side) for side in found["sides"].split(","))
    return f"its {sides} {'is' if holds else 'is not'} in ipset {found['name']}"


def _routed_back(_: re.Match[str], holds: bool) -> str:
    where = "the interface by which it comes in" if holds else "another interface than it comes in by"
    return f"the route to its source leads by {where} (rpfilter)"


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
    (re.compile(r"(?P<no>! )?-(?P<side>[sd]) (?P<name>\S+)"), _address),
    (re.compile(r"-m set (?P<no>! )?--match-set (?P<name>\S+) (?P<sides>\S+)"), _set),
    (re.compile(r"-m owner (?P<no>! )?--(?P<kind>uid|gid)-owner (?P<name>\S+)"), _owner),
    (re.compile(r"-m physdev (?P<no>! )?--physdev-is-in"), _bridged),
    (re.compile(r"-m rpfilter(?: --(?:loose|validmark|accept-local))*(?P<no> --invert)?"), _routed_back),
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
    return not _BY_LO.isdisjoint(parts(text))


def in_words(depends: Iterable[str]) -> tuple[str, ...]:
    """The conditions of one way."""
    asked: dict[str, list[tuple[str, bool]]] = {}
    said: dict[str, None] = {}
    for text in depends:
        if found := _INTERFACE.fullmatch(text):
            name, holds = found["name"], (found["fails"] is None) == (found["no"] is None)
            asked.setdefault(found["way"], []).append((name, holds))
            said[found["way"]] = None  # where the first of them stood
        else:
            said[_in_words(text)] = None
    return tuple(_by_interface(key, asked[key]) if key in asked else key for key in said)


def _by_interface(way: str, asked: Sequence[tuple[str, bool]]) -> str:
    """What is known of one interface. The tracer asks nothing that follows from what was answered before."""
    comes, does_not_come = ("it leaves", "it does not leave") if way == "o" else ("it comes in", "it does not come in")
    held, failed = ([name for name, holds in asked if holds is wanted] for wanted in (True, False))
    if not held:
        return f"{does_not_come} by {'an ' if _is_pattern(failed[0]) else ''}interface {_either(failed)}"
    narrowest = max(held, key=lambda name: (not _is_pattern(name), len(name)))
    if not _is_pattern(narrowest):
        return f"{comes} by interface {narrowest}"
    but = f" other than {_either(failed)}" if failed else ""
    return f"{comes} by an interface {narrowest}{but}"


def _is_pattern(name: str) -> bool:
    return name.endswith("+")


def _either(names: Sequence[str]) -> str:
    few = names if len(names) <= _MOST_NAMES + 1 else names[:_MOST_NAMES]
    if more := len(names) - len(few):
        return f"{', '.join(few)} or one of {more} more"
    *others, last = few
    return f"{', '.join(others)} or {last}" if others else last


def _in_words(text: str) -> str:
    if text.startswith((NOT_ALL, MISSING, "any of ", "none of ")):
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


# --- what would settle it -------------------------------------------------------------------------------------

_COMES_IN, _LEAVES = (
    re.compile(r"comes? in by (?:an )?interface|(?<!\S)-i \S"),
    re.compile(r"leaves? by (?:an )?interface|(?<!\S)-o \S"),
)
_LISTED = re.compile(
    r"its (?P<side>source|destination) is (?:not )?in ipset (?P<name>[^\s;,]+)"
    r"|-m set (?:! )?--match-set (?P<raw>\S+) (?P<end>src|dst)(?![\w,])"
)
_MOST_ASKED = 3  # of each kind


def asks(ways: Sequence[Way], question: Question) -> Iterator[str]:
    """What somebody on the node can find out, upon which these ways depend."""
    failing_first = sorted(ways, key=lambda way: way.fate in {Fate.DELIVERED, Fate.UNTOUCHED})
    texts = dict.fromkeys(text for way in failing_first for text in way.depends)
    if question.source and not (question.interface or question.here) and any(map(_COMES_IN.search, texts)):
        yield (
            f"by which interface does it come in? `ip route get {question.source}` on the node names the one that "
            "leads back; add --in"
        )
    there = list(dict.fromkeys(_address_of(way.endpoint) for way in ways if way.endpoint)) or [question.destination]
    if any(map(_LEAVES.search, texts)):
        yield f"by which interface does it leave? {_commands('ip route get', there)}"
    found = (found for text in texts for found in _LISTED.finditer(text))
    sets = dict.fromkeys((each["name"] or each["raw"], bool({"source", "src"} & {*each.groups()})) for each in found)
    for name, is_source in list(sets)[:_MOST_ASKED]:
        members = [question.source or "ADDRESS"] if is_source else there
        side = "source" if is_source else "destination"
        yield f"is its {side} in ipset {name}? {_commands(f'ipset test {shlex.quote(name)}', members)}"


def _commands(program: str, addresses: Sequence[str]) -> str:
    return " and ".join(f"`{program} {each}`" for each in addresses[:_MOST_ASKED]) + " on the node"


def _address_of(endpoint: str) -> str:
    return endpoint[1:].partition("]")[0] if endpoint.startswith("[") else endpoint.partition(":")[0]
