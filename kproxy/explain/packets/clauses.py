"""Conditions of ways made fewer, before they are put in words; nothing is lost but what follows from the rest.

The tracer says of a rule with several unknown matches that not all of them held. Docker's rules alone ask three times
in a row about the same bridge, and what is left of that is one sentence: it does not come in by docker0. And where a
packet has the same end whether or not something holds, that something is not worth a word.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from kproxy.backend.iptables.trace import Outcome

NOT_ALL = "not all of: "
_BETWEEN, _QUOTE = "; ", '"'
_MOST = 64  # outcomes of which each is compared with all others


class _Atom(NamedTuple):
    """Whether one match holds, as the tracer says it: ``not -i a`` and ``! -i a`` are the same."""

    match: str
    holds: bool

    def text(self) -> str:
        return self.match if self.holds else f"not {self.match}"

    def part(self) -> str:
        """Within several: of interfaces as iptables-save prints it."""
        return f"! {self.match}" if not self.holds and self.match.startswith(("-i ", "-o ")) else self.text()

    def opposite(self) -> _Atom:
        return self._replace(holds=not self.holds)


_Clause = frozenset[_Atom]  # not all of them hold


def _atom(text: str) -> _Atom:
    bare = text.removeprefix("not ")
    holds = bare == text
    if bare.startswith("! "):
        return _Atom(bare[2:], not holds)
    return _Atom(bare, holds)


def parts(text: str) -> list[str]:
    """The matches of which not all hold; none if the text says something else, or quotes what may look like another."""
    several = text.removeprefix(NOT_ALL)
    return [] if several == text or _QUOTE in text else several.split(_BETWEEN)


def simplify(depends: Sequence[str]) -> tuple[str, ...] | None:
    """The conditions of one way, in order, without what follows from others; None: they cannot hold together."""
    if not any(map(parts, depends)):
        return tuple(depends)
    found: list[_Atom | _Clause] = [
        frozenset(map(_atom, several)) if (several := parts(text)) else _atom(text) for text in depends
    ]
    order = _order(depends)
    while (fewer := _resolve(found)) != found:
        found = fewer
    if frozenset() in found or any(atom.opposite() in found for atom in found if isinstance(atom, _Atom)):
        return None
    return tuple(dict.fromkeys(_text(item, order) for item in found))


def _order(depends: Sequence[str]) -> dict[_Atom, int]:
    """Where each stood."""
    texts = (part for text in depends for part in parts(text))
    return {atom: nth for nth, atom in reversed([*enumerate(map(_atom, texts))])}


def _text(item: _Atom | _Clause, order: Mapping[_Atom, int]) -> str:
    if isinstance(item, _Atom):
        return item.text()
    return NOT_ALL + _BETWEEN.join(atom.part() for atom in sorted(item, key=order.__getitem__))


def _resolve(found: Sequence[_Atom | _Clause]) -> list[_Atom | _Clause]:
    """One step: what is known goes from the clauses, and of two that differ in one opposite the rest remains."""
    known = {item for item in found if isinstance(item, _Atom)}
    left: list[_Atom | _Clause] = []
    for item in found:
        if isinstance(item, _Atom):
            left.append(item)
            continue
        if any(atom.opposite() in known for atom in item):
            continue
        rest = item - known
        for nth, other in enumerate(left):
            if not isinstance(other, _Atom) and len(rest ^ other) == 2 and _is_opposite(*(rest ^ other)):
                rest &= other
                del left[nth]
                break
        left.append(next(iter(rest)).opposite() if len(rest) == 1 else rest)
    return left


def _is_opposite(one: _Atom, other: _Atom) -> bool:
    return one == other.opposite()


def merge(outcomes: Iterable[Outcome]) -> list[Outcome]:
    """Two that come to the same end whether or not one condition holds are one, with the rules that both met."""
    left = list(outcomes)
    if len(left) > _MOST:
        return left
    merged: list[Outcome] = []
    while left:
        one = left.pop(0)
        for other in left:
            if (both := _both(one, other)) is not None:
                left.remove(other)
                left.insert(0, both)
                break
        else:
            merged.append(one)
    return merged


def _both(one: Outcome, other: Outcome) -> Outcome | None:
    if one.fate != other.fate or one.source != other.source or abs(one.probability - other.probability) > 1e-9:
        return None
    differ = set(one.depends) ^ set(other.depends)
    if len(differ) != 2 or any(text.startswith(NOT_ALL) for text in differ) or not _is_opposite(*map(_atom, differ)):
        return None
    if one.path[-1:] != other.path[-1:]:
        return None  # they were ended by different rules
    met = set(other.path)
    path = tuple(each for each in one.path if each in met)
    return replace(one, path=path, depends=tuple(text for text in one.depends if text not in differ))
