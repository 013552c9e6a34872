"""The table itself, and what is made of verdicts; the scenarios are run by ``./run conformance``."""

import pytest

from tests.conformance.compare import Difference
from tests.conformance.parity import Evidence, Row, Verdict, evidence, judge, left_out, read_rows
from tests.conformance.report import Report
from tests.conformance.runner import read_scenarios

ROW = Row(7, "a feature", "a check", "Y", differs="ours is better")


def passed(name: str = "s") -> Verdict:
    return Verdict(name, seconds=2.0, asked={"a": 0.5, "b": 1.0})


def test_the_table_has_all_rows_in_order() -> None:
    assert [row.id for row in read_rows()] == list(range(1, 171))


def test_every_row_is_shown_by_something_that_exists_or_says_why_not() -> None:
    rows, scenarios = read_rows(), read_scenarios()
    shown = evidence(rows, scenarios)
    assert [row.id for row in rows if row.iptables != "N" and not shown[row.id]] == []
    assert [row.id for row in rows if row.iptables == "N" and not row.why] == []
    named = {each.scenario for every in shown.values() for each in every}
    assert named - {scenario["name"] for scenario in scenarios} == set()
    assert set(shown) == {row.id for row in rows}


def test_every_row_is_shown_in_userspace_mode_too_or_says_why_not() -> None:
    rows = read_rows()
    shown = evidence(rows, read_scenarios(), "userspace")
    marks = {row.id: row.mark("userspace") for row in rows}
    assert [row for row, (mark, _) in marks.items() if mark != "N" and not shown[row]] == []
    assert [row for row, (mark, why) in marks.items() if mark == "N" and not why] == []
    assert [row.id for row in rows if row.userspace in {"P", "N"} and not row.userspace_why] == []


def test_no_two_scenarios_have_one_name() -> None:
    names = [scenario["name"] for scenario in read_scenarios()]
    assert sorted(names) == sorted(set(names))


def test_scenarios_steps_and_probes_say_which_rows_they_show() -> None:
    steps = [
        {"probes": [{"id": "a", "rows": [2]}, {"id": "b", "modes": ["nftables"], "rows": [2]}], "rows": [3]},
        {"sh": {"id": "c", "cmd": "true", "rows": 2}},
        {"http": {"from": "x", "to": "y:1", "rows": [4]}},
        {"probes": [{"id": "d", "rows": [2]}], "modes": ["nftables"]},
    ]
    shown = evidence([Row(2, "", "", "Y", shown_by=(Evidence("t"),))], [{"name": "s", "rows": [1], "steps": steps}])
    assert shown == {
        1: (Evidence("s"),),
        2: (Evidence("t"), Evidence("s", frozenset({"a", "c"}))),
        3: (Evidence("s", frozenset({"a"})),),
        4: (Evidence("s", frozenset({"x>y:1/tcp"})),),
    }


def test_what_userspace_mode_passes_over_shows_nothing_in_it() -> None:
    probes = [{"id": "a", "rows": [1]}, {"id": "b", "rows": [1, 2], "kernel_only": "why"}]
    scenarios = [{"name": "s", "steps": [{"probes": probes}]}, {"name": "t", "rows": [1], "kernel_only": "why"}]
    assert evidence([], scenarios)[1] == (Evidence("s", frozenset({"a", "b"})), Evidence("t"))
    assert evidence([], scenarios, "userspace") == {1: (Evidence("s", frozenset({"a"})),), 2: ()}
    assert left_out(scenarios[0], "userspace") == {"b"}
    assert left_out(scenarios[0], "iptables") == frozenset()


def test_a_whole_scenario_counts_more_than_its_parts() -> None:
    shown = evidence([], [{"name": "s", "rows": [1], "steps": [{"sh": {"id": "a", "rows": [1]}}]}])
    assert shown[1] == (Evidence("s"),)


