"""``plan`` and ``explain`` as they are typed: what is printed, and the exit status."""

from __future__ import annotations

import io
from pathlib import Path

import pytest

from kproxy import cli

CLUSTER = """\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {type: NodePort, clusterIP: 10.96.0.80, ports: [{port: 80, nodePort: 30080}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: "", port: 8080}]
endpoints: [{addresses: [10.244.0.7]}, {addresses: [10.244.0.8]}]
"""


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


def explain(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str], *arguments: str
) -> tuple[int, str]:
    """What explain says of the rules that plan prints, of both families."""
    (tmp_path / "web.yaml").write_text(CLUSTER, encoding="utf-8")
    cli.main(["plan", "-f", str(tmp_path), "--cluster-cidr=10.244.0.0/16"])
    monkeypatch.setattr("sys.stdin", io.StringIO(capsys.readouterr().out))
    status = cli.main(["explain", "-", *arguments])
    captured = capsys.readouterr()
    return status, captured.out + captured.err


def test_explain_tells_endpoints_with_their_odds_and_whether_the_source_is_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status, said = explain(monkeypatch, tmp_path, capsys, "--from=10.244.0.1", "--to=10.96.0.80:80/tcp")
    assert status == 0
    assert "50%  goes to endpoint 10.244.0.7:8080, its source kept" in said
    assert "-A KUBE-SERVICES -d 10.96.0.80/32" in said
    _, said = explain(
        monkeypatch, tmp_path, capsys, "--from=203.0.113.9", "--to=192.0.2.1:30080/tcp", "--local=192.0.2.1"
    )
    assert "goes to endpoint 10.244.0.8:8080, its source replaced by the node's (SNAT)" in said


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (("--to=192.168.100.11:30080",), True),
        (("--to=192.168.100.11:30080/udp",), False),
        (("--to=192.168.100.11:30081",), False),
        (("--to=192.168.100.11:80",), False),  # a port of the Service, but none of the node
        (("--to=192.168.100.11:30080", "--local=192.168.100.11"), False),
    ],
)
def test_explain_asks_whether_the_address_is_the_nodes(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, ...],
    hint: bool,
) -> None:
    _, said = explain(monkeypatch, tmp_path, capsys, "--from=203.0.113.9", *arguments)
    sentence = (
        "192.168.100.11 was taken for an address outside of this node; "
        "if it is one of the node's, add --local 192.168.100.11\n"
    )
    assert (sentence in said) == hint


@pytest.mark.parametrize(
    ("dump", "to", "problem"),
    [
        ("-A INPUT -s 10.0.0.0/8 -j ACCEPT", "[fd00::1]:80", "of iptables-save; give the output of ip6tables-save"),
        ("-A INPUT -d fd00::/8 -j ACCEPT", "10.0.0.1:80", "of ip6tables-save; give the output of iptables-save"),
        ("# Generated by ip6tables-save v1.8.9 (nf_tables)", "10.0.0.1:80", "for an IPv4 packet"),
        ("# Generated by ip6tables-save v1.8.9 (nf_tables)", "[fd00::1]:80", ""),
        ("-A INPUT -j ACCEPT", "[fd00::1]:80", ""),
    ],
)
def test_explain_refuses_a_dump_of_the_other_family(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dump: str, to: str, problem: str
) -> None:
    path = tmp_path / "dump"
    path.write_text(f"*filter\n:INPUT ACCEPT [0:0]\n{dump}\nCOMMIT\n", encoding="utf-8")
    assert cli.main(["explain", str(path), "--from=host", f"--to={to}"]) == (2 if problem else 0)
    assert problem in capsys.readouterr().err


def test_explain_tells_what_no_service_answers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    _, said = explain(monkeypatch, tmp_path, capsys, "--from=host", "--to=10.96.0.81:80")
    assert "100%  is left alone" in said


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (("--from=x", "--to=y"), "--from=x: give an IP address"),
        (("--from=10.0.0.1", "--to=10.0.0.1:80/icmp"), "--to=10.0.0.1:80/icmp"),
        (("--from=10.0.0.1", "--to=[fd00::1]:80"), "another IP family"),
    ],
)
def test_explain_refuses_what_is_no_packet(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: tuple[str, str],
    problem: str,
) -> None:
    status, said = explain(monkeypatch, tmp_path, capsys, *arguments)
    assert status == 2
    assert problem in said


def test_explain_refuses_what_is_no_dump(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    dump = tmp_path / "dump"
    dump.write_text("hello\n", encoding="utf-8")
    assert cli.main(["explain", str(dump), "--from=host", "--to=10.0.0.1:80"]) == 2
    assert "line 1" in capsys.readouterr().err
