"""A release: `./run release` makes everything that is handed out of one commit, into ``dist/``.

An sdist, the wheel made of that sdist and of nothing else, the lock that both are installed with, the image, an SBOM
for each way to install, and the hashes of all. The sources are copied from what git lists, so no file that happens to
lie around gets in, and every time stamp is the commit's: whoever builds the commit again gets the same sdist and wheel,
byte for byte. A tree that is not what its commit says, or that does not know its own version, is refused with what to
do about it; ``--dry-run`` builds it all the same, without the hashes that make a release of it.

Nothing is uploaded or signed here: who may do that has keys, and this has none. Rejected: a version taken from git's
tags; an sdist and an image have no git to ask.
"""

# ruff: noqa: INP001 -- scripts, not a package

from __future__ import annotations

import argparse
import hashlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import venv
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from deploy import emulation, image, sbom, workshop
from deploy.workshop import DIST, LOCK, OURS, ROOT, Failed, perform, say

_NAMED = re.compile(r"((?:kproxy[ :-]|\bVERSION=)v?)([0-9]+\.[0-9]+\.[0-9]+)\b")
_READ = ("*.md", "deploy/**/*.md", "deploy/**/*.yaml", "kproxy/**/*.md", "bench/*.md")
_HISTORY = "CHANGELOG.md"  # names versions that were
_BUILD = 120.0  # seconds


class Place(NamedTuple):
    """Where a document names a version of kproxy."""

    file: str
    line: int
    version: str


def main() -> int:
    asked = _parse()
    try:
        if asked.task == "version":
            return say_version(asked.to)
        return release(asked.arch, dry=asked.dry_run, images=not asked.no_image, test=asked.test)
    except Failed as failed:
        sys.stderr.write(f"run {asked.task}: {failed}\n")
    except subprocess.CalledProcessError as failed:
        sys.stderr.write(f"run {asked.task}: {shlex.join(failed.cmd[:4])} … ended with status {failed.returncode}\n")
    return 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run")
    tasks = parser.add_subparsers(dest="task", required=True)
    release = tasks.add_parser("release", description="Make a release of this commit, in dist/.")
    release.add_argument("--arch", action="append", choices=emulation.MACHINES, help="of an image; may be repeated")
    release.add_argument("--no-image", action="store_true", help="only what Python needs; it takes no root and seconds")
    release.add_argument(
        "--dry-run", action="store_true", help="also of a tree that is not ready; SHA256SUMS stays away"
    )
    release.add_argument("--test", action="store_true", help="then install it with the lock, and send it a Service")
    version = tasks.add_parser("version", description="Say the version, or change it in every place that names it.")
    version.add_argument("to", nargs="?", metavar="X.Y.Z")
    return parser.parse_args()


def release(arches: Sequence[str] | None, *, dry: bool, images: bool, test: bool) -> int:
    wrong = list(refusals(ROOT))
    if wrong and not dry:
        raise Failed("not from this tree:\n" + "\n".join(f"  - {each}" for each in wrong))
    if images:
        image.prepare(tests=False)
    DIST.mkdir(exist_ok=True)
    sums = DIST / "SHA256SUMS"
    sums.unlink(missing_ok=True)
    files = build(ROOT, DIST, sources(ROOT))
    files += describe(files[0])
    for arch in dict.fromkeys(arches or [workshop.architecture()]) if images else ():
        made = image.make(arch, again=False)
        files += [made, image.sbom_of(made)]
    status = check(files[1]) if test else 0
    if not dry and status == 0:
        sums.write_text("".join(f"{_hash(file)}  {file.name}\n" for file in files), encoding="ascii")
    report(files, wrong if dry else None)
    return status


# --- may this be released? ----------------------------------------------------------------------------------------


def refusals(root: Path) -> Iterator[str]:
    """Why this tree is no release, each with the remedy."""
    version, (commit, _) = workshop.version(root), workshop.commit(root)
    if commit == "unknown":
        yield "there is no commit here, and a release is of one: take a git checkout"
    elif differing := workshop.changed(root=root):
        shown = ", ".join(differing[:3]) + (", …" if len(differing) > 3 else "")
        yield f"not as the commit has it ({shown}): commit it, or put it aside"
    tagged = perform("git", "-C", str(root), "rev-list", "-n1", f"v{version}", "--", check=False, quiet=True).strip()
    if tagged not in {"", commit}:
        yield f"the tag v{version} is another commit ({tagged[:12]}): `./run version X.Y.Z` gives this one its own"
    heading = rf"^## \[{re.escape(version)}\] - [0-9]{{4}}-[0-9]{{2}}-[0-9]{{2}}$"
    if not re.search(heading, _read(root / _HISTORY), re.MULTILINE):
        yield (
            f"{_HISTORY} has no heading `## [{version}] - YYYY-MM-DD`: put it over what is new, "
            f"with `## [Unreleased]` above it"
        )
    for place in places(root):
        if place.version != version:
            yield f"{place.file}:{place.line} names kproxy {place.version}, not {version}: `./run version {version}`"


def places(root: Path) -> Iterator[Place]:
    """Where documents and manifests name kproxy's version; kproxy/__init__.py has it, the others repeat it."""
    for file in _documents(root):
        for number, line in enumerate(_read(file).splitlines(), 1):
            for found in _NAMED.finditer(line):
                yield Place(str(file.relative_to(root)), number, found[2])


def _documents(root: Path) -> Iterator[Path]:
    for pattern in _READ:
        yield from (file for file in sorted(root.glob(pattern)) if file.name != _HISTORY)


