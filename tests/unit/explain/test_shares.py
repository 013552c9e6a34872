"""Odds and counters."""

from __future__ import annotations

import pytest

from kproxy.explain.answer import Endpoint, Severity
from kproxy.explain.answer import Warning as Said
from kproxy.explain.health import shares
from kproxy.explain.services.graph import Graph
from kproxy.explain.services.survey import Survey
from tests.unit.explain.dumps import NAT, POOL, WEB, dump_of, service_port, survey_of, table


def said(text: str) -> list[Said]:
    survey = survey_of(text)
    return list(shares.look(Graph(survey.dump), survey))


def counted(lines: tuple[str, ...], *packets: int) -> str:
    return table("nat", *(f"[{number}:0] {line}" for line, number in zip(lines, packets, strict=True)))


def web(dispatch: int, first: int, second: int) -> str:
    """WEB with counters: of its dispatch, of the two rules that choose, and the same of their endpoints' chains."""
    return counted((*NAT, *WEB), *(5 for _ in NAT), dispatch, first, second, first, second)


# --- odds -----------------------------------------------------------------------------------------------------


def with_odds(*odds: float) -> list[Said]:
    endpoints = tuple(Endpoint(f"10.244.0.{nth}", 80, each, line=9 + nth) for nth, each in enumerate(odds))
    survey = Survey(dump_of("*nat\nCOMMIT\n"), (service_port(cluster=endpoints),), {})
    return list(shares.look(Graph(survey.dump), survey))


@pytest.mark.parametrize("odds", [(1.0,), (0.5, 0.5), (0.33333333349, 0.33333333326, 0.33333333325), ()])
def test_equal_odds_are_right_as_far_as_a_kernel_can_print_them(odds: tuple[float, ...]) -> None:
    assert with_odds(*odds) == []


@pytest.mark.parametrize("odds", [(0.5, 0.25), (0.5, 0.5, 0.5)])
def test_odds_that_do_not_add_up_are_an_error(odds: tuple[float, ...]) -> None:
    (each,) = with_odds(*odds)
    assert (each.code, each.severity, each.line) == ("odds-incomplete", Severity.ERROR, 9)
    assert f"add up to {sum(odds):g}, not to 1" in each.message


def test_rules_in_the_wrong_order_make_odds_uneven() -> None:
    chain = (
        "-A KUBE-SVC-LOLE4ISW44XBNF3G -m statistic --mode random --probability 0.50000000000 -j KUBE-SEP-A",
        "-A KUBE-SVC-LOLE4ISW44XBNF3G -m statistic --mode random --probability 0.33333333349 -j KUBE-SEP-B",
        "-A KUBE-SVC-LOLE4ISW44XBNF3G -j KUBE-SEP-C",
        *(f"-A KUBE-SEP-{x} -p tcp -m tcp -j DNAT --to-destination 10.244.0.{n}:80" for n, x in enumerate("ABC")),
    )
    (each,) = said(table("nat", *NAT, WEB[0], *chain))
    assert (each.code, each.severity, each.service) == ("odds-uneven", Severity.WARNING, "default/web")
    assert "3 endpoints differ, from 16.7% to 50%" in each.message


# --- counters -------------------------------------------------------------------------------------------------


def test_fair_shares_are_not_told() -> None:
    assert said(web(1000, 530, 470)) == []


def test_shares_that_no_chance_explains_are_told() -> None:
    (each,) = said(web(1000, 600, 400))
    assert (each.code, each.severity, each.service) == ("uneven-shares", Severity.WARNING, "default/web")
    assert f"nat {POOL} (default/web) took 600 of 1000 packets" in each.message
    assert "should have taken 50%" in each.message


def test_too_few_packets_prove_nothing() -> None:
    assert said(web(90, 90, 0)) == []


def test_clients_that_stay_make_shares_uneven_and_right() -> None:
    remembered = (
        f"-A {POOL} -m recent --rcheck --seconds 10800 --reap --name KUBE-SEP-A --mask 255.255.255.255 --rsource"
    )
    lines = (*NAT, WEB[0], f"{remembered} -j KUBE-SEP-AAAAAAAAAAAAAAAA", *WEB[1:])
    assert said(counted(lines, 5, 5, 5, 5, 5, 5, 1000, 0, 900, 100, 900, 100)) == []


def test_endpoints_that_saw_nothing_of_what_came_are_told() -> None:
    (each,) = said(web(500, 0, 0))
    assert (each.code, each.severity) == ("dispatched-not-delivered", Severity.WARNING)
    assert "500 packets came to default/web" in each.message
    assert said(web(10, 0, 0)) == []


def test_rules_that_nobody_met_are_summed_up() -> None:
    web = WEB[0]
    other = [web.replace("default/web", f"default/idle{n}").replace(".0.1/", f".0.{n}/") for n in range(2, 7)]
    lines = (*NAT, *WEB, *other)
    (each,) = said(counted(lines, 5, 5, 5, 5, 5, 5, 40, 20, 20, 20, 20, 0, 0, 0, 0, 0))
    assert (each.code, each.severity) == ("never-matched", Severity.NOTE)
    assert "5 of the 6 rules of nat that lead to Services counted no packet" in each.message
    assert "default/idle2 cluster IP, default/idle3 cluster IP, default/idle4 cluster IP, …" in each.message


def test_counters_that_are_all_nothing_are_young() -> None:
    assert said(web(0, 0, 0)) == []


def test_without_counters_nothing_is_said_of_them() -> None:
    assert said(table("nat", *NAT, *WEB)) == []
