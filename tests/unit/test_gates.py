"""Which gates are on, which may not move, which nobody knows."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy import gates
from kproxy.gates import GATES, Stage

DEFAULTS = {gate.name: gate.default for gate in GATES}


def states(*wanted: tuple[str, bool]) -> dict[str, bool]:
    return {gate.name: on for gate, on in gates.effective(wanted)}


def test_without_wishes_the_defaults_hold() -> None:
    assert states() == DEFAULTS


def test_a_gate_moves_alone() -> None:
    assert states(("WatchListClient", False)) == DEFAULTS | {"WatchListClient": False}


@pytest.mark.parametrize("reverse", [False, True])
def test_all_alpha_spares_those_that_are_named(reverse: bool) -> None:
    wanted = [("AllAlpha", True), ("NativeHistograms", False)]
    found = states(*(wanted[::-1] if reverse else wanted))
    assert found["ClientsAllowCBOR"]
    assert not found["NativeHistograms"]
    assert not found["AllBeta"]


def test_all_beta_can_be_switched_off_but_not_what_is_locked() -> None:
    found = states(("AllBeta", False))
    assert not any(found[gate.name] for gate in GATES if gate.stage is Stage.BETA)
    assert all(found[gate.name] for gate in GATES if gate.stage is Stage.GA)


def test_of_one_name_the_last_counts() -> None:
    assert not gates.is_enabled(gates.EXTERNAL_IPS, [(gates.EXTERNAL_IPS, True), (gates.EXTERNAL_IPS, False)])


def test_a_locked_gate_may_be_given_its_default_only() -> None:
    assert list(gates.refusals([("NFTablesProxyMode", True), ("WatchListClient", False)])) == []
    ((name, on, accepted),) = gates.refusals([("NFTablesProxyMode", False)])
    assert (name, on) == ("NFTablesProxyMode", False)
    assert accepted.startswith("true")


def test_strangers_are_told_with_their_nearest_name() -> None:
    wanted = [("AllowServiceExternalIP", True), ("GracefulNodeShutdown", True), ("TopologyAwareHints", True)]
    assert list(gates.strangers([*wanted, ("AllAlpha", True)])) == [
        "AllowServiceExternalIP (did you mean AllowServiceExternalIPs?)",
        "GracefulNodeShutdown",
        "TopologyAwareHints (removed: what it switched on is always on)",
    ]


@given(st.lists(st.tuples(st.sampled_from([*DEFAULTS, "Other"]), st.booleans())))
def test_locked_gates_never_move(wanted: list[tuple[str, bool]]) -> None:
    found = states(*wanted)
    assert found.keys() == DEFAULTS.keys()
    assert all(found[gate.name] == gate.default for gate in GATES if gate.locked)
