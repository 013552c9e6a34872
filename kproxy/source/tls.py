"""Credentials to a TLS context, without a private key ever reaching a disk."""

from __future__ import annotations

import contextlib
import os
import ssl
from collections.abc import Iterator

from kproxy.errors import BadCredentials
from kproxy.source.credentials import Credentials


def tls_context(credentials: Credentials) -> ssl.SSLContext:
    """Trust what the kubeconfig trusts. Raises ``BadCredentials``."""
    source = credentials.source
    try:
        context = ssl.create_default_context(cadata=credentials.ca or None)
    except (ssl.SSLError, ValueError) as error:
        raise BadCredentials(
            f"{source}: its certificate authority is no PEM certificate ({error}); repair it"
        ) from error
    # Python 3.13 wants extensions that many cluster CAs lack, and that no other client asks for.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if credentials.insecure:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if credentials.certificate:
        try:
            # An empty password makes an encrypted key an error; without it, OpenSSL would ask the terminal.
            with _file(credentials.certificate) as certificate, _file(credentials.private_key) as key:
                context.load_cert_chain(certificate, key, password="")
        except (ssl.SSLError, OSError) as error:
            raise BadCredentials(
                f"{source}: its client certificate and key do not fit or cannot be read ({error}); repair them"
            ) from error
    return context


@contextlib.contextmanager
def _file(content: str) -> Iterator[str]:
    """A path to an anonymous file in memory: OpenSSL reads certificates from paths alone."""
    descriptor = os.memfd_create("kproxy-pem")
    try:
        os.write(descriptor, content.encode())
        os.lseek(descriptor, 0, os.SEEK_SET)
        yield f"/proc/self/fd/{descriptor}"
    finally:
        os.close(descriptor)
