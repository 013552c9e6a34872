"""zsh, on a terminal: both ways to load the script, and what TAB does. Needs Debian's zsh."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from kproxy.cli.completion import RENDER
from kproxy.cli.vocabulary import read_vocabulary
from tests.unit.cli.completion.terminal import Terminal

pytestmark = pytest.mark.skipif(not shutil.which("zsh"), reason="zsh is not installed")
SCRIPT = RENDER["zsh"](read_vocabulary())
SHELL = ["zsh", "-f", "-i"]
LOAD = "autoload -Uz compinit; compinit -D -u"


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    (home / "_kproxy").write_text(SCRIPT, encoding="utf-8")
    (home / "dump one.txt").touch()
    (home / "manifests").mkdir()
    return home


@pytest.fixture(scope="module", params=["sourced", "autoloaded"])
def zsh(request: pytest.FixtureRequest, home: Path) -> Iterator[Terminal]:
    setup = [LOAD, "source ./_kproxy"] if request.param == "sourced" else ["fpath=($PWD $fpath)", LOAD]
    with Terminal(SHELL, setup, home, {}) as terminal:
        yield terminal


@pytest.mark.parametrize(
    ("line", "becomes"),
    [
        ("kproxy ru", "kproxy run "),
        ("kproxy --proxy-m", "kproxy --proxy-mode="),
        ("kproxy --proxy-mode=u", "kproxy --proxy-mode=userspace "),
        ("kproxy --proxy-mode u", "kproxy --proxy-mode userspace "),
        ("kproxy --clea", "kproxy --cleanup "),
        ("kproxy run --clea", "kproxy run --clea"),
        ("kproxy run --ipvs", "kproxy run --ipvs"),
        ("kproxy run --masquerade-all=t", "kproxy run --masquerade-all=true "),
        ("kproxy run --masquerade-all --logging-format=j", "kproxy run --masquerade-all --logging-format=json "),
        ("kproxy run --nodeport-addresses primary,lo", "kproxy run --nodeport-addresses primary,localhost"),
        ("kproxy plan --config=du", r"kproxy plan --config=dump\ one.txt "),
        ("kproxy run --manifests ", "kproxy run --manifests manifests/"),
        ("kproxy run --master du", "kproxy run --master du"),
        ("kproxy explain du", r"kproxy explain dump\ one.txt "),
        ("kproxy explain --family 4 d s", "kproxy explain --family 4 d service "),
        ("kproxy explain diff live du", r"kproxy explain diff live dump\ one.txt "),
        ("kproxy explain d service du", "kproxy explain d service du"),
        ("kproxy completion z", "kproxy completion zsh "),
    ],
)
def test_what_the_line_becomes(zsh: Terminal, line: str, becomes: str) -> None:
    assert zsh.complete(line).line.rstrip(",") == becomes


def test_commands_and_flags_are_listed_with_what_they_are_for(zsh: Terminal) -> None:
    vocabulary = read_vocabulary()
    listed = zsh.complete("kproxy ").listed
    for command in vocabulary.commands:
        assert f"-- {command.summary}" in listed
    for command in vocabulary.commands:
        listed = zsh.complete(f"kproxy {command.name} --").listed if len(command.flags) > 1 else ""
        for flag in command.flags:
            assert f"-- {flag.help}"[:80] in listed
            assert all(name in listed for name in flag.names if name.startswith("--"))


def test_zsh_without_its_completion_gets_it(home: Path) -> None:
    with Terminal(SHELL, ["source ./_kproxy"], home, {}) as terminal:
        assert terminal.complete("kproxy ru").line == "kproxy run "
