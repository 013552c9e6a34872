"""Programs that people run, through the relay's workers: they must not notice it.

What endpoints do wrong is test_relay_endpoints.py's; the bytes themselves are tests/unit/backend/userspace's.
"""

from __future__ import annotations

import asyncio
import json
import random
import re
import shutil
from collections.abc import AsyncIterator, Sequence
from hashlib import sha256
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from aiohttp import web

from kproxy.backend.userspace.rules import Listener
from kproxy.plan.plan import Target
from kproxy.sandbox import probe
from kproxy.sandbox.host import Host
from kproxy.sandbox.nginx import Nginx, web_server
from kproxy.sandbox.workload import Ports, Workload
from tests.netns.relay_node import DEADLINE, ENDPOINTS, INSIDE, TCP, UDP, RelayNode, relay_node, target

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]
FAMILIES = pytest.mark.parametrize("family", [4, 6])
WEB, TLS, REDIS, DNS = 8080, 8443, 6379, 53
DOWNLOAD = 50_000_000  # bytes
NAMES = {f"web-{n}.example.": f"192.0.2.{n}" for n in range(200)}
NAME = "relay.test"  # on the certificate


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def node() -> AsyncIterator[RelayNode]:
    async with relay_node() as made:
        yield made


def wanted(*programs: str) -> None:
    for program in programs:
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def nginx(node: RelayNode, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Path]:
    """Serves in the endpoints' host; the folder of its files and of the two certificates."""
    wanted("nginx", "openssl")
    folder = tmp_path_factory.mktemp("nginx")
    clients = Nginx(node.pods, folder / "client")
    served, trusted = Nginx(node.pods, folder), await clients.certificate("somebody")
    certificate, key = await served.certificate(NAME)
    (folder / "large").write_bytes(random.Random(4).randbytes(DOWNLOAD))
    says = "$server_protocol $ssl_client_verify $ssl_client_s_dn"
    await served.configure(
        web_server("nginx", WEB).replace("location / {", f"location = /large {{ root {folder}; }}\n  location / {{")
        + f"""server {{
            listen {TLS} ssl http2; listen [::]:{TLS} ssl http2;
            ssl_certificate {certificate}; ssl_certificate_key {key};
            ssl_client_certificate {trusted[0]}; ssl_verify_client optional;
            location / {{ default_type text/plain; return 200 "{says} $uri\\n"; }}
        }}""",
        port=WEB,
    )
    try:
        yield folder
    finally:
        await served.stop()


def endpoints(port: int, family: int = 4) -> list[Target]:
    return [Target(ip, port, local=False) for ip in ENDPOINTS[family]]


def url(front: Listener, path: str, scheme: str = "http") -> str:
    return f"{scheme}://{f'[{front.ip}]' if ':' in front.ip else front.ip}:{front.port}{path}"


async def run(host: Host, *command: str, stdin: str = "") -> str:
    return (await host.run(command, stdin=stdin, deadline=DEADLINE)).check().stdout


async def curl(node: RelayNode, *arguments: str) -> str:
    wanted("curl")
    return await run(node.client, "curl", "--silent", "--show-error", "--fail", *arguments)


@FAMILIES
async def test_curl_asks_nginx_many_things_on_one_connection(node: RelayNode, nginx: Path, family: int) -> None:
    del nginx
    front = await node.front(*endpoints(WEB, family), family=family)
    said = await curl(node, "--write-out", " %{num_connects}\n", url(front, "/[1-300]"))
    answers = [json.loads(line.rpartition(" ")[0]) for line in said.splitlines()]
    assert [each["path"] for each in answers] == [f"/{n}" for n in range(1, 301)]
    assert {each["peer"].rpartition(":")[0].strip("[]") for each in answers} == {INSIDE[family]}
    assert [line.rpartition(" ")[2] for line in said.splitlines()] == ["1"] + ["0"] * 299
    assert (await node.over(front)).flows == 1


