"""The image unpacked, once for all tests; without one they are skipped: ``./run image --test`` makes and tests it."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import tarfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest

from kproxy.sandbox.isolate import OUTER_PID
from tests.image.container import FILTER, runtime, write_bundle

_HYBRID = Path("/sys/fs/cgroup/unified")
Run = Callable[..., subprocess.CompletedProcess[str]]
_numbers = itertools.count()


def unpack(image: Path, root: Path) -> None:
    root.mkdir()
    with tarfile.open(image) as archive:
        manifest = archive.extractfile("manifest.json")
        assert manifest is not None
        for name in json.load(manifest)[0]["Layers"]:
            layer = archive.extractfile(name)
            assert layer is not None
            unpack = ("tar", "--extract", "--preserve-permissions", "--directory", str(root))
            with subprocess.Popen(unpack, stdin=subprocess.PIPE) as tar:
                assert tar.stdin is not None
                shutil.copyfileobj(layer, tar.stdin)
            assert tar.returncode == 0


@pytest.fixture(scope="session")
def image() -> Path:
    if not (given := os.environ.get("KPROXY_IMAGE")):
        pytest.skip("needs a built image: ./run image --test")
    if os.geteuid() != 0 or OUTER_PID not in os.environ:
        pytest.skip("needs root and the sandbox's walls: ./run image --test")
    if shutil.which("crun") is None or not FILTER.exists():
        pytest.skip("needs crun and the default seccomp filter: apt-get install crun golang-github-containers-common")
    if _HYBRID.is_mount():
        # crun refuses control groups of both kinds at once. The mount is gone behind our walls only.
        subprocess.run(("umount", "--lazy", str(_HYBRID)), check=True, timeout=20)
    return Path(given)


@pytest.fixture(scope="session")
def rootfs(image: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """All layers, one over the other, as a runtime sees them."""
    root = tmp_path_factory.mktemp("image") / "rootfs"
    unpack(image, root)
    yield root
    shutil.rmtree(root)


@pytest.fixture(scope="session")
def environment(image: Path) -> dict[str, str]:
    """The image's own."""
    with tarfile.open(image) as archive:
        manifest = archive.extractfile("manifest.json")
        assert manifest is not None
        config = archive.extractfile(json.load(manifest)[0]["Config"])
        assert config is not None
        return dict(entry.split("=", 1) for entry in json.load(config)["config"]["Env"])


@pytest.fixture
def run(rootfs: Path, environment: dict[str, str], tmp_path: Path) -> Run:
    """A short program in a container, to its end."""

    def run(
        *command: str,
        mounts: Mapping[str, Path] | None = None,
        environment: Mapping[str, str] = environment,
        more: Mapping[str, str] | None = None,
        **rest: object,
    ) -> subprocess.CompletedProcess[str]:
        bundle = write_bundle(
            tmp_path / f"c{os.getpid()}-{next(_numbers)}",
            rootfs,
            command,
            mounts=mounts or {},
            environment={**environment, **(more or {})},
            **rest,  # type: ignore[arg-type]
        )
        return subprocess.run(runtime(bundle), capture_output=True, text=True, timeout=60, check=False)

    return run
