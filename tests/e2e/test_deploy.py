"""The DaemonSet's pod without a kubelet: its command, files, capabilities and account, in namespaces of its own.

What the kubelet and the runtime would do is done by a few lines of shell: the root file system is read-only, /proc/sys
too, of root's rights only the manifest's are left. The image itself is tests/image's; whether a real kubelet agrees, a
real cluster says (deploy/kind/smoke.sh).
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from kproxy.config import Config
from kproxy.daemon import events
from kproxy.sandbox.apiserver import ApiServer, TlsFiles, routes
from kproxy.sandbox.apiserver.handler import RecordedRequest
from kproxy.source.client import Client
from kproxy.source.credentials import Credentials
from tests.deploy import manifests
from tests.e2e.conftest import ROOT, Daemon, act, eventually, saved, service, slice_of
from tests.netns.conftest import Namespace

pytestmark = pytest.mark.root
Json = dict[str, Any]
_TOKEN = "the-pods-token"
_SERVICE_IP = "10.96.0.1"
_VERBS = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_KUBE_PROXYS = ["86400\n", "3600\n"]
_POD = """
set -eu
files=$1 capabilities=$2
shift 2
mount -t tmpfs none /run
mkdir -p /run/secrets/kubernetes.io/serviceaccount
cp "$files"/account/* /run/secrets/kubernetes.io/serviceaccount
touch /run/xtables.lock "$files/xtables.lock"
mount --bind "$files/xtables.lock" /run/xtables.lock
mount -o remount,bind,ro /run
mount -t tmpfs none /var/lib
mkdir /var/lib/kube-proxy
cp "$files"/settings/* /var/lib/kube-proxy
mount -o remount,bind,ro /var/lib
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount -o remount,bind,ro /
exec setpriv --no-new-privs --inh-caps=-all --bounding-set="-all$capabilities" -- "$@"
"""
_KUBEADM = """
apiVersion: v1
kind: Config
clusters: [{name: default, cluster: {server: SERVER, certificate-authority: ACCOUNT/ca.crt}}]
users: [{name: default, user: {tokenFile: ACCOUNT/token}}]
contexts: [{name: default, context: {cluster: default, namespace: default, user: default}}]
current-context: default
""".replace("ACCOUNT", "/var/run/secrets/kubernetes.io/serviceaccount")


@pytest.fixture
async def api(inside: Namespace, tmp_path: Path) -> AsyncIterator[ApiServer]:
    del inside
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1", "-subj", "/CN=api")
    pem, key = tmp_path / "api.pem", tmp_path / "api.key"
    names = ("-addext", f"subjectAltName=IP:{_SERVICE_IP}")
    command = ("openssl", "req", "-x509", *curve, "-keyout", str(key), "-out", str(pem), *names)
    act(*command)
    # It answers at its Service's address, too, as on a node that has kube-proxy's rules.
    act("ip", "address", "add", f"{_SERVICE_IP}/32", "dev", "lo")
    async with ApiServer(host=_SERVICE_IP, token=_TOKEN, tls=TlsFiles(certificate=pem, key=key, ca=pem)) as server:
        node = {"type": "InternalIP", "address": "192.0.2.1"}
        server.create({"kind": "Node", "metadata": {"name": "n1"}, "status": {"addresses": [node]}})
        server.create(service("web", "10.96.1.1"))
        server.create(slice_of("web", "10.244.1.5"))
        yield server


def _files(documents: list[Json], present: Mapping[str, Json]) -> dict[str, str]:
    """What the kubelet writes into the settings' volume, of the ConfigMaps that are there."""
    (volume,) = (each for each in manifests.pod(documents)["volumes"] if each["name"] == "settings")
    sources = volume.get("projected", {"sources": [{"configMap": volume.get("configMap")}]})["sources"]
    found: dict[str, str] = {}
    for source in sources:
        name = source["configMap"]["name"]
        if name in present or not source["configMap"].get("optional"):
            found |= present[name]
    return found


@asynccontextmanager
async def _pod(tmp_path: Path, documents: list[Json], settings: Mapping[str, str]) -> AsyncIterator[Daemon]:
    files = tmp_path / "files"
    (files / "settings").mkdir(parents=True)
    (files / "account").mkdir()
    for name, text in settings.items():
        (files / "settings" / name).write_text(text, encoding="utf-8")
    (files / "account" / "token").write_text(_TOKEN, encoding="utf-8")
    (files / "account" / "ca.crt").write_bytes((tmp_path / "api.pem").read_bytes())
    (files / "account" / "namespace").write_text("kube-system", encoding="utf-8")
    added = manifests.container(documents)["securityContext"]["capabilities"]["add"]
    capabilities = "".join(f",+{each.lower()}" for each in added)
    shell = ("unshare", "--mount", "sh", "-c", _POD, "pod", str(files), capabilities)
    # A pod's environment names the Service, which nobody serves here before kproxy does.
    environment = {
        "PATH": os.environ["PATH"],
        "PYTHONDONTWRITEBYTECODE": "1",
        "KUBERNETES_SERVICE_HOST": _SERVICE_IP,
        "KUBERNETES_SERVICE_PORT": "443",
    }
    log = tmp_path / "kproxy.log"
    with log.open("wb") as stream:
        process = await asyncio.create_subprocess_exec(
            *shell, sys.executable, "-m", "kproxy", *manifests.arguments(documents, "n1"),
            stderr=stream, cwd=ROOT, env=environment,
        )  # fmt: skip
    daemon = Daemon(process, log)
    try:
        yield daemon
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


def _granted(documents: list[Json]) -> set[tuple[str, str, str]]:
    return {
        (group, resource, verb)
        for rule in manifests.only(documents, "ClusterRole")["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def _timeouts() -> list[str]:
    """Of connections, in this network namespace."""
    names = ("established", "close_wait")
    return [Path(f"/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_{name}").read_text("ascii") for name in names]


def _asked(requests: list[RecordedRequest]) -> Iterator[tuple[str, str, str]]:
    for each in requests:
        target = routes.target(each.path)  # fails for anything that is no resource
        reading = "watch" if each.is_watch else "get" if target.name else "list"
        yield target.resource.group, target.resource.plural, _VERBS.get(each.method, reading)


async def test_it_asks_for_what_its_role_grants_and_for_all_of_it(api: ApiServer, tmp_path: Path) -> None:
    """On a node with iptables-legacy, at a server that does not stream lists, so that lists are asked for, too."""
    act("iptables-legacy", "-t", "mangle", "-N", "KUBE-KUBELET-CANARY")  # as the kubelet does
    api.faults.streaming_lists = False
    documents = manifests.applied()
    ours = manifests.only(documents, "ConfigMap")["data"]
    assert ours["config.conf"].count(manifests.PLACEHOLDER) == 1
    settings = {name: text.replace(manifests.PLACEHOLDER, api.url) for name, text in ours.items()}
    async with _pod(tmp_path, documents, _files(documents, {"kproxy": settings})) as daemon:
        await daemon.ready()
        assert "-d 10.96.1.1/32" in saved("legacy")
        await eventually(lambda: any(each.method == "POST" for each in api.requests), daemon)
        assert daemon.said("the Service kubernetes, which kproxy itself provides") == 1
        assert _timeouts() == _KUBE_PROXYS
        assert await daemon.end() == 0
    await _tell_twice(api, tmp_path)
    assert set(_asked(list(api.requests))) == _granted(documents)


async def _tell_twice(api: ApiServer, tmp_path: Path) -> None:
    """The second time an Event is only counted, which a daemon does after ten minutes."""
    found = Credentials(api.url, "a test", f"Bearer {_TOKEN}", (tmp_path / "api.pem").read_text("utf-8"))

    async def resolve(_: Config) -> Credentials:
        return found

    async with Client(Config(), resolve=resolve) as client:
        recorder = events.Recorder(client, "n1")
        for _ in range(2):
            await recorder.tell(events.starting("n1"))


async def test_where_kubeadm_left_its_settings_they_count_unchanged(api: ApiServer, tmp_path: Path) -> None:
    """And the server's address that is in them, beside a ConfigMap of ours that nobody edited."""
    act("sysctl", "-qw", "net.ipv4.conf.all.route_localnet=0")  # a network namespace begins with the machine's
    documents = manifests.applied()
    left = (ROOT / "unit" / "settings" / "data" / "kubeadm.yaml").read_text(encoding="utf-8")
    present = {
        "kproxy": manifests.only(documents, "ConfigMap")["data"],
        "kube-proxy": {"config.conf": left, "kubeconfig.conf": _KUBEADM.replace("SERVER", api.url)},
    }
    async with _pod(tmp_path, documents, _files(documents, present)) as daemon:
        await daemon.ready()
        assert "-d 10.96.1.1/32" in saved("nft")
        assert f"! -s {yaml.safe_load(left)['clusterCIDR']} -d 10.96.1.1/32" in saved("nft")
        assert await daemon.end() == 0
        assert _timeouts() == _KUBE_PROXYS
        assert daemon.said("Some kernel settings stay as they are") == 1  # route_localnet: /proc/sys is read-only
        assert daemon.said('nf_conntrack_tcp_timeout_close_wait="3600, was 60, by netlink"') == 1
        assert not daemon.said("E1") + daemon.said("Cannot")
