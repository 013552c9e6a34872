"""Where the image and releases are made: this checkout, its commit, and the programs that the making needs.

Tools are locked with hashes like everything else, in a lock and an environment of their own: nothing of them is needed
to run or test kproxy. Every program has a deadline, and is heard out only when it fails.
"""

# ruff: noqa: INP001 -- scripts, not a package

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import venv
from collections.abc import Mapping, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DIST = ROOT / "dist"
OURS = DIST / ".image"  # storage, tools, and what the last image was made from
LOCK = ".requirements.lock"
_TOOLS = ROOT / ".requirements-release.lock"
_DEADLINE = 1800.0  # seconds: an image under emulation, on a slow machine; only what hangs needs them
_VERSION = re.compile(r'^__version__ = "([^"]+)"', re.MULTILINE)


class Failed(Exception):
    """The sentence for who started this."""


def version(root: Path = ROOT) -> str:
    """The one that counts: every other place repeats it."""
    found = _VERSION.search((root / "kproxy/__init__.py").read_text(encoding="utf-8"))
    if not found:
        raise Failed("kproxy/__init__.py names no version")
    return found[1]


def commit(root: Path = ROOT) -> tuple[str, str]:
    """The commit, and the moment of it; that of the environment comes first, as everywhere (SOURCE_DATE_EPOCH).

    Without git, as in an unpacked sdist, or where git does not trust its owner: "unknown" and 0.
    """
    asked = ("git", "-C", str(root), "log", "-1", "--format=%H %ct")
    said = perform(*asked, check=False, quiet=True).split() if shutil.which("git") else []
    found, moment = said if len(said) == 2 else ("unknown", "0")
    return found, os.environ.get("SOURCE_DATE_EPOCH", moment)


def changed(*names: str, root: Path = ROOT) -> list[str]:
    """Files that differ from the commit, those that git does not know included; all of them unless some are named."""
    said = perform("git", "-C", str(root), "status", "--porcelain", "-z", "--no-renames", "--", *names, quiet=True)
    return [entry[3:] for entry in said.split("\0") if entry]


def architecture() -> str:
    """This machine's, as Debian calls it."""
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(os.uname().machine, os.uname().machine)


def need_root(why: str) -> None:
    if os.geteuid() != 0:
        raise Failed(f"{why}: run it as root")


def install(wanted: Sequence[str]) -> None:
    """Have these Debian packages."""
    if not wanted:
        return
    if shutil.which("apt-get") is None:
        raise Failed(f"please install: {' '.join(wanted)}")
    say(f"installing Debian packages: {' '.join(wanted)}")
    perform("apt-get", "update", "-qq", quiet=True)
    perform("apt-get", "install", "-y", "-qq", "--no-install-recommends", *wanted, quiet=True)


def tool(name: str) -> Path:
    """A program of the tools' own environment, which is made anew when their lock or its place changes."""
    place = OURS / "tools"
    stamp, want = place / ".stamp", f"{place}\n{_TOOLS.read_text(encoding='utf-8')}"
    if not stamp.exists() or stamp.read_text(encoding="utf-8") != want:
        say(f"installing what {_TOOLS.name} names")
        venv.create(place, clear=True, with_pip=True)
        pip = (str(place / "bin/pip"), "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:")
        perform(*pip, "--require-hashes", "--requirement", str(_TOOLS))
        stamp.write_text(want, encoding="utf-8")
    return place / "bin" / name


def perform(
    *command: str,
    check: bool = True,
    quiet: bool = False,
    deadline: float = _DEADLINE,
    cwd: Path | None = None,
    more: Mapping[str, str] | None = None,
    given: str | None = None,
) -> str:
    """Run a program; what it printed. What it said besides is shown when it fails, unless ``quiet``.

    Raises Failed where there is no such program or it does not end, CalledProcessError for a status, if ``check``.
    """
    environment = {**os.environ, **(more or {})}
    try:
        return subprocess.run(
            command, input=given, capture_output=True, text=True, errors="replace", check=check, timeout=deadline,
            cwd=cwd, env=environment,
        ).stdout  # fmt: skip
    except FileNotFoundError:
        raise Failed(f"{command[0]} is not installed") from None
    except subprocess.TimeoutExpired:
        raise Failed(f"{' '.join(command[:3])} … did not end within {deadline:.0f} seconds") from None
    except subprocess.CalledProcessError as failed:
        if not quiet:
            sys.stderr.write((failed.stdout + failed.stderr)[-20_000:])
        raise


def say(text: str) -> None:
    sys.stderr.write(f"\033[2m· {text}\033[0m\n")
