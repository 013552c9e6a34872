"""The rules of this host while packets are watched: read once, read again when they have changed.

A sighting names a rule by a handle (nft) or by a place in its chain (legacy), a dump by a line, so both must speak of
the same rules. nf_tables counts its transactions: what was read between two equal counts is one state, and handles are
never used twice, so a handle found among a chain's is the right rule for ever. The legacy tables are measured (see
kernel/legacy.py); where the measure has changed since they were read, places mean nothing, and nothing is claimed.
Big tables take seconds to read, so the next reading waits for ``_REST`` times as long as the last one took.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from msgspec.structs import replace

from kproxy.errors import KernelError
from kproxy.explain.services.survey import Survey, survey
from kproxy.explain.watch.traced import Rulebook, open_book
from kproxy.kernel.doors import TableState
from kproxy.kernel.legacy import legacy_tables, read_legacy_state
from kproxy.kernel.netlink import nft_generation
from kproxy.kernel.tracing import hooked_chains, rule_handles
from kproxy.model.enums import IPFamily
from kproxy.model.sighting import Sighting

_ATTEMPTS = 3
_REST = 10.0
_LEGACY = "legacy"
_Measure = dict[tuple[IPFamily, str], TableState | None]


class LiveRules:
    """``read`` before anything else."""

    def __init__(self, families: Sequence[IPFamily]) -> None:
        self._families = families
        self._generation = 0
        self._measure: _Measure = {}
        self._handles: dict[tuple[IPFamily, str, str], dict[int, int]] = {}  # handle → place
        self._next = 0.0
        self.surveys: tuple[Survey, ...] = ()
        self.books: dict[tuple[IPFamily, str], Rulebook] = {}

    @property
    def legacy(self) -> list[IPFamily]:
        """The families whose legacy tables are in use."""
        return [family for family in self._families if legacy_tables(family)]

    async def read(self) -> None:
        """Raises NotPermitted, KernelError, UnreadableDump."""
        began = time.monotonic()
        await asyncio.to_thread(self._read)
        ended = time.monotonic()
        self._next = ended + _REST * (ended - began)

    def _read(self) -> None:
        from kproxy.explain.read.live import read_rules

        for _ in range(_ATTEMPTS):
            generation, measure = nft_generation(), self._measured()
            dumps = read_rules(self._families)
            if (generation, measure) == (nft_generation(), self._measured()):
                break
        self.surveys = tuple(map(survey, dumps))
        self.books = {}
        for each in self.surveys:
            family, variant = each.dump.facts.family, each.dump.facts.variant
            hooked = None if variant == _LEGACY else hooked_chains(family)
            self.books[family, variant] = open_book(each, self.place, hooked)
        self._generation, self._measure, self._handles = generation, measure, {}

    def _measured(self) -> _Measure:
        return {
            (family, table): read_legacy_state(family, table)
            for family in self._families
            for table in legacy_tables(family)
        }

    def own_change(self) -> None:
        """nf_tables was changed by ourselves, once, and not where iptables looks."""
        if nft_generation() == self._generation + 1:
            self._generation += 1

    async def refresh(self) -> bool:
        """Read again if anything has changed, and the last reading is long enough ago. Raises as ``read``.

        Whether it did. Then sightings from before mean other places (see ``without_places``).
        """
        changed = nft_generation() != self._generation or self._measured() != self._measure
        if not changed or time.monotonic() < self._next:
            return False
        await self.read()
        return True

    def without_places(self) -> dict[tuple[IPFamily, str], Rulebook]:
        """Books for sightings that are older than they: handles are good for ever, places in legacy chains are not."""
        return {
            (family, variant): replace(book, place=_nowhere) if variant == _LEGACY else book
            for (family, variant), book in self.books.items()
        }

    def place(self, sighting: Sighting) -> int:
        """Of the sighting's rule in its chain; -1: not known."""
        if sighting.variant == _LEGACY:
            where = (sighting.family, sighting.table)
            same = self._measure.get(where) == read_legacy_state(*where)
            return sighting.rule - 1 if same else -1
        chain = (sighting.family, sighting.table, sighting.chain)
        if chain not in self._handles and nft_generation() == self._generation:
            handles = self._ask(sighting)
            if nft_generation() == self._generation:
                self._handles[chain] = handles
        return self._handles.get(chain, {}).get(sighting.rule, -1)

    @staticmethod
    def _ask(sighting: Sighting) -> dict[int, int]:
        try:
            found = rule_handles(sighting.family, sighting.table, sighting.chain)
        except KernelError:
            return {}
        return {handle: place for place, handle in enumerate(found)}


def _nowhere(_: Sighting) -> int:
    return -1
