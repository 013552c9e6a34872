"""``plan`` as it is typed: what is printed, and the exit status. What ``explain`` says of it is in test_explain."""

from __future__ import annotations

from pathlib import Path

import pytest

from kproxy import cli
from tests.unit.cli.examples import CLUSTER


def test_plan_prints_what_iptables_save_would(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "web.yaml").write_text(CLUSTER, encoding="utf-8")
    assert cli.main(["plan", "-f", str(tmp_path), "--family=4", "--cluster-cidr=10.244.0.0/16"]) == 0
    out = capsys.readouterr().out
    assert "-A KUBE-NODEPORTS -p tcp" in out
    assert "-j DNAT --to-destination 10.244.0.7:8080" in out
    assert "! -s 10.244.0.0/16 -d 10.96.0.80/32" in out


def test_plan_shows_rules_that_lead_to_the_relay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "web.yaml").write_text(CLUSTER, encoding="utf-8")
    assert cli.main(["plan", "-f", str(tmp_path), "--family=4", "--proxy-mode=userspace"]) == 0
    out = capsys.readouterr().out
    assert "# Rules lead to the relay at 169.254.73.80" in out
    assert "-j DNAT --to-destination 169.254.73.80:32768" in out
    assert "10.244.0.7" not in out


def test_plan_says_what_it_leaves_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "web.yaml").write_text(CLUSTER.replace("port: 80,", "port: 80000,"), encoding="utf-8")
    assert cli.main(["plan", "-f", str(tmp_path)]) == 1
    captured = capsys.readouterr()
    assert "spec.ports[0].port" in captured.err
    assert "10.96.0.80" not in captured.out
    assert "COMMIT" in captured.out


def test_plan_says_nothing_of_what_was_before(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "web.yaml").write_text("kind: [", encoding="utf-8")
    assert cli.main(["plan", "-f", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert said.endswith("; repair the file\n")
    assert "stays in force" not in said


def test_plan_without_manifests_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["plan", "-f", str(tmp_path / "none")]) == 1
    said = capsys.readouterr().err
    assert said.startswith("kproxy plan: ")
    assert "give a file or a directory" in said


NODE = """\
---
apiVersion: v1
kind: Node
metadata: {name: n1}
status: {addresses: [{type: InternalIP, address: 192.0.2.9}]}
"""


def test_plan_restricts_node_ports_to_the_nodes_address(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "web.yaml").write_text(CLUSTER + NODE, encoding="utf-8")
    arguments = ["plan", "-f", str(tmp_path), "--family=4", "--hostname-override=n1", "--nodeport-addresses"]
    for given in ("primary", "192.0.2.0/24"):
        assert cli.main([*arguments, given]) == 0
        captured = capsys.readouterr()
        assert '-A KUBE-SERVICES -d 192.0.2.9/32 -m comment --comment "kubernetes service nodeports' in captured.out
        assert not captured.err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("primary", "NodePortsEverywhere: Node n2: status.addresses are unknown"),
        ("192.0.2.0/24", "Node n2 is not given, or without status.addresses: node ports are left out; add it"),
    ],
)
def test_plan_says_what_it_does_without_the_node(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], given: str, said: str
) -> None:
    (tmp_path / "web.yaml").write_text(CLUSTER + NODE, encoding="utf-8")
    assert cli.main(["plan", "-f", str(tmp_path), "--hostname-override=n2", "--nodeport-addresses", given]) == 0
    assert [line[: len(said)] for line in capsys.readouterr().err.splitlines()] == [said]
