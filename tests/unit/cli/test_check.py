"""The words of ``check``: what differs, and how much was compared."""

from __future__ import annotations

from pathlib import Path

import pytest

from kproxy.backend.iptables.compile import compile_plan
from kproxy.backend.iptables.dialect import Abilities
from kproxy.backend.iptables.diff import read_save, repair
from kproxy.cli.check import describe, summary
from kproxy.cli.plan import load, render
from kproxy.config import Config
from kproxy.model.enums import IPFamily
from kproxy.plan.build import build_plan
from tests.unit.cli.examples import CLUSTER


@pytest.mark.parametrize(
    ("services", "relayed", "differences", "said"),
    [
        (1, 0, 0, "1 service port: agrees"),
        (2, 1, 0, "2 service ports, 1 of them by the relay: agrees"),
        (0, 0, 1, "0 service ports: 1 difference; a daemon with other"),
        (0, 0, 2, "0 service ports: 2 differences; a daemon with other"),
    ],
)
def test_the_summary(services: int, relayed: int, differences: int, said: str) -> None:
    assert summary(services, relayed, differences).startswith(said)


def test_what_differs_is_counted(tmp_path: Path) -> None:
    (tmp_path / "web.yaml").write_text(CLUSTER, encoding="utf-8")
    config = Config()
    plan = build_plan(load(str(tmp_path), config, print).snapshot(), config, IPFamily.IPV4)
    rules = compile_plan(plan, config, Abilities())
    lines = list(render(rules))
    assert not list(describe(repair(read_save(lines), rules)))
    chain = min(line.split()[1] for line in lines if line.startswith("-A KUBE-SEP-"))
    edited = [line for line in lines if not line.startswith(f"-A {chain}")]
    edited.insert(edited.index("*nat") + 1, ":KUBE-SVC-STRANGERSSTRANGE - [0:0]")
    said = list(describe(repair(read_save(edited), rules)))
    assert [each for each in said if ": 1 chain differs: KUBE-SEP-" in each]
    assert [each for each in said if each.startswith("1 chain belongs to no Service: KUBE-SVC-STRANGERS")]
