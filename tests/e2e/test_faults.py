"""What goes wrong around a daemon, what it answers, and what it forgets and cleans."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from kproxy.sandbox.apiserver import ApiServer
from tests.e2e.conftest import (
    Json,
    act,
    eventually,
    flags,
    get,
    kproxy,
    running,
    saved,
    service,
    slice_of,
)
from tests.netns.conftest import Namespace

pytestmark = pytest.mark.root


# --- when something is wrong ----------------------------------------------------------------------------------


async def test_without_the_api_server_rules_stay_and_with_it_they_follow_again(api: ApiServer, tmp_path: Path) -> None:
    api.create(service("web", "10.96.0.80"))
    api.create(slice_of("web", "10.244.0.7"))
    async with running(tmp_path, *flags(tmp_path)) as daemon:
        await daemon.ready()
        await api.stop()
        await eventually(lambda: daemon.said("No news from the API server") > 0, daemon)
        assert "10.244.0.7:8080" in saved("nft")
        assert (await get("http://127.0.0.1:10256/livez"))[0] == 200
        await api.start()
        api.update(slice_of("web", "10.244.0.8"))
        await eventually(lambda: "10.244.0.8:8080" in saved("nft"), daemon)
        await eventually(lambda: daemon.said("The API server answers again") == 1, daemon)
        assert daemon.said("No news from the API server") == 1


async def test_a_bad_object_is_skipped_and_said_and_all_others_are_served(api: ApiServer, tmp_path: Path) -> None:
    bad = service("bad", "10.96.0.66", ports=[{"port": 99999, "protocol": "TCP"}])
    api.load([{"apiVersion": "v1", **bad, "metadata": {"name": "bad", "namespace": "default"}}])
    api.create(service("web", "10.96.0.80"))
    api.create(slice_of("web", "10.244.0.7"))
    async with running(tmp_path, *flags(tmp_path)) as daemon:
        await daemon.ready()
        assert "10.244.0.7:8080" in saved("nft")
        assert "10.96.0.66" not in saved("nft")
        await eventually(lambda: _events(api, "InvalidObject") != [], daemon)
        api.expire_watches()  # a relist brings the object again
        api.create(service("late", "10.96.0.81"))
        await eventually(lambda: "10.96.0.81/32" in saved("nft"), daemon)
    assert daemon.said("The object is skipped") == 1
    (event,) = _events(api, "InvalidObject")
    assert event["involvedObject"]["name"] == "bad"
    assert "spec.ports[0].port" in event["message"]
    assert _events(api, "Starting") != []


def _events(api: ApiServer, reason: str) -> list[Json]:
    return [event for event in api.list("Event") if event["reason"] == reason]


async def test_a_start_that_cannot_be_is_a_sentence_and_status_1(inside: Namespace, tmp_path: Path) -> None:
    del inside
    code, _, err = await kproxy("run", "--kubeconfig", str(tmp_path / "none"), "--conntrack-max-per-core=0")
    assert code == 1
    assert "does not exist; give --kubeconfig an existing file" in err
    assert "Traceback" not in err


# --- questions from outside -----------------------------------------------------------------------------------


async def test_health_follows_the_node_and_health_check_ports_the_endpoints(api: ApiServer, tmp_path: Path) -> None:
    spec: Json = {"type": "LoadBalancer", "externalTrafficPolicy": "Local", "healthCheckNodePort": 31999}
    api.create(service("lb", "10.96.0.90", **spec))
    api.create(slice_of("lb", "10.244.0.7"))
    async with running(tmp_path, *flags(tmp_path)) as daemon:
        await daemon.ready()
        await eventually(lambda: _is("http://127.0.0.1:31999/any", 200), daemon)
        assert await _is("http://127.0.0.1:10256/healthz", 200)
        taint = {"key": "ToBeDeletedByClusterAutoscaler", "value": "1", "effect": "NoSchedule"}
        api.patch("Node", "n1", {"spec": {"taints": [taint]}})
        await eventually(lambda: _is("http://127.0.0.1:10256/healthz", 503), daemon)
        assert await _is("http://127.0.0.1:10256/livez", 200)
        api.update(slice_of("lb"))
        await eventually(lambda: _is("http://127.0.0.1:31999/", 503), daemon)
        api.delete("Service", "lb")
        await eventually(lambda: _is("http://127.0.0.1:31999/", 0), daemon)
        status, metrics = await get("http://127.0.0.1:10249/metrics")
        assert status == 200
        assert 'kubeproxy_sync_proxy_rules_duration_seconds_count{ip_family="IPv4"}' in metrics
        assert await get("http://127.0.0.1:10249/proxyMode") == (200, "iptables")


async def _is(url: str, status: int) -> bool:
    return (await get(url))[0] == status


# --- flows, clean-up, manifests -------------------------------------------------------------------------------


async def test_flows_to_an_endpoint_that_left_are_forgotten(api: ApiServer, tmp_path: Path) -> None:
    api.create(service("dns", "10.96.0.53", ports=[{"port": 53, "targetPort": 8080, "protocol": "UDP"}]))
    api.create(slice_of("dns", "10.244.0.7", "10.244.0.8", protocol="UDP"))
    async with running(tmp_path, *flags(tmp_path)) as daemon:
        await daemon.ready()
        for port, endpoint in ((1001, "10.244.0.7"), (1002, "10.244.0.8")):
            _add_flow(port, endpoint)
        api.update(slice_of("dns", "10.244.0.8", protocol="UDP"))
        await eventually(lambda: "10.244.0.7" not in _flows(), daemon)
        assert "10.244.0.8" in _flows()


async def test_flows_to_a_service_that_was_deleted_while_nobody_looked_are_forgotten(
    api: ApiServer, tmp_path: Path, variant: str
) -> None:
    api.create(service("dns", "10.96.0.53", ports=[{"port": 53, "targetPort": 8080, "protocol": "UDP"}]))
    api.create(slice_of("dns", "10.244.0.7", protocol="UDP"))
    async with running(tmp_path, *flags(tmp_path, variant)) as daemon:
        await daemon.ready()
    _add_flow(1001, "10.244.0.7")
    api.delete("Service", "dns")
    async with running(tmp_path, *flags(tmp_path, variant)) as daemon:
        await eventually(lambda: "10.244.0.7" not in _flows(), daemon)


async def test_a_rule_that_iptables_cannot_print_is_said_and_everybody_served(api: ApiServer, tmp_path: Path) -> None:
    act("iptables-nft", "-A", "INPUT", "-j", "RETURN")
    act("nft", "add", "rule", "ip", "filter", "INPUT", "meta", "time", "5", "accept")
    api.create(service("web", "10.96.0.80"))
    api.create(slice_of("web", "10.244.0.7"))
    async with running(tmp_path, *flags(tmp_path)) as daemon:
        await daemon.ready()
        assert "10.244.0.7:8080" in act("iptables-nft-save", "-t", "nat")
        assert "jump KUBE-FIREWALL" in act("nft", "list", "chain", "ip", "filter", "INPUT")
        act("iptables-nft", "-t", "nat", "-F")
        await eventually(lambda: "10.244.0.7:8080" in act("iptables-nft-save", "-t", "nat"), daemon)
        assert daemon.said("A table cannot be read, programming it all the same") == 1


def _add_flow(source_port: int, endpoint: str) -> None:
    original = ("-s", "10.244.0.1", "-d", "10.96.0.53", "--sport", str(source_port), "--dport", "53")
    reply = ("-r", endpoint, "-q", "10.244.0.1", "--reply-port-src", "8080", "--reply-port-dst", str(source_port))
    act("conntrack", "-I", "-p", "udp", "-t", "100", *original, *reply)


def _flows() -> str:
    return subprocess.run(
        ("conntrack", "-L", "-p", "udp"), capture_output=True, text=True, check=True, timeout=20
    ).stdout


async def test_cleanup_removes_what_is_ours_from_both_variants_alone(inside: Namespace, tmp_path: Path) -> None:
    del inside
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    (manifests / "web.yaml").write_text(MANIFESTS, encoding="utf-8")
    for variant in ("nft", "legacy"):
        foreign = ("-A", "INPUT", "-m", "comment", "--comment", "stay -j KUBE-SERVICES", "-j", "ACCEPT")
        act(f"iptables-{variant}", *foreign)
        async with running(tmp_path, f"--manifests={manifests}", f"--iptables-backend={variant}") as daemon:
            await daemon.ready()
            assert "10.96.0.80/32" in saved(variant)
    code, out, err = await kproxy("cleanup")
    assert (code, err) == (0, ""), out
    for variant in ("nft", "legacy"):
        assert [line for line in saved(variant).splitlines() if "KUBE-" in line and "KUBE-FIREWALL" not in line] == [
            '-A INPUT -m comment --comment "stay -j KUBE-SERVICES" -j ACCEPT'
        ]
    assert "nothing to remove" in (await kproxy("--cleanup"))[1]


async def test_a_directory_of_manifests_is_served_without_an_api_server(inside: Namespace, tmp_path: Path) -> None:
    del inside
    manifests = tmp_path / "manifests"
    manifests.mkdir()
    file = manifests / "web.yaml"
    file.write_text(MANIFESTS, encoding="utf-8")
    async with running(tmp_path, f"--manifests={manifests}", "--hostname-override=n1") as daemon:
        await daemon.ready()
        assert "10.244.0.7:8080" in saved("nft")
        file.write_text(MANIFESTS.replace("10.244.0.7", "10.244.0.99"), encoding="utf-8")
        await eventually(lambda: "10.244.0.99:8080" in saved("nft"), daemon)
        code, out, _ = await kproxy("check", f"--manifests={manifests}", "--hostname-override=n1")
        assert (code, "agrees" in out) == (0, True), out
    act("iptables-nft", "-t", "nat", "-F", "KUBE-SERVICES")
    code, out, _ = await kproxy("check", f"--manifests={manifests}", "--hostname-override=n1")
    assert code == 1
    assert "chain KUBE-SERVICES does not hold what it should hold" in out


MANIFESTS = """\
apiVersion: v1
kind: Service
metadata: {name: web, namespace: default}
spec: {clusterIP: 10.96.0.80, ports: [{port: 80, targetPort: 8080, protocol: TCP}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: web-1, namespace: default, labels: {kubernetes.io/service-name: web}}
addressType: IPv4
ports: [{name: "", port: 8080, protocol: TCP}]
endpoints: [{addresses: [10.244.0.7]}]
"""
