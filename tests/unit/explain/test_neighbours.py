"""What was probably meant by a name that is not there."""

from __future__ import annotations

import pytest

from kproxy.explain.services.neighbours import instead, near

KNOWN = ["default/old", "default/sticky", "default/blue", "shop/web", "shop/webapi"]


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("default/nosuch", []),  # alike by the namespace alone
        ("default/sticki", ["default/sticky"]),
        ("default/web", ["shop/web", "shop/webapi"]),  # of another namespace
        ("web", ["shop/web", "shop/webapi"]),
        ("stick", ["default/sticky"]),
        ("default/", []),
        ("", []),
    ],
)
def test_near_is_what_the_name_itself_is_near_to(name: str, found: list[str]) -> None:
    assert near(name, KNOWN) == found


def test_those_of_the_same_namespace_come_first_and_none_that_cannot_be_printed() -> None:
    assert near("b/wbe", ["a/web", "b/web", "b/web\x1b"]) == ["b/web", "a/web"]


def test_among_too_many_names_none_is_looked_for() -> None:
    assert near("web", map(str, range(20_001))) == []


def test_where_nothing_is_near_the_command_is_told_that_lists_what_is_there() -> None:
    assert instead("Service", "x/zzz", KNOWN, live=False) == "there are 5, as `kproxy explain DUMP --all` shows"
    assert instead("chain", "x", ["KUBE-SERVICES"], live=True) == "there is 1, as `iptables-save` shows"
    assert instead("endpoint", "10.0.0.1", [], live=True) == "there is no endpoint at all"
    assert instead("Service", "default/odl", KNOWN, live=True) == "the nearest that are there: default/old"
