"""The shell scripts: clean for shellcheck, and their tasks are those that they list."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_PLACES = ("*", ".ci/*", "bench/*", "deploy/**/*", "tests/**/*")


def scripts() -> list[Path]:
    files = {path for place in _PLACES for path in ROOT.glob(place) if path.is_file() and path.suffix in {"", ".sh"}}
    return sorted(path for path in files if re.match(rb"#!\s*/\S*\b(?:ba|da)?sh\b", path.read_bytes()[:80]))


def test_they_are_found() -> None:
    assert {str(path.relative_to(ROOT)) for path in scripts()} >= {"run", ".ci/run", "deploy/kind/smoke.sh"}


@pytest.mark.skipif(not shutil.which("shellcheck"), reason="shellcheck is not installed")
def test_shellcheck_finds_nothing() -> None:
    command = ("shellcheck", *map(str, scripts()))
    found = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert found.returncode == 0, found.stdout + found.stderr


def test_run_lists_the_tasks_that_it_has() -> None:
    text = (ROOT / "run").read_text(encoding="utf-8")
    has = {name for names in re.findall(r"^    ([a-z |]+)\)", text, re.MULTILINE) for name in names.split(" | ")}
    shown = subprocess.run((ROOT / "run",), capture_output=True, text=True, timeout=60, check=True).stdout
    listed = set(re.findall(r"^  ([a-z]+) ", shown, re.MULTILINE))
    assert listed == has
    assert listed >= {"test", "release", "version", "image"}
    wrong = subprocess.run((ROOT / "run", "nonsense"), capture_output=True, text=True, timeout=60, check=False)
    assert (wrong.returncode, wrong.stderr.splitlines()[-1]) == (1, "run: no task called 'nonsense'")


@pytest.mark.parametrize("finds", ["ruff check", "ruff format", "mypy", "lint-imports", "nothing"])
def test_what_a_linter_finds_fails_the_task(finds: str, tmp_path: Path) -> None:
    """In a copy whose environment has linters that only pretend; nothing is installed."""
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name in ("ruff", "mypy", "lint-imports", "apt-get"):
        _write(programs / name, f'case "{name} $*" in "{finds}"*) exit 1 ;; esac')
    _write(programs / "python3", f'exec {sys.executable} "$@"')
    shutil.copy2(ROOT / "run", tmp_path / "run")
    (tmp_path / ".requirements-dev.lock").touch()
    which = subprocess.run((sys.executable, "-VV"), capture_output=True, timeout=60, check=True).stdout
    (tmp_path / ".venv" / ".stamp").write_text(f"{hashlib.sha256(which).hexdigest()}  -\n", encoding="utf-8")
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    command = (tmp_path / "run", "lint")
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, env=environment)
    assert (done.returncode == 0) == (finds == "nothing"), done.stderr


def _write(program: Path, text: str) -> None:
    program.write_text(f"#!/bin/sh\n{text}\n", encoding="utf-8")
    program.chmod(0o755)
