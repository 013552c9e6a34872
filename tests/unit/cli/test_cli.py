"""What is typed, what is printed, and the exit status. What flags mean is in tests/unit/settings."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import pytest

from kproxy import __version__, cli
from kproxy.cli import parser
from kproxy.cli.parser import Usage
from kproxy.config import KUBERNETES, Config
from kproxy.daemon.reload import ConfigFile
from kproxy.errors import KernelError
from kproxy.settings.resolve import Remark
from tests.unit.cli.examples import CLUSTER

ROOT = Path(__file__).parents[3]


class Run(NamedTuple):
    config: Config
    remarks: Sequence[Remark]
    init_only: bool
    file: ConfigFile | None


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """What would have been run."""
    seen: list[Run] = []

    def run(config: Config, *, remarks: Sequence[Remark], init_only: bool, file: ConfigFile | None) -> int:
        seen.append(Run(config, remarks, init_only, file))
        return 0

    monkeypatch.setattr("kproxy.daemon.main.run", run)
    return seen


def test_a_kube_proxy_command_line_means_run(started: list[Run]) -> None:
    line = "--v=2 --cluster_cidr 10.0.0.0/8 --masquerade-all --profiling=false --kube-api-qps 7 --ipvs_strict_arp"
    assert cli.main([*line.split(), "--hostname-override=X"]) == 0
    ((config, remarks, init_only, file),) = started
    assert config == Config(
        hostname="x",
        hostname_override="x",
        verbosity=2,
        cluster_cidr=("10.0.0.0/8",),
        masquerade_all=True,
        unused=(("clientConnection.qps", 7.0), ("ipvs.strictARP", True)),
    )
    (remark,) = remarks
    assert remark.fields == {"settings": "--kube-api-qps --ipvs-strict-arp"}
    assert not init_only
    assert file is None


@pytest.mark.parametrize("word", ["-v=3", "--v=3", "-v3", "--v"])
def test_verbosity_has_many_spellings(started: list[Run], word: str) -> None:
    assert cli.main([word, *(["3"] if word == "--v" else []), "--masquerade-all=false"]) == 0
    assert started[0].config.verbosity == 3
    assert not started[0].config.masquerade_all


@pytest.mark.parametrize(
    ("word", "expected"), [("--init-only", True), ("--init_only=true", True), ("--init-only=false", False)]
)
def test_init_only(started: list[Run], word: str, expected: bool) -> None:
    cli.main([word])
    assert started[0].init_only is expected


def test_init_only_is_true_or_false(started: list[Run], capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--init-only=perhaps"]) == 1
    assert "--init-only=perhaps: give true or false" in capsys.readouterr().err
    assert not started


def test_all_mistakes_are_listed_and_the_status_is_1(started: list[Run], capsys: pytest.CaptureFixture[str]) -> None:
    line = "run --iptables-synk-period 3s --bogus=1 --v many --cluster-cidr=x stray"
    assert cli.main(line.split()) == 1
    said = capsys.readouterr().err
    assert "--iptables-synk-period: there is no such flag; did you mean --iptables-sync-period?" in said
    for part in ("--bogus", "--v=many", "--cluster-cidr=x", "stray: not expected"):
        assert part in said
    assert "3s:" not in said
    assert not started


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("", "usage: kproxy"),
        ("dance", "kproxy: dance: there is no such command; there are run, config, plan, "),
        ("explian x", "explian: there is no such command; did you mean `kproxy explain`?"),
        ("plan", "kproxy plan: --files: is missing"),
        ("plan -f x --family 5", "kproxy plan: --family=5: give 4, 6 or both"),
        ("run --v", "kproxy run: --v: a value is missing"),
        ("status --jsn", "--jsn: there is no such flag; did you mean --json?"),
        ("status --json=no", "kproxy status: --json=no: takes no value"),
        ("version --rwa", "--rwa: there is no such flag; did you mean --raw?"),
        ("check --kubeconfg=x", "--kubeconfg: there is no such flag; did you mean --kubeconfig?"),
        ("trace --limitt 3", "--limitt: there is no such flag; did you mean --limit?"),
    ],
)
def test_what_is_not_understood_is_status_2(line: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(line.split()) == 2
    assert said in capsys.readouterr().err


def test_an_unknown_flag_points_to_the_commands_own_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["sandbox", "--kubeconfg"]) == 2
    said = capsys.readouterr().err
    assert "kproxy sandbox cannot start" in said
    assert "--kubeconfg: there is no such flag; see `kproxy sandbox --help`" in said


def test_cleanup_warns_of_a_proxy_that_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("kproxy.daemon.processes.find_proxies", lambda: [(4711, "kproxy")])
    monkeypatch.setattr("kproxy.daemon.cleanup.clean_up", lambda _config: (["done"], []))
    assert cli.main(["cleanup"]) == 0
    said = capsys.readouterr()
    assert said.err == ("kproxy is running on this node (pid 4711) and will write its rules again; stop it first\n")
    assert said.out == "done\n"


def test_the_version_is_ours_and_as_a_flag_it_is_kube_proxys(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["version"]) == cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"kproxy {__version__}\nKubernetes v{KUBERNETES}+kproxy-{__version__}\n"


def test_the_raw_version_says_which_kube_proxy_is_meant(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--version=raw"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["kproxy"] == __version__
    assert found["kubernetes"] == KUBERNETES


def test_version_may_be_declined(started: list[Run]) -> None:
    assert cli.main(["--version=false"]) == 0
    assert started


def test_kube_proxys_cleanup_flag_is_the_command() -> None:
    assert parser.parse(["--kubeconfig=x", "--cleanup"])[0].command == "cleanup"
    assert parser.parse(["--cleanup=false"])[0].command == "run"


# --- the configuration file -----------------------------------------------------------------------------------

HEAD = "apiVersion: kubeproxy.config.k8s.io/v1alpha1\nkind: KubeProxyConfiguration\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "config.conf"
    path.write_text(f"{HEAD}clusterCIDR: 10.0.0.0/8\n", encoding="utf-8")
    return path


def test_a_file_is_run_and_handed_on_to_be_watched(started: list[Run], file: Path) -> None:
    assert cli.main([f"--config={file}", "--hostname-override=$(NODE_NAME)"]) == 0
    ((config, remarks, _, watched),) = started
    assert config.cluster_cidr == ("10.0.0.0/8",)
    assert remarks == ()
    assert watched
    assert watched.path == str(file)


def test_all_that_is_wrong_with_a_file_is_told_with_what_is_only_odd(
    started: list[Run], file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with file.open("a", encoding="utf-8") as more:
        more.write("mode: ipvs\niptables: {masqueradeBit: 40, syncPeriod: soon, masqueradAll: true}\n")
    assert cli.main(["run", "--config", str(file), "--v=x"]) == 1
    said = capsys.readouterr().err.splitlines()
    assert said[0] == f"kproxy cannot start with these flags and {file}:"
    for line in (
        '  mode: "ipvs": give iptables, userspace, or nothing, which means iptables',
        "  iptables.masqueradeBit: 40: give a whole number from 0 to 31",
        '  iptables.syncPeriod: "soon": give a duration above 0, such as 30s, 1m30s or 200ms',
        "  --v=x: give a whole number of 0 or more",
    ):
        assert line in said
    assert any("iptables.masqueradAll (did you mean iptables.masqueradeAll?)" in line for line in said)
    assert not started


@pytest.mark.parametrize("content", ["mode: [", "", "- a", "\x00", "kind: &a [*a]"])
def test_what_is_no_configuration_is_a_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: str
) -> None:
    path = tmp_path / "odd"
    path.write_text(content, encoding="utf-8")
    assert cli.main(["config", f"--config={path}"]) == 2
    assert capsys.readouterr().err.startswith(f"kproxy config cannot start with {path}:\n  ")


def test_a_file_that_is_not_there_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", f"--config={tmp_path / 'none'}"]) == 1
    assert "No such file or directory; give a readable file" in capsys.readouterr().err


def test_what_is_written_is_in_force_when_read_again(
    started: list[Run], tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    written = tmp_path / "written"
    flags = ["--hostname-override=n", "--iptables-backend=nft"]
    assert cli.main([f"--config={file}", *flags, f"--write-config-to={written}"]) == 0
    assert "Wrote the configuration" in capsys.readouterr().err
    assert not started
    cli.main([f"--config={file}", *flags])
    cli.main([f"--config={written}"])
    assert started[0].config == started[1].config


def test_a_place_that_cannot_be_written_is_a_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([f"--write-config-to={tmp_path}"]) == 1
    assert capsys.readouterr().err.endswith("Is a directory; give a file that can be written\n")


def test_plan_takes_the_file_and_says_what_it_ignores(
    tmp_path: Path, file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "web.yaml").write_text(CLUSTER, encoding="utf-8")
    arguments = ["plan", "-f", str(tmp_path / "web.yaml"), "--family=4", f"--config={file}", "--cluster-cidr=1.0.0.0/8"]
    assert cli.main(arguments) == 0
    captured = capsys.readouterr()
    assert "! -s 10.0.0.0/8 -d 10.96.0.80/32" in captured.out
    assert "--cluster-cidr" in captured.err


def test_cleanup_does_not_read_the_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("kproxy.daemon.processes.find_proxies", list)
    monkeypatch.setattr("kproxy.daemon.cleanup.clean_up", lambda _config: ([], []))
    assert cli.main(["--cleanup", f"--config={tmp_path / 'none'}", "--v=2"]) == 0


def test_help_names_the_exit_statuses(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
    out = capsys.readouterr().out
    assert "exit status" in out
    assert "2  the command line, or the configuration file, is not understood" in out


@pytest.mark.parametrize(
    ("command", "said", "unsaid"),
    [
        ("plan", "1  something was left out", "healthy"),
        ("check", "2  no answer: the command line", "left out"),
        ("status", "0  the daemon is healthy", "the kernel agrees"),
        ("run", "0  ended by SIGTERM or SIGINT; rules stay", "healthy"),
        ("cleanup", "0  done", "SIGTERM"),
        ("explain", "3  no answer", "left out"),
    ],
)
def test_help_tells_the_exit_statuses_of_its_command_alone(
    command: str, said: str, unsaid: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    statuses = capsys.readouterr().out.partition("exit status:")[2]
    assert said in statuses
    assert unsaid not in statuses


@pytest.mark.parametrize("command", ["", "run", "config", "plan", "check", "status", "explain", "cleanup", "version"])
def test_help_fits_a_hundred_columns(
    command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        cli.main([*command.split(), "--help"])
    assert [line for line in capsys.readouterr().out.splitlines() if len(line) > 100] == []


def test_an_error_is_one_sentence(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*_: object, **__: object) -> int:
        raise KernelError("no such thing; do this")

    monkeypatch.setattr("kproxy.daemon.main.run", fail)
    assert cli.main(["run"]) == 1
    assert capsys.readouterr().err == "kproxy: no such thing; do this\n"


def test_a_problem_with_flags_is_usage_where_flags_have_no_meaning() -> None:
    with pytest.raises(Usage):
        parser.parse(["--keep"][1:])


@pytest.mark.parametrize("before", [[], ["run"]])
def test_kube_proxys_flags_that_are_commands_here(before: list[str]) -> None:
    assert parser.parse([*before, "--version"])[0].command == "version"
    assert parser.parse([*before, "--kubeconfig=k", "--cleanup"])[0].command == "cleanup"
    assert parser.parse([*before, "--cleanup=false"])[0].command == "run"


@pytest.mark.parametrize("words", ["version", "man", "plan -f tests/scenarios/node-port/cluster.yaml"])
def test_a_full_disk_is_a_sentence(words: str) -> None:
    line = f"{sys.executable} -m kproxy {words} > /dev/full"
    done = subprocess.run(("sh", "-c", line), cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    said = "the output cannot be written: No space left on device; make room, or write elsewhere\n"
    assert (done.returncode, done.stderr) == (1, f"kproxy {words.split(maxsplit=1)[0]}: {said}")
