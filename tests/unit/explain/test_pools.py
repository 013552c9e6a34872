"""One chain of a service port down to its endpoints: odds, counters, affinity, and chains that are out of order."""

from __future__ import annotations

import pytest

from kproxy.explain.services.pools import Pool, Pools
from tests.unit.explain.dumps import dump_of

SEP = "-p tcp -m tcp -j DNAT --to-destination 10.0.0."


def pool(*rules: str, chain: str = "C") -> Pool:
    chains = dict.fromkeys((chain, *(rule.split(" -A ")[-1].removeprefix("-A ").split()[0] for rule in rules)))
    text = "\n".join(["*nat", *(f":{name} - [0:0]" for name in chains), *rules, "COMMIT"])
    return Pools(dump_of(text).tables["nat"]).pool(chain)


def odds(found: Pool) -> dict[str, float]:
    return {each.ip: pytest.approx(each.probability, abs=1e-6) for each in found.choices}  # type: ignore[misc]


def test_every_rule_takes_its_share_of_what_the_rules_before_left() -> None:
    found = pool(
        "-A C -m statistic --mode random --probability 0.20000000019 -j E1",
        "-A C -m statistic --mode random --probability 0.50000000000 -j E2",
        "-A C -j E3",
        *(f"-A E{n} {SEP}{n}:80" for n in (1, 2, 3)),
    )
    assert odds(found) == {"10.0.0.1": 0.2, "10.0.0.2": 0.4, "10.0.0.3": 0.4}
    assert [each.chain for each in found.choices] == ["E1", "E2", "E3"]
    assert found.chains == ("C", "E1", "E2", "E3")


def test_parts_of_a_list_have_the_odds_of_the_part() -> None:
    found = pool(
        "-A C -m statistic --mode random --probability 0.75000000000 -j P",
        f"-A C {SEP}3:80",
        "-A P -p tcp -m statistic --mode random --probability 0.33333333349 -j DNAT --to-destination 10.0.0.1:80",
        f"-A P {SEP}2:80",
    )
    assert odds(found) == {"10.0.0.1": 0.25, "10.0.0.2": 0.5, "10.0.0.3": 0.25}
    assert {each.chain for each in found.choices if each.ip != "10.0.0.2"} == {""}


def test_what_an_empty_chain_does_not_take_goes_on() -> None:
    found = pool("-A C -m statistic --mode random --probability 0.5 -j E1", "-A C -j E2", "-A E1", f"-A E2 {SEP}2:80")
    assert odds(found) == {"10.0.0.2": 1.0}


def test_what_nobody_takes_is_missing() -> None:
    found = pool("-A C -m statistic --mode random --probability 0.25 -j E1", f"-A E1 {SEP}1:80")
    assert odds(found) == {"10.0.0.1": 0.25}


def test_a_rule_for_some_clients_only_is_no_part_of_the_list() -> None:
    found = pool("-A C -s 10.9.0.0/16 -j E1", "-A C -j E2", f"-A E1 {SEP}1:80", f"-A E2 {SEP}2:80")
    assert odds(found) == {"10.0.0.2": 1.0}


def test_affinity_does_not_change_the_odds_but_counts() -> None:
    found = pool(
        "[30:1] -A C -m recent --rcheck --seconds 60 --reap --name E1 --rsource -j E1",
        "[10:1] -A C -m statistic --mode random --probability 0.5 -j E1",
        "[20:1] -A C -j E2",
        f"[40:1] -A E1 -m recent --set --name E1 --rsource {SEP}1:80",
        f"[20:1] -A E2 {SEP}2:80",
    )
    assert found.affinity_seconds == 60
    assert odds(found) == {"10.0.0.1": 0.5, "10.0.0.2": 0.5}
    assert [each.packets for each in found.choices] == [40, 20]


def test_an_endpoint_that_stands_twice_has_the_sum() -> None:
    found = pool(
        "[3:1] -A C -m statistic --mode random --probability 0.5 -j E1", "[4:1] -A C -j E1", f"-A E1 {SEP}1:80"
    )
    assert odds(found) == {"10.0.0.1": 1.0}
    assert found.choices[0].packets == 7


def test_marks_are_no_endpoints_and_a_mark_to_drop_is_said() -> None:
    assert pool("-A C -j KUBE-MARK-MASQ", "-A C -j KUBE-MARK-DROP") == Pool((), 0, ("C",), drops=True)


def test_chains_without_end_are_left() -> None:
    assert pool("-A C -j D", "-A D -j C").choices == ()
    deep = [f"-A C{n} -j C{n + 1}" for n in range(100)]
    assert pool("-A C -j C0", *deep, f"-A C100 {SEP}1:80").choices == ()
    wide = [f"-A C{n} -j C{n + 1}" for n in range(12) for _ in range(8)]
    assert pool("-A C -j C0", *wide, "-A C12", chain="C").choices == ()


def test_a_chain_that_is_not_there_is_empty() -> None:
    assert Pools({}).pool("C") == Pool()


def test_a_rewrite_that_cannot_be_printed_is_known_by_its_comment() -> None:
    (told,) = pool('-A C -m comment --comment "a/b -> [fd00::1]:80" -j DNAT [unsupported revision]').choices
    assert (told.ip, told.port, told.line) == ("fd00::1", 80, 3)
    (silent,) = pool("-A C -j DNAT [unsupported revision]").choices
    assert (silent.ip, silent.port, silent.probability) == ("", 0, 1.0)
