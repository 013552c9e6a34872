"""The wheel, installed: the program has all that it needs, and nothing comes from the checkout.

By itself the environment borrows the dependencies of the one that runs the tests, and takes a second. ``./run release
--test`` gives one that was made as README.md says, with what the lock names and nothing else.
"""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

import pytest
import yaml

from kproxy import __version__
from tests.e2e.conftest import Daemon, inside, saved, service, slice_of
from tests.netns.conftest import Namespace
from tests.release.conftest import ROOT, Built

__all__ = ["inside"]


@pytest.fixture(scope="module")
def place(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    if given := os.environ.get("KPROXY_INSTALLED"):
        return Path(given)
    built: Built = request.getfixturevalue("built")
    place = tmp_path_factory.mktemp("installed") / "venv"
    venv.create(place, symlinks=True)
    pip = (sys.executable, "-m", "pip", "--python", str(place / "bin/python"), "install", "--quiet", "--no-index")
    subprocess.run((*pip, "--no-deps", str(built.wheel)), check=True, timeout=120)
    packages = sysconfig.get_path("purelib", scheme="venv", vars={"base": str(place)})
    # A .pth of a directory that a .pth names is not read: the editable kproxy there stays out.
    Path(packages, "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    return place


def _run(place: Path, *words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = (str(place / "bin/kproxy"), *words)
    environment = {"PATH": os.environ["PATH"], "LANG": "C.UTF-8"}
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=cwd, env=environment)


def test_it_runs_without_the_checkout(place: Path, tmp_path: Path) -> None:
    ask = "import kproxy, kproxy.sandbox.demo, kproxy.daemon.main; print(kproxy.__file__)"
    found = subprocess.run(
        (place / "bin/python", "-c", ask), capture_output=True, text=True, timeout=60, check=True, cwd=tmp_path
    )
    assert Path(found.stdout).is_relative_to(place)
    assert _run(place, "version", cwd=tmp_path).stdout == f"kproxy {__version__}\n"
    assert _run(place, "--version", cwd=tmp_path).stdout.strip().endswith(f"+kproxy-{__version__}")
    assert not any(tmp_path.iterdir())


def test_it_plans_and_explains(place: Path, tmp_path: Path) -> None:
    scenario = ROOT / "tests/scenarios/node-port/cluster.yaml"
    planned = _run(place, "plan", "-f", str(scenario), cwd=tmp_path)
    assert (planned.returncode, planned.stderr) == (0, "")
    assert planned.stdout.count("-j DNAT") >= 1
    page = tmp_path / "page.html"
    dump = ROOT / "deploy/examples/kube-proxy.dump"
    explained = _run(place, "explain", str(dump), "--html", str(page), cwd=tmp_path)
    assert explained.returncode == 0, explained.stderr
    assert "default/lbn" in page.read_text(encoding="utf-8")
    assert "default/lbn" in _run(place, "explain", str(dump), cwd=tmp_path).stdout


@pytest.mark.root
async def test_it_serves_a_service(place: Path, inside: Namespace, tmp_path: Path) -> None:
    del inside
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    objects = [{"apiVersion": "v1"} | service("web", "10.96.0.80"), slice_of("web", "10.244.0.7")]
    (manifests / "web.yaml").write_text(yaml.safe_dump_all(objects), encoding="utf-8")
    log = tmp_path / "log"
    command = (
        *(place / "bin/kproxy", "run", "--manifests", manifests, "--hostname-override", "n1", "--iptables-backend=nft"),
        *("--cluster-cidr=10.244.0.0/16", "--conntrack-max-per-core=0", "--oom-score-adj=0"),
    )
    with log.open("wb") as stream:
        daemon = Daemon(await asyncio.create_subprocess_exec(*command, stderr=stream, cwd=tmp_path), log)
    try:
        await daemon.ready()
        rules = saved("nft")
    finally:
        status = await daemon.end()
    assert status == 0, log.read_text(encoding="utf-8")
    assert "-d 10.96.0.80/32" in rules
    assert "--to-destination 10.244.0.7:8080" in rules
