"""How blocks lie on a page: widths, colours, and text that nobody trusts."""

from __future__ import annotations

import re

from hypothesis import given
from hypothesis import strategies as st

from kproxy.explain.show.paper import BLANK, Block, Grid, Span, lay_out, line, printable, rule

RULE = (
    '-A KUBE-SEP-X -s 10.0.0.1/32 -m comment --comment "a b" -m tcp ! --dport 80 -j DNAT --to-destination 10.0.0.1:80'
)
TABLE = Grid(
    ("NAME", "EMPTY", "ADDRESSES", "N"),
    [("web", "", ["10.0.0.1:80", "10.0.0.2:80"], "1"), (Span("dns", "bold"), "", "10.0.0.3:53", "12")],
    indent=2,
    right=frozenset({"N"}),
)


def show(*blocks: Block, width: int = 0, colour: bool = False) -> list[str]:
    return lay_out(blocks, width=width, colour=colour).splitlines()


def test_without_a_limit_nothing_is_broken() -> None:
    assert show(line("a ", Span("b", "red"), indent=1), BLANK, rule(RULE, indent=2, hang=4)) == [
        " a b",
        "",
        f"  {RULE}",
    ]


def test_without_a_limit_a_row_is_one_line_and_empty_columns_are_left_out() -> None:
    assert show(TABLE) == [
        "  NAME  ADDRESSES                  N",
        "  web   10.0.0.1:80, 10.0.0.2:80   1",
        "  dns   10.0.0.3:53               12",
    ]


def test_one_long_cell_does_not_push_all_others_away() -> None:
    rows = [("x" * 100, "1"), *[("y", "2")] * 30]
    assert show(Grid(("NAME", "N"), rows))[-1] == "y     2"


def test_on_a_terminal_items_of_a_cell_stand_below_each_other() -> None:
    assert show(TABLE, width=80) == [
        "  NAME  ADDRESSES     N",
        "  web   10.0.0.1:80   1",
        "        10.0.0.2:80",
        "  dns   10.0.0.3:53  12",
    ]


def test_what_does_not_fit_a_narrow_page_becomes_records() -> None:
    assert show(TABLE, width=20) == [
        "  web",
        "    addresses:",
        "      10.0.0.1:80,",
        "      10.0.0.2:80",
        "    n: 1",
        "  dns",
        "    addresses:",
        "      10.0.0.3:53",
        "    n: 12",
    ]


def test_a_rule_is_broken_before_its_options() -> None:
    assert show(rule(Span("12  ", "dim"), RULE, indent=2, hang=4), width=60) == [
        "  12  -A KUBE-SEP-X -s 10.0.0.1/32",
        '      -m comment --comment "a b" -m tcp ! --dport 80 -j DNAT',
        "      --to-destination 10.0.0.1:80",
    ]


def test_a_very_long_table_is_not_folded() -> None:
    rows = [("web", ["10.0.0.1:80", "10.0.0.2:80"])] * 1001
    assert show(Grid(("NAME", "ADDRESSES"), rows), width=70)[1] == "web   10.0.0.1:80, 10.0.0.2:80"


def test_colours_stand_around_their_text_only() -> None:
    assert show(line("a ", Span("b", "bold red")), colour=True) == ["a \x1b[1;31mb\x1b[0m"]
    assert show(line("a ", Span("b", "bold red")), width=80, colour=True) == ["a \x1b[1;31mb\x1b[0m"]
    assert show(line("a ", Span("b", "bold red")), width=80) == ["a b"]


def test_control_characters_are_shown_as_their_code() -> None:
    assert printable("a\x1b[2J\x9b\u202e\u2028\U000e0001\udc80") == ("a\\x1b[2J\\x9b\\u202e\\u2028\\U000e0001\\udc80")
    assert printable("naïve ✓ 名") == "naïve ✓ 名"


@given(st.text(), st.sampled_from([0, 30, 80]), st.booleans())
def test_nothing_in_a_text_moves_the_cursor(text: str, width: int, colour: bool) -> None:
    blocks = (line(text), Grid(("A", "B"), [(text, [text, Span(text, "red")])]), rule(text, indent=2, hang=4))
    out = re.sub(r"\x1b\[(?:0|1;31|31|2)m", "", lay_out(blocks, width=width, colour=colour))
    assert out.replace("\n", "").isprintable()


def test_markup_and_emoji_of_rich_are_text() -> None:
    assert show(line("[red]x[/red] :smile:"), Grid(("A",), [("[bold]y[/]",)]), width=80) == [
        "[red]x[/red] :smile:",
        "A",
        "[bold]y[/]",
    ]


@given(st.integers(1, 200), st.text(alphabet="ab -[]\"'/:", max_size=200))
def test_no_line_is_wider_than_the_page(width: int, text: str) -> None:
    least = 16  # an indented word has some columns, however narrow the page
    for each in show(line(text, indent=2), rule(text, indent=2, hang=4), width=width):
        assert len(each) <= max(width, least)
