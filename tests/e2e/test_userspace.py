"""Services in userspace mode, with the whole daemon: who is reached, and that nobody is refused whatever restarts.

What the relay does with connections is tests/unit/backend/userspace's, every other feature tests/conformance's.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from kproxy.sandbox.apiserver import ApiServer
from tests.e2e.conftest import Daemon, Json, act, eventually, flags, get, kproxy, running, saved, service, slice_of
from tests.netns.conftest import Namespace

pytestmark = pytest.mark.root
RELAY = "169.254.73.80"
WEB = "10.96.0.80"
USERSPACE = {"kproxy.io/mode": "userspace"}


def relayed(name: str, ip: str, **rest: object) -> Json:
    made = service(name, ip, **rest)
    made["metadata"]["annotations"] = dict(USERSPACE)
    return made


@asynccontextmanager
async def endpoints(*ips: str) -> AsyncIterator[None]:
    """Servers at port 8080 of these addresses, that say their own address and their client's."""

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError):
            me, peer = writer.get_extra_info("sockname")[0], writer.get_extra_info("peername")[0]
            while await reader.readline():
                writer.write(f"{me} {peer}\n".encode())
        writer.close()

    act("ip", "route", "replace", "10.96.0.0/16", "dev", "lo")
    servers = []
    for ip in ips:
        act("ip", "address", "replace", f"{ip}/32", "dev", "lo")
        servers.append(await asyncio.start_server(talk, ip, 8080))
    try:
        yield
    finally:
        for server in servers:
            server.close()


async def ask(ip: str = WEB, port: int = 80, client: socket.socket | None = None) -> tuple[str, str]:
    """The endpoint, and whom it takes for its client."""
    async with asyncio.timeout(10):
        if client is None:
            reader, writer = await asyncio.open_connection(ip, port)
        else:
            client.setblocking(False)
            await asyncio.get_running_loop().sock_connect(client, (ip, port))
            reader, writer = await asyncio.open_connection(sock=client)
        try:
            writer.write(b"who\n")
            me, peer = (await reader.readline()).decode().split()
        finally:
            writer.close()
    return me, peer


class Caller:
    """Connects again and again; ``failures`` are all that went wrong."""

    def __init__(self) -> None:
        self.failures: list[str] = []
        self.answers: list[str] = []
        self._answered = asyncio.Event()

    async def run(self) -> None:
        while True:
            try:
                self.answers.append((await ask())[0])
                self._answered.set()
            except (OSError, ValueError, TimeoutError) as error:
                self.failures.append(repr(error))
            await asyncio.sleep(0.002)

    async def more(self, times: int = 20) -> None:
        """Until so many were answered."""
        enough = len(self.answers) + times
        async with asyncio.timeout(15):
            while len(self.answers) < enough:
                self._answered.clear()
                await self._answered.wait()


@asynccontextmanager
async def calling() -> AsyncIterator[Caller]:
    caller = Caller()
    task = asyncio.create_task(caller.run())
    try:
        yield caller
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def relay_port(variant: str, name: str) -> int:
    """Of the first socket that rules of a Service lead to; 0: none."""
    found = re.search(rf'"default/{name}" .*--to-destination {re.escape(RELAY)}:(\d+)$', saved(variant), re.MULTILINE)
    return int(found[1]) if found else 0


async def ready(daemon: Daemon, variant: str = "nft", name: str = "web") -> None:
    """The node serves, and workers have begun to."""
    await daemon.ready()
    await eventually(lambda: relay_port(variant, name) > 0, daemon)


def rules() -> list[str]:
    return [line for line in saved("nft").split("\n") if line.startswith("-A")]


def load(api: ApiServer, *objects: Json) -> None:
    for each in objects:
        api.create(each)


async def test_a_service_that_asks_for_it_is_relayed_and_its_neighbour_is_not(
    api: ApiServer, tmp_path: Path, variant: str
) -> None:
    load(api, relayed("web", WEB), slice_of("web", "10.244.0.7", "10.244.0.8"))
    load(api, service("plain", "10.96.0.81"), slice_of("plain", "10.244.0.7"))
    async with endpoints("10.244.0.7", "10.244.0.8"), running(tmp_path, *flags(tmp_path, variant)) as daemon:
        await ready(daemon, variant)
        assert not relay_port(variant, "plain")
        code, said, _ = await kproxy("check", *flags(tmp_path, variant))
        assert (code, ", 1 of them by the relay: agrees" in said) == (0, True), said
        code, said, _ = await kproxy("check", *flags(tmp_path, variant), "--proxy-mode=userspace")
        assert code == 1
        assert "1 service port is the kernel's and should be the relay's: default/plain (TCP)" in said
        answers = [await ask() for _ in range(4)]
        assert {me for me, _ in answers} == {"10.244.0.7", "10.244.0.8"}
        assert (await ask("10.96.0.81"))[0] == "10.244.0.7"
        _, text = await get("http://127.0.0.1:10249/metrics")
        labels = 'namespace="default",port="",protocol="TCP",service="web"'
        assert re.search(rf"^kproxy_userspace_connections_total{{{labels}}} 4$", text, re.MULTILINE), text
        with pytest.raises(TimeoutError):  # a socket that only translated packets may reach
            async with asyncio.timeout(0.5):
                await asyncio.open_connection(RELAY, relay_port(variant, "web"))
        assert await daemon.end() == 0
    assert not relay_port(variant, "web")
    assert RELAY not in act("ip", "address", "show", "dev", "lo")


