"""The ways that a packet can go, and how many ways become one again.

Chance and unknown matches split a way; where both halves come to the same place in the same state, they are joined, and
what they depended on is forgotten with them: a packet that some match sends on a detour without consequence does not
depend on that match. Ways that differ only in their conditions stay apart while they are few, since each shows other
rules; many are joined into one that says how many conditions there are.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Sequence
from functools import reduce
from math import isclose
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from kproxy.backend.iptables.judge import judge
from kproxy.backend.iptables.rules import RecentSet, Rule
from kproxy.backend.iptables.state import Host, State

MOST_ALIKE = 8  # ways to one place that stay apart because they differ in their conditions
_SHOWN = 3  # conditions of which the text is kept where they are joined


class Met(NamedTuple):
    """A rule that matched, or, at position -1, the policy of a built-in chain that decided."""

    table: str
    chain: str
    position: int  # from 0


class Condition(NamedTuple):
    """Whether one rule matched, as far as the rules cannot show it."""

    texts: tuple[str, ...]
    holds: bool

    def words(self) -> tuple[str, ...]:
        if self.holds:
            return self.texts
        return (f"not {self.texts[0]}" if len(self.texts) == 1 else f"not all of: {'; '.join(self.texts)}",)


class Way(Struct, frozen=True):
    state: State
    probability: float = 1.0
    path: tuple[Met, ...] = ()
    conditions: tuple[Condition, ...] = ()

    def meeting(self, met: Met) -> Way:
        return replace(self, path=(*self.path, met))

    def given(self, condition: Condition) -> Way:
        return replace(self, conditions=(*self.conditions, condition))

    def depends(self) -> tuple[str, ...]:
        return tuple(text for condition in self.conditions for text in condition.words())


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
    path = one.path
    if path != other.path:
        left = Counter(other.path)
        path = tuple(each for each in path if left[each] > 0 and left.subtract((each,)) is None)
    return replace(one, probability=probability, conditions=conditions, path=path)


def _any_of(ways: Sequence[Way]) -> Way:
    first = ways[0]
    common = [each for each in first.conditions if all(each in way.conditions for way in ways)]
    shown = [
        " and ".join(text for each in way.conditions if each not in common for text in each.words())
        for way in ways[:_SHOWN]
    ]
    text = f"any of {len(ways)} conditions, such as: {'; or '.join(filter(None, shown))}"
    probability = max(way.probability for way in ways)
    return reduce(
        lambda one, other: _both(one, other, one.conditions, probability),
        ways[1:],
        replace(first, probability=probability, conditions=(*common, Condition((text,), holds=True))),
    )


def split(rule: Rule, way: Way, host: Host, taken: list[Way], missed: list[Way]) -> None:
    """Add the way to those that the rule takes or to those that it misses; to both where chance or else decides."""
    chance = 1.0
    texts: list[str] = []
    for match in rule.matches:
        answer = judge(match, way.state, host)
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
        condition = Condition(tuple(texts), holds=True)
        taken.append(replace(way, probability=likely).given(condition))
        missed.append(way.given(condition._replace(holds=False)))
        if chance < 1:
            missed.append(replace(way, probability=way.probability - likely).given(condition))
    elif chance < 1:
        taken.append(replace(way, probability=likely))
        missed.append(replace(way, probability=way.probability - likely))
    else:
        taken.append(way)
