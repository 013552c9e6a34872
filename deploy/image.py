"""The container image without Docker: `./run image` builds the Dockerfile as it stands, by Debian's buildah.

What comes out is in ``dist/``: the image as docker and containerd load it, and an SBOM of the Python and Debian
packages that are in it. The base image is pulled; where no registry can be reached, debootstrap makes one of the same
Debian release under the same name, and that is said. No layers are cached: buildah's plain storage copies all of the
image for each (5 GB, 4 minutes; 2 minutes without). Instead nothing is done when nothing changed that goes in.

``--arch`` builds for another architecture by QEMU (emulation.py); that takes half an hour on a busy machine.

Only the standard library and programs. Rejected: docker (a daemon with root's powers, which many build machines do not
have), kaniko and img (given up by their makers).
"""

# ruff: noqa: INP001 -- scripts, not a package

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from deploy import emulation, sbom, workshop
from deploy.workshop import DIST, OURS, ROOT, Failed, perform, say

BASE = "docker.io/library/debian:trixie-slim"
SUITE = "trixie"
INPUTS = ("Dockerfile", ".dockerignore", ".requirements.lock", "pyproject.toml", "README.md", "LICENSE", "kproxy")
PACKAGES = {"buildah": "buildah", "debootstrap": "debootstrap", "gpgv": "gpgv", "crun": "crun"}
PULL_DEADLINE = 120.0  # seconds; a firewall that drops is no reason to wait for ever
_DOCUMENTATION = ("doc", "info", "lintian", "locale", "man")  # as in the official image, licences stay


def main() -> int:
    asked = _parse()
    try:
        if not emulation.is_inside():
            prepare(tests=asked.test)
        image = make(asked.arch, again=asked.again)
        if emulation.is_inside():
            return 0
        report(image)
        return check(image, asked.arch) if asked.test else 0
    except Failed as failed:
        sys.stderr.write(f"run image: {failed}\n")
        return 1
    except subprocess.CalledProcessError as failed:
        sys.stderr.write(f"run image: {shlex.join(failed.cmd[:3])} … ended with status {failed.returncode}\n")
        return 1


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="run image", description="Build the container image into dist/.")
    parser.add_argument(
        "--arch",
        choices=emulation.MACHINES,
        default=workshop.architecture(),
        help="this machine's, unless you say another one; that takes QEMU, Linux 6.7 and patience",
    )
    parser.add_argument("--again", action="store_true", help="build it, even if nothing changed")
    parser.add_argument("--test", action="store_true", help="then run it, with packets, behind the sandbox's walls")
    return parser.parse_args()


def prepare(*, tests: bool) -> None:
    """Have what building needs, and read the Dockerfile with a critic's eye."""
    workshop.need_root("buildah and debootstrap make device files and mounts here")
    OURS.mkdir(parents=True, exist_ok=True)
    wanted = [package for package, program in PACKAGES.items() if shutil.which(program) is None]
    if not Path("/usr/share/keyrings/debian-archive-keyring.gpg").exists():
        wanted.append("debian-archive-keyring")
    workshop.install([package for package in wanted if tests or package != "crun"])
    say("hadolint Dockerfile")
    perform(str(workshop.tool("hadolint")), "--no-color", str(ROOT / "Dockerfile"))


def make(arch: str, *, again: bool) -> Path:
    """Build the image, unless there is one of just these inputs; returns the archive."""
    version = workshop.version()
    image = DIST / f"kproxy-{version}-{arch}.tar"
    stamp, want = OURS / f"{image.name}.stamp", _digest()
    if not again and image.exists() and stamp.exists() and stamp.read_text(encoding="ascii") == want:
        say(f"{image.relative_to(ROOT)} is of this very source; --again builds it anew")
        return image
    if arch != workshop.architecture() and not emulation.is_inside():
        if emulation.run(arch, (sys.executable, "-m", "deploy.image", "--arch", arch, "--again")):
            raise Failed(f"there is no image for {arch}")
        return image
    provide_base(arch)
    build(version, arch)
    stamp.unlink(missing_ok=True)
    image.unlink(missing_ok=True)
    buildah("push", "--quiet", f"kproxy:{version}", f"docker-archive:{image}:kproxy:{version}")
    python, debian = contents_of(image)
    sbom.write(sbom_of(image), "container", python, debian, suite=SUITE)
    stamp.write_text(want, encoding="ascii")
    return image


# --- building -----------------------------------------------------------------------------------------------------