async def test_a_change_of_endpoints_writes_no_rule_and_fails_no_connection(api: ApiServer, tmp_path: Path) -> None:
    load(api, relayed("web", WEB), slice_of("web", "10.244.0.7"))
    async with (
        endpoints("10.244.0.7", "10.244.0.8"),
        running(tmp_path, *flags(tmp_path)) as daemon,
        calling() as caller,
    ):
        await ready(daemon)
        await caller.more()
        caller.failures.clear()
        before = rules()
        for ip in ("10.244.0.8", "10.244.0.7", "10.244.0.8"):
            api.update(slice_of("web", ip))
            await eventually(lambda ip=ip: caller.answers[-1:] == [ip], daemon)
        assert rules() == before
        assert caller.failures == []


async def test_a_restart_refuses_nobody(api: ApiServer, tmp_path: Path) -> None:
    load(api, relayed("web", WEB), slice_of("web", "10.244.0.7"))
    async with endpoints("10.244.0.7"), calling() as caller:
        for _ in range(3):
            async with running(tmp_path, *flags(tmp_path)) as daemon:
                await ready(daemon)
                if not caller.answers:  # nobody had served yet
                    await caller.more()
                    caller.failures.clear()
                await caller.more()
                assert await daemon.end() == 0
            assert not relay_port("nft", "web")
            await caller.more()
        assert caller.failures == []


async def test_the_death_of_a_worker_refuses_nobody(api: ApiServer, tmp_path: Path) -> None:
    load(api, relayed("web", WEB), slice_of("web", "10.244.0.7"))
    async with endpoints("10.244.0.7"), running(tmp_path, *flags(tmp_path)) as daemon, calling() as caller:
        await ready(daemon)
        await caller.more()
        caller.failures.clear()
        dead = workers(daemon)[0]
        os.kill(dead, signal.SIGKILL)
        await eventually(lambda: len(workers(daemon)) == os.cpu_count() and dead not in workers(daemon), daemon)
        await caller.more()
        # The one connection that the dead worker was carrying, at most: it was established, and is reset
        assert len(caller.failures) <= 1
        assert all("ConnectionReset" in each or "ValueError" in each for each in caller.failures)


def workers(daemon: Daemon) -> list[int]:
    children = Path(f"/proc/{daemon.process.pid}/task/{daemon.process.pid}/children").read_text(encoding="ascii")
    return [int(each) for each in children.split() if "userspace.worker" in _command(each)]


def _command(pid: str) -> str:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_text(encoding="ascii")
    return ""


async def test_the_relays_address_comes_back(api: ApiServer, tmp_path: Path) -> None:
    load(api, relayed("web", WEB), slice_of("web", "10.244.0.7"))
    async with endpoints("10.244.0.7"), running(tmp_path, *flags(tmp_path)) as daemon:
        await ready(daemon)
        act("ip", "address", "delete", f"{RELAY}/32", "dev", "lo")
        await eventually(lambda: RELAY in act("ip", "address", "show", "dev", "lo"), daemon)
        assert (await ask())[0] == "10.244.0.7"
        assert daemon.said("The relay's address was gone, it is back") == 1


async def test_an_endpoint_that_leads_back_to_the_relay_is_led_nowhere(api: ApiServer, tmp_path: Path) -> None:
    """Or one connection becomes all that the node can have, and one datagram goes round for ever."""
    ports = [{"name": "tcp", "port": 80, "protocol": "TCP"}, {"name": "udp", "port": 80, "protocol": "UDP"}]
    ring = slice_of("ring", "10.96.0.90")
    ring["ports"] = ports
    load(api, relayed("ring", "10.96.0.90", ports=ports), ring)
    load(api, relayed("web", WEB), slice_of("web", "10.244.0.7"))
    async with endpoints("10.244.0.7"), running(tmp_path, *flags(tmp_path)) as daemon:
        await ready(daemon)
        await ready(daemon, name="ring:tcp")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.sendto(b"round", ("10.96.0.90", 80))
        with pytest.raises(OSError):  # noqa: PT011 -- which one is the kernel's business
            await ask("10.96.0.90")
        assert (await ask())[0] == "10.244.0.7"
        _, text = await get("http://127.0.0.1:10249/metrics")
        flows = re.findall(r'^kproxy_userspace_connections\w*{.*service="ring"} (\d+)$', text, re.MULTILINE)
        assert max(map(int, flows)) <= 1, text


