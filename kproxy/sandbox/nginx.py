"""A real nginx in a host: as a web server that says who it is, and as an ingress controller.

The ingress controller's configuration is made from Ingress objects, one server a host name, one location a path. It
sends to cluster IPs, so that every request through it crosses kproxy twice: once to reach the controller, once
behind it. (Most real controllers go to endpoints directly; here the way through the Service is the point.)

nginx stays in the foreground, or it would outlive the sandbox's deadline for it; it runs as the user who started it,
because inside a user namespace there is no other.

Source of the rules: Ingress v1 (path types Exact and Prefix, host names with a leading wildcard); nginx's
ngx_http_core_module (server_name, location).
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from kproxy.errors import KernelError, ProgramMissing
from kproxy.sandbox.host import Host

_START_DEADLINE = 10.0  # seconds until nginx listens; it takes some milliseconds
_LOOK_AGAIN = 0.01  # seconds; nginx has no way to tell that it listens
_TEMPORARY = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")

# Where a Service's port is served: (namespace, service, port by number or name) → "ip:port", None when unknown.
FindBackend = Callable[[str, str, int | str], str | None]


class Nginx:
    """One nginx process in a host, with its files in a directory of its own."""

    def __init__(self, host: Host, directory: Path) -> None:
        self._host = host
        self._directory = directory
        self._process: asyncio.subprocess.Process | None = None
        self._config = ""

    async def configure(self, servers: str, *, port: int) -> None:
        """Serve with these ``server`` blocks, which listen on ``port``: start, or reload when it runs already."""
        config = self._whole(servers)
        if config == self._config:
            return
        await asyncio.to_thread(self._write, config)
        self._config = config
        if self._process is None:
            await self._start(port)
        else:
            self._process.send_signal(1)  # SIGHUP: read the configuration again, finish what is under way

    async def stop(self) -> None:
        """End the process; the files go with the directory."""
        if self._process is not None:
            await self._host.stop(self._process)
            self._process = None

    async def certificate(self, *names: str) -> tuple[Path, Path]:
        """Make a self-signed certificate; the paths of certificate and key. Raises ProgramMissing, ProgramFailed."""
        certificate, key = self._directory / "tls.crt", self._directory / "tls.key"
        await asyncio.to_thread(self._directory.mkdir, parents=True, exist_ok=True)
        subject = ("-subj", f"/CN={names[0]}", "-addext", "subjectAltName=" + ",".join(f"DNS:{n}" for n in names))
        request = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        files = ("-days", "2", "-keyout", str(key), "-out", str(certificate))
        (await self._host.run((*request, *subject, *files))).check()
        return certificate, key

    def _write(self, config: str) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        (self._directory / "nginx.conf").write_text(config, encoding="utf-8")

    def _whole(self, servers: str) -> str:
        temporary = "\n".join(f"  {kind}_temp_path {self._directory}/{kind};" for kind in _TEMPORARY)
        return _FRAME.format(directory=self._directory, temporary=temporary, servers=servers)

    async def _start(self, port: int) -> None:
        log = self._directory / "error.log"
        command = ("nginx", "-c", str(self._directory / "nginx.conf"), "-p", str(self._directory), "-e", str(log))
        self._process = await self._host.popen(command, stderr=asyncio.subprocess.DEVNULL)
        try:
            async with asyncio.timeout(_START_DEADLINE):
                while not await self._listens(port):
                    if self._process.returncode is not None:
                        self._refuse(self._process.returncode, await asyncio.to_thread(_tail, log))
                    await asyncio.sleep(_LOOK_AGAIN)
        except TimeoutError:
            raise KernelError(
                f"nginx on {self._host.name} does not listen on {port} after {_START_DEADLINE:g} s"
            ) from None

    async def _listens(self, port: int) -> bool:
        from kproxy.sandbox import probe

        return (await probe.tcp(self._host, self._host.ips[0], port)).outcome != "refused"

    def _refuse(self, status: int, said: str) -> None:
        if status in {126, 127}:
            raise ProgramMissing("nginx is not installed; the package nginx-light has it")
        raise KernelError(f"nginx on {self._host.name} ended with status {status}: {said}")


def _tail(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-400:].strip() if log.exists() else "no log"


def web_server(name: str, port: int) -> str:
    """The server block of a web server that answers every request as workload.py's servers do."""
    facts = {"name": name, "local": "$local_ip:$server_port", "peer": "$peer_ip:$remote_port"}
    facts |= {"path": "$uri", "host": "$host", "for": "$http_x_forwarded_for"}
    return (
        f"server {{\n  listen {port}; listen [::]:{port};\n"
        f"  location / {{ default_type application/json; return 200 {_quote(json.dumps(facts))}; }}\n}}\n"
    )


