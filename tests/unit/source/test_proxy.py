"""Which proxy a request to the API server takes, by the environment's variables."""

from __future__ import annotations

import pytest

from kproxy.source.proxy import proxy_for

PROXY = "http://proxy:3128"
SERVER = "https://10.0.0.1:6443"


@pytest.mark.parametrize(
    ("server", "exceptions"),
    [
        (SERVER, "10.0.0.0/8,.svc"),
        (SERVER, "192.0.2.0/24, 10.0.0.1"),
        (SERVER, "10.0.0.1:6443"),
        (SERVER, "*"),
        ("https://[fd00::1]:6443", "fd00::/64"),
        ("https://[fd00::1]:6443", "[fd00::1]:6443"),
        ("https://api.example.com", "Example.com"),
        ("https://api.example.com", ".example.com:443"),
        ("https://api.example.com", "*.example.com"),
        ("https://example.com", "example.com"),
        ("https://localhost:6443", ""),
        ("https://127.0.0.2:6443", ""),
        ("https://[::1]:6443", ""),
    ],
)
def test_exceptions_are_reached_directly(server: str, exceptions: str) -> None:
    assert proxy_for(server, {"HTTPS_PROXY": PROXY, "NO_PROXY": exceptions}) == ""


@pytest.mark.parametrize(
    ("server", "exceptions"),
    [
        (SERVER, ""),
        (SERVER, "11.0.0.0/8,fd00::/8,,.svc"),
        (SERVER, "10.0.0.1:443"),
        ("https://example.com", ".example.com"),
        ("https://badexample.com", "example.com"),
        ("https://api.example.com", "10.0.0.0/8"),
    ],
)
def test_everything_else_takes_the_proxy(server: str, exceptions: str) -> None:
    assert proxy_for(server, {"HTTPS_PROXY": PROXY, "no_proxy": exceptions}) == PROXY


def test_each_scheme_has_its_variable_in_either_case() -> None:
    assert proxy_for(SERVER, {"HTTP_PROXY": PROXY, "ALL_PROXY": PROXY}) == ""
    assert proxy_for("http://10.0.0.1", {"http_proxy": "proxy:3128"}) == PROXY
    assert proxy_for(SERVER, {"https_proxy": "https://other", "HTTPS_PROXY": PROXY}) == PROXY
