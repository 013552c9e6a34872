"""Servers and probes over loopback; between hosts: tests/netns/test_sandbox_world.py. DNS bytes: test_dns.py."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from kproxy.sandbox import dns, probe
from kproxy.sandbox.workload import Ports, Workload, describe, show

ROOT = Path(__file__).parents[3]


def free_port() -> int:
    """A port that nobody has on either protocol just now."""
    with socket.socket(socket.AF_INET6) as tcp, socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as udp:
        tcp.bind(("::", 0))
        port: int = tcp.getsockname()[1]
        udp.bind(("::", port))
        return port


@asynccontextmanager
async def served(kind: str, lookup: dns.Lookup | None = None) -> AsyncIterator[int]:
    port = free_port()
    names = {} if lookup is None else {"lookup": lookup}
    async with Workload("me", None, Ports(**{kind: [port]}), **names):
        yield port


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
async def test_every_server_says_who_it_is_and_whom_it_saw(address: str) -> None:
    async with served("tcp") as port:
        over_tcp = await probe.tcp(None, address, port)
    async with served("udp") as port:
        over_udp = await probe.udp(None, address, port)
    async with served("http") as port:
        over_http = await probe.http(None, address, port, name="web.example", path="/x")
    async with served("dns") as port:
        over_dns = await probe.resolve(None, address, port)
        over_dns_tcp = await probe.resolve(None, address, port, over="tcp")
    for answer in (over_tcp, over_udp, over_http, over_dns, over_dns_tcp):
        assert (answer.outcome, answer.name) == ("ok", "me")
        assert answer.source_kept
        assert answer.peer_ip == address
    assert over_http.status == 200


async def test_a_dns_server_answers_names_and_says_when_there_is_none() -> None:
    async with served("dns", lambda name, kind: ["192.0.2.7"] if (name, kind) == ("a.b", "A") else None) as port:
        found = await probe.resolve(None, "127.0.0.1", port, name="a.b", kind="A")
        missing = await probe.resolve(None, "127.0.0.1", port, name="c.d", kind="A", over="tcp")
    assert (found.outcome, found.status, found.values) == ("ok", 0, ("192.0.2.7",))
    assert (missing.outcome, missing.status, missing.values) == ("ok", 3, ())


async def test_http_stays_open_and_shows_what_it_was_asked() -> None:
    async with served("http") as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for path in ("/one", "/two"):
            fields = "Host: h\r\nX-Forwarded-For: 192.0.2.9\r\nContent-Length: 3\r\n"
            writer.write(f"POST {path} HTTP/1.1\r\n{fields}\r\nabc".encode())
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            body = await reader.readexactly(int(head.split("Content-Length: ")[1].split("\r\n", maxsplit=1)[0]))
            facts = json.loads(body)
            assert (facts["path"], facts["host"], facts["for"]) == (path, "h", "192.0.2.9")
        writer.close()


async def test_a_port_that_nobody_serves_refuses() -> None:
    port = free_port()
    assert (await probe.tcp(None, "127.0.0.1", port)).outcome == "refused"
    assert (await probe.udp(None, "::1", port)).outcome == "refused"


@pytest.mark.parametrize("reply", [b"", b"garbage\n", b"[1]\n"])
async def test_answers_of_strangers_are_broken(reply: bytes) -> None:
    async def serve(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(reply)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        assert (await probe.tcp(None, "127.0.0.1", port)).outcome in {"broken", "refused"}
        assert (await probe.http(None, "127.0.0.1", port)).outcome in {"broken", "refused"}
        assert (await probe.resolve(None, "127.0.0.1", port, over="tcp")).outcome in {"broken", "refused"}


async def test_silence_is_a_timeout() -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
        mute.bind(("127.0.0.1", 0))
        port = mute.getsockname()[1]
        assert (await probe.udp(None, "127.0.0.1", port, deadline=0.01)).outcome == "timeout"


async def test_the_end_of_a_server_cuts_its_connections() -> None:
    port = free_port()
    async with Workload("me", None, Ports(tcp=[port])):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"hello\n")
        assert json.loads(await reader.readline())["name"] == "me"
    assert await reader.read() == b""
    writer.close()
    assert (await probe.tcp(None, "127.0.0.1", port)).outcome == "refused"


async def test_a_taken_port_leaves_nothing_open() -> None:
    first, taken = free_port(), free_port()
    async with Workload("one", None, Ports(tcp=[taken])):
        with pytest.raises(OSError, match="already in use"):
            await Workload("two", None, Ports(tcp=[first, taken])).start()
        assert (await probe.tcp(None, "127.0.0.1", first)).outcome == "refused"


def test_addresses_are_shown_as_people_write_them() -> None:
    assert show(("10.0.0.1", 80)) == "10.0.0.1:80"
    assert show(("::ffff:10.0.0.1", 80, 0, 0)) == "10.0.0.1:80"
    assert show(("fd00::1", 80, 0, 0)) == "[fd00::1]:80"
    assert describe("n", ("::1", 1), ("::1", 2)) == b'{"name": "n", "local": "[::1]:1", "peer": "[::1]:2"}\n'


async def test_both_programs_work_alone() -> None:
    port = free_port()
    pipe = asyncio.subprocess.PIPE
    server = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "kproxy.sandbox.workload", "alone", "--tcp", str(port), stdout=pipe, cwd=ROOT
    )
    try:
        assert server.stdout is not None
        assert await server.stdout.readline() == b"ready\n"
        asking = ("-m", "kproxy.sandbox.probe", "tcp", "127.0.0.1", str(port), "-n", "3")
        client = await asyncio.create_subprocess_exec(sys.executable, *asking, stdout=pipe, cwd=ROOT)
        out, _ = await client.communicate()
    finally:
        server.terminate()
        await server.communicate()
    result = json.loads(out)
    assert client.returncode == 0
    assert (result["outcomes"], result["names"], len(result["answers"])) == ({"ok": 3}, {"alone": 3}, 3)
