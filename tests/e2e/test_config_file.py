"""The daemon with the file that kubeadm writes for kube-proxy, and what a change of the file does."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest

from kproxy.sandbox.apiserver import ApiServer
from tests.e2e.conftest import DEADLINE, act, eventually, get, kproxy, running, saved, service, slice_of

KUBEADM = Path(__file__).parents[1] / "unit/settings/data/kubeadm.yaml"

pytestmark = pytest.mark.root


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """kubeadm's, but for the place of the kubeconfig."""
    path = tmp_path / "config.conf"
    text = KUBEADM.read_text(encoding="utf-8").replace(
        "/var/lib/kube-proxy/kubeconfig.conf", str(tmp_path / "kubeconfig")
    )
    path.write_text(text, encoding="utf-8")
    return path


async def test_kubeadms_file_serves_until_it_is_written(api: ApiServer, tmp_path: Path, file: Path) -> None:
    api.create(service("web", "10.96.0.80"), namespace="default")
    api.create(slice_of("web", "10.244.0.7"), namespace="default")
    async with running(
        tmp_path, f"--config={file}", "--hostname-override=n1", "--healthz-bind-address=[::1]:1"
    ) as daemon:
        await daemon.ready()
        assert "! -s 10.244.0.0/16 -d 10.96.0.80/32" in saved("nft")
        shown = json.loads((await get("http://127.0.0.1:10249/configz"))[1])["kubeproxy.config.k8s.io"]
        assert shown["healthzBindAddress"] == "0.0.0.0:10256"
        assert shown["hostnameOverride"] == "n1"
        assert daemon.said("Flags are ignored because a configuration file is given") == 1

        act("chmod", "600", str(file))
        api.create(service("more", "10.96.0.81"), namespace="default")
        await eventually(lambda: "10.96.0.81" in saved("nft"), daemon)
        assert daemon.process.returncode is None

        with file.open("a", encoding="utf-8") as more:
            more.write("# more\n")
        async with asyncio.timeout(DEADLINE):
            assert await daemon.process.wait() == 1
        assert daemon.said(f"the configuration file {file} was written; kproxy ends to be started with its new content")
        assert "-d 10.96.0.80/32" in saved("nft")


async def test_init_only_takes_the_file_and_writes_no_rule(inside: object, file: Path) -> None:
    del inside
    status, _, said = await kproxy(f"--config={file}", "--init-only")
    assert (status, "KUBE-" in saved("nft")) == (0, False), said
