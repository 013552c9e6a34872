"""What of a scenario belongs to a mode, and whom an endpoint is expected to see in it."""

from typing import Any

import pytest

from tests.conformance.modes import expectation, passed_over
from tests.conformance.probes import NODE, Target
from tests.conformance.relayed import carries, expecting_the_node


@pytest.mark.parametrize(
    ("marked", "iptables", "userspace"),
    [
        ({}, "", ""),
        ({"modes": ["iptables"]}, "", ""),
        ({"modes": ["nftables"]}, "not of this mode", "not of this mode"),
        ({"modes": ["userspace"]}, "not of this mode", ""),
        ({"kernel_only": "a reason"}, "", "a reason"),
    ],
)
def test_userspace_mode_asks_what_iptables_mode_asks_unless_it_is_the_kernels_alone(
    marked: dict[str, Any], iptables: str, userspace: str
) -> None:
    assert (passed_over(marked, "iptables"), passed_over(marked, "userspace")) == (iptables, userspace)


def test_what_is_expected_may_depend_on_the_mode() -> None:
    expect = {"iptables": "timeout", "userspace": "ok=p1a"}
    assert [expectation(expect, mode) for mode in ("iptables", "userspace")] == ["timeout", "ok=p1a"]
    assert expectation({"iptables": "timeout", "nftables": "reject"}, "userspace") == "timeout"
    assert expectation("ok", "userspace") == "ok"


class FakeCluster:
    def __init__(self, annotations: dict[str, str] | None) -> None:
        self._annotations = annotations

    def owner(self, target: Target, protocol: str, *, is_node: bool) -> dict[str, Any] | None:
        assert protocol in {"tcp", "udp"}
        assert is_node == (target.address == "192.168.100.11")
        return {"metadata": {"annotations": self._annotations}} if self._annotations is not None else None


@pytest.mark.parametrize(
    ("annotations", "mode", "protocol", "is_carried"),
    [
        ({}, "userspace", "tcp", True),
        ({}, "userspace", "udp", True),
        ({}, "userspace", "sctp", False),
        ({}, "iptables", "tcp", False),
        ({"kproxy.io/mode": "userspace"}, "iptables", "tcp", True),
        ({"kproxy.io/mode": "iptables"}, "userspace", "tcp", False),
        ({"kproxy.io/mode": "nonsense"}, "userspace", "tcp", True),
        (None, "userspace", "tcp", False),
    ],
)
@pytest.mark.parametrize("address", ["10.96.1.1", "192.168.100.11"])
def test_the_relay_carries_what_a_service_asks_for_and_else_what_the_mode_says(
    annotations: dict[str, str] | None, mode: str, protocol: str, is_carried: bool, address: str
) -> None:
    cluster: Any = FakeCluster(annotations)
    assert carries(cluster, mode, Target(address, 80), protocol) is is_carried


def test_whom_backends_saw_is_all_that_changes_in_a_record() -> None:
    assert expecting_the_node({"outcome": "ok", "source_seen": ["client", "n1-lan"]}) == {
        "outcome": "ok",
        "source_seen": [NODE],
    }
    assert expecting_the_node({"outcome": "timeout"}) == {"outcome": "timeout"}
