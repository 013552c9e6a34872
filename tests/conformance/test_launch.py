"""How scenarios run the proxy, down to the files that are written."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.conformance.launch import Launch, UnknownWord

USUAL = {
    "clusters": [{"name": "c", "cluster": {"server": "http://192.0.2.5:6443"}}],
    "users": [{"name": "u", "user": {}}],
    "current-context": "c",
}


@pytest.fixture
def usual(tmp_path: Path) -> Path:
    path = tmp_path / "usual"
    path.write_text(yaml.safe_dump(USUAL), encoding="utf-8")
    return path


def arguments(usual: Path, mode: str = "iptables", **asked: Any) -> list[str]:
    return Launch.of(asked).arguments("n1", "nft", usual, usual.parent, mode)


def test_usual_flags_come_with_more_and_without_the_dropped_ones(usual: Path) -> None:
    flags = arguments(usual, flags=["--masquerade-all"], drop_flags=["--cluster-cidr"])
    assert f"--kubeconfig={usual}" in flags
    assert flags[-1] == "--masquerade-all"
    assert "--hostname-override=n1" in flags
    assert not [flag for flag in flags if flag.startswith("--cluster-cidr")]


def test_bare_flags_are_alone_but_for_the_way_to_the_api_server_and_the_name(usual: Path) -> None:
    flags = arguments(usual, bare_flags=["--v=2"])
    assert flags == ["--v=2", f"--kubeconfig={usual}", "--hostname-override=n1", "--iptables-backend=nft"]
    named = arguments(
        usual, bare_flags=["--hostname_override=N1", "--master=http://192.0.2.5", "--iptables-backend=auto"]
    )
    assert named == ["--hostname_override=N1", "--master=http://192.0.2.5", "--iptables-backend=auto"]


@pytest.mark.parametrize(
    "config",
    [
        {"mode": "iptables"},
        {"mode": "iptables", "clientConnection": {"kubeconfig": "/nowhere/kubeconfig.conf"}},
        "kind: KubeProxyConfiguration\nmode: iptables\n",
        "clientConnection:\n  kubeconfig: ''\n  qps: 5\nmode: iptables\n",
        "clientConnection: {}\nmode: iptables\n",
        "clientConnection: {qps: 5}\nmode: iptables\n",
        "clientConnection:\n    qps: 5\nmode: iptables\n",
        '{"mode": "iptables", "clientConnection": {"qps": 5}}',
    ],
)
def test_a_configuration_gets_our_kubeconfig_unless_it_names_one_that_exists(usual: Path, config: Any) -> None:
    flags = arguments(usual, config=config)
    path = usual.parent / "config.yaml"
    assert f"--config={path}" in flags
    assert not [flag for flag in flags if flag.startswith("--kubeconfig")]
    written = yaml.safe_load(path.read_text(encoding="utf-8"))
    assert written["clientConnection"]["kubeconfig"] == str(usual)
    assert written["mode"] == "iptables"
    arguments(usual, config=path.read_text(encoding="utf-8"))
    assert yaml.safe_load(path.read_text(encoding="utf-8")) == written


def test_parts_of_a_kubeconfig_are_put_where_they_belong(usual: Path) -> None:
    flags = arguments(
        usual, kubeconfig={"token": "t", "tls-server-name": "x", "server": "http://192.0.2.6", "preferences": {}}
    )
    written = yaml.safe_load((usual.parent / "kubeconfig").read_text(encoding="utf-8"))
    assert f"--kubeconfig={usual.parent / 'kubeconfig'}" in flags
    assert written["users"][0]["user"] == {"token": "t"}
    assert written["clusters"][0]["cluster"] == {"server": "http://192.0.2.6", "tls-server-name": "x"}
    assert written["preferences"] == {}


def test_a_kubeconfig_may_be_text_or_a_word(usual: Path) -> None:
    arguments(usual, kubeconfig="server is $SERVER in $SCRATCH")
    assert (usual.parent / "kubeconfig").read_text(
        encoding="utf-8"
    ) == f"server is http://192.0.2.5:6443 in {usual.parent}"
    with pytest.raises(UnknownWord, match="telepathy"):
        arguments(usual, kubeconfig="telepathy")
    arguments(usual, kubeconfig="token-file")
    written = yaml.safe_load((usual.parent / "kubeconfig").read_text(encoding="utf-8"))
    assert Path(written["users"][0]["user"]["tokenFile"]).read_text(encoding="utf-8")


def test_a_step_changes_what_the_scenario_says() -> None:
    launch = Launch.of({"flags": ["-v=1"], "kubeconfig": "token"}).with_more({"flags": ["-v=3"], "drop_flags": ["-v"]})
    assert launch.flags == ("-v=1", "-v=3")
    assert launch.dropped == ("-v",)
    assert launch.kubeconfig == "token"


@pytest.mark.parametrize(
    ("asked", "flags"),
    [
        ({}, ["--proxy-mode=userspace"]),
        ({"bare_flags": ["--init-only"]}, ["--proxy-mode=userspace"]),
        ({"flags": ["--proxy-mode=iptables"]}, ["--proxy-mode=iptables"]),
        ({"config": {}}, []),
    ],
)
def test_the_mode_of_a_run_is_a_flag_unless_the_scenario_says_one(
    usual: Path, asked: dict[str, Any], flags: list[str]
) -> None:
    assert [each for each in arguments(usual, "userspace", **asked) if each.startswith("--proxy-mode")] == flags
    assert "--proxy-mode=iptables" not in arguments(usual)


@pytest.mark.parametrize(
    ("config", "mode"),
    [
        ({}, "userspace"),
        ({"mode": "ipvs"}, "ipvs"),
        ("kind: KubeProxyConfiguration\n", "userspace"),
        ("mode: iptables\nkind: KubeProxyConfiguration\n", "iptables"),
    ],
)
def test_the_mode_of_a_run_is_a_line_of_a_file_that_has_none(usual: Path, config: Any, mode: str) -> None:
    path = usual.parent / "config.yaml"
    arguments(usual, "userspace", config=config)
    assert yaml.safe_load(path.read_text(encoding="utf-8"))["mode"] == mode
    arguments(usual, config={})
    assert "mode" not in yaml.safe_load(path.read_text(encoding="utf-8"))
