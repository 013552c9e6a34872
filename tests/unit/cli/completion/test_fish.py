"""fish answers without a terminal. Needs Debian's fish."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from kproxy.cli.completion import RENDER
from kproxy.cli.vocabulary import read_vocabulary

pytestmark = pytest.mark.skipif(not shutil.which("fish"), reason="fish is not installed")
COMMANDS = " ".join(sorted(command.name for command in read_vocabulary().commands))
EXPECTED = {
    "kproxy ": COMMANDS,
    "kproxy ru": "run",
    "kproxy --proxy-m": "--proxy-mode",
    "kproxy --proxy-mode=": "--proxy-mode=iptables --proxy-mode=userspace",
    "kproxy --proxy-mode u": "userspace",
    "kproxy --clea": "--cleanup",
    "kproxy run --clea": "",
    "kproxy run --ipvs": "",
    "kproxy run --masquerade-all=": "--masquerade-all=false --masquerade-all=true",
    "kproxy run --masquerade-all --clu": "--cluster-cidr",
    "kproxy run --master ": "",
    "kproxy run --nodeport-addresses primary,": "primary,localhost",
    "kproxy run --feature-gates=A=true,": "--feature-gates=A=true,AllowServiceExternalIPs=false "
    "--feature-gates=A=true,AllowServiceExternalIPs=true",
    "kproxy run --manifests ": "manifests/",
    "kproxy plan --family=": "--family=4 --family=6 --family=both",
    "kproxy plan --config=dump": "--config=dump.txt",
    "kproxy plan -f dump": "dump.txt",
    "kproxy explain ": "diff dump.txt live manifests/",
    "kproxy explain d ": "chain endpoint service",
    "kproxy explain --family 4 d s": "service",
    "kproxy explain diff d": "dump.txt",
    "kproxy explain diff a l": "live",
    "kproxy explain diff a b ": "",
    "kproxy explain d service ": "",
    "kproxy completion ": "bash fish zsh",
    "kproxy man ": "",
}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "kproxy.fish").write_text(RENDER["fish"](read_vocabulary()), encoding="utf-8")
    place = tmp_path / "here"
    (place / "manifests").mkdir(parents=True)
    (place / "dump.txt").touch()
    return tmp_path


def complete(home: Path, lines: list[str]) -> list[list[str]]:
    """What is offered behind each line, each with its description behind a tab."""
    program = "source ../kproxy.fish; for line in $argv; complete -C $line; echo =; end"
    run = subprocess.run(
        ["fish", "--no-config", "-c", program, *lines],
        cwd=home / "here",
        env={"PATH": os.environ["PATH"], "HOME": str(home), "LC_ALL": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert run.stderr == ""
    return [block.splitlines() for block in run.stdout.split("=\n")[:-1]]


def test_what_is_offered(home: Path) -> None:
    offered = dict(zip(EXPECTED, complete(home, list(EXPECTED)), strict=True))
    assert {line: " ".join(each.partition("\t")[0] for each in found) for line, found in offered.items()} == EXPECTED


def test_every_flag_that_help_shows_is_offered_with_what_it_is_for(home: Path) -> None:
    commands = read_vocabulary().commands
    for command, found in zip(commands, complete(home, [f"kproxy {each.name} --" for each in commands]), strict=True):
        offered = dict(line.replace("=\t", "\t").split("\t") for line in found)
        expected = {name: flag.help for flag in command.flags for name in flag.names if name.startswith("--")}
        assert offered == {**expected, "--help": "show help"}
