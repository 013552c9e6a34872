"""The unit for nodes without containers: systemd can read it, and what it starts is a command line of ours."""

from __future__ import annotations

import shutil
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import pytest

from kproxy.config import Config
from tests.deploy.manifests import DEPLOY

UNIT = DEPLOY / "kproxy.service"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
def test_systemd_finds_nothing_wrong(tmp_path: Path) -> None:
    """With programs that this machine has in place of those of the installation."""
    text = UNIT.read_text(encoding="utf-8").replace("/usr/local/bin/kproxy", sys.executable)
    (tmp_path / UNIT.name).write_text(text, encoding="utf-8")
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", tmp_path / UNIT.name],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, UNIT.stem in done.stderr) == (0, False), done.stderr


def test_it_starts_what_the_readme_installs_and_waits_as_long_as_the_pod() -> None:
    unit = ConfigParser(interpolation=None, strict=False)
    unit.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's names have capitals
    unit.read_string(UNIT.read_text(encoding="utf-8"))
    service = unit["Service"]
    program, command, _ = service["ExecStart"].split()
    readme = (DEPLOY.parent / "README.md").read_text(encoding="utf-8")
    assert f"ln -s /opt/kproxy/bin/kproxy {program}\n" in readme
    assert command == "run"
    assert int(service["TimeoutStopSec"]) == Config().retire_deadline
    assert {"CAP_NET_ADMIN", "CAP_NET_RAW"} <= set(service["CapabilityBoundingSet"].split())
