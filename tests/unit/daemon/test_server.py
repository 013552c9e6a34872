"""Questions over HTTP, from sockets to pages and back. What the pages say is in test_pages.py."""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import aiohttp
import pytest

from kproxy.config import Config
from kproxy.daemon.server import Page, Question, answer_by_path, listen, serve, split_address
from kproxy.daemon.status import Answer
from kproxy.errors import CannotListen

CONFIG = Config(hostname="n1", bind_retry=0.01)


@asynccontextmanager
async def serving(pages: Mapping[str, Page], address: str = "127.0.0.1:0") -> AsyncIterator[str]:
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(serve("health", address, answer_by_path(pages), config=CONFIG, bound=port.set_result))
        yield f"http://127.0.0.1:{await port}"
        task.cancel()


def _echo(question: Question) -> Answer:
    said = f"{question.method} {dict(question.query)} {question.accept} {question.body!r}"
    return Answer(200, said.encode(), {"Content-Type": "text/plain"})


async def _later(_: Question) -> Answer:
    await asyncio.sleep(0)
    return Answer(202, b"later", {})


async def test_a_question_has_a_method_a_query_an_accept_header_and_with_put_a_body() -> None:
    async with serving({"/echo": _echo, "/later": _later}) as url, _session() as http:
        async with http.get(f"{url}/echo?a=1", headers={"Accept": "text/*"}) as answer:
            assert await answer.text() == "GET {'a': '1'} text/* b''"
        async with http.put(f"{url}/echo", data=b"5", headers={"Accept": ""}) as answer:
            assert await answer.text() == "PUT {}  b'5'"
        async with http.delete(f"{url}/later") as answer:
            assert (answer.status, await answer.text()) == (202, "later")
        async with http.get(f"{url}/nowhere") as answer:
            assert (answer.status, await answer.text()) == (404, "404 page not found\n")


@pytest.mark.parametrize(
    ("headers", "client"),
    [
        ({}, "127.0.0.1"),
        ({"x-forwarded-for": "10.0.0.9"}, ""),
        ({"forwarded": "for=10.0.0.9"}, ""),
        ({"host": "localhost:10249"}, "127.0.0.1"),
        ({"host": "[::1]:10249"}, "127.0.0.1"),
        ({"host": "192.0.2.1"}, "127.0.0.1"),
        ({"host": "rebound.example.com:10249"}, ""),  # a stranger's page, in a browser on this node
        ({"host": "127.0.0.1.example.com"}, ""),
    ],
)
async def test_a_question_has_its_clients_address_unless_somebody_may_stand_behind_it(
    headers: dict[str, str], client: str
) -> None:
    page = {"/who": lambda question: Answer(200, question.client.encode(), {})}
    async with serving(page) as url, _session() as http, http.get(f"{url}/who", headers=headers) as answer:
        assert await answer.text() == client


async def test_connections_that_say_nothing_give_way_to_newer_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kproxy.daemon.server._CONNECTIONS", 3)
    async with serving({"/echo": _echo}) as url, _session() as http, asyncio.timeout(10):
        host, port = split_address(url.removeprefix("http://"))
        silent = [await asyncio.open_connection(host, port) for _ in range(3)]
        assert (await http.get(f"{url}/echo")).status == 200  # the fourth
        assert await silent[0][0].read() == b""  # closed
        assert not silent[1][0].at_eof()
        for _, writer in silent:
            writer.close()


@pytest.mark.parametrize("request_", [b"NONSENSE\r\n\r\n", b"\x16\x03\x01\r\n\r\n"])
async def test_bad_requests_do_not_fill_the_log(caplog: pytest.LogCaptureFixture, request_: bytes) -> None:
    async with serving({}) as url, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(*split_address(url.removeprefix("http://")))
        writer.write(request_)
        assert b" 400 " in await reader.readline()
        writer.close()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


@pytest.mark.parametrize(("method", "status"), [("PUT", 400), ("POST", 200)])
async def test_bodies_that_cannot_be_read_do_not_fill_the_log(
    caplog: pytest.LogCaptureFixture, method: str, status: int
) -> None:
    async with serving({"/echo": _echo}) as url, asyncio.timeout(10):
        reader, writer = await asyncio.open_connection(*split_address(url.removeprefix("http://")))
        writer.write(
            f"{method} /echo HTTP/1.1\r\nHost: x\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\n12345".encode()
        )
        assert f" {status} ".encode() in await reader.readline()
        await reader.read()  # until the server has had enough
        writer.close()
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []


async def test_our_own_mistakes_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    def broken(_: Question) -> Answer:
        raise ZeroDivisionError

    async with serving({"/broken": broken}) as url, _session() as http:
        assert (await http.get(f"{url}/broken")).status == 500
    assert "ZeroDivisionError" in caplog.text


async def test_the_wildcard_answers_both_families() -> None:
    with listen("0.0.0.0", 0) as listener:
        port = listener.getsockname()[1]
        for family, host in ((socket.AF_INET, "127.0.0.1"), (socket.AF_INET6, "::1")):
            with socket.socket(family) as client:
                client.connect((host, port))


async def test_a_wildcard_of_one_family_leaves_the_other_alone() -> None:
    with listen("::", 0, one_family=True) as six, listen("0.0.0.0", six.getsockname()[1], one_family=True):
        pass


async def test_a_taken_address_is_tried_again_until_it_is_free(caplog: pytest.LogCaptureFixture) -> None:
    holder = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{holder.getsockname()[1]}"
    asyncio.get_running_loop().call_later(0.05, holder.close)
    async with serving({}, address) as url, _session() as http:
        assert (await http.get(url)).status == 404
    assert [record.message for record in caplog.records] == ["Cannot listen, trying again"]


@pytest.mark.parametrize(
    ("name", "setting"),
    [
        ("health", "--healthz-bind-address (healthzBindAddress)"),
        ("metrics", "--metrics-bind-address (metricsBindAddress)"),
    ],
)
async def test_a_taken_address_is_fatal_on_request(name: str, setting: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as holder:
        address = f"127.0.0.1:{holder.getsockname()[1]}"
        with pytest.raises(CannotListen, match="stop whoever holds the address") as caught:
            await serve(name, address, answer_by_path({}), config=Config(bind_address_hard_fail=True))
    assert str(caught.value).endswith(f"or give {setting} another one")


def test_addresses_are_split() -> None:
    assert split_address("[::1]:10256") == ("::1", 10256)
    assert split_address("0.0.0.0:1") == ("0.0.0.0", 1)


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession()
