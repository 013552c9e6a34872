"""What ``kproxy config`` prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kproxy import cli
from kproxy.settings.document import read_document
from kproxy.settings.resolve import resolve

TEXT = """\
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clusterCIDR: 10.0.0.0/8
featureGates: {AllowServiceExternalIPs: false}
ipvs: {scheduler: rr}
metadata: {name: x}
kproxy: {iptablesBackend: nft}
"""


@pytest.fixture
def file(tmp_path: Path) -> str:
    path = tmp_path / "[config].conf"  # brackets, because they mean something to who prints colours
    path.write_text(TEXT, encoding="utf-8")
    return str(path)


def show(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert cli.main(["config", "--hostname-override=N1", *words]) == 0
    return capsys.readouterr().out


def rows(said: str) -> dict[str, list[str]]:
    """By setting: the words of value and origin."""
    return {words[0]: words[1:] for words in map(str.split, said.splitlines()) if len(words) > 2}


def test_the_table_says_what_is_in_force_and_where_from(capsys: pytest.CaptureFixture[str], file: str) -> None:
    said = show(capsys, f"--config={file}", "--v=3", "--kubeconfig=x")
    found = rows(said)
    assert found["clusterCIDR"] == ["10.0.0.0/8", "file", file]
    assert found["kproxy.iptablesBackend"] == ["nft", "file", file]
    assert found["logging.verbosity"] == ["3", "flag", "--v"]
    assert found["hostnameOverride"] == ["n1", "flag", "--hostname-override"]
    assert found["nodePortAddresses"] == ["-", "default"]
    assert found["featureGates"] == ["AllowServiceExternalIPs=false", "file", file]
    assert found["ipvs.scheduler"] == ["rr", "file", file]
    assert "ipvs.strictARP" not in found


def test_the_table_says_what_is_ignored(capsys: pytest.CaptureFixture[str], file: str) -> None:
    said = show(capsys, f"--config={file}", "--kubeconfig=x")
    for part in (
        "are ignored because a configuration file is given: --kubeconfig",
        f"{file}; metadata",
        "ipvs.scheduler",
    ):
        assert part in said


def test_the_name_of_the_node_is_derived_where_nobody_gave_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config"]) == 0
    assert rows(capsys.readouterr().out)["hostnameOverride"][1:] == ["derived", "the", "host's", "name"]


def test_as_yaml_it_can_be_used_again(capsys: pytest.CaptureFixture[str], file: str) -> None:
    said = show(capsys, f"--config={file}", "--yaml")
    assert f"clusterCIDR: 10.0.0.0/8  # file {file}" in said
    assert "oomScoreAdj: -999  # default" in said
    assert "  treeThreshold: 100  # default" in said
    config = resolve((), read_document(said.encode()), host="n1", file="f").config
    assert config.cluster_cidr == ("10.0.0.0/8",)
    assert config.hostname == "n1"


def test_json_has_every_setting_and_remark(capsys: pytest.CaptureFixture[str], file: str) -> None:
    found: dict[str, Any] = json.loads(show(capsys, f"--config={file}", "--json"))
    by_path = {row["path"]: row for row in found["settings"]}
    assert found["node"] == "n1"
    assert by_path["mode"] == {
        "path": "mode",
        "flag": "--proxy-mode",
        "value": "iptables",
        "origin": "default",
        "source": None,
        "hasEffect": True,
    }
    assert not by_path["ipvs.scheduler"]["hasEffect"]
    assert found["remarks"][0]["fields"] == "metadata"


def test_two_shapes_at_once_are_not_understood(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["config", "--yaml", "--json"]) == 2
    assert "--json and --yaml: give one of them" in capsys.readouterr().err
