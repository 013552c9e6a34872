"""Where kube-proxy's users suffer: a node's new address, one rule that the kernel refuses, one address claimed twice.

Flushes are test_rules.py's, stale flows and bad objects test_faults.py's, another proxy tests/netns/test_takeover.py's.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from kproxy.sandbox.apiserver import ApiServer
from tests.e2e.conftest import Json, act, eventually, flags, get, running, saved, service, slice_of

pytestmark = pytest.mark.root


def node_port_rules(variant: str) -> set[str]:
    """The addresses on which node ports listen."""
    return set(re.findall(r"^-A KUBE-SERVICES -d (\S+)/32 .*-j KUBE-NODEPORTS$", saved(variant), re.MULTILINE))


async def test_node_ports_follow_the_nodes_address(api: ApiServer, tmp_path: Path, variant: str) -> None:
    """kube-proxy logs a change and listens on the old address until somebody restarts it."""
    for ip in ("192.0.2.1", "192.0.2.2"):
        act("ip", "address", "add", f"{ip}/32", "dev", "lo")
    ports = [{"port": 80, "targetPort": 8080, "nodePort": 30080}]
    api.create(service("web", "10.96.0.80", type="NodePort", ports=ports))
    api.create(slice_of("web", "10.244.0.7"))
    async with running(tmp_path, *flags(tmp_path, variant), "--nodeport-addresses=primary") as daemon:
        await daemon.ready()
        assert node_port_rules(variant) == {"192.0.2.1"}
        addresses = [{"type": "InternalIP", "address": "192.0.2.2"}]
        api.set_status("Node", "n1", {"addresses": addresses})
        await eventually(lambda: node_port_rules(variant) == {"192.0.2.2"}, daemon)


async def test_one_service_that_the_kernel_refuses_costs_no_other_and_heals_by_itself(
    api: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that lacks what one Service needs: every input that names it is refused."""
    programs = tmp_path / "programs"
    programs.mkdir()
    real = shutil.which("iptables-nft-restore", path="/usr/sbin:/sbin")
    refusal = f'if [ -e {tmp_path}/sick ] && grep -q default/bad "$input"; then echo "line 1 failed" >&2; exit 1; fi'
    script = (
        f'#!/bin/sh\ninput=$(mktemp {tmp_path}/input.XXXXXX)\ncat >"$input"\n{refusal}\nexec {real} "$@" <"$input"\n'
    )
    (programs / "iptables-nft-restore").write_text(script, encoding="utf-8")
    (programs / "iptables-nft-restore").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}:/usr/sbin:/usr/bin:/sbin:/bin")
    (tmp_path / "sick").touch()
    for name, number in (("bad", 66), ("good", 80)):
        api.create(service(name, f"10.96.0.{number}"))
        api.create(slice_of(name, f"10.244.0.{number}"))
    act("ip", "address", "add", "192.0.2.9/32", "dev", "lo")
    often = ("--iptables-sync-period=1s", "--metrics-bind-address=0.0.0.0:10249")
    async with running(tmp_path, *flags(tmp_path), *often) as daemon:
        await eventually(lambda: "10.244.0.80:8080" in saved("nft"), daemon)
        assert "10.244.0.66:8080" not in saved("nft")
        await eventually(lambda: events(api, "Quarantined") == ["bad"], daemon)
        await tell_of_the_refusal()
        assert (await get("http://127.0.0.1:10256/livez"))[0] == 200
        api.update(slice_of("good", "10.244.0.81"))
        await eventually(lambda: "10.244.0.81:8080" in saved("nft"), daemon)
        (tmp_path / "sick").unlink()
        await eventually(lambda: "10.244.0.66:8080" in saved("nft"), daemon)


async def tell_of_the_refusal() -> None:
    """What was written and what was not, to who is on the node."""
    assert (await get("http://192.0.2.9:10249/debug/rules"))[0] == 403
    status, body = await get("http://127.0.0.1:10249/debug/rules?format=json")
    assert status == 200
    told = {(each["family"], each["outcome"]): each for each in json.loads(body)}
    failed = told["IPv4", "failed"]
    assert (failed["program"], failed["status"], failed["why"]) == ("iptables-nft-restore", 1, "line 1 failed")
    assert "default/bad" in failed["input"]
    assert "default/bad" not in told["IPv4", "applied"]["input"]
    assert told["IPv4", "applied"]["input"].endswith("COMMIT\n")


@pytest.mark.parametrize("order", [("old", "young"), ("young", "old")])
async def test_the_older_of_two_services_keeps_an_address_and_the_other_is_told(
    api: ApiServer, tmp_path: Path, order: tuple[str, ...]
) -> None:
    """In whatever order they come, and until the older one lets go of it."""
    born = {"old": "2020-01-01T00:00:00Z", "young": "2024-01-01T00:00:00Z"}
    for number, name in enumerate(order):
        claimed = service(name, f"10.96.0.{80 + number}", externalIPs=["198.51.100.1"])
        metadata = {"name": name, "namespace": "default", "uid": name, "creationTimestamp": born[name]}
        api.load([{"apiVersion": "v1", **claimed, "metadata": metadata}])
        api.create(slice_of(name, f"10.244.0.{7 if name == 'old' else 8}"))
    async with running(tmp_path, *flags(tmp_path)) as daemon:
        await daemon.ready()
        assert external_ip() == ["default/old"]
        await eventually(lambda: events(api, "AddressClash") == ["young"], daemon)
        api.delete("Service", "old")
        await eventually(lambda: external_ip() == ["default/young"], daemon)


def external_ip() -> list[str]:
    """Who serves 198.51.100.1."""
    return re.findall(
        r'^-A KUBE-SERVICES -d 198\.51\.100\.1/32 .*--comment "(\S+) external IP"', saved("nft"), re.MULTILINE
    )


def events(api: ApiServer, reason: str) -> list[str]:
    """The Services that events of this reason are about."""
    found: list[Json] = [event for event in api.list("Event") if event["reason"] == reason]
    return [str(event["involvedObject"]["name"]) for event in found]