def say_version(new: str | None) -> int:
    if new is None:
        sys.stdout.write(f"{workshop.version()}\n")
        return 0
    for file in rename(ROOT, new):
        sys.stdout.write(f"{file.relative_to(ROOT)}\n")
    sys.stdout.write(f"{_HISTORY} is yours: put `## [{new}] - YYYY-MM-DD` over what is new\n")
    return 0


def rename(root: Path, new: str) -> Iterator[Path]:
    """Give every place another version; the files that changed. Raises Failed for what is no X.Y.Z."""
    if not re.fullmatch(r"[0-9]+\.[0-9]+\.[0-9]+", new):
        raise Failed(f"{new} is not a version: three numbers, as 0.2.0")
    source = root / "kproxy/__init__.py"
    changes = {file: _NAMED.sub(rf"\g<1>{new}", _read(file)) for file in _documents(root)}
    changes[source] = _read(source).replace(f'__version__ = "{workshop.version(root)}"', f'__version__ = "{new}"')
    for file, text in changes.items():
        if text != _read(file):
            file.write_text(text, encoding="utf-8")
            yield file


# --- building -----------------------------------------------------------------------------------------------------


def sources(root: Path) -> list[str]:
    """What git lists: the commit's files, and in a dry run those that could become so."""
    listed = perform("git", "-C", str(root), "ls-files", "-z", "--cached", "--others", "--exclude-standard", quiet=True)
    return sorted(name for name in set(listed.split("\0")) if name and (root / name).is_file())


def build(root: Path, into: Path, names: Iterable[str]) -> list[Path]:
    """The sdist, of these files of ``root``, and the wheel, of the sdist; made elsewhere and moved when complete."""
    version, (_, moment) = workshop.version(root), workshop.commit(root)
    say(f"building sdist and wheel of kproxy {version}")
    with tempfile.TemporaryDirectory(prefix="kproxy-release-") as directory:
        tree, made = Path(directory, "tree"), Path(directory, "made")
        for name in names:
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, tree / name)
        sdist = _hatchling("sdist", tree, made, moment)
        perform("tar", "--extract", "--file", str(sdist), "--directory", directory, deadline=_BUILD)
        wheel = _hatchling("wheel", Path(directory, sdist.name.removesuffix(".tar.gz")), made, moment)
        return [Path(shutil.move(file, into / file.name)) for file in (sdist, wheel)]


def _hatchling(target: str, tree: Path, made: Path, moment: str) -> Path:
    before = set(made.glob("*"))
    command = (sys.executable, "-m", "hatchling", "build", "--target", target, "--directory", str(made))
    perform(*command, cwd=tree, more={"SOURCE_DATE_EPOCH": moment}, deadline=_BUILD)
    (file,) = set(made.glob("*")) - before
    return file


def describe(sdist: Path) -> list[Path]:
    """Beside the wheel: the lock to install it with, and the SBOM of that."""
    stem = sdist.with_name(sdist.name.removesuffix(".tar.gz"))
    lock, bom = stem.with_name(f"{stem.name}.lock"), stem.with_name(f"{stem.name}.cdx.json")
    shutil.copyfile(ROOT / LOCK, lock)
    sbom.write(bom, "application", sbom.needed(_read(lock)))
    return [lock, bom]


# --- looking at it ------------------------------------------------------------------------------------------------


def check(wheel: Path) -> int:
    """Install it as README.md says, in an environment that has nothing yet, and run it behind the sandbox's walls."""
    place = OURS / "fresh"
    say(f"installing {wheel.name} with {LOCK} into a fresh environment (a minute)")
    venv.create(place, clear=True, with_pip=True)
    pip = (str(place / "bin/pip"), "install", "--quiet", "--disable-pip-version-check")
    perform(*pip, "--require-hashes", "--requirement", str(ROOT / LOCK))
    perform(*pip, "--no-deps", "--no-index", str(wheel))
    perform(str(place / "bin/pip"), "check")
    walls = (sys.executable, "-m", "kproxy.sandbox.isolate") if os.geteuid() == 0 else ()
    command = (*walls, sys.executable, "-m", "pytest", "tests/release/test_install.py", "-v")
    given = {**os.environ, "KPROXY_INSTALLED": str(place)}
    return subprocess.run(command, cwd=ROOT, env=given, check=False, timeout=600).returncode


def report(files: Sequence[Path], wrong: Sequence[str] | None) -> None:
    """What there is, and what to do next; of a dry run, what is in the way."""
    width = max(len(file.name) for file in files)
    sys.stdout.write(f"{'file':<{width}} {'bytes':>12}  sha256\n")
    for file in files:
        sys.stdout.write(f"{file.name:<{width}} {file.stat().st_size:>12,}  {_hash(file)}\n")
    if wrong is not None:
        lines = "".join(f"  - {each}\n" for each in wrong) or "  nothing; without --dry-run it is one\n"
        sys.stdout.write(f"\nA dry run, in dist/. What keeps this from being a release:\n{lines}")
        return
    version, (commit, _) = workshop.version(), workshop.commit()
    loads = "".join(
        f"  docker load --input dist/{file.name}   # then tag and push kproxy:{version} to your registry\n"
        for file in files
        if file.suffix == ".tar"
    )
    sys.stdout.write(
        f"\nAll of it in dist/, with SHA256SUMS; nothing was uploaded or signed. What is left to do:\n"
        f"  git tag --annotate v{version} --message 'kproxy {version}' {commit[:12]} && git push origin v{version}\n"
        f"{loads}"
        f"Where it arrives:\n"
        f"  sha256sum --check --ignore-missing SHA256SUMS\n"
        f"  pip install --require-hashes -r kproxy-{version}.lock && pip install --no-deps {files[1].name}\n"
    )


def _hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _read(file: Path) -> str:
    return file.read_text(encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
