"""Contexts from PEM. Connections through them: test_client.py."""

from __future__ import annotations

import shutil
import ssl
import subprocess
from pathlib import Path

import pytest

from kproxy.errors import BadCredentials
from kproxy.source.credentials import Credentials
from kproxy.source.tls import tls_context

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificates with openssl")


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """A self-signed certificate and its key."""
    directory = tmp_path_factory.mktemp("tls")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=test", "-keyout", "key.pem", "-out", "cert.pem"],
        cwd=directory, check=True, capture_output=True, timeout=60,
    )  # fmt: skip
    return Path(directory, "cert.pem").read_text(), Path(directory, "key.pem").read_text()


def credentials(**fields: object) -> Credentials:
    return Credentials(server="https://x", source="kubeconfig /k", **fields)  # type: ignore[arg-type]


def test_a_cluster_is_verified_by_its_own_authority_alone(pair: tuple[str, str]) -> None:
    context = tls_context(credentials(ca=pair[0]))
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert len(context.get_ca_certs()) == 1


def test_an_insecure_cluster_is_not_verified() -> None:
    assert tls_context(credentials(insecure=True)).verify_mode is ssl.CERT_NONE


def test_a_client_certificate_is_loaded_from_memory(pair: tuple[str, str]) -> None:
    tls_context(credentials(ca=pair[0], certificate=pair[0], private_key=pair[1]))


@pytest.mark.parametrize("key", ["", "garbage"])
def test_a_key_that_does_not_fit_is_an_error_that_names_the_file(pair: tuple[str, str], key: str) -> None:
    with pytest.raises(BadCredentials, match="kubeconfig /k: its client certificate and key"):
        tls_context(credentials(certificate=pair[0], private_key=key))


def test_an_authority_that_is_no_certificate_is_an_error_that_names_the_file() -> None:
    with pytest.raises(BadCredentials, match="kubeconfig /k: its certificate authority"):
        tls_context(credentials(ca="garbage"))
