"""Kubeconfigs of every kind, read by the installed ``kubernetes`` package. The header on the wire: test_client.py."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import select
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from kproxy.config import Config
from kproxy.errors import BadCredentials
from kproxy.source import credentials
from kproxy.source.credentials import Credentials, from_kubeconfig, from_pod, read_token, resolve

CLUSTER = {"server": "https://192.0.2.1:6443/"}


def kubeconfig(directory: Path, user: dict[str, Any] | None, cluster: dict[str, Any] | None = None) -> str:
    path = directory / "config"
    value = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "k", "user": "u"}}],
        "clusters": [{"name": "k", "cluster": CLUSTER if cluster is None else cluster}],
        "users": [] if user is None else [{"name": "u", "user": user}],
    }
    path.write_text(json.dumps(value))
    return str(path)


def plugin(directory: Path, script: str) -> dict[str, Any]:
    path = directory / "plugin"
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return {"exec": {"apiVersion": "client.authentication.k8s.io/v1", "command": "./plugin", "args": ["--now"]}}


def answer(**status: str) -> str:
    value = {"apiVersion": "client.authentication.k8s.io/v1", "kind": "ExecCredential", "status": status}
    return f"echo '{json.dumps(value)}'"


def encoded(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.fixture(autouse=True)
def _no_proxy_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.casefold().endswith("_proxy"):
            monkeypatch.delenv(name)


def test_a_token(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path, {"token": "secret"})
    assert from_kubeconfig(path) == Credentials(
        server="https://192.0.2.1:6443", source=f"kubeconfig {path}", authorization="Bearer secret"
    )


def test_a_user_and_a_password(tmp_path: Path) -> None:
    found = from_kubeconfig(kubeconfig(tmp_path, {"username": "u", "password": "p"}))
    assert found.authorization == f"Basic {encoded('u:p')}"


def test_a_token_file_is_remembered_for_reading_it_again(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("secret\n")
    found = from_kubeconfig(kubeconfig(tmp_path, {"tokenFile": "token"}))
    assert (found.authorization, found.token_file) == ("Bearer secret", str(tmp_path / "token"))


def test_a_token_file_is_remembered_by_its_link_because_the_kubelet_swaps_it(tmp_path: Path) -> None:
    for name, token in (("..1", "first"), ("..2", "second")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "token").write_text(token)
    (tmp_path / "..data").symlink_to("..1")
    (tmp_path / "token").symlink_to("..data/token")
    found = from_kubeconfig(kubeconfig(tmp_path, {"tokenFile": str(tmp_path / "token")}))
    (tmp_path / "..data").unlink()
    (tmp_path / "..data").symlink_to("..2")
    assert (found.authorization, read_token(found.token_file)) == ("Bearer first", "Bearer second")


def test_certificates_inline_and_in_files(tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("the key")
    user = {"client-certificate-data": encoded("the certificate"), "client-key": "key.pem"}
    cluster = CLUSTER | {"certificate-authority-data": encoded("the CA"), "tls-server-name": "kubernetes"}
    found = from_kubeconfig(kubeconfig(tmp_path, user, cluster))
    assert (found.ca, found.certificate, found.private_key) == ("the CA", "the certificate", "the key")
    assert found.server_name == "kubernetes"
    assert not found.insecure


def test_no_user_is_no_credentials_and_no_error(tmp_path: Path) -> None:
    found = from_kubeconfig(kubeconfig(tmp_path, None, {"server": "http://localhost:8080", "proxy-url": "http://p:1"}))
    assert (found.server, found.authorization, found.proxy) == ("http://localhost:8080", "", "http://p:1")


def test_an_insecure_cluster(tmp_path: Path) -> None:
    assert from_kubeconfig(kubeconfig(tmp_path, None, CLUSTER | {"insecure-skip-tls-verify": True})).insecure


def test_an_exec_plugin_gives_a_token_that_expires(tmp_path: Path) -> None:
    script = answer(token="secret", expirationTimestamp="2030-01-01T00:00:00Z")
    found = from_kubeconfig(kubeconfig(tmp_path, plugin(tmp_path, script)))
    assert (found.authorization, found.expires) == ("Bearer secret", 1893456000.0)


def test_an_exec_plugin_gives_a_certificate(tmp_path: Path) -> None:
    script = answer(clientCertificateData="the certificate", clientKeyData="the key")
    found = from_kubeconfig(kubeconfig(tmp_path, plugin(tmp_path, script)))
    assert (found.certificate, found.private_key) == ("the certificate", "the key")


@pytest.mark.parametrize("script", ["echo no login >&2; exit 3", "echo no JSON", answer()])
def test_a_failing_plugin_is_an_error_that_names_it_and_what_it_said(tmp_path: Path, script: str) -> None:
    path = kubeconfig(tmp_path, plugin(tmp_path, script))
    with pytest.raises(BadCredentials, match=r"its exec plugin '\./plugin' gave no credentials: .+; run it by") as e:
        from_kubeconfig(path)
    assert path in str(e.value)
    assert ("no login" in str(e.value)) == ("login" in script)


@pytest.mark.parametrize(
    ("user", "cluster", "said"),
    [
        ({"token": "t"}, {}, "its server '' is no http or https URL"),
        ({"token": "t"}, {"server": "ftp://x"}, "is no http or https URL"),
        ({"client-certificate": "missing.pem"}, None, "missing.pem"),
        ({"tokenFile": "missing"}, None, "missing"),
        ({}, CLUSTER | {"certificate-authority-data": "%%%"}, "is empty"),
        ({}, CLUSTER | {"certificate-authority-data": 7}, "cannot be used"),
        ({}, CLUSTER | {"proxy-url": "socks5://p:1"}, "use an http or https proxy"),
        ({"exec": {"command": "x"}}, None, "missing key 'apiVersion'"),
    ],
)
def test_a_broken_kubeconfig_is_an_error_that_names_it(
    tmp_path: Path, user: dict[str, Any], cluster: dict[str, Any] | None, said: str
) -> None:
    path = kubeconfig(tmp_path, user, cluster)
    with pytest.raises(BadCredentials) as error:
        from_kubeconfig(path)
    assert said in str(error.value)
    assert path in str(error.value)


def test_all_files_that_are_missing_are_named_by_their_fields(tmp_path: Path) -> None:
    (tmp_path / "there").write_text("PEM")
    user = {"tokenFile": "/nope/token", "client-certificate": "there", "client-key": "key", "client-key-data": "eA=="}
    path = kubeconfig(tmp_path, user, CLUSTER | {"certificate-authority": "ca.pem"})
    with pytest.raises(BadCredentials) as caught:
        from_kubeconfig(path)
    assert str(caught.value) == (
        f"kubeconfig {path} cannot be used: clusters[k].cluster.certificate-authority {tmp_path}/ca.pem does not exist"
        ", users[u].user.tokenFile /nope/token does not exist; mount what is missing, or correct the path"
    )


@pytest.mark.parametrize("content", ["", "{", "[]", "a: b", "current-context: c\ncontexts: []\n"])
def test_a_file_that_is_no_kubeconfig(tmp_path: Path, content: str) -> None:
    path = tmp_path / "config"
    path.write_text(content)
    with pytest.raises(BadCredentials, match=str(path)):
        from_kubeconfig(str(path))


def test_a_proxy_of_the_environment_is_not_for_the_loopback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "http://proxy:3128")
    assert from_kubeconfig(kubeconfig(tmp_path, None)).proxy == "http://proxy:3128"
    assert from_kubeconfig(kubeconfig(tmp_path, None, {"server": "https://127.0.0.1:6443"})).proxy == ""
    monkeypatch.setenv("no_proxy", "192.0.2.0/24")
    assert from_kubeconfig(kubeconfig(tmp_path, None)).proxy == ""
    assert from_kubeconfig(kubeconfig(tmp_path, None, CLUSTER | {"proxy-url": "http://p:1"})).proxy == "http://p:1"


def test_a_proxys_password_is_not_told(tmp_path: Path) -> None:
    with pytest.raises(BadCredentials) as caught:
        from_kubeconfig(kubeconfig(tmp_path, None, CLUSTER | {"proxy-url": "socks5://u:secret@p:1"}))
    assert "secret" not in str(caught.value)


def test_in_a_pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kubernetes.config import incluster_config

    (tmp_path / "token").write_text("secret\n")
    (tmp_path / "ca").write_text("the CA")
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "fd00::1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(tmp_path / "ca"))
    assert from_pod() == Credentials(
        server="https://[fd00::1]:443",
        source="the pod's service account",
        authorization="Bearer secret",
        ca="the CA",
        token_file=str(tmp_path / "token"),
    )


def test_a_token_file_without_a_token(tmp_path: Path) -> None:
    with pytest.raises(BadCredentials, match="cannot be read"):
        read_token(str(tmp_path / "token"))
    (tmp_path / "token").write_text("\n")
    with pytest.raises(BadCredentials, match="holds no token"):
        read_token(str(tmp_path / "token"))


def test_the_daemon_never_imports_the_package() -> None:
    code = "import sys; from kproxy.source import client, files, watch; sys.exit('kubernetes' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0


# --- through the child ------------------------------------------------------------------------------------------------


async def test_master_alone_needs_no_child() -> None:
    assert await resolve(Config(master="http://127.0.0.1:8080/")) == Credentials(
        server="http://127.0.0.1:8080", source="--master"
    )


async def test_master_in_a_pod_is_shown_the_pods_account(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask(_: Config) -> Credentials:
        return Credentials(server="https://10.96.0.1:443", source="the pod's service account", authorization="Bearer t")

    monkeypatch.setattr(credentials, "_ask_child", ask)
    monkeypatch.setattr(credentials, "_POD_TOKEN", str(tmp_path / "token"))
    assert not (await resolve(Config(master="https://10.0.0.1:6443"))).authorization
    (tmp_path / "token").write_text("t")
    found = await resolve(Config(master="https://10.0.0.1:6443"))
    assert (found.server, found.authorization) == ("https://10.0.0.1:6443", "Bearer t")
    assert not (await resolve(Config(master="http://10.0.0.1:8080"))).authorization


async def test_master_overrides_the_server_of_the_kubeconfig(tmp_path: Path) -> None:
    config = Config(kubeconfig=kubeconfig(tmp_path, {"token": "secret"}), master="https://other:6443")
    found = await resolve(config)
    assert (found.server, found.authorization) == ("https://other:6443", "Bearer secret")


async def test_neither_kubeconfig_nor_pod(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(BadCredentials, match="give --kubeconfig FILE, or --manifests DIR"):
        await resolve(Config())


async def test_a_hanging_plugin_is_killed_at_the_deadline_with_its_children(tmp_path: Path) -> None:
    fifo = tmp_path / "alive"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    try:
        path = kubeconfig(tmp_path, plugin(tmp_path, f"exec 9>{fifo}; sleep 1000"))
        with pytest.raises(BadCredentials, match="its exec plugin hangs"):
            await resolve(Config(kubeconfig=path, credentials_deadline=1.5))
        select.select([reader], [], [], 10)
        assert os.read(reader, 1) == b""  # the end of file says that nobody holds the other end any more
    finally:
        os.close(reader)


async def test_giving_up_kills_the_plugin_too(tmp_path: Path) -> None:
    fifo = tmp_path / "alive"
    os.mkfifo(fifo)
    path = kubeconfig(tmp_path, plugin(tmp_path, f"exec 9>{fifo}; sleep 1000"))
    resolving = asyncio.create_task(resolve(Config(kubeconfig=path)))
    with await asyncio.to_thread(fifo.open, "rb") as reader:  # opens when the plugin does
        resolving.cancel()
        with pytest.raises(asyncio.CancelledError):
            await resolving
        async with asyncio.timeout(10):
            assert await asyncio.to_thread(reader.read) == b""


async def test_a_child_that_cannot_be_started_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    with pytest.raises(BadCredentials, match="its reader cannot be started"):
        await resolve(Config(kubeconfig="/k"))


async def test_a_child_that_breaks_is_an_error_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(credentials, "_CHILD", "import sys; sys.exit('out of cheese')")
    with pytest.raises(BadCredentials, match="ended with status 1: out of cheese"):
        await resolve(Config(kubeconfig=kubeconfig(tmp_path, {})))


def test_the_child_prints_one_json_value(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsysbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.setattr(sys, "argv", ["credentials", kubeconfig(tmp_path, {"token": "secret"})])
    credentials.main()
    monkeypatch.setattr(sys, "argv", ["credentials", str(tmp_path / "missing")])
    good = capsysbinary.readouterr().out
    credentials.main()
    assert msgspec.json.decode(good)["credentials"]["authorization"] == "Bearer secret"
    assert "does not exist" in msgspec.json.decode(capsysbinary.readouterr().out)["message"]
