"""Requests against a scripted server: headers, deadlines, errors. What is asked for: test_watch.py.

What becomes of credentials meanwhile is test_client_credentials.py's.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import ssl
import subprocess
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from msgspec.structs import replace

from kproxy.config import Config
from kproxy.errors import ApiError, ApiRefused, ApiUnreachable, ResourceExpired, Retry
from kproxy.source.client import Client, user_agent
from kproxy.source.credentials import Credentials
from kproxy.source.lines import Splitter


async def get(client: Client, path: str = "/x") -> bytes:
    async with asyncio.timeout(10):
        return await client.get(path, {"limit": "1"}, what="list services")


async def test_the_header_the_agent_and_the_query_come_out(client: Client, server: Any, api: Any) -> None:
    server.on("/x", api.body({"items": []}))
    assert await get(client) == b'{"items": []}'
    headers = server.requests[0].headers
    assert headers["Authorization"] == "Bearer first"
    assert headers["User-Agent"] == user_agent()
    assert re.fullmatch(r"kube-proxy/v1\.36\.2\+kproxy-\S+ \(linux/\w+\) kubernetes/\w+", user_agent())
    assert server.queries() == [{"limit": "1"}]


async def test_a_selector_is_encoded(client: Client, server: Any, api: Any) -> None:
    server.on("/x", api.body({}))
    await client.get("/x", {"labelSelector": "!a/b", "fieldSelector": "spec.clusterIP!=None"}, what="list services")
    assert server.queries() == [{"labelSelector": "!a/b", "fieldSelector": "spec.clusterIP!=None"}]


async def test_requests_are_counted_by_code_and_method(client: Client, server: Any, api: Any) -> None:
    server.on("/x", api.body({}), api.body({}))
    server.on("/events", api.status(500))
    await get(client)
    await get(client)
    with pytest.raises(ApiError):
        await client.post("/events", b"{}", what="create events")
    host = client.server.removeprefix("http://")
    assert dict(client.traffic.requests) == {("200", host, "GET"): 2, ("500", host, "POST"): 1}
    assert {key: sum(each.counts) for key, each in client.traffic.seconds.items()} == {
        (host, "GET"): 2,
        (host, "POST"): 1,
    }
    assert client.traffic.sent[host, "POST"].sum == 2
    assert client.traffic.received[host, "GET"].sum == 4
    assert (host, "POST") not in client.traffic.received


async def test_an_event_is_posted(client: Client, server: Any, api: Any) -> None:
    server.on("/events", api.body({}, 201))
    await client.post("/events", b'{"note":"x"}', what="create events")
    assert server.bodies == [b'{"note":"x"}']
    assert server.requests[0].headers["Content-Type"] == "application/json"


async def test_a_patch_is_a_merge_patch(client: Client, server: Any, api: Any) -> None:
    server.on("/events/a", api.body({}))
    await client.patch("/events/a", b'{"series":{}}', what="patch events")
    assert (server.requests[0].method, server.bodies) == ("PATCH", [b'{"series":{}}'])
    assert server.requests[0].headers["Content-Type"] == "application/merge-patch+json"


@pytest.mark.parametrize(
    ("status", "kind", "said"),
    [
        (403, ApiRefused, "we may not list services (403: no); grant it with the ClusterRole"),
        (404, ApiError, "answered 404 when asked to list services: no"),
        (410, ResourceExpired, "no longer knows that version (410: no)"),
        (422, ApiError, "answered 422"),
        (429, ApiError, "is overloaded (429: no)"),
        (500, ApiError, "answered 500"),
        (301, ApiError, "answered 301"),
    ],
)
async def test_a_refusal_is_the_sentence_that_an_operator_needs(
    client: Client, server: Any, api: Any, status: int, kind: type[ApiError], said: str
) -> None:
    server.on("/x", api.status(status, Location="/elsewhere"))
    with pytest.raises(kind) as error:
        await get(client)
    assert {request.path for request in server.requests} == {"/x"}  # a token goes where no redirect leads
    assert type(error.value) is kind
    assert said in str(error.value)
    assert error.value.status == status


@pytest.mark.parametrize(("text", "wait"), [("7", 7.0), ("99999", 300.0), ("soon", 0.0), ("-1", 0.0), ("", 0.0)])
async def test_retry_after_is_kept_within_reason(client: Client, server: Any, api: Any, text: str, wait: float) -> None:
    server.on("/x", api.status(429, **{"Retry-After": text}))
    with pytest.raises(ApiError) as error:
        await get(client)
    assert error.value.wait == wait
    assert error.value.retry is Retry.LATER


async def test_a_hostile_message_is_one_short_line(client: Client, server: Any, api: Any) -> None:
    server.on("/x", api.status(500, "a\nb\x00" + "c" * 10_000))
    with pytest.raises(ApiError) as error:
        await get(client)
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 500


async def test_a_proxys_password_is_not_told(config: Config, api: Any) -> None:
    async def refuse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 407 Who are you\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(refuse, "127.0.0.1", 0) as proxy:
        port = proxy.sockets[0].getsockname()[1]
        found = Credentials(server="https://192.0.2.1", source="a test", proxy=f"http://u:secret@127.0.0.1:{port}")
        async with Client(config, resolve=api.Resolver(found)) as client:
            with pytest.raises(ApiUnreachable, match="the proxy answered 407: Who are you") as caught:
                await get(client)
    assert "secret" not in str(caught.value)


async def test_a_dead_port_is_unreachable_and_says_what_to_check(config: Config, api: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    resolver = api.Resolver(Credentials(server=f"http://127.0.0.1:{port}", source="kubeconfig /k"))
    async with Client(config, resolve=resolver) as client:
        with pytest.raises(ApiUnreachable, match="is it running, and is the address in kubeconfig /k right"):
            await get(client)
        assert [(code, method) for code, _, method in client.traffic.requests] == [("<error>", "GET")]


async def test_a_wrong_master_is_named(config: Config, api: Any) -> None:
    resolver = api.Resolver(Credentials(server="http://127.0.0.1:1", source="the pod's service account"))
    async with Client(replace(config, master="http://127.0.0.1:1"), resolve=resolver) as client:
        with pytest.raises(ApiUnreachable, match=r"is the address in --master .kproxy.master in the config.* right"):
            await get(client)


async def test_in_a_pod_the_service_ip_cannot_work_before_we_do(config: Config, api: Any) -> None:
    resolver = api.Resolver(Credentials(server="http://127.0.0.1:1", source="the pod's service account"))
    async with Client(config, resolve=resolver) as client:
        with pytest.raises(ApiUnreachable, match=r"give --master .kproxy.master. the server's own address"):
            await get(client)


async def test_a_server_that_says_nothing_is_given_up(client: Client, server: Any, api: Any) -> None:
    server.on("/x", api.Answer(silent=True))
    client._config = replace(client._config, request_deadline=0.05)
    with pytest.raises(ApiUnreachable, match="has not answered in time"):
        await get(client)


async def test_a_body_that_stops_is_given_up(client: Client, server: Any, api: Any) -> None:
    server.on("/x", api.Answer(chunks=(b"{",), hold=True))
    client._config = replace(client._config, request_deadline=0.05)
    with pytest.raises(ApiUnreachable, match="has not answered in time"):
        await get(client)


async def test_a_body_that_breaks_off_is_unreachable(client: Client, server: Any, api: Any) -> None:
    server.on("/x", api.Answer(chunks=(b"{",), cut=True))
    with pytest.raises(ApiUnreachable, match="cannot be reached to list services"):
        await get(client)


async def test_an_endless_body_is_no_api_server(
    client: Client, server: Any, api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kproxy.source.client._LARGEST", 10)
    server.on("/x", api.Answer(chunks=(b"x" * 6, b"x" * 6), hold=True))
    with pytest.raises(ApiError, match="sends an endless answer when asked to list services"):
        await get(client)


async def test_lines_of_a_stream(client: Client, server: Any, api: Any) -> None:
    long = b"x" * 2_000_000
    server.on("/w", api.Answer(chunks=(b"one\ntw", b"o\n", long[:7], long[7:] + b"\nhalf")))
    async with client.stream("/w", {}, what="watch services", silence=10) as stream:
        assert [line async for line in stream] == [b"one", b"two", long]
    assert server.requests[0].headers["Accept-Encoding"] == "identity"


async def test_an_endless_line_is_no_api_server(
    client: Client, server: Any, api: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kproxy.source.client.Splitter", lambda: Splitter(longest=10))
    server.on("/w", api.Answer(chunks=(b"x" * 11,), hold=True))
    async with client.stream("/w", {}, what="watch services", silence=10) as stream:
        with pytest.raises(ApiError, match="sends an endless line"):
            await anext(aiter(stream))


async def test_a_silent_stream_is_given_up(client: Client, server: Any, api: Any) -> None:
    server.on("/w", api.Answer(chunks=(b"one\n",), hold=True))
    async with client.stream("/w", {}, what="watch services", silence=0.05) as stream:
        lines = aiter(stream)
        assert await anext(lines) == b"one"
        with pytest.raises(ApiUnreachable, match="has not answered in time when asked to watch services"):
            await anext(lines)


async def test_a_closed_client_is_unreachable(config: Config) -> None:
    client = Client(config)
    with pytest.raises(ApiUnreachable):
        await get(client)


# --- TLS --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    if shutil.which("openssl") is None:
        pytest.skip("makes its certificates with openssl")
    for name in ("server", "client"):
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
             "-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=DNS:kubernetes",
             "-keyout", f"{name}.key", "-out", f"{name}.pem"],
            cwd=tmp_path, check=True, capture_output=True, timeout=60,
        )  # fmt: skip
    return tmp_path


async def test_mutual_tls_with_a_name_of_its_own(certificates: Path, config: Config, api: Any) -> None:
    async def who(request: web.Request) -> web.Response:
        assert request.transport is not None
        return web.json_response(request.transport.get_extra_info("peercert")["subject"])

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(certificates / "client.pem"))
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_cert_chain(certificates / "server.pem", certificates / "server.key")
    app = web.Application()
    app.router.add_get("/x", who)
    good = Credentials(
        server="",
        source="kubeconfig /k",
        ca=(certificates / "server.pem").read_text(),
        certificate=(certificates / "client.pem").read_text(),
        private_key=(certificates / "client.key").read_text(),
        server_name="kubernetes",
    )
    server = TestServer(app, host="127.0.0.1", scheme="https")
    await server.start_server(ssl=context)
    good = replace(good, server=f"https://127.0.0.1:{server.port}")
    try:
        async with Client(config, resolve=api.Resolver(good)) as client:
            assert b"client" in await get(client)
        async with Client(config, resolve=api.Resolver(replace(good, server_name=""))) as client:
            with pytest.raises(ApiUnreachable, match=r"do not trust each other.*certificates in kubeconfig /k"):
                await get(client)
        stale, clock = replace(good, server_name="old-name"), api.Clock()
        async with Client(config, resolve=api.Resolver(stale, good), clock=clock) as client:
            clock.now += 60
            assert b"client" in await get(client)
    finally:
        await server.close()
