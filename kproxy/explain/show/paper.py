"""How answers lie on a page: sentences and tables, for a terminal of some width or for a pipe.

Others say what is to be read, as a list of blocks; this module breaks lines and colours. For a terminal rich does it:
columns are folded to the width, a cell's items stand below each other. Without a limit (width 0: a pipe, a file)
nothing is broken, a row is one line, and rich is not even loaded, for it takes two milliseconds for a row. There are no
frames: they help nobody who has columns, and grep, cut and tickets suffer from them.

Where not every word has room in its column, a table becomes a list of records, because columns of five letters cannot
be read. A table of more than ``_LONG`` rows is not folded even for a terminal, which does so itself, if less well.

All text comes from dumps and objects, so nobody here trusts it: what cannot be seen or would move a cursor is shown as
its code, and rich is never asked to interpret markup.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from io import StringIO
from typing import TYPE_CHECKING, Literal, NamedTuple

from msgspec import Struct

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

_LONG = 1000
_LEAST = 8  # columns for text, however narrow the page
_WORD = 48  # columns; a longer word is folded
_GAP = "  "
_CODES = {"bold": 1, "dim": 2, "red": 31, "green": 32, "yellow": 33, "cyan": 36}  # ECMA-48, SGR
_TIE = "\ue000"  # a blank at which no line is broken; as a private character it cannot stand in printable text
_OPTION = re.compile(" (?=(?:! )?-(?!-comment))")
_QUOTED = re.compile(r'"(?:[^"\\]|\\.)*"')


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
    by_option: bool = False  # a rule: broken before its options, so that each stands beside its value


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


def rule(*pieces: Piece, indent: int, hang: int) -> Prose:
    return Prose(pieces, indent, hang, by_option=True)


def printable(text: str) -> str:
    """Text in which what a terminal would act upon or not show, such as an escape, is its code."""
    if text.isprintable():
        return text
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def lay_out(blocks: Iterable[Block], *, width: int, colour: bool) -> str:
    """``width``: in columns; 0: no limit."""
    if not width:
        return "".join(f"{each}\n" for block in blocks for each in _plain(block, colour))
    return _rich(blocks, width, colour)


# --- for a pipe -----------------------------------------------------------------------------------------------


def _plain(block: Block, colour: bool) -> Iterator[str]:
    match block:
        case Prose(pieces, indent):
            yield (" " * indent + "".join(_painted(each, colour) for each in pieces)) if pieces else ""
        case Grid():
            yield from _columns(_dense(block), colour)


def _columns(grid: Grid, colour: bool) -> Iterator[str]:
    head: list[list[Piece]] = [[Span(name, "dim")] for name in grid.head]
    rows = [head, *([list(_commas(_pieces(cell))) for cell in row] for row in grid.rows)]
    texts = [["".join(map(_text, cell)) for cell in row] for row in rows]
    widths = [_usual(column) for column in zip(*texts, strict=True)]
    flush = [name in grid.right for name in grid.head]
    for row, said in zip(rows, texts, strict=True):
        cells = []
        for cell, text, size, right in zip(row, said, widths, flush, strict=True):
            space = " " * (size - len(text))
            painted = "".join(_painted(each, colour) for each in cell) if colour else text
            cells.append(space + painted if right else painted + space)
        yield (" " * grid.indent + _GAP.join(cells)).rstrip()


def _painted(piece: Piece, colour: bool) -> str:
    text = _text(piece)
    if not colour or not isinstance(piece, Span) or not piece.style or not text:
        return text
    return f"\x1b[{';'.join(str(_CODES[word]) for word in piece.style.split())}m{text}\x1b[0m"


def _usual(column: Sequence[str]) -> int:
    """A width that nineteen of twenty cells keep to: one Service of many addresses does not push all others away."""
    sizes = sorted(map(len, column))
    return max(len(column[0]), sizes[len(sizes) - 1 - len(sizes) // 20])


def _least(grid: Grid) -> list[int]:
    """The width of each column at which no word is folded, unless it is very long."""
    sizes = [_longest_word(name) for name in grid.head]
    for row in grid.rows:
        sizes = [
            max(size, *(_longest_word(_text(each)) for each in _pieces(cell))) if cell else size
            for size, cell in zip(sizes, row, strict=True)
        ]
    return sizes


def _longest_word(text: str) -> int:
    return min(max(map(len, text.split()), default=0), _WORD)


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
        width=width,
        force_terminal=colour,
        no_color=not colour,
        color_system="standard" if colour else None,
        markup=False,
        emoji=False,
        highlight=False,
        legacy_windows=False,
    )
    for block in blocks:
        if isinstance(block, Grid) and len(block.rows) > _LONG:
            out.writelines(f"{each}\n" for each in _columns(_dense(block), colour))
            continue
        for each in _renderables(block, width, console):
            console.print(each)
    return "".join(f"{each.rstrip()}\n" for each in out.getvalue().split("\n")[:-1])


def _renderables(block: Block, width: int, console: Console) -> Iterator[RenderableType]:
    from rich.table import Table

    match block:
        case Prose():
            yield from _broken(block, width, console)
        case Grid(indent=indent):
            dense = _dense(block)
            sizes = _least(dense)
            if indent + sum(sizes) + len(_GAP) * (len(sizes) - 1) > width:
                yield from _records(dense, width, console)
                return
            table = Table(box=None, pad_edge=False, show_edge=False, header_style="dim", padding=(0, 2, 0, 0))
            if indent:
                table.add_column(" " * max(indent - len(_GAP), 0), no_wrap=True)
            for name, size in zip(dense.head, sizes, strict=True):
                is_number = name in dense.right
                justify: Literal["right", "left"] = "right" if is_number else "left"
                table.add_column(name, justify=justify, overflow="fold", no_wrap=is_number, min_width=size)
            for row in dense.rows:
                cells = [_joined(_pieces(cell)) for cell in row]
                table.add_row(*([""] if indent else []), *cells)
            yield table


def _broken(prose: Prose, width: int, console: Console) -> Iterator[Text]:
    from rich.text import Text

    if not prose.pieces:
        yield Text("")
        return
    room = max(width - prose.indent, _LEAST)
    lines = Text.assemble(*map(_styled, prose.pieces)).wrap(console, room, overflow="fold")
    if len(lines) > 1:
        room = max(room - prose.hang, _LEAST)
        styled = [(_tied(text, room) if prose.by_option else text, style) for text, style in map(_styled, prose.pieces)]
        lines = Text.assemble(*styled).wrap(console, room, overflow="fold")
    for nth, each in enumerate(lines):
        shown = Text(" " * (prose.indent + prose.hang if nth else prose.indent)) + each
        shown.plain = shown.plain.replace(_TIE, " ")
        shown.rstrip()
        yield shown


def _tied(text: str, room: int) -> str:
    """A rule whose options keep their values beside them, as far as there is room."""
    gap = text[: len(text) - len(text.lstrip(" "))]  # before a comment, where a line may end
    whole = _QUOTED.sub(lambda found: found[0].replace(" ", _TIE), text[len(gap) :])
    pieces = [each for option in _OPTION.split(whole) for each in _fitting(option, room)]
    return gap + " ".join(each.replace(_TIE, " ") if len(each) > room else each.replace(" ", _TIE) for each in pieces)


def _fitting(option: str, room: int) -> Sequence[str]:
    """``-m comment --comment "…"`` in one piece, or in two where it is too long."""
    return [option] if len(option) <= room else re.split(" (?=--comment )", option)


def _records(grid: Grid, width: int, console: Console) -> Iterator[Text]:
    """A row as a few lines: its first cell, then the others with their heads."""
    for row in grid.rows:
        first, *others = zip(grid.head, row, strict=True)
        yield from _broken(Prose(tuple(_commas(_pieces(first[1]))), grid.indent), width, console)
        for name, cell in others:
            if cell:
                pieces = (Span(f"{name.lower()}: ", "dim"), *_commas(_pieces(cell)))
                yield from _broken(Prose(pieces, grid.indent + 2), width, console)


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
