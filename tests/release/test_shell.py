"""The shell scripts: clean for shellcheck, and their tasks are those that they list."""

from __future__ import annotations

import re
import shutil
import subprocess
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