@pytest.mark.parametrize(
    ("shown", "verdict", "word", "why"),
    [
        ([Evidence("s")], passed(), "pass", "differs on purpose: ours is better"),
        ([Evidence("s", frozenset({"a"}))], passed(), "pass", "differs on purpose: ours is better"),
        ([], passed(), "fail", "nothing shows it"),
        ([Evidence("s")], Verdict("s", failed="a traceback"), "fail", "s failed"),
        ([Evidence("s", frozenset({"z"}))], passed(), "fail", "s did not ask z"),
        ([Evidence("s")], Verdict("s", skipped="no such kernel"), "skip", "s: no such kernel"),
    ],
)
def test_what_becomes_of_a_row(shown: list[Evidence], verdict: Verdict, word: str, why: str) -> None:
    finding = judge(ROW, shown, {"s": verdict}, {})
    assert finding is not None
    assert (finding.word, finding.why) == (word, why)


def test_a_difference_fails_the_rows_that_it_is_about() -> None:
    verdict = passed()
    verdict.differences = [Difference("a", {}, {})]
    about, other = (judge(ROW, [Evidence("s", frozenset({probe}))], {"s": verdict}, {}) for probe in "ab")
    assert about is not None
    assert (about.why, about.seconds) == ("s differs in a", 0.5)
    assert other is not None
    assert other.word == "pass"


def test_what_the_machine_lacks_skips_a_row_and_what_was_not_run_is_not_judged() -> None:
    needy = Row(3, "", "", "Y", needs=("sctp",))
    finding = judge(needy, [Evidence("s")], {"s": passed()}, {"sctp": "no SCTP here"})
    assert finding is not None
    assert (finding.word, finding.why) == ("skip", "no SCTP here")
    assert judge(ROW, [Evidence("s")], {}, {}) is None


def test_a_row_of_another_mode_is_skipped_with_its_reason() -> None:
    finding = judge(Row(26, "", "", "N", why="names of nft"), [], {}, {})
    assert finding is not None
    assert (finding.word, finding.why) == ("skip", "not in iptables mode: names of nft")


def test_a_row_may_hold_in_part_in_userspace_mode_or_not_at_all() -> None:
    part = Row(3, "", "", "Y", userspace="P", userspace_why="not all")
    none = Row(4, "", "", "Y", userspace="N", userspace_why="nothing")
    shown, verdicts = [Evidence("s")], {"s": passed()}
    words = [judge(row, shown, verdicts, {}, mode) for mode in ("iptables", "userspace") for row in (part, none)]
    assert [(each.word, each.why) for each in words if each] == [
        ("pass", ""),
        ("pass", ""),
        ("pass", "in part: not all"),
        ("skip", "not in userspace mode: nothing"),
    ]


def test_the_report_has_a_line_for_each_row_and_is_red_for_a_failed_one() -> None:
    verdict = passed()
    verdict.differences = [Difference("a", {"want": 1}, {"got": 2})]
    findings = [
        judge(Row(row, f"feature {row}", "", "Y"), [Evidence(name)], {"s": verdict, "t": passed("t")}, {})
        for row, name in ((1, "s"), (2, "t"))
    ]
    report = Report(
        "nft", {"kernel": "Linux 1"}, [each for each in findings if each], [verdict, passed("t")], frozenset({"t"})
    )
    lines = list(report.text())
    assert lines[:2] == ["   1 fail    2.0 s  feature 1  s differs in a", "   2 pass    2.0 s  feature 2"]
    assert lines[-2:] == ["nft: 2 rows: 1 pass, 1 fail, 0 skip", "nft: 1 same, 1 DIFFERS, 0 FAILED, 0 skipped"]
    assert not report.is_green
    assert "| 1 | feature 1 |  | fail | 2.0 | s differs in a |" in report.markdown()
    assert report.document()["rows"][0]["shown_by"] == ["s"]


def test_results_of_userspace_mode_have_a_name_of_their_own() -> None:
    report = Report("legacy", {}, [], [], frozenset(), "userspace")
    assert (report.name, report.document()["mode"]) == ("userspace-legacy", "userspace")
    assert report.markdown().startswith("# Userspace mode, compared with kube-proxy")
    assert Report("nft", {}, [], [], frozenset()).name == "nft"
