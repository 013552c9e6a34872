"""How chains hang together; which service has trouble is test_warnings.py's."""

from __future__ import annotations

import pytest

from kproxy.explain import structure
from kproxy.explain.answer import Severity
from kproxy.explain.graph import Graph
from tests.unit.explain.dumps import dump_of


def codes(text: str) -> list[str]:
    return [each.code for each in structure.look(Graph(dump_of(text)))]


def test_a_jump_to_a_chain_that_the_dump_lacks_is_told_once_for_each_chain() -> None:
    text = """
*nat
:KUBE-SERVICES - [0:0]
-A KUBE-SERVICES -d 10.96.0.1/32 -j KUBE-SVC-GONE
-A KUBE-SERVICES -d 10.96.0.2/32 -j KUBE-SVC-GONE
COMMIT
"""
    (said,) = (each for each in structure.look(Graph(dump_of(text))) if each.code == "dangling-jump")
    assert said.severity is Severity.ERROR
    assert "KUBE-SERVICES and 1 more rule lead to chain KUBE-SVC-GONE" in said.message
    assert said.line == 3


@pytest.mark.parametrize("chain", ["KUBE-SVC-A", "KUBE-SVL-A", "KUBE-EXT-A", "KUBE-FW-A", "KUBE-SEP-A", "KUBE-XLB-A"])
def test_a_chain_of_a_service_that_nothing_leads_to_is_orphaned(chain: str) -> None:
    assert codes(f"*nat\n:{chain} - [0:0]\nCOMMIT\n") == ["orphaned-chain"]


def test_canaries_and_other_peoples_chains_are_no_orphans() -> None:
    assert codes("*nat\n:KUBE-PROXY-CANARY - [0:0]\n:MINE - [0:0]\n:KUBE-SVC-TRIAL - [0:0]\nCOMMIT\n") == []
