"""Lines to tables, lines to rules. What a single match or target is read as: test_matches.py, test_targets.py."""

from __future__ import annotations

import gc
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.backend.iptables import rules as r
from kproxy.backend.iptables.parse import parse_rule, parse_save, shorten, table_of
from kproxy.backend.iptables.rules import Rule, Verdict
from kproxy.backend.iptables.text import canonical, render_rule
from kproxy.errors import UnreadableDump
from kproxy.model.enums import Protocol

RECORDED = Path(__file__).parent / "recorded"
SAVED = [
    line.removeprefix("[0:0] ")
    for path in sorted(RECORDED.glob("*.txt"))
    for line in path.read_text(encoding="utf-8").split("\n")
    if "-A " in line
]


def test_every_recorded_rule_is_printed_as_it_was_read() -> None:
    """What kube-proxy 1.36 wrote, and a rule for each noun that iptables 1.8.9 has (every-noun.txt)."""
    assert len(SAVED) > 400
    for line in SAVED:
        assert canonical(render_rule(*parse_rule(line))) == canonical(line)


def test_what_stays_unknown_of_all_that_iptables_has() -> None:
    rules = [parse_rule(line)[1] for line in SAVED]
    names = {match.text.split()[1] for rule in rules for match in rule.matches if isinstance(match, r.Unknown)}
    assert names == {
        *("bpf", "cgroup", "connlimit", "cpu", "dscp", "frag", "hashlimit", "helper", "icmp", "icmp6", "length"),
        *("limit", "mac", "owner", "physdev", "pkttype", "policy", "realm", "recent", "sctp", "socket", "statistic"),
        *("string", "tcp", "time", "ttl", "u32", "10.0.0.0/255.0.255.0"),
    }
    targets = {rule.target.text for rule in rules if isinstance(rule.target, r.UnknownTarget)}
    assert targets == {"-j DNAT --to-destination 1.2.3.4:80-90/5", "-j NETMAP --to 10.0.0.0/8"}


# --- one rule -------------------------------------------------------------------------------------------------


def test_matches_and_target_are_told_apart_whatever_a_text_looks_like() -> None:
    _, rule = parse_rule(
        '-A X ! -s 10.0.0.0/8 -m comment --comment "a -j \\"DROP\\" -m tcp" -m comment --comment -j -j Y'
    )
    assert rule == Rule(
        (r.Source("10.0.0.0/8", negated=True), r.Comment('a -j "DROP" -m tcp'), r.Comment("-j")), r.Jump("Y")
    )


def test_a_negation_belongs_to_what_it_stands_before() -> None:
    _, rule = parse_rule("-A X -m set ! --match-set a src ! -o eth0 ! -f -m conntrack ! --ctstate NEW -g Y")
    assert rule == Rule(
        (
            r.Unknown("-m set ! --match-set a src"),
            r.OutInterface("eth0", negated=True),
            r.Fragment(negated=True),
            r.Conntrack(("NEW",), negated=True),
        ),
        r.Goto("Y"),
    )


@pytest.mark.parametrize("text", ["-A X", "-A X ", "-A X  -p   tcp  -j ACCEPT ", "-A X -m nfacct --nfacct-name  n"])
def test_spaces_mean_nothing(text: str) -> None:
    assert parse_rule(text) == parse_rule(" ".join(text.split()))


def test_words_without_an_option_are_unknown() -> None:
    assert parse_rule("-A X foo -c 1 2 -j ACCEPT")[1] == Rule((r.Unknown("foo"), r.Unknown("-c 1 2")), Verdict.ACCEPT)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("-X Y", "no -A CHAIN"),
        ("-A", "no -A CHAIN"),
        ("-A X -p", "nothing after -p"),
        ("-A X -m", "nothing after -m"),
        ("-A X -j", "nothing after -j"),
        ('-A X -m comment --comment "a b', "a quotation has no end"),
    ],
)
def test_a_rule_that_was_cut_off_is_none(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_rule(text)


@given(st.text(max_size=80), st.lists(st.sampled_from(SAVED), max_size=3), st.integers(0, 200))
def test_any_text_is_a_rule_or_a_value_error(noise: str, lines: list[str], cut: int) -> None:
    text = " ".join(lines) or "-A X "
    try:
        chain, rule = parse_rule(text[:cut] + noise + text[cut:])
    except ValueError:
        return
    assert render_rule(chain, rule).startswith("-A ")


# --- lines ----------------------------------------------------------------------------------------------------


def test_equal_fragments_are_one_object() -> None:
    tables = parse_save(["*nat", ":A - [0:0]", "-A A -p tcp -j B", "-A A -p tcp -m tcp --dport 80 -j B"])
    one, other = (saved.rule for saved in tables["nat"]["A"].rules)
    assert one.matches[0] is other.matches[0]
    assert one.target is other.target


def test_a_part_continues_what_was_read_before() -> None:
    tables = parse_save(["*nat", ":A - [0:0]", "COMMIT"])
    assert parse_save(["*filter", ":B - [0:0]", "-A B", "COMMIT"], first=4, into=tables) is tables
    assert (list(tables), tables["filter"]["B"].rules[0].line) == (["nat", "filter"], 6)


def test_chains_may_hold_any_sign_that_iptables_takes() -> None:
    tables = parse_save(["*nat", ":cali-a_b.c/8:1 - [0:0]", "-A cali-a_b.c/8:1 -p tcp -m tcp -j RETURN"])
    (saved,) = tables["nat"]["cali-a_b.c/8:1"].rules
    assert saved.rule.matches == (r.OfProtocol(Protocol.TCP), r.Ports(Protocol.TCP))


@pytest.mark.parametrize("line", ["*nat", "*nat\r", "*my-table_2 "])
def test_a_star_and_a_name_begin_a_table(line: str) -> None:
    assert table_of(line) == line[1:].strip()


@pytest.mark.parametrize("line", ["*", "**bold**", "* item", "nat", "*nat filter", ""])
def test_other_stars_begin_none(line: str) -> None:
    assert table_of(line) == ""


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (
            ["*nat", ":A - [0:0]", ":A - [0:0]"],
            "line 3: chain 'A' is declared a second time, after line 2; give one dump",
        ),
        (["*nat", "*filter"], "line 2: table filter begins before the COMMIT of the table above"),
        (["*nat", ":A  - [0:0]"], "line 2: ':A  - .* is not a chain line"),
        (["*nat", ":A - [0:0]", "[1] -A A"], "line 3: .* does not begin as a rule does"),
        (["*nat", ":A - [0:0]", f"[{'9' * 5000}:1] -A A"], r"line 3: .*\.\.\.' does not begin as a rule does"),
        (["*nat", ":A - [0:0]", '-A A "b'], "line 3: .* a quotation has no end"),
    ],
)
def test_what_iptables_save_cannot_have_printed_is_named_by_its_line(lines: list[str], said: str) -> None:
    with pytest.raises(UnreadableDump, match=said):
        parse_save(lines)
    assert gc.isenabled()


def test_whoever_has_no_garbage_collected_keeps_it_so() -> None:
    gc.disable()
    try:
        parse_save(["*nat", "COMMIT"])
        assert not gc.isenabled()
    finally:
        gc.enable()


def test_a_line_in_a_sentence_is_short_and_can_be_printed() -> None:
    assert shorten("a\x1b[1m\u202e") == "'a\\x1b[1m\\u202e'"
    assert len(shorten("x" * 10_000)) == 80
