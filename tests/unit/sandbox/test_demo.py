"""The script by which people enter a host of the sandbox. The tour itself: tests/netns/test_sandbox_demo.py."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from kproxy.sandbox.demo import SCRIPT


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "in HOST [COMMAND...]: hosts: cp node-1\n"),
        ([""], "in HOST [COMMAND...]: hosts: cp node-1\n"),
        (["node-9", "true"], "in HOST [COMMAND...]: no host is called node-9; hosts: cp node-1\n"),
    ],
)
def test_who_names_no_host_is_told_which_there_are(tmp_path: Path, arguments: list[str], said: str) -> None:
    for name in ("cp", "node-1", "lan"):
        (tmp_path / name).touch()
    script = SCRIPT.format(kubeconfig="/kubeconfig", programs="/bin", names=tmp_path)
    ended = subprocess.run(
        ["/bin/sh", "-c", script, "in", *arguments], capture_output=True, text=True, check=False, timeout=20
    )
    assert (ended.returncode, ended.stderr) == (2, said)
