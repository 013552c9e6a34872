"""kproxy/explain/README.md: its answers about a dump are what the program prints, at a terminal of its width."""

from __future__ import annotations

import fnmatch
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
DUMP = "deploy/examples/kube-proxy.dump"
WIDTH = "110"


def answers() -> list[tuple[str, str]]:
    """(command, what it prints) of the section that asks a dump."""
    text = (CHECKOUT / "kproxy" / "explain" / "README.md").read_text(encoding="utf-8")
    section = text[text.index("## Ask a dump") : text.index("## Watch packets")]
    block = re.findall(r"```console\n(.*?)```", section, re.DOTALL)[0]
    parts = re.split(r"^\$ (.*)\n", block, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


@pytest.mark.parametrize(("command", "printed"), answers())
def test_the_readme_shows_what_is_printed(command: str, printed: str, tmp_path: Path) -> None:
    after = tmp_path / "after.dump"
    after.write_text((CHECKOUT / DUMP).read_text(encoding="utf-8").replace("10.244.2.10", "10.244.2.11"))
    words = [str(after) if word == after.name else word for word in shlex.split(command)[1:]]
    done = subprocess.run(
        [sys.executable, "-m", "kproxy", *words, "--width", WIDTH],
        cwd=CHECKOUT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.stderr == ""
    # A line of dots stands for what is left out
    pattern = re.sub(r"([\[\]?*])", r"[\1]", printed.strip()).replace("…", "*")
    assert fnmatch.fnmatchcase(done.stdout.strip(), f"*{pattern}"), done.stdout
