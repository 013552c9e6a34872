"""The text that nginx gets. nginx itself reading it: tests/netns/test_sandbox_demo.py."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kproxy.sandbox import nginx

BACKENDS = {("shop", "red", 80): "10.96.0.1:80", ("shop", "blue", "http"): "[fd00::2]:80"}


def find_backend(namespace: str, service: str, port: int | str) -> str | None:
    return BACKENDS.get((namespace, service, port))


def backend(service: str, **port: Any) -> dict[str, Any]:
    return {"service": {"name": service, "port": port}}


def ingress(*rules: dict[str, Any], **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": "i", "namespace": "shop"}, "spec": {"rules": list(rules), **spec}}


def rule(host: str, path: str, target: dict[str, Any], kind: str = "Prefix") -> dict[str, Any]:
    return {"host": host, "http": {"paths": [{"path": path, "pathType": kind, "backend": target}]}}


def servers(*ingresses: dict[str, Any], **more: Any) -> str:
    return nginx.ingress_servers(ingresses, find_backend, **more)


def test_a_host_is_a_server_and_a_path_a_location() -> None:
    text = servers(ingress(rule("red.example", "/", backend("red", number=80))))
    assert "server_name 'red.example';\n  location / { proxy_pass http://10.96.0.1:80; }" in text
    assert "default_server;\n  server_name _;\n  location / { return 404; }" in text


def test_a_prefix_ends_at_a_slash_and_an_exact_path_at_its_end() -> None:
    text = servers(
        ingress(
            rule("red.example", "/shop/", backend("blue", name="http")),
            rule("red.example", "/only", backend("red", number=80), "Exact"),
        )
    )
    assert "location = '/shop' { proxy_pass http://[fd00::2]:80; }" in text
    assert "location '/shop/' { proxy_pass http://[fd00::2]:80; }" in text
    assert "location = '/only' { proxy_pass http://10.96.0.1:80; }" in text
    assert text.count("location / { return 404; }") == 2


def test_a_backend_that_is_not_there_is_unavailable() -> None:
    assert "location / { return 503; }" in servers(ingress(rule("x.example", "/", backend("gone", number=1))))


def test_a_default_backend_takes_what_no_rule_names() -> None:
    text = servers(ingress(defaultBackend=backend("red", number=80)))
    assert "server_name _;\n  location / { proxy_pass http://10.96.0.1:80; }" in text


def test_tls_is_one_more_port_of_every_server() -> None:
    text = servers(ingress(), tls=(Path("/c"), Path("/k")), tls_port=8443)
    assert "listen 8443 ssl default_server; listen [::]:8443 ssl default_server;" in text
    assert "ssl_certificate /c; ssl_certificate_key /k;" in text


def test_names_cannot_leave_their_quotes() -> None:
    text = servers(ingress(rule("a'; evil on; #\\", "/", backend("red", number=80))))
    assert r"server_name 'a\'; evil on; #\\';" in text


def test_a_web_server_tells_what_our_own_servers_tell() -> None:
    text = nginx.web_server("web-1", 8080)
    for fact in ('"name": "web-1"', '"local": "$local_ip:$server_port"', '"peer": "$peer_ip:$remote_port"'):
        assert fact in text
    assert "listen 8080; listen [::]:8080;" in text