async def test_whoever_asks_twice_waits_until_the_kernel_serves(api: ApiServer, tmp_path: Path) -> None:
    load(api, relayed("web", WEB), slice_of("web", "10.244.0.7"))
    async with endpoints("10.244.0.7"), running(tmp_path, *flags(tmp_path)) as daemon:
        await ready(daemon)
        daemon.process.send_signal(signal.SIGTERM)
        await eventually(lambda: daemon.said("Ending on a signal") == 1, daemon)
        await daemon.end()
    assert not relay_port("nft", "web")


async def test_a_dead_endpoint_costs_a_client_nothing(api: ApiServer, tmp_path: Path) -> None:
    """Rules would send every other connection to it, to be refused."""
    load(api, relayed("web", WEB), slice_of("web", "10.244.0.7", "10.244.0.9"))
    act("ip", "address", "replace", "10.244.0.9/32", "dev", "lo")
    async with endpoints("10.244.0.7"), running(tmp_path, *flags(tmp_path)) as daemon:
        await ready(daemon)
        assert {(await ask())[0] for _ in range(10)} == {"10.244.0.7"}


async def test_a_whole_node_may_be_in_userspace_mode_and_one_service_not(api: ApiServer, tmp_path: Path) -> None:
    spared = service("spared", "10.96.0.81")
    spared["metadata"]["annotations"] = {"kproxy.io/mode": "iptables"}
    load(api, service("web", WEB), slice_of("web", "10.244.0.7"), spared, slice_of("spared", "10.244.0.7"))
    async with endpoints("10.244.0.7"), running(tmp_path, *flags(tmp_path), "--proxy-mode=userspace") as daemon:
        await ready(daemon)
        assert not relay_port("nft", "spared")
        assert (await ask())[0] == "10.244.0.7"
        assert (await get("http://127.0.0.1:10249/proxyMode"))[1] == "userspace"


async def test_an_endpoint_sees_a_pod_as_itself_where_the_service_asks_for_it(
    api: ApiServer, tmp_path: Path, inside: Namespace
) -> None:
    web = relayed("web", WEB)
    web["metadata"]["annotations"]["kproxy.io/transparent"] = "true"
    load(api, web, slice_of("web", "10.244.0.7"), relayed("plain", "10.96.0.81"), slice_of("plain", "10.244.0.7"))
    pod = Namespace(f"{inside.name}-pod", tmp_path / "pod.lock")
    try:
        act("ip", "link", "add", "pod0", "type", "veth", "peer", "name", "eth0", "netns", pod.name)
        act("ip", "link", "set", "pod0", "up")
        act("ip", "address", "add", "192.0.2.1/32", "dev", "pod0")
        act("ip", "route", "add", "10.244.0.9/32", "dev", "pod0")
        for words in ("address add 10.244.0.9/32 dev eth0", "link set eth0 up", "route add 192.0.2.1 dev eth0"):
            pod.run(("ip", *words.split()))
        pod.run(("ip", "route", "add", "default", "via", "192.0.2.1"))
        async with endpoints("10.244.0.7"), running(tmp_path, *flags(tmp_path)) as daemon:
            await ready(daemon)
            await eventually(lambda: relay_port("nft", "plain") > 0, daemon)
            with pod.enter():
                client, other = socket.socket(), socket.socket()
            assert await ask(client=client) == ("10.244.0.7", "10.244.0.9")
            assert (await ask("10.96.0.81", client=other))[1] != "10.244.0.9"
            _, text = await get("http://127.0.0.1:10249/metrics")
            assert re.search(r'^kproxy_userspace_hidden_total{.*service="web"} 0$', text, re.MULTILINE)
            assert "169.254.73.128/26" in act("ip", "route", "show", "table", "local")
            await daemon.end()
        assert "169.254.73.128/26" not in act("ip", "route", "show", "table", "local")
    finally:
        pod.remove()


async def test_datagrams_come_back_from_the_address_that_was_asked(api: ApiServer, tmp_path: Path) -> None:
    ports: Sequence[Json] = [{"port": 53, "targetPort": 8053, "protocol": "UDP"}]
    dns = slice_of("dns", "10.244.0.7")
    dns["ports"] = [{"port": 8053, "protocol": "UDP"}]
    load(api, relayed("dns", "10.96.0.53", ports=ports), dns)
    act("ip", "address", "replace", "10.244.0.7/32", "dev", "lo")
    loop = asyncio.get_running_loop()
    with (
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
    ):
        for each in (server, client):
            each.setblocking(False)
        server.bind(("10.244.0.7", 8053))
        async with endpoints(), running(tmp_path, *flags(tmp_path)) as daemon:
            await ready(daemon, name="dns")
            client.connect(("10.96.0.53", 53))
            async with asyncio.timeout(10):
                await loop.sock_sendall(client, b"question")
                data, peer = await loop.sock_recvfrom(server, 100)
                await loop.sock_sendto(server, data.upper(), peer)
                assert await loop.sock_recv(client, 100) == b"QUESTION"