async def test_a_long_download_arrives_whole(node: RelayNode, nginx: Path, tmp_path: Path) -> None:
    front = await node.front(*endpoints(WEB))
    await curl(node, "--output", str(tmp_path / "got"), url(front, "/large"))
    assert same(tmp_path / "got", nginx / "large")
    tally = await node.over(front)
    assert tally.sent > DOWNLOAD > tally.received


async def test_a_long_upload_arrives_whole(node: RelayNode, nginx: Path) -> None:
    async def take(request: web.Request) -> web.Response:
        digest = sha256()
        async for piece in request.content.iter_any():
            digest.update(piece)
        return web.Response(text=digest.hexdigest())

    sock = node.listening()
    runner = await serve(sock, web.put("/up", take))
    try:
        front = await node.front(target(sock))
        answer = await curl(node, "--upload-file", str(nginx / "large"), url(front, "/up"))
    finally:
        await runner.cleanup()
    assert answer == sha256((nginx / "large").read_bytes()).hexdigest()
    assert (await node.over(front)).received > DOWNLOAD


@FAMILIES
async def test_http_2_carries_many_requests_at_once_over_tls(node: RelayNode, nginx: Path, family: int) -> None:
    """With the usual buffers: where its socket has little room, curl 7.88 breaks streams, through any relay."""
    front = await node.front(*endpoints(TLS, family), family=family)
    said = await curl(
        node,
        *("--http2", "--parallel", "--parallel-max", "50", "--write-out", "%{http_version} %{num_connects}\n"),
        *(*trusting(front, nginx), f"https://{NAME}:{front.port}/[1-200]"),
    )
    assert sorted(re.findall(r"HTTP/2\.0 NONE +/(\d+)\n", said), key=int) == [str(n) for n in range(1, 201)]
    assert sorted(re.findall(r"^2 (\d)$", said, re.MULTILINE)) == ["0"] * 199 + ["1"]
    assert (await node.over(front)).flows == 1


async def test_tls_is_between_the_client_and_the_endpoint(node: RelayNode, nginx: Path) -> None:
    front = await node.front(*endpoints(TLS))
    pair = ("--cert", str(nginx / "client" / "tls.crt"), "--key", str(nginx / "client" / "tls.key"))
    said = await curl(node, *trusting(front, nginx), *pair, f"https://{NAME}:{front.port}/me")
    assert said == "HTTP/2.0 SUCCESS CN=somebody /me\n"
    to = ("-connect", f"{front.ip}:{front.port}", "-servername", NAME)
    seen = await run(node.client, "openssl", "s_client", *to)
    assert (nginx / "tls.crt").read_text(encoding="ascii").strip() in seen


async def test_a_websocket_carries_messages_both_ways_and_its_end(node: RelayNode) -> None:
    async def echo(request: web.Request) -> web.WebSocketResponse:
        talk = web.WebSocketResponse(max_msg_size=0)
        await talk.prepare(request)
        await talk.send_str("first")
        async for message in talk:
            if message.data == "end":
                await talk.close(code=4000, message=b"as you wish")
            else:
                await talk.send_bytes(message.data)
        return talk

    sock, chance = node.listening(), random.Random(3)
    runner = await serve(sock, web.get("/", echo))
    try:
        front = await node.front(target(sock))
        async with aiohttp.ClientSession() as session, session.ws_connect(url(front, "/"), max_msg_size=0) as talk:
            assert await talk.receive_str(timeout=DEADLINE) == "first"
            for size in (0, 1, 125, 126, 65535, 65536, 3_000_000):
                data = chance.randbytes(size)
                await talk.send_bytes(data)
                assert await talk.receive_bytes(timeout=DEADLINE) == data
            await talk.send_str("end")
            last = await talk.receive(timeout=DEADLINE)
            assert (last.type, last.data, last.extra) == (aiohttp.WSMsgType.CLOSE, 4000, "as you wish")
    finally:
        await runner.cleanup()
    assert (await node.over(front)).flows == 1


