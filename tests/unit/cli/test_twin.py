"""``kproxy check`` without flags: whose it takes, and what is said where there is nobody to take them from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kproxy import cli
from kproxy.cli import twin
from kproxy.config import Config
from kproxy.daemon.processes import Twin
from kproxy.errors import BadCredentials


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[Config]:
    """What would have been compared with the kernel."""
    seen: list[Config] = []

    def check(config: Config, *, warn: Callable[[str], None]) -> tuple[list[str], str]:
        del warn
        if not (config.kubeconfig or config.manifests or config.master):
            raise BadCredentials("no --kubeconfig")
        seen.append(config)
        return [], "agrees"

    monkeypatch.setattr("kproxy.cli.check.check", check)
    monkeypatch.setattr(twin, "find_proxies", lambda: [(7, "kproxy")])
    return seen


def running(monkeypatch: pytest.MonkeyPatch, *twins: Twin) -> None:
    monkeypatch.setattr(twin, "find_twins", lambda: list(twins))


def test_the_daemons_flags_come_first_and_its_directory_with_them(
    checked: list[Config], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(Path.cwd())  # undone at the end
    running(monkeypatch, Twin(7, ("run", "--kubeconfig=k e", "-v=2", "--hostname-override=n1"), str(tmp_path)))
    assert cli.main(["check", "--hostname-override", "n2"]) == 0
    ((config),) = checked
    assert (config.kubeconfig, config.verbosity, config.hostname, Path.cwd()) == ("k e", 2, "n2", tmp_path)
    said = "As kproxy runs here (process 7): run '--kubeconfig=k e' -v=2 --hostname-override=n1\n"
    assert capsys.readouterr() == ("agrees\n", said)


@pytest.mark.parametrize("flag", ["kubeconfig", "manifests", "master"])
def test_who_says_where_the_cluster_is_gets_no_other_flags(
    flag: str, checked: list[Config], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    running(monkeypatch, Twin(7, ("--hostname-override=n1",), "/nowhere"))
    assert cli.main(["check", f"--{flag}=https://192.0.2.1", "--hostname-override=n2"]) == 0
    assert checked[0].hostname == "n2"
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("twins", [(), (Twin(7, ("-v=1",), "/"), Twin(8, ("-v=1",), "/"))])
def test_without_one_daemon_both_ways_are_said(
    twins: tuple[Twin, ...],
    checked: list[Config],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    running(monkeypatch, *twins)
    assert cli.main(["check"]) == 2
    err = capsys.readouterr().err
    assert err.startswith("kproxy: no --kubeconfig\nWhere one kproxy runs, as the same program")
    assert "Running here: kproxy (process 7). From elsewhere, give check the flags that `kproxy run` has." in err
    assert not checked


def test_a_hostile_word_does_not_reach_the_terminal(
    checked: list[Config], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(Path.cwd())
    running(monkeypatch, Twin(7, ("--kubeconfig=\x1b[2J\n",), "/"))
    assert cli.main(["check"]) == 0
    assert "\x1b" not in capsys.readouterr().err
    assert checked


def test_a_directory_that_is_gone_is_named(
    checked: list[Config], monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    running(monkeypatch, Twin(7, ("--kubeconfig=k",), str(tmp_path / "gone")))
    assert cli.main(["check"]) == 2
    assert "gone, where kproxy runs: No such file or directory; give --config" in capsys.readouterr().err
    assert not checked