def provide_base(arch: str) -> None:
    """Have the base image in our storage: the official one, or one of the same name made here."""
    if buildah("images", "--quiet", BASE, check=False, quiet=True).strip():
        return
    say(f"pulling {BASE}")
    try:
        buildah("pull", "--quiet", "--arch", arch, BASE, deadline=PULL_DEADLINE, quiet=True)
    except (subprocess.CalledProcessError, Failed):
        say(f"{BASE} cannot be pulled here: making one of that name with debootstrap (a minute)")
        _make_base(arch)


def _make_base(arch: str) -> None:
    with tempfile.TemporaryDirectory(dir=OURS, prefix="base-") as directory:
        root = Path(directory, "root")
        keys = "/usr/share/keyrings/debian-archive-keyring.gpg"
        if emulation.is_inside():
            (root / "dev").mkdir(parents=True)
            perform("mount", "--bind", str(emulation.DEVICES), str(root / "dev"))
        wanted = ("--variant=minbase", f"--arch={arch}", "--force-check-gpg", f"--keyring={keys}")
        perform("debootstrap", *wanted, SUITE, str(root))
        written = root / "etc/apt/sources.list"  # by debootstrap: the mirror that it takes by itself
        mirror = written.read_text(encoding="ascii").split()[1].rstrip("/")
        written.unlink()
        signed = f"Signed-By: {keys.replace('.gpg', '.pgp')}"
        sources = "".join(
            f"Types: deb\nURIs: {uri}\nSuites: {suites}\nComponents: main\n{signed}\n\n"
            for uri, suites in ((mirror, f"{SUITE} {SUITE}-updates"), (f"{mirror}-security", f"{SUITE}-security"))
        )
        (root / "etc/apt/sources.list.d/debian.sources").write_text(sources, encoding="ascii")
        for used in (
            "var/lib/apt/lists",
            "var/cache/apt/archives",
            *(f"usr/share/{name}" for name in _DOCUMENTATION[1:]),
        ):
            shutil.rmtree(root / used, ignore_errors=True)
        archive = Path(directory, "root.tar")
        if emulation.is_inside():
            perform("umount", "--recursive", str(root / "dev"))
        perform("tar", "--create", "--file", str(archive), "--directory", str(root), ".")
        container = buildah("from", "--arch", arch, "scratch").strip()
        buildah("add", "--quiet", container, str(archive), "/")
        buildah("commit", "--quiet", "--rm", container, BASE)


def build(version: str, arch: str) -> None:
    commit, moment = _commit()
    say(f"building kproxy:{version} for {arch} (two minutes; half an hour by QEMU)")
    with _secrets() as secrets:
        buildah(
            *("bud", "--isolation", "chroot", "--pull-never", "--layers=false", "--timestamp", moment, "--arch", arch),
            *("--build-arg", f"VERSION={version}", "--build-arg", f"REVISION={commit}"),
            *(word for secret in secrets for word in ("--secret", secret)),
            *("--tag", f"kproxy:{version}", str(ROOT)),
        )
    buildah("rmi", "--prune", check=False, quiet=True)


