"""The sdist and the wheel: what is in them, what they say of themselves, and that they come out the same each time."""

from __future__ import annotations

import io
import os
import re
import tarfile
import time
import zipfile
from email.parser import BytesParser
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from packaging.metadata import Metadata
from packaging.requirements import Requirement

from deploy import release
from kproxy import __version__
from tests.release.conftest import ROOT, Built

_STEM = f"kproxy-{__version__}"


@pytest.fixture(scope="module")
def sdist(built: Built) -> dict[str, bytes]:
    with tarfile.open(built.sdist) as archive:
        return {
            member.name.removeprefix(f"{_STEM}/"): (archive.extractfile(member) or io.BytesIO()).read()
            for member in archive
        }


@pytest.fixture(scope="module")
def wheel(built: Built) -> dict[str, bytes]:
    with zipfile.ZipFile(built.wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_their_names_are_what_installers_expect(built: Built) -> None:
    assert (built.sdist.name, built.wheel.name) == (f"{_STEM}.tar.gz", f"{_STEM}-py3-none-any.whl")


def test_the_sdist_is_the_checkout(built: Built, sdist: dict[str, bytes]) -> None:
    assert sdist.keys() - {"PKG-INFO"} == set(built.names)
    assert sdist.keys() >= {
        *("run", ".ci/run", "pyproject.toml", "Dockerfile", ".dockerignore", "README.md", "CHANGELOG.md", "LICENSE"),
        *(".requirements.lock", ".requirements-dev.lock", ".requirements-release.lock"),
        *("deploy/daemonset.yaml", "deploy/release.py", "tests/release/test_packages.py", "bench/sync.py"),
        *("tests/conftest.py", "deploy/examples/kube-proxy.dump", "tests/scenarios/node-port/cluster.yaml"),
    }
    assert not [name for name in sdist if re.search(r"(^|/)(__pycache__|\.git|\.venv|dist|\.coverage)(/|$)", name)]


def test_programs_stay_programs(built: Built) -> None:
    with tarfile.open(built.sdist) as archive:
        modes = {member.name.removeprefix(f"{_STEM}/"): member.mode for member in archive}
    assert {name for name in modes if modes[name] & 0o111} == {
        name for name in built.names if os.access(ROOT / name, os.X_OK)
    }
    assert set(modes.values()) == {0o644, 0o755}


def test_the_wheel_is_the_program_and_nothing_else(built: Built, wheel: dict[str, bytes]) -> None:
    about = {f"{_STEM}.dist-info/{name}" for name in ("METADATA", "WHEEL", "RECORD", "entry_points.txt")}
    licence = f"{_STEM}.dist-info/licenses/LICENSE"
    program = {name for name in built.names if name.startswith("kproxy/") and not name.endswith(".md")}
    assert wheel.keys() == program | about | {licence}
    assert program >= {
        *("kproxy/py.typed", "kproxy/__main__.py", "kproxy/cli/__init__.py"),
        *(f"kproxy/explain/show/page{part}" for part in (".html", ".css", ".js", "_flow.js", "_words.js")),
    }
    assert {Path(name).suffix for name in program} == {".py", ".typed", ".html", ".css", ".js"}
    assert wheel[licence] == (ROOT / "LICENSE").read_bytes()
    assert b"kproxy = kproxy.cli:main" in wheel[f"{_STEM}.dist-info/entry_points.txt"]
    assert b"Root-Is-Purelib: true" in wheel[f"{_STEM}.dist-info/WHEEL"]


def test_both_say_the_same_of_themselves(sdist: dict[str, bytes], wheel: dict[str, bytes]) -> None:
    assert wheel[f"{_STEM}.dist-info/METADATA"] == sdist["PKG-INFO"]
    found = Metadata.from_email(sdist["PKG-INFO"], validate=True)
    assert (found.name, str(found.version), found.license_expression) == ("kproxy", __version__, "Apache-2.0")
    assert str(found.requires_python) == ">=3.11"
    assert found.license_files == ["LICENSE"]
    assert found.description_content_type == "text/markdown"


def test_whatever_it_requires_is_locked(sdist: dict[str, bytes]) -> None:
    locked = dict(re.findall(r"^([a-z0-9.-]+)==(\S+)", sdist[".requirements.lock"].decode(), re.MULTILINE))
    wanted = BytesParser().parsebytes(sdist["PKG-INFO"]).get_all("Requires-Dist") or []
    for requirement in map(Requirement, wanted):
        assert requirement.specifier.contains(locked[requirement.name]), requirement
    assert len(wanted) == 9


def test_the_readme_is_the_description_and_renders(sdist: dict[str, bytes]) -> None:
    text = sdist["README.md"].decode()
    description = Metadata.from_email(sdist["PKG-INFO"]).description
    assert description is not None
    assert description.strip() == text.strip()
    page = MarkdownIt("gfm-like", {"linkify": False, "html": False}).render(text)
    assert page.count("<table>") >= 3


def test_the_same_bytes_come_out_elsewhere_and_later(
    built: Built, sdist: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In another directory, order, time zone, language and umask, of files with other times and modes."""
    tree = tmp_path / "a b" / "tree"
    for name in reversed(built.names):
        file = tree / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(sdist[name])
        file.chmod(0o777 if os.access(ROOT / name, os.X_OK) else 0o600)
        os.utime(file, (1, 1))
    monkeypatch.setenv("SOURCE_DATE_EPOCH", built.moment)
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    monkeypatch.setenv("LC_ALL", "C")
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    before = os.umask(0o077)
    try:
        again = release.build(tree, tmp_path, reversed(built.names))
    finally:
        os.umask(before)
    assert [file.read_bytes() for file in again] == [built.sdist.read_bytes(), built.wheel.read_bytes()]


def test_every_time_in_them_is_the_commits(built: Built) -> None:
    moment = int(built.moment)
    with tarfile.open(built.sdist) as archive:
        assert {int(member.mtime) for member in archive} == {moment}
    with zipfile.ZipFile(built.wheel) as archive:
        even = time.gmtime(moment - moment % 2)[:6]  # a zip counts in steps of two seconds
        assert {info.date_time for info in archive.infolist()} == {even}
