"""``kproxy status`` beside a real daemon: every line comes from somewhere."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from kproxy.sandbox.apiserver import ApiServer
from tests.e2e.conftest import eventually, flags, kproxy, running, service, slice_of

pytestmark = pytest.mark.root
ODD = {"name": "odd", "annotations": {"kproxy.io/mode": "ipvs"}}
RELAYED = {"name": "slow", "annotations": {"kproxy.io/mode": "userspace"}}


async def status(*more: str) -> tuple[int, Any]:
    code, out, err = await kproxy("status", *more, "--json")
    assert err == ""
    return code, json.loads(out)


async def test_status_says_how_the_daemon_is(api: ApiServer, tmp_path: Path) -> None:
    code, answer = await status()
    assert (code, answer["program"]) == (1, "")
    api.create(
        service("web", "10.96.0.80", ports=[{"name": name, "port": port} for name, port in (("a", 80), ("b", 81))])
    )
    api.create(slice_of("web", "10.244.0.7", "10.244.0.8"))
    api.create(service("slow", "10.96.0.81") | {"metadata": RELAYED})
    api.create(slice_of("slow", "10.244.0.9"))
    api.create(service("odd", "10.96.0.82") | {"metadata": ODD})
    elsewhere = ("--metrics-bind-address=127.0.0.1:10300", "--healthz-bind-address=127.0.0.1:10256")
    async with running(tmp_path, *flags(tmp_path), *elsewhere) as daemon:
        await daemon.ready()
        code, answer = await status("--metrics-bind-address=127.0.0.1:10300", "--healthz-bind-address=127.0.0.1:1")
        four = answer["families"][0]
        assert (code, answer["program"], answer["node"], answer["mode"]) == (0, "kproxy", "n1", "iptables")
        assert answer["process"] == daemon.process.pid
        assert (answer["variant"], answer["nodeAddresses"]) == ("nft: --iptables-backend=nft", "192.0.2.1, none (IPv6)")
        assert (four["family"], four["services"], four["servicePorts"], four["relayed"]) == (
            "IPv4",
            4,
            5,
            1,
        )  # and Service kubernetes
        assert four["rules"] > 10
        assert answer["apiServer"].startswith("answers, heard ")
        assert answer["health"] == {"/livez": 200, "/readyz": 200, "/healthz": 200}
        assert any("default/odd" in each and "ipvs" in each for each in answer["warnings"])
        code, _, _ = await kproxy("status")  # not where it answers: the health server alone does
        assert code == 0
        await api.stop()
        await eventually(lambda: daemon.said("No news from the API server") > 0, daemon)
        code, answer = await status(*elsewhere)
        assert (code, answer["apiServer"].partition(",")[0]) == (0, "no news")
