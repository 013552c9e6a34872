"""How scenarios are dealt to the parts of a run, and that a verdict survives the way between processes."""

from tests.conformance.compare import Difference
from tests.conformance.parity import Verdict
from tests.conformance.parts import deal


def test_scenarios_that_share_a_proxy_stay_together_and_all_are_dealt() -> None:
    scenarios = [{"name": f"s{number}", **({"fresh": True} if number % 2 else {})} for number in range(20)]
    first, second = deal(scenarios, 2)
    assert {"s0", "s2", "s18"} <= set(first)
    assert sorted(first + second) == sorted(scenario["name"] for scenario in scenarios)
    assert 5 <= len(second) <= 9


def test_there_is_no_part_without_scenarios() -> None:
    assert deal([{"name": "alone"}], 4) == [["alone"]]


def test_a_verdict_is_told_whole() -> None:
    verdict = Verdict("s", [Difference("a", {"x": 1}, None)], seconds=1.5, asked={"a": 0.25})
    assert Verdict.of(verdict.document()) == verdict
    for other in (Verdict("s", skipped="why"), Verdict("s", failed="why")):
        assert Verdict.of(other.document()) == other