def ingress_servers(
    ingresses: Iterable[Mapping[str, Any]],
    find_backend: FindBackend,
    *,
    port: int = 80,
    tls: tuple[Path, Path] | None = None,
    tls_port: int = 443,
) -> str:
    """The server blocks that route as the Ingress objects say; what they do not mention gets status 404."""
    routes: dict[str, dict[tuple[str, str], str | None]] = {}
    for ingress in ingresses:
        namespace, spec = ingress["metadata"].get("namespace", "default"), ingress.get("spec") or {}
        if default := spec.get("defaultBackend"):
            routes.setdefault("", {}).setdefault(("Prefix", "/"), _target(namespace, default, find_backend))
        for rule in spec.get("rules") or ():
            paths = routes.setdefault(rule.get("host") or "", {})
            for path in (rule.get("http") or {}).get("paths") or ():
                key = path.get("pathType", "Prefix"), path.get("path") or "/"
                paths.setdefault(key, _target(namespace, path["backend"], find_backend))
    listens = f"listen {port}{{0}}; listen [::]:{port}{{0}};"
    if tls is not None:
        listens += f" listen {tls_port} ssl{{0}}; listen [::]:{tls_port} ssl{{0}};"
        listens += f"\n  ssl_certificate {tls[0]}; ssl_certificate_key {tls[1]};"
    routes.setdefault("", {})
    return "".join(_server(host, routes[host], listens) for host in sorted(routes))


def _target(namespace: str, backend: Mapping[str, Any], find_backend: FindBackend) -> str | None:
    service = backend.get("service") or {}
    port = service.get("port") or {}
    return find_backend(namespace, service.get("name", ""), port.get("number") or port.get("name", ""))


def _server(host: str, paths: Mapping[tuple[str, str], str | None], listens: str) -> str:
    lines = [f"  {listens.format('' if host else ' default_server')}"]
    lines.append(f"  server_name {_quote(host)};" if host else "  server_name _;")
    for (kind, path), target in paths.items():
        action = f"proxy_pass http://{target};" if target else "return 503;"
        if kind == "Exact":
            lines.append(f"  location = {_quote(path)} {{ {action} }}")
        elif path == "/":
            lines.append(f"  location / {{ {action} }}")
        else:  # the prefix ends at a slash: /shop matches /shop and /shop/cart, not /shopping
            lines.append(f"  location = {_quote(path.rstrip('/'))} {{ {action} }}")
            lines.append(f"  location {_quote(path.rstrip('/') + '/')} {{ {action} }}")
    if ("Prefix", "/") not in paths:
        lines.append("  location / { return 404; }")
    return "server {\n" + "\n".join(lines) + "\n}\n"


def _quote(text: str) -> str:
    """Text as one word of an nginx file; a name from the API must not be able to end it."""
    return "'" + text.replace("\\", "\\\\").replace("'", "\\'") + "'"


_FRAME = """daemon off;
user root;
worker_processes 1;
pid {directory}/nginx.pid;
events {{ worker_connections 512; }}
http {{
  access_log off;
  server_tokens off;
{temporary}
  map $server_addr $local_ip {{ default $server_addr; ~: [$server_addr]; }}
  map $remote_addr $peer_ip {{ default $remote_addr; ~: [$remote_addr]; }}
  proxy_set_header Host $host;
  proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for;
  proxy_connect_timeout 2s;
{servers}}}
"""
