"""The tables of relay.py as Markdown, for whoever reads them elsewhere than on a terminal.

Made from the tables themselves, so that the two cannot tell different things.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text


def markdown(heading: str, tables: Iterable[Table]) -> str:
    """A document. ``heading``: a sentence about how the figures came about."""
    return "\n".join([heading, "", *(line for table in tables for line in _table(table))])


def _table(table: Table) -> list[str]:
    header = [_plain(column.header) for column in table.columns]
    rows = zip(*(column.cells for column in table.columns), strict=True)
    lines = [
        f"### {_plain(table.title)}",
        "",
        _row(header),
        _row([":-" if not at else "-:" for at in range(len(header))]),
    ]
    return [*lines, *(_row([_plain(cell) for cell in row]) for row in rows), ""]


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _plain(said: object) -> str:
    return Text.from_markup(str(said or "")).plain.replace("|", "\\|")
