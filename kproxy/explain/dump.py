"""What was given to read: bytes to dumps, one for each family and variant that is in them.

A dump of both families, or of both variants, may stand in one input, one behind the other; iptables-save's headers
tell them apart.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from kproxy.backend.iptables.parse import SavedRule, SavedTables
from kproxy.explain.answer import DumpFacts, Line


class Dump(Struct, frozen=True):
    """The rules of one family, as one variant holds them."""

    facts: DumpFacts
    tables: SavedTables
    lines: Sequence[str]  # of the whole input: rule ``saved`` stands at ``lines[saved.line - 1]``
    warnings: tuple[str, ...] = ()  # what iptables-save itself remarked in its comments

    def line(self, table: str, chain: str, saved: SavedRule) -> Line:
        text = self.lines[saved.line - 1].rstrip("\r\n")
        return Line(saved.line, table, chain, text[text.index("-A ") :], saved.packets, saved.bytes)
