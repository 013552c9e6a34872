"""What ``./run`` says of an environment that it makes anew, which takes minutes: why."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

RUN = Path(__file__).parents[2] / "run"


@pytest.mark.parametrize(
    ("stamp", "interpreter", "said"),
    [
        (None, None, "|"),
        (None, "Python 3.12.1", " anew, for the last time was not finished|"),
        ("old", "Python 3.12.1", " anew, for the lock changed|"),
        ("old", "Python 3.11.2", " anew, for it was made by another Python than ./python3, which is Python 3.12.1|"),
    ],
)
def test_why_an_environment_is_made_anew(tmp_path: Path, stamp: str | None, interpreter: str | None, said: str) -> None:
    def place(name: str, version: str) -> None:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(f"#!/bin/sh\necho {version}\n", encoding="ascii")
        (tmp_path / name).chmod(0o755)

    place("python3", "Python 3.12.1")
    if interpreter:
        place("venv/bin/python", interpreter)
    if stamp:
        (tmp_path / "venv/.stamp").write_text(stamp, encoding="ascii")
    (function,) = re.findall(r"^outdated\(\) \{\n.*?^\}\n", RUN.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    script = f'{function}\nvenv=venv bin=venv/bin python=./python3\nprintf "%s|" "$(outdated)"'
    ended = subprocess.run(
        ["/bin/sh", "-euc", script], cwd=tmp_path, capture_output=True, text=True, check=True, timeout=20
    )
    assert ended.stdout == said
