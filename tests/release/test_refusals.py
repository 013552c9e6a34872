"""What keeps a tree from being a release, each in a small repository; and that this one knows its own version."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.version import Version

from deploy import release, workshop
from deploy.workshop import Failed
from kproxy import __version__
from tests.release.conftest import ROOT

_FILES = {
    "kproxy/__init__.py": '"""A proxy."""\n\n__version__ = "0.2.0"\n',
    "CHANGELOG.md": "# Changelog\n\n## [Unreleased]\n\n## [0.2.0] - 2026-11-23\n\n## [0.1.0] - 2026-01-01\n",
    "README.md": "`kproxy-0.2.0-amd64.tar`, VERSION=0.2.0, and kproxy 0.2.0; kube-proxy 1.36.2 v1.36.2\n",
    "deploy/daemonset.yaml": "image: kproxy:0.2.0  # as kube-proxy:v1.36.2\n",
}


needs_git = pytest.mark.skipif(not shutil.which("git"), reason="git is not installed")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    if not shutil.which("git"):
        pytest.skip("git is not installed")
    for name, text in _FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    _git(tmp_path, "init", "--quiet")
    _commit(tmp_path)
    return tmp_path


def _git(tree: Path, *words: str) -> None:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.com", "-c", "commit.gpgsign=false")
    subprocess.run(("git", "-C", tree, *who, *words), check=True, timeout=30)


def _commit(tree: Path) -> None:
    _git(tree, "add", "--all")
    _git(tree, "commit", "--quiet", "--message", "a")


def _write(tree: Path, name: str, old: str, new: str) -> None:
    text = (tree / name).read_text(encoding="utf-8")
    assert old in text
    (tree / name).write_text(text.replace(old, new), encoding="utf-8")


def test_a_tree_that_is_ready_is_taken(tree: Path) -> None:
    assert list(release.refusals(tree)) == []
    _git(tree, "tag", "v0.2.0")
    assert list(release.refusals(tree)) == []


def test_what_is_not_in_the_commit_is_refused(tree: Path) -> None:
    (tree / "kproxy/new.py").touch()
    _write(tree, "README.md", "and", "or")
    (wrong,) = release.refusals(tree)
    assert wrong == "not as the commit has it (README.md, kproxy/new.py): commit it, or put it aside"


def test_what_git_ignores_is_not(tree: Path) -> None:
    (tree / ".gitignore").write_text("dist/\n", encoding="utf-8")
    _commit(tree)
    (tree / "dist").mkdir()
    (tree / "dist/kproxy.whl").touch()
    assert list(release.refusals(tree)) == []
    assert release.sources(tree) == sorted([".gitignore", *_FILES])


def test_a_version_that_the_changelog_does_not_know_is_refused(tree: Path) -> None:
    _write(tree, "CHANGELOG.md", "## [0.2.0] - 2026-11-23", "## [0.2.0]")
    _commit(tree)
    (wrong,) = release.refusals(tree)
    assert wrong.startswith("CHANGELOG.md has no heading `## [0.2.0] - YYYY-MM-DD`: put it over what is new")


def test_a_place_that_names_another_version_is_refused_and_a_command_mends_all(tree: Path) -> None:
    _write(tree, "kproxy/__init__.py", "0.2.0", "0.3.0")
    _write(tree, "CHANGELOG.md", "## [0.2.0]", "## [0.3.0]")
    _commit(tree)
    assert list(release.refusals(tree)) == [
        f"{where} names kproxy 0.2.0, not 0.3.0: `./run version 0.3.0`"
        for where in ("README.md:1", "README.md:1", "README.md:1", "deploy/daemonset.yaml:1")
    ]
    assert {str(file.relative_to(tree)) for file in release.rename(tree, "0.3.0")} == {
        "README.md", "deploy/daemonset.yaml",
    }  # fmt: skip
    _commit(tree)
    assert list(release.refusals(tree)) == []
    assert "kube-proxy 1.36.2 v1.36.2" in (tree / "README.md").read_text(encoding="utf-8")


def test_the_next_version_gets_everywhere_but_into_history(tree: Path) -> None:
    assert len(list(release.rename(tree, "1.0.0"))) == 3
    assert workshop.version(tree) == "1.0.0"
    assert {place.version for place in release.places(tree)} == {"1.0.0"}
    assert (tree / "CHANGELOG.md").read_text(encoding="utf-8") == _FILES["CHANGELOG.md"]
    with pytest.raises(Failed, match="three numbers"):
        list(release.rename(tree, "1.0"))


def test_a_version_that_is_out_already_is_refused(tree: Path) -> None:
    _git(tree, "tag", "--annotate", "v0.2.0", "--message", "a")
    _write(tree, "README.md", "and", "or")
    _commit(tree)
    (wrong,) = release.refusals(tree)
    assert re.fullmatch(r"the tag v0\.2\.0 is another commit \([0-9a-f]{12}\): `\./run version X\.Y\.Z` .*", wrong)


@needs_git
def test_outside_of_a_checkout_nothing_is_released(tmp_path: Path) -> None:
    for name, text in _FILES.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    (wrong,) = release.refusals(tmp_path)
    assert wrong == "there is no commit here, and a release is of one: take a git checkout"


def test_without_git_the_commit_is_unknown(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert re.fullmatch("[0-9a-f]{40}", workshop.commit(tree)[0])
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    monkeypatch.setenv("PATH", str(tree))
    assert workshop.commit(tree) == ("unknown", "0")


def test_every_place_here_names_this_version() -> None:
    found = list(release.places(ROOT))
    assert [place for place in found if place.version != __version__] == []
    assert {place.file for place in found} >= {
        *("README.md", "deploy/README.md", "deploy/daemonset.yaml", "deploy/base/daemonset.yaml"),
        "deploy/sysctls/kustomization.yaml",
    }
    assert workshop.version() == __version__


def test_the_changelog_does_not_know_a_later_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    unreleased, *released = re.findall(r"^## \[([^]]+)\]", text, re.MULTILINE)
    assert unreleased == "Unreleased"
    versions = [Version(each) for each in released]
    assert versions == sorted(set(versions), reverse=True)
    assert all(each <= Version(__version__) for each in versions)


def test_the_task_says_what_is_wrong() -> None:
    def ask(*words: str) -> subprocess.CompletedProcess[str]:
        command = (sys.executable, "-m", "deploy.release", *words)
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)

    assert ask("version").stdout == f"{__version__}\n"
    wrong = ask("version", "next")
    assert (wrong.returncode, wrong.stderr) == (
        1, "run version: next is not a version: three numbers, as 0.2.0\n",
    )  # fmt: skip