@pytest.mark.parametrize("pipeline", [1, 16])
async def test_redis_benchmark_meets_no_error(node: RelayNode, redis: None, pipeline: int) -> None:
    del redis
    front = await node.front(*endpoints(REDIS))
    at = ("-h", front.ip, "-p", str(front.port))
    kinds = ("-t", "ping,set,get,incr,lpush,lrange_100,mset", "-d", "100", "--csv")
    size = ("-n", str(1000 if pipeline == 1 else 5000), "-c", "25", "-P", str(pipeline))
    done = (await node.client.run(("redis-benchmark", *at, *kinds, *size), deadline=DEADLINE)).check()
    assert [line.split(",")[0] for line in done.stdout.splitlines()[1:]] == [
        *('"PING_INLINE"', '"PING_MBULK"', '"SET"', '"GET"', '"INCR"', '"LPUSH"'),
        *('"LPUSH (needed to benchmark LRANGE)"', '"LRANGE_100 (first 100 elements)"', '"MSET (10 keys)"'),
    ]
    assert done.stderr == ""
    assert "errorstat" not in await run(node.client, "redis-cli", *at, "info", "errorstats")
    tally = await node.over(front)
    assert (tally.flows > 9 * 25, tally.refused) == (True, {})


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def redis(node: RelayNode, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[None]:
    """Serves in the endpoints' host, and keeps nothing."""
    wanted("redis-server", "redis-benchmark", "redis-cli")
    settings = ("--port", str(REDIS), "--bind", *ENDPOINTS[4], "--save", "", "--appendonly", "no")
    where = ("--dir", str(tmp_path_factory.mktemp("redis")), "--protected-mode", "no")
    process = await node.pods.popen(("redis-server", *settings, *where))
    try:
        async with asyncio.timeout(DEADLINE):
            while (await probe.tcp(node.pods, ENDPOINTS[4][0], REDIS)).outcome == "refused":
                assert process.returncode is None
                await asyncio.sleep(0.01)
        yield
    finally:
        await node.pods.stop(process)


@FAMILIES
@pytest.mark.parametrize("how", ["udp", "tcp", "tcp kept"])
async def test_dig_gets_every_answer(node: RelayNode, family: int, how: str, tmp_path: Path) -> None:
    wanted("dig")
    asked = NAMES if how != "tcp" else dict(list(NAMES.items())[:40])
    batch = tmp_path / "names"
    batch.write_text("".join(f"{name} A\n" for name in asked), encoding="ascii")
    by = {"udp": ("+notcp",), "tcp": ("+tcp",), "tcp kept": ("+tcp", "+keepopen")}[how]
    async with Workload("dns", node.pods, Ports(dns=[DNS]), lookup=look_up):
        front = await node.front(*endpoints(DNS, family), protocol=UDP if how == "udp" else TCP, family=family)
        at = (f"@{front.ip}", "-p", str(front.port), "+short", "+tries=1", "+time=5")
        said = await run(node.client, "dig", *at, *by, "-f", str(batch))
        assert said.split() == list(asked.values())
        tally = await node.tally(front)
    assert (tally.refused, tally.dropped) == ({}, 0)
    least, most = {"udp": (180, 200), "tcp": (40, 40), "tcp kept": (1, 1)}[how]  # dig may ask from one port twice
    assert least <= tally.flows <= most


def look_up(name: str, kind: str) -> Sequence[str] | None:
    value = NAMES.get(f"{name}.")
    return None if value is None else [value] if kind == "A" else []


async def serve(sock: object, route: web.RouteDef) -> web.AppRunner:
    application = web.Application(client_max_size=2 * DOWNLOAD)
    application.add_routes([route])
    runner = web.AppRunner(application)
    await runner.setup()
    await web.SockSite(runner, sock).start()  # type: ignore[arg-type]
    return runner


def trusting(front: Listener, folder: Path) -> tuple[str, ...]:
    ip = f"[{front.ip}]" if ":" in front.ip else front.ip
    return ("--cacert", str(folder / "tls.crt"), "--resolve", f"{NAME}:{front.port}:{ip}")


def same(one: Path, other: Path) -> bool:
    return sha256(one.read_bytes()).digest() == sha256(other.read_bytes()).digest()
