"""The image of another architecture, by QEMU: the interpreter, every compiled module and the iptables in it do work.

What QEMU does not emulate stays untried: netlink sockets of netfilter, so no rule reaches a kernel here.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kproxy import __version__
from tests.image.conftest import unpack

ROOT = Path(__file__).parents[2]
_MODULES = "aiohttp iptc kubernetes msgspec prometheus_client pydantic_core pyroute2 uvloop yaml kproxy.daemon.main"
Run = Callable[..., str]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Run]:
    """A program of the image, to its end; what it wrote."""
    if "KPROXY_EMULATED" not in os.environ:
        pytest.skip("needs an image of another architecture, and QEMU: ./run image --arch arm64 --test")
    root = tmp_path_factory.mktemp("image") / "rootfs"
    unpack(Path(os.environ["KPROXY_IMAGE"]), root)
    for name in ("tests/scenarios/node-port/cluster.yaml", "deploy/examples/kube-proxy.dump"):
        shutil.copy(ROOT / name, root)
    for name in ("dev", "proc"):  # a runtime gives more; these are asked for
        (root / name).mkdir(exist_ok=True)
    (root / "dev/null").touch()
    mounted = (("--bind", "/dev/null", root / "dev/null"), ("-t", "proc", "proc", root / "proc"))
    for words in mounted:
        subprocess.run(("mount", *words), check=True, timeout=20)

    def run(*command: str, check: bool = True) -> str:
        environment = {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin", "LANG": "C.UTF-8"}
        done = subprocess.run(
            (shutil.which("chroot") or "chroot", root, *command),
            capture_output=True, text=True, timeout=300, check=False, env=environment,
        )  # fmt: skip
        assert done.returncode == 0 or not check, done.stdout + done.stderr
        return done.stdout + done.stderr

    yield run
    for *_, place in mounted:
        subprocess.run(("umount", place), check=True, timeout=20)


def test_it_is_another_architecture(run: Run) -> None:
    ask = "import platform, sysconfig; print(platform.machine(), sysconfig.get_platform())"
    assert run("/opt/kproxy/bin/python3", "-c", ask).split() == ["aarch64", "linux-aarch64"]


def test_the_program_works(run: Run) -> None:
    assert run("kproxy", "version") == f"kproxy {__version__}\n"
    assert "-j DNAT" in run("kproxy", "plan", "-f", "/cluster.yaml")
    assert "default/lbn" in run("kproxy", "explain", "/kube-proxy.dump")


def test_compiled_modules_can_be_loaded(run: Run) -> None:
    names = ", ".join(_MODULES.split())
    run("/opt/kproxy/bin/python3", "-c", f"import {names}")


@pytest.mark.parametrize("program", ["iptables-nft", "ip6tables-nft", "nft", "conntrack"])
def test_programs_of_netlink_get_as_far_as_qemu_lets_them(run: Run, program: str) -> None:
    """They find their libraries and begin; then it is QEMU that knows no netfilter."""
    assert re.search(r"Protocol not supported|\bv[0-9]", run(program, "--version", check=False))


@pytest.mark.parametrize("program", ["iptables-legacy", "ip6tables-legacy", "modprobe"])
def test_other_programs_start(run: Run, program: str) -> None:
    assert re.search(r"\bv?[0-9]+", run(program, "--version"))
