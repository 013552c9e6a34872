"""What is in a release, as CycloneDX: of the lock what kproxy runs with, of the image its Debian packages, too.

Each Python package comes with the hashes that the lock demands of it. Rejected: asking the environment that happens to
be there; it has what tests need, and no hashes.
"""

# ruff: noqa: INP001 -- scripts, not a package

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from deploy import workshop
from deploy.workshop import LOCK, ROOT, Failed, perform, say

_VALIDATION = """
import sys
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
wrong = JsonStrictValidator(SchemaVersion.from_version(sys.argv[1])).validate_str(sys.stdin.read())
sys.exit(str(wrong).splitlines()[0] if wrong else 0)
"""
Json = dict[str, Any]


def write(
    file: Path, kind: str, python: Iterable[str], debian: Iterable[Mapping[str, str]] = (), *, suite: str = ""
) -> None:
    """Of a ``kind`` of thing (container, application) that has these Python distributions and Debian packages in it.

    Raises Failed if the lock does not name one of the distributions.
    """
    locked = entries((ROOT / LOCK).read_text(encoding="utf-8"))
    wanted = {normal(name) for name in python} - {"kproxy"}
    if missing := wanted - locked.keys():
        raise Failed(f"{file.name}: in it, but not in {LOCK}: {', '.join(sorted(missing))}")
    chosen = "\n".join(locked[name] for name in sorted(wanted))
    tool = str(workshop.tool("cyclonedx-py"))
    bom: Json = json.loads(perform(tool, "requirements", "--output-reproducible", "--of", "JSON", "-", given=chosen))
    bom["metadata"]["component"] = {
        "type": kind, "name": "kproxy", "version": workshop.version(), "bom-ref": "kproxy",
        "licenses": [{"license": {"id": "Apache-2.0"}}],
    }  # fmt: skip
    packages = [_debian(entry, suite) for entry in debian]
    bom["components"] += packages
    text = json.dumps(bom, indent=1, sort_keys=True) + "\n"
    file.write_text(text, encoding="utf-8")
    perform(str(workshop.tool("python")), "-c", _VALIDATION, bom["specVersion"], given=text)
    say(f"{file.name}: {len(wanted)} Python packages, {len(packages)} Debian packages")


def entries(lock: str) -> dict[str, str]:
    """Each distribution's lines of a lock."""
    return {normal(entry.partition("==")[0]): entry for entry in re.split(r"\n(?=[a-z])", lock.strip())}


def needed(lock: str) -> set[str]:
    """What kproxy runs with on Linux: of a lock what kproxy itself wants, and what those want; not what builds it."""
    wanted_by = {
        name: {normal(who) for who in re.findall(r"^    #(?: via)? +([^-\s].*)$", entry, re.MULTILINE) if who != "via"}
        for name, entry in entries(lock).items()
        if "sys_platform == 'win32'" not in entry
    }
    found = {name for name, who in wanted_by.items() if normal("kproxy (pyproject.toml)") in who}
    while more := {name for name, who in wanted_by.items() if who & found} - found:
        found |= more
    return found


def _debian(entry: Mapping[str, str], suite: str) -> Json:
    name, version, arch = entry["Package"], entry["Version"], entry["Architecture"]
    purl = f"pkg:deb/debian/{name}@{version.replace('+', '%2B').replace(':', '%3A')}?arch={arch}&distro={suite}"
    return {"type": "library", "name": name, "version": version, "purl": purl, "bom-ref": purl}


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()
