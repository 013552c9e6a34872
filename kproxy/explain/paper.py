"""How answers lie on a page: sentences and tables, for a terminal of some width or for a pipe.

``text.py`` says what is to be read as a list of blocks; this module breaks lines and colours. For a terminal rich does
it: columns are folded to the width, a cell's items stand below each other. Without a limit (width 0: a pipe, a file)
nothing is broken, a row is one line, and rich is not even loaded, for it takes seconds for thousands of rows. There
are no frames: they help nobody who has columns, and grep, cut and tickets suffer from them.

Below ``_NARROW`` columns a table becomes a list of records, because columns of five letters cannot be read.

All text comes from dumps and objects, so nobody here trusts it: what cannot be seen or would move a cursor is shown as
its code, and rich is never asked to interpret markup.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from io import StringIO
from typing import TYPE_CHECKING, NamedTuple

from msgspec import Struct

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

_NARROW = 64
_ENDLESS = 1 << 20  # columns; more than any line has
_GAP = "  "


class Span(NamedTuple):
    """Text in one colour."""

    text: str
    style: str = ""  # of rich: "bold", "red", "dim"; empty: as everything else


Piece = str | Span
Cell = Piece | Sequence[str] | Sequence[Span] | Sequence[Piece]  # several stand below each other, or behind commas


class Prose(Struct, frozen=True):
    """A sentence or a line, broken between words; what follows its first line is indented by ``hang`` more."""

    pieces: tuple[Piece, ...]
    indent: int = 0
    hang: int = 2


class Grid(Struct, frozen=True):
    """A table. Columns without anything are left out."""

    head: tuple[str, ...]
    rows: Sequence[Sequence[Cell]]
    indent: int = 0
    right: frozenset[str] = frozenset()  # heads of columns of numbers


Block = Prose | Grid
BLANK = Prose(())


def line(*pieces: Piece, indent: int = 0, hang: int = 2) -> Prose:
    return Prose(pieces, indent, hang)


def printable(text: str) -> str:
    """Text in which what a terminal would act upon or not show, such as an escape, is its code."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def lay_out(blocks: Iterable[Block], *, width: int, colour: bool) -> str:
    """``width``: in columns; 0: no limit."""
    if not width and not colour:
        return "".join(f"{each}\n" for block in blocks for each in _plain(block))
    return _rich(blocks, width, colour)


# --- for a pipe -----------------------------------------------------------------------------------------------


def _plain(block: Block) -> Iterator[str]:
    match block:
        case Prose(pieces, indent):
            yield " " * indent + "".join(map(_text, pieces)) if pieces else ""
        case Grid(indent=indent):
            table = _dense(block)
            rows = [list(table.head), *([", ".join(map(_text, _pieces(cell))) for cell in row] for row in table.rows)]
            widths = [_usual(column) for column in zip(*rows, strict=True)]
            flush = [name in table.right for name in table.head]
            for row in rows:
                cells = [
                    cell.rjust(size) if right else cell.ljust(size)
                    for cell, size, right in zip(row, widths, flush, strict=True)
                ]
                yield (" " * indent + _GAP.join(cells)).rstrip()


def _usual(column: Sequence[str]) -> int:
    """A width that nineteen of twenty cells keep to: one Service of many addresses does not push all others away."""
    sizes = sorted(map(len, column))
    return max(len(column[0]), sizes[(len(sizes) - 1) * 19 // 20])


def _dense(grid: Grid) -> Grid:
    """The same without empty columns."""
    used = [nth for nth in range(len(grid.head)) if any(row[nth] for row in grid.rows)]
    head = tuple(grid.head[nth] for nth in used)
    return Grid(head, [[row[nth] for nth in used] for row in grid.rows], grid.indent, grid.right)


def _pieces(cell: Cell) -> Sequence[Piece]:
    return [cell] if isinstance(cell, str | Span) else cell


def _text(piece: Piece) -> str:
    return printable(piece.text if isinstance(piece, Span) else piece)


# --- for people -----------------------------------------------------------------------------------------------


def _rich(blocks: Iterable[Block], width: int, colour: bool) -> str:
    from rich.console import Console

    out = StringIO()
    console = Console(
        file=out,
        width=width or _ENDLESS,
        force_terminal=colour,
        no_color=not colour,
        color_system="standard" if colour else None,
        markup=False,
        emoji=False,
        highlight=False,
        legacy_windows=False,
    )
    for block in blocks:
        for each in _renderables(block, width or _ENDLESS, console):
            console.print(each)
    return "".join(f"{each.rstrip()}\n" for each in out.getvalue().split("\n")[:-1])


def _renderables(block: Block, width: int, console: Console) -> Iterator[RenderableType]:
    from rich.table import Table

    match block:
        case Prose(pieces, indent, hang):
            yield from _broken(pieces, indent, hang, width, console)
        case Grid() if width < _NARROW:
            yield from _records(_dense(block), width, console)
        case Grid(indent=indent):
            dense = _dense(block)
            table = Table(box=None, pad_edge=False, show_edge=False, header_style="dim", padding=(0, 2, 0, 0))
            table.add_column(" " * max(indent - 2, 0), no_wrap=True) if indent else None
            for nth, name in enumerate(dense.head):
                table.add_column(
                    name,
                    justify="right" if name in dense.right else "left",
                    overflow="fold",
                    no_wrap=name in dense.right,
                    min_width=min(len(name), 8) if nth else None,
                )
            for row in dense.rows:
                cells = [_joined(_pieces(cell)) for cell in row]
                table.add_row(*([""] if indent else []), *cells)
            yield table


def _broken(pieces: Sequence[Piece], indent: int, hang: int, width: int, console: Console) -> Iterator[Text]:
    from rich.text import Text

    if not pieces:
        yield Text("")
        return
    text = Text.assemble(*map(_styled, pieces))
    room = max(width - indent, 8)
    lines = text.wrap(console, room, overflow="fold")
    if len(lines) > 1 and hang:
        lines = text.wrap(console, max(room - hang, 8), overflow="fold")
    for nth, each in enumerate(lines):
        deep = indent + hang if nth else indent
        shown = Text(" " * deep) + each
        shown.rstrip()
        yield shown


def _records(grid: Grid, width: int, console: Console) -> Iterator[Text]:
    """A row as a few lines: its first cell, then the others with their heads."""
    for row in grid.rows:
        first, *others = zip(grid.head, row, strict=True)
        yield from _broken([*_commas(_pieces(first[1]))], grid.indent, 2, width, console)
        for name, cell in others:
            if cell:
                pieces = [Span(f"{name.lower()}: ", "dim"), *_commas(_pieces(cell))]
                yield from _broken(pieces, grid.indent + 2, 2, width, console)


def _commas(pieces: Sequence[Piece]) -> Iterator[Piece]:
    for nth, piece in enumerate(pieces):
        if nth:
            yield ", "
        yield piece


def _joined(pieces: Sequence[Piece]) -> Text:
    from rich.text import Text

    return Text("\n").join(Text.assemble(_styled(piece)) for piece in pieces)


def _styled(piece: Piece) -> tuple[str, str]:
    return (_text(piece), piece.style if isinstance(piece, Span) else "")
