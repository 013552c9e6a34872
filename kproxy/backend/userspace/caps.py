"""The caps of service ports as one worker keeps them: what it tells the others of its flows, and what they have.

A flow that begins is written down when it asks; one that ends is seen at the next look (``publish``), so for that long
the others may think that there are more flows than there are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from kproxy.backend.userspace.board import Board
from kproxy.backend.userspace.counts import Tally
from kproxy.backend.userspace.rules import Rule
from kproxy.model.enums import IPFamily
from kproxy.model.keys import ServicePortKey

Tallies = Callable[[], Mapping[ServicePortKey, Tally]]
_FAMILIES = tuple(IPFamily)


class Caps:
    """``seat`` counts from 0. ``tallies``: of each family, live ones."""

    def __init__(self, board: Board, seat: int) -> None:
        self._board = board
        self._columns = {family: seat * len(_FAMILIES) + at for at, family in enumerate(_FAMILIES)}
        self._caps: dict[ServicePortKey, tuple[int, int]] = {}  # row and cap
        self._live: dict[IPFamily, dict[ServicePortKey, Tally]] = {family: {} for family in _FAMILIES}

    @property
    def are_any(self) -> bool:
        return bool(self._caps)

    def keep(self, rules: Iterable[Rule], rows: Mapping[ServicePortKey, int]) -> None:
        """These rules are new; ``rows`` has those whose caps are kept here."""
        for rule in rules:
            if rule.relay.connections and rule.key in rows:
                self._caps[rule.key] = rows[rule.key], rule.relay.connections
            else:
                self._caps.pop(rule.key, None)

    def follow(self, family: IPFamily, tallies: Mapping[ServicePortKey, Tally]) -> None:
        """From now on these are the flows that there are."""
        self._live[family] = {key: tallies[key] for key in self._caps if key in tallies}

    def forget(self, over: Iterable[ServicePortKey]) -> None:
        """Those of ``over`` that no family has."""
        for key in over:
            if not any(key in live for live in self._live.values()):
                self._caps.pop(key, None)

    def publish(self) -> None:
        for family, live in self._live.items():
            for key, tally in live.items():
                if key in self._caps:
                    self._board.write(self._caps[key][0], self._columns[family], tally.active)

    def elsewhere(self, family: IPFamily, tallies: Tallies) -> Callable[[ServicePortKey], int]:
        """How many flows of a service port others have, said to somebody who would like to have one more."""
        column = self._columns[family]

        def ask(key: ServicePortKey) -> int:
            if key not in self._caps:
                return 0
            row, cap = self._caps[key]
            if (tally := self._live[family].get(key)) is None:
                self.follow(family, tallies())
                tally = self._live[family].get(key) or Tally()
            self._board.write(row, column, tally.active + 1)
            others = self._board.elsewhere(row, column)
            if tally.active + others >= cap:
                self._board.write(row, column, tally.active)
            return others

        return ask


def columns(seats: int) -> int:
    """Of a board for so many workers."""
    return seats * len(_FAMILIES)


def columns_of(seat: int) -> range:
    return range(seat * len(_FAMILIES), (seat + 1) * len(_FAMILIES))