@contextmanager
def _secrets() -> Iterator[list[str]]:
    """How this machine reaches its registry: an authority of its own, an index of its own. Never part of a layer."""
    given = []
    for name in ("PIP_CERT", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
        if (path := os.environ.get(name)) and Path(path).is_file():
            given.append(f"id=ca,src={path}")
            break
    with tempfile.TemporaryDirectory() as directory:
        if index := os.environ.get("PIP_INDEX_URL"):
            file = Path(directory, "pip.conf")
            file.write_text(f"[global]\nindex-url = {index}\n", encoding="utf-8")
            given.append(f"id=pip,src={file}")
        yield given


def _digest() -> str:
    """Of all that goes into the image: the sources, and their commit, which is a label."""
    digest = hashlib.sha256(" ".join(_commit()).encode())
    for name in INPUTS:
        path = ROOT / name
        for file in sorted(path.rglob("*")) if path.is_dir() else [path]:
            if file.is_file() and "__pycache__" not in file.parts:
                digest.update(f"{file.relative_to(ROOT)}\0{file.stat().st_size}\0".encode())
                digest.update(file.read_bytes())
    return digest.hexdigest()


def _commit() -> tuple[str, str]:
    """The label, and the moment."""
    commit, moment = workshop.commit()
    return commit + ("-dirty" if commit != "unknown" and workshop.changed(*INPUTS) else ""), moment


# --- looking at it ------------------------------------------------------------------------------------------------


def layers_of(image: Path) -> Iterator[tuple[str, tarfile.TarFile]]:
    """The layers of a docker-archive, lowest first, by the names of their files."""
    with tarfile.open(image) as archive:
        manifest = json.load(archive.extractfile("manifest.json") or sys.stdin)
        for name in manifest[0]["Layers"]:
            with tarfile.open(fileobj=archive.extractfile(name)) as layer:
                yield name, layer


def report(image: Path) -> None:
    total = packed = 0
    print_line("layer", "bytes", "gzip", "files", "mostly")
    with tarfile.open(image) as archive:
        for name, layer in layers_of(image):
            data = (archive.extractfile(name) or sys.stdin.buffer).read()
            small = len(gzip.compress(data, 6, mtime=0))
            files = [member for member in layer if member.isfile()]
            print_line(name[:12], f"{len(data):,}", f"{small:,}", str(len(files)), _mostly(files))
            total, packed = total + len(data), packed + small
    print_line("sum", f"{total:,}", f"{packed:,}", "", "")
    shown, name = image.relative_to(ROOT), f"kproxy:{workshop.version()}"
    sys.stdout.write(
        f"\n{shown}, SBOM {sbom_of(image).relative_to(ROOT)}. To load it ({name}):\n"
        f"  docker load --input {shown}\n"
        f"  kind load image-archive {shown} --name CLUSTER\n"
        f"  ctr --namespace k8s.io images import {shown}\n"
        f"  skopeo copy docker-archive:{shown} docker://REGISTRY/{name}\n"
        f"For both architectures, where there is Docker:\n"
        f"  docker buildx build --platform linux/amd64,linux/arm64 --build-arg VERSION={workshop.version()} "
        f"--build-arg REVISION=$(git rev-parse HEAD) --tag REGISTRY/{name} --push .\n"
    )


def _mostly(files: Sequence[tarfile.TarInfo]) -> str:
    sizes: dict[str, int] = {}
    for file in files:
        parts = file.name.split("/")
        place = "/".join(parts[: parts.index("site-packages") + 2] if "site-packages" in parts else parts[:3])
        sizes[place] = sizes.get(place, 0) + file.size
    top = sorted(sizes, key=lambda place: -sizes[place])[:3]
    return ", ".join(f"{place.rpartition('site-packages/')[2]} {sizes[place] / 1e6:.1f} MB" for place in top)


def print_line(layer: str, size: str, packed: str, files: str, mostly: str) -> None:
    sys.stdout.write(f"{layer:<12} {size:>12} {packed:>12} {files:>6}  {mostly}\n")


def check(image: Path, arch: str) -> int:
    """Run the image's test behind the sandbox's walls, as every test that needs root; emulated, it is a short one."""
    emulated = arch != workshop.architecture()
    tests = ("tests/image/test_emulated.py",) if emulated else ("tests/image", "--ignore=tests/image/test_emulated.py")
    command = (sys.executable, "-m", "kproxy.sandbox.isolate", sys.executable, "-m", "pytest", *tests, "-v")
    say(f"testing {image.relative_to(ROOT)}")
    os.environ["KPROXY_IMAGE"] = str(image)
    return emulation.run(arch, command) if emulated else subprocess.run(command, cwd=ROOT, check=False).returncode


def sbom_of(image: Path) -> Path:
    return image.with_suffix(".cdx.json")


def contents_of(image: Path) -> tuple[list[str], list[Mapping[str, str]]]:
    """The names of Python distributions, and the entries of Debian's package database."""
    python: list[str] = []
    debian = []
    for _, layer in layers_of(image):
        for member in layer:
            if found := re.search(r"/site-packages/([^/]+)-[^/-]+\.dist-info/METADATA$", member.name):
                python.append(found[1])
            elif "/dpkg/status.d/" in member.name and member.isfile():
                text = (layer.extractfile(member) or sys.stdin.buffer).read().decode()
                debian.append(dict(line.split(": ", 1) for line in text.splitlines() if re.match(r"[A-Z].*: ", line)))
    return python, sorted(debian, key=lambda entry: entry["Package"])


def buildah(*words: str, check: bool = True, quiet: bool = False, deadline: float = 1800.0) -> str:
    """With storage of our own, of the kind that works on any file system."""
    suffix = "-emulated" if emulation.is_inside() else ""
    place = ("--root", str(OURS / f"storage{suffix}"), "--runroot", str(OURS / f"running{suffix}"))
    return perform("buildah", *place, "--storage-driver", "vfs", *words, check=check, quiet=quiet, deadline=deadline)


if __name__ == "__main__":
    sys.exit(main())
