"""A registry with a fixed clock, and a running server, both with what every cluster contains."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

from kproxy.sandbox.apiserver import ApiServer, TlsFiles
from kproxy.sandbox.apiserver.bootstrap import bootstrap
from kproxy.sandbox.apiserver.registry import Registry
from kproxy.sandbox.apiserver.resources import RESOURCES
from kproxy.sandbox.apiserver.store import Store

NOW = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)


def _registry(*cidrs: str, graceful_pods: bool = False) -> Registry:
    store = Store({row.stored_in: row.selectable for row in RESOURCES})
    registry = Registry(store, cidrs, range(30000, 32768), graceful_pods, now=lambda: NOW)
    bootstrap(registry, "127.0.0.1", 6443)
    return registry


@pytest.fixture
def registry() -> Registry:
    """A single-stack cluster whose range is small enough to run out."""
    return _registry("10.96.0.0/28")


@pytest.fixture
def dual() -> Registry:
    return _registry("10.96.0.0/24", "fd00:10:96::/112")


@pytest.fixture
def graceful() -> Registry:
    return _registry("10.96.0.0/24", graceful_pods=True)


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    async with ApiServer() as running:
        yield running


def _openssl(*arguments: str, cwd: Path) -> None:
    subprocess.run(("openssl", *arguments), cwd=cwd, check=True, capture_output=True, timeout=20)


@pytest.fixture
def tls(tmp_path: Path) -> TlsFiles:
    if not shutil.which("openssl"):
        pytest.skip("the openssl program is not installed: nothing can make certificates")
    curve = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "1")
    for name, extensions in (("server", ("-addext", "subjectAltName=IP:127.0.0.1")), ("client", ())):
        files = ("-keyout", f"{name}.key", "-out", f"{name}.pem")
        _openssl("req", "-x509", *curve, *files, "-subj", f"/CN={name}", *extensions, cwd=tmp_path)
    return TlsFiles(
        certificate=tmp_path / "server.pem",
        key=tmp_path / "server.key",
        ca=tmp_path / "server.pem",
        client_ca=tmp_path / "client.pem",
        client_certificate=tmp_path / "client.pem",
        client_key=tmp_path / "client.key",
    )
