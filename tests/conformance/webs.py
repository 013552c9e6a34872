"""The scenarios' HTTP questions: health, metrics, and the API server behind its own Service.

One request a connection over a plain socket, because the socket must be made inside a host. The embedded API server
speaks plain HTTP where the recorded one spoke TLS, which answers plain HTTP with 400: its answers are called that.
"""

from __future__ import annotations

import asyncio
import json
import re
import socket
from typing import Any

from kproxy.sandbox.host import Host
from tests.conformance.probes import Resolve, Target, parse_target

Json = dict[str, Any]
_DEADLINE = 5.0  # seconds
_API_STATUS = b'"kind":"Status"'


async def record(hosts: dict[str, Host], resolve: Resolve, probe: Json) -> Json:
    """Ask as the probe says and describe the answer as a record does."""
    try:
        head, body = await _ask(hosts[probe["from"]], parse_target(probe["to"], resolve), probe)
    except TimeoutError:
        return {"outcome": "timeout"}
    except ConnectionRefusedError:
        return {"outcome": "refused"}
    except OSError as error:
        return {"outcome": f"error-{error.errno}"}
    return _describe(probe, head, body)


async def text(hosts: dict[str, Host], resolve: Resolve, probe: Json) -> str:
    """The body of an answer; raises OSError, TimeoutError among them."""
    head, body = await _ask(hosts[probe["from"]], parse_target(probe["to"], resolve), probe)
    return _whole(_fields(head), body).decode()


async def _ask(host: Host, target: Target, probe: Json) -> tuple[str, bytes]:
    """Head and body of the answer to one request."""
    with host.inside():
        sock = socket.socket(socket.AF_INET6 if target.family == 6 else socket.AF_INET)
    sock.setblocking(False)
    sent = probe.get("send", "")
    fields = {"Host": "x", "Connection": "close", "Content-Length": len(sent), **probe.get("headers", {})}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    request = f"{probe.get('method', 'GET')} {probe['path']} HTTP/1.1\r\n{head}\r\n{sent}"
    async with asyncio.timeout(_DEADLINE):
        try:
            await asyncio.get_running_loop().sock_connect(sock, (target.address, target.port))
            reader, writer = await asyncio.open_connection(sock=sock)
        except BaseException:
            sock.close()
            raise
        try:  # from here on the socket is the transport's, and closed by it alone
            writer.write(request.encode())
            answer, _, body = (await reader.read(-1)).partition(b"\r\n\r\n")
        finally:
            writer.transport.abort()
    return answer.decode("latin-1"), body


def _describe(probe: Json, head: str, body: bytes) -> Json:
    status_line, headers = head.partition("\r\n")[0], _fields(head)
    body = _whole(headers, body)
    record: Json = {"outcome": f"http-{status_line.split()[1]}" if status_line else "closed"}
    if _API_STATUS in body.replace(b": ", b":"):
        record["outcome"] = "http-400"
    if "headers_wanted" in probe:
        record["headers"] = {name: headers[name] for name in probe["headers_wanted"] if name in headers}
    if probe.get("body") == "json":
        record["body"] = _masked(json.loads(body), probe.get("mask", []))
    elif probe.get("body") == "text":
        record["body"] = body.decode().strip()
    elif probe.get("body") == "raw":
        record["body"] = body.decode()
    if "metrics" in probe:
        record["metrics_missing"] = [name for name in probe["metrics"] if _value(name, body) is None]
        record["positive"] = {name: (_value(name, body) or 0) > 0 for name in probe.get("positive", [])}
    return record


def _fields(head: str) -> dict[str, str]:
    """The header fields, by name in small letters."""
    pairs = (line.partition(":") for line in head.split("\r\n")[1:])
    return {name.strip().lower(): value.strip() for name, _, value in pairs}


def _whole(fields: dict[str, str], body: bytes) -> bytes:
    return _joined(body) if fields.get("transfer-encoding") == "chunked" else body


def _masked(value: Any, names: list[str]) -> Any:
    if isinstance(value, dict):
        return {key: "TIME" if key in names else _masked(each, names) for key, each in value.items()}
    return value


def _value(metric: str, page: bytes) -> float | None:
    """The sum of a metric's samples; None when there are none."""
    found = re.findall(rf"^{re.escape(metric)}(?:\{{.*\}})? (\S+)$", page.decode(), re.MULTILINE)
    return sum(map(float, found)) if found else None


def _joined(chunked: bytes) -> bytes:
    whole = b""
    while chunked:
        size, _, chunked = chunked.partition(b"\r\n")
        length = int(size, 16)
        whole, chunked = whole + chunked[:length], chunked[length + 2 :]
    return whole
