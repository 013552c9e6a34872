"""The ways that a packet can go, and how many ways become one again.

Chance and unknown matches split a way; what a way has found out it knows from there on, so that no packet comes in by
one interface at its first rule and by another at its second. Where both halves come to the same place in the same
state, they are joined, and what they depended on is forgotten with them: a packet that some match sends on a detour
without consequence does not depend on that match. Ways that differ only in their conditions stay apart while they are
few, since each shows other rules; many are joined into one that says how many conditions there are.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import reduce
from math import isclose
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from kproxy.backend.iptables.judge import judge
from kproxy.backend.iptables.rules import Match, RecentSet, Rule
from kproxy.backend.iptables.state import Host, State

MOST_ALIKE = 8  # ways to one place that stay apart because they differ in their conditions
_LONG, _SEPARATE = 48, 16  # conditions of a way until all but the latest are folded
_SHOWN = 3  # conditions of which the text is kept where they are joined


class Met(NamedTuple):
    """A rule that matched, or, at position -1, the policy of a built-in chain that decided."""

    table: str
    chain: str
    position: int  # from 0


class Condition(NamedTuple):
    """Whether one rule matched, as far as the rules cannot show it; or that one of many such conditions holds."""

    texts: tuple[str, ...]  # of matches that hold together; of many conditions some
    holds: bool
    number: int = 1  # of conditions; above 1: any of them, or none
    ends: str = ""  # source and destination of the packet that was asked; empty: of no packet

    def words(self) -> tuple[str, ...]:
        if self.number > 1:
            how, between = ("any", "; or ") if self.holds else ("none", "; ")
            return (f"{how} of {self.number} conditions, such as: {between.join(self.texts)}",)
        if self.holds:
            return self.texts
        return (f"not {self.texts[0]}" if len(self.texts) == 1 else f"not all of: {'; '.join(self.texts)}",)


Trail = tuple["Trail | None", Met]  # the last rule that was met, behind all others: long ones have most in common


class Way(Struct, frozen=True):
    state: State
    probability: float = 1.0
    trail: Trail | None = None
    conditions: tuple[Condition, ...] = ()

    @property
    def path(self) -> tuple[Met, ...]:
        """Every rule that was met, in order."""
        found: list[Met] = []
        at = self.trail
        while at is not None:
            at, met = at
            found.append(met)
        return tuple(reversed(found))

    def meeting(self, met: Met) -> Way:
        return replace(self, trail=(self.trail, met))

    def given(self, condition: Condition) -> Way:
        conditions = (*self.conditions, condition)
        return replace(self, conditions=_folded(conditions) if len(conditions) > _LONG else conditions)

    def at_its_end(self) -> Way:
        """No rule will ask what its conditions were asked of, so those of two packets may be the same."""
        if not any(condition.ends for condition in self.conditions):
            return self
        return replace(self, conditions=tuple(condition._replace(ends="") for condition in self.conditions))

    def depends(self) -> tuple[str, ...]:
        missed = [condition for condition in self.conditions if not condition.holds]
        told = self.conditions if len(missed) <= MOST_ALIKE else _none_of(self.conditions)
        return tuple(text for condition in told for text in condition.words())


def _folded(conditions: tuple[Condition, ...]) -> tuple[Condition, ...]:
    """Where hundreds of matches have missed, only the latest can turn out to make no difference."""
    return (*_none_of(conditions[:-_SEPARATE]), *conditions[-_SEPARATE:])


def _none_of(conditions: Sequence[Condition]) -> tuple[Condition, ...]:
    missed = [each for each in conditions if not each.holds]
    held = [each for each in conditions if each.holds]
    if len(missed) < 2:
        return tuple(conditions)
    texts = [text for each in missed[:_SHOWN] for text in (each.texts if each.number > 1 else (_together(each),))]
    return (*held, Condition(tuple(texts[:_SHOWN]), holds=False, number=sum(each.number for each in missed)))


def _together(condition: Condition) -> str:
    return " and ".join(condition.texts)


Place = Callable[[Way], Hashable]


def in_state(way: Way) -> Hashable:
    return way.state


def join(ways: Sequence[Way], place: Place = in_state) -> list[Way]:
    """As few ways as come to the same places; ways that differ in ``place`` are kept apart."""
    if len(ways) < 2:
        return list(ways)
    alike: dict[Hashable, list[Way]] = {}
    for way in ways:
        alike.setdefault(place(way), []).append(way)
    if len(alike) == len(ways):
        return list(ways)
    return [joined for group in alike.values() for joined in (_join_alike(group) if len(group) > 1 else group)]


def _join_alike(ways: Iterable[Way]) -> list[Way]:
    found: dict[tuple[Condition, ...], Way] = {}
    for way in ways:
        _add(found, way)
    return [_any_of([*found.values()])] if len(found) > MOST_ALIKE else [*found.values()]


def _add(found: dict[tuple[Condition, ...], Way], way: Way) -> None:
    if (twin := found.get(way.conditions)) is not None:
        way = _both(way, twin, way.conditions, twin.probability + way.probability)
    while way.conditions:
        *rest, last = way.conditions
        opposite = found.get((*rest, last._replace(holds=not last.holds)))
        if opposite is None or not isclose(opposite.probability, way.probability):
            break
        found.pop(way.conditions, None)
        del found[opposite.conditions]
        way = _both(way, opposite, tuple(rest), way.probability)
        if (twin := found.get(way.conditions)) is not None:
            way = _both(way, twin, way.conditions, twin.probability + way.probability)
    found[way.conditions] = way


def _both(one: Way, other: Way, conditions: tuple[Condition, ...], probability: float) -> Way:
    """Its path is what is met in any case."""
    trail = one.trail
    if trail is not other.trail:
        left = Counter(other.path)
        trail = None
        for met in one.path:
            if left[met] > 0:
                left[met] -= 1
                trail = (trail, met)
    return replace(one, probability=probability, conditions=conditions, trail=trail)


def _any_of(ways: Sequence[Way]) -> Way:
    first = ways[0]
    # Ways part one after the other, so what they have in common comes first.
    least, greatest = (choice(way.conditions for way in ways) for choice in (min, max))
    same = next((at for at, pair in enumerate(zip(least, greatest, strict=False)) if pair[0] != pair[1]), len(least))
    others = [way.conditions[same:] for way in ways]
    many = Condition(
        tuple(text for each in others[:_SHOWN] for text in _in_short(each))[:_SHOWN],
        holds=True,
        number=sum(max((each.number for each in conditions if each.holds), default=1) for conditions in others),
    )
    probability = max(way.probability for way in ways)
    return reduce(
        lambda one, other: _both(one, other, one.conditions, probability),
        ways[1:],
        replace(first, probability=probability, conditions=(*first.conditions[:same], many)),
    )


def _in_short(conditions: Sequence[Condition]) -> tuple[str, ...]:
    """What holds says more than what does not."""
    told = sorted(conditions, key=lambda each: not each.holds)
    if told and told[0].holds and told[0].number > 1:
        return told[0].texts
    texts = [text for each in told[:_SHOWN] for text in each.words()]
    return (" and ".join([*texts, *(["others"] if len(told) > _SHOWN else [])]),)


def given(ways: Iterable[Way], text: str) -> list[Way]:
    return [way.given(Condition((text,), holds=True)) for way in ways]


def split(rule: Rule, way: Way, host: Host, taken: list[Way], missed: list[Way]) -> None:
    """Add the way to those that the rule takes or to those that it misses; to both where chance or else decides."""
    chance = 1.0
    texts: list[str] = []
    for match in rule.matches:
        answer = _judge(match, way, host)
        if answer is False:
            missed.append(way)
            return
        if isinstance(answer, str):
            texts.append(answer)
        elif answer is not True:
            chance *= answer
    recorded = {match.name for match in rule.matches if isinstance(match, RecentSet)}
    if not recorded <= way.state.recorded:
        way = replace(way, state=replace(way.state, recorded=way.state.recorded | recorded))
    likely = way.probability * chance
    if texts:
        condition = Condition(tuple(texts), holds=True, ends=_ends(way))
        taken.append(replace(way, probability=likely).given(condition))
        missed.append(way.given(condition._replace(holds=False)))
        if chance < 1:
            missed.append(replace(way, probability=way.probability - likely).given(condition))
    elif chance < 1:
        taken.append(replace(way, probability=likely))
        missed.append(replace(way, probability=way.probability - likely))
    else:
        taken.append(way)


# --- what is known by now -------------------------------------------------------------------------------------


def _judge(match: Match, way: Way, host: Host) -> bool | float | str:
    answer = judge(match, way.state, host)
    settled = _settled(answer, way) if isinstance(answer, str) and way.conditions else None
    return answer if settled is None else settled


_INTERFACE = re.compile(r"(?P<no>! )?(?P<way>-[io]) (?P<name>\S+)")
_LASTING = re.compile(r"-m (?:addrtype|owner|physdev|rpfilter|set|socket) ")  # unlike a rate, no rule has its own


def _ends(way: Way) -> str:
    return f"{way.state.packet.source} {way.state.packet.destination}"


def _settled(text: str, way: Way) -> bool | None:
    """Whether a match holds by what the way depends on already; None: that says nothing of it."""
    asked = _INTERFACE.fullmatch(text)
    if asked is None and not _LASTING.match(text):
        return None
    ends = _ends(way)
    for known in way.conditions:
        if known.number > 1 or not (known.holds or len(known.texts) == 1):
            continue
        for each in known.texts:
            if asked is None:
                implied = known.holds if each == text and known.ends == ends else None
            else:
                implied = _told_by(_INTERFACE.fullmatch(each), known, asked, ends)
            if implied is not None:
                return implied
    return None


def _told_by(known: re.Match[str] | None, condition: Condition, asked: re.Match[str], ends: str) -> bool | None:
    """What one interface that is known, or known not to be, says of another. Where a packet leaves, its end decides."""
    if known is None or known["way"] != asked["way"] or (asked["way"] == "-o" and condition.ends != ends):
        return None
    is_within, holds_all = _is_among(known["name"], asked["name"]), _is_among(asked["name"], known["name"])
    if condition.holds == (known["no"] is None):
        implied = True if is_within else None if holds_all else False
    else:
        implied = False if holds_all else None
    return None if implied is None else implied == (asked["no"] is None)


def _is_among(name: str, pattern: str) -> bool:
    """Of two names or patterns: whether every interface of the first is one of the second."""
    return name == pattern or (pattern.endswith("+") and name.startswith(pattern[:-1]))
