"""bash, on a terminal, with and without bash-completion. zsh and fish: test_zsh, test_fish."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from kproxy.cli.completion import RENDER
from kproxy.cli.vocabulary import read_vocabulary
from tests.unit.cli.completion.terminal import Terminal

SCRIPT = RENDER["bash"](read_vocabulary())
SHELL = ["bash", "--norc", "--noprofile", "-i"]
PACKAGE = Path("/usr/share/bash-completion/bash_completion")
# The script's own function does the work; what it found is written down
SPY = """\
spy() { _kproxy "$@"; printf '%s\\n' "${COMPREPLY[@]}" >"$HOME/found"; }
complete -F spy kproxy
"""


class Bash:
    def __init__(self, terminal: Terminal, home: Path) -> None:
        self.terminal = terminal
        self.home = home

    def found(self, line: str) -> list[str]:
        """What bash was offered behind ``line``."""
        self.terminal.complete(line)
        return (self.home / "found").read_text(encoding="utf-8").split()

    def line(self, line: str) -> str:
        """What ``line`` becomes."""
        return self.terminal.complete(line).line


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    (home / "kproxy.bash").write_text(SCRIPT, encoding="utf-8")
    for name in ("dump one.txt", "other.conf"):
        (home / name).touch()
    (home / "manifests").mkdir()
    return home


@pytest.fixture(scope="module")
def bash(home: Path) -> Iterator[Bash]:
    with Terminal(SHELL, ["set -u", "IFS=:", ". ./kproxy.bash", SPY], home, {}) as terminal:
        yield Bash(terminal, home)


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("kproxy ru", "run"),
        ("kproxy co", "config completion"),
        ("kproxy plan --family ", "4 6 both"),
        ("kproxy plan --family=", "4 6 both"),
        ("kproxy explain --family=", "4 6"),
        ("kproxy --proxy-m", "--proxy-mode="),
        ("kproxy --proxy-mode=u", "userspace"),
        ("kproxy run --logging-format ", "text json"),
        ("kproxy run --masquerade-al", "--masquerade-all"),
        ("kproxy run --masquerade-all=", "true false"),
        ("kproxy run --masquerade-all --clu", "--cluster-cidr="),
        ("kproxy --clea", "--cleanup"),
        ("kproxy run --clea", ""),
        ("kproxy run --ipvs", ""),
        ("kproxy run --feature-gates=A=true,AllowServiceExternalIPs=", "false true"),
        ("kproxy run --nodeport-addresses primary,lo", "primary,localhost"),
        ("kproxy run --master ", ""),
        ("kproxy run --master=", ""),
        ("kproxy explain d ", "service chain endpoint"),
        ("kproxy explain --to 10.0.0.1:80/udp d s", "service"),
        ("kproxy explain --node s d s", "service"),
        ("kproxy explain d service ", ""),
        ("kproxy explain --from h", "host"),
        ("kproxy explain di", "diff"),
        ("kproxy explain diff li", "live"),
        ("kproxy explain diff a li", "live"),
        ("kproxy explain diff a b --ht", "--html="),
        ("kproxy completion ", "bash zsh fish"),
        ("kproxy nonsense ", ""),
    ],
)
def test_what_is_offered(bash: Bash, line: str, expected: str) -> None:
    assert bash.found(line) == expected.split()


def test_every_flag_that_help_shows_is_offered_and_no_other(bash: Bash) -> None:
    for command in read_vocabulary().commands:
        names = {name for flag in command.flags for name in flag.names} | {"--help"}
        found = {each.removesuffix("=") for each in bash.found(f"kproxy {command.name} -")}
        assert found == names


@pytest.mark.parametrize(
    ("line", "becomes"),
    [
        ("kproxy ru", "kproxy run "),
        ("kproxy --proxy-m", "kproxy --proxy-mode="),
        ("kproxy --proxy-mode=u", "kproxy --proxy-mode=userspace "),
        ("kproxy plan --config=ot", "kproxy plan --config=other.conf "),
        ("kproxy plan --config ot", "kproxy plan --config other.conf "),
        ("kproxy plan --config=du", r"kproxy plan --config=dump\ one.txt "),
        ('kproxy plan --config "du', 'kproxy plan --config "dump one.txt" '),
        ("kproxy plan -f ot", "kproxy plan -f other.conf "),
        ("kproxy explain du", r"kproxy explain dump\ one.txt "),
        ("kproxy explain diff live du", r"kproxy explain diff live dump\ one.txt "),
        ("kproxy run --manifests ", "kproxy run --manifests manifests/"),
        ("FOO=1 kproxy ru", "FOO=1 kproxy run "),
        ("true; /opt/bin/kproxy  ru", "true; /opt/bin/kproxy  run "),
        ("kproxy explain $(echo a b) s", "kproxy explain $(echo a b) service "),
        ("kproxy explain <(echo a b) s", "kproxy explain <(echo a b) service "),
        ("kproxy explain 'a b' s", "kproxy explain 'a b' service "),
        ("kproxy man > ot", "kproxy man > other.conf "),
        ("kproxy man 2>ot", "kproxy man 2>other.conf "),
        ("kproxy run --hostname-override ot", "kproxy run --hostname-override ot"),
    ],
)
def test_what_the_line_becomes(bash: Bash, line: str, becomes: str) -> None:
    assert bash.line(line) == becomes


def test_the_word_that_the_cursor_is_in_is_completed_up_to_it(bash: Bash) -> None:
    back = "\x02" * len("an")
    assert bash.found(f"kproxy plan{back}") == ["plan"]


def test_values_are_completed_where_an_equals_sign_breaks_no_words(home: Path) -> None:
    breaks = "COMP_WORDBREAKS=${COMP_WORDBREAKS//[=:]/}"
    with Terminal(SHELL, [breaks, ". ./kproxy.bash"], home, {}) as terminal:
        assert terminal.complete("kproxy --proxy-mode=u").line == "kproxy --proxy-mode=userspace "


@pytest.mark.skipif(not PACKAGE.exists(), reason="bash-completion is not installed")
@pytest.mark.parametrize("loaded", [["source ./kproxy.bash"], []], ids=["sourced", "at the first TAB"])
def test_bash_completion_may_be_there(home: Path, loaded: list[str]) -> None:
    place = home / "bash-completion" / "completions"
    place.mkdir(parents=True, exist_ok=True)
    (place / "kproxy").write_text(SCRIPT, encoding="utf-8")
    with Terminal(SHELL, [f". {PACKAGE}", *loaded], home, {"XDG_DATA_HOME": str(home)}) as terminal:
        assert terminal.complete("kproxy plan --family=b").line == "kproxy plan --family=both "


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_shellcheck_has_nothing_to_say(home: Path) -> None:
    checked = subprocess.run(
        ["shellcheck", "--shell=bash", home / "kproxy.bash"], capture_output=True, text=True, check=False, timeout=60
    )
    assert checked.stdout == ""
