"""Connections and bytes of services, seen from outside: real traffic, real rules, and what /metrics says of it.

How figures add up and when the kernel is read is tested beside those parts; here they must be exact all the way.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from kproxy.sandbox.apiserver import ApiServer
from tests.e2e.conftest import Daemon, act, eventually, flags, get, running, saved, service, slice_of

pytestmark = pytest.mark.root

NODE, VIP = "192.0.2.1", "203.0.113.5"
FIRST, SECOND = "10.244.0.7", "10.244.0.8"  # endpoints: addresses of this node, so the answers come from the test
SIXTH = "fd00:244::7"
LINKS = f"""
address add {FIRST}/32 dev lo
address add {SECOND}/32 dev lo
address add {SIXTH}/128 dev lo nodad
address add {NODE}/32 dev lo
route add fd00:10:96::/64 dev lo src {SIXTH}
route add 10.96.0.0/16 dev lo src {NODE}
route add {VIP}/32 dev lo src {NODE}
"""
QUESTION, ANSWER = b"q" * 1000, b"a" * 5000
WAYS = (("10.96.0.80", 80), (NODE, 30080), (VIP, 80))


async def test_counters_are_exact_and_survive_syncs_and_changed_endpoints(api: ApiServer, tmp_path: Path) -> None:
    ports = [{"port": 80, "targetPort": 8080, "nodePort": 30080}]
    api.create(service("web", "10.96.0.80", type="LoadBalancer", ports=ports))
    api.set_status("Service", "web", {"loadBalancer": {"ingress": [{"ip": VIP}]}})
    api.create(slice_of("web", FIRST))
    for name, ip in (("api", "10.96.0.81"), ("quiet", "10.96.0.82")):
        api.create(service(name, ip))
        api.create(slice_of(name, FIRST))
    async with answering(), running(tmp_path, *flags(tmp_path), "--service-metrics=2") as daemon:
        await daemon.ready()
        for way, times in zip(WAYS, (7, 5, 3), strict=True):
            await dial(way, times)
        await dial(("10.96.0.81", 80), 4)
        await dial(("10.96.0.82", 80), 2)
        await shows(daemon, {"web": 15, "api": 4, "other": 2})
        await bytes_fit(daemon, {"web": 15, "api": 4, "other": 2})
        api.update(slice_of("web", SECOND))
        await eventually(lambda: f"{SECOND}:8080" in saved("nft"), daemon)
        await dial(WAYS[0], 6)
        await shows(daemon, {"web": 21, "api": 4, "other": 2})
        act("iptables", "-t", "nat", "-F", "KUBE-SERVICES")
        await eventually(lambda: daemon.said("repaired") > 0, daemon)
        act("conntrack", "-F")  # every flow ends
        await dial(WAYS[1], 2)
        await shows(daemon, {"web": 23, "api": 4, "other": 2})
        await bytes_fit(daemon, {"web": 23, "api": 4, "other": 2})
        api.delete("Service", "api")
        await shows(daemon, {"web": 23, "quiet": 0, "other": 2})
        assert await read(daemon, "kproxy_flow_events_lost_total") == {"": 0}


async def test_a_connection_that_stays_is_told_while_it_does_and_datagrams_count_as_flows(
    api: ApiServer, tmp_path: Path
) -> None:
    ports = [{"name": "dns", "port": 53, "targetPort": 8080, "protocol": "UDP"}]
    api.create(service("dns", "10.96.0.53", ports=ports))
    api.create({**slice_of("dns", FIRST), "ports": [{"name": "dns", "port": 8080, "protocol": "UDP"}]})
    api.create(service("web", "10.96.0.80"))
    api.create(slice_of("web", FIRST))
    api.create(service("six", "fd00:10:96::80", ipFamilies=["IPv6"]))
    api.create({**slice_of("six", SIXTH), "addressType": "IPv6"})
    async with answering(), running(tmp_path, *flags(tmp_path), "--service-metrics=10") as daemon:
        await daemon.ready()
        assert len(listeners()) == 1
        assert counts_bytes()
        reader, writer = await asyncio.open_connection("10.96.0.80", 80)
        for _ in range(20):
            writer.write(QUESTION)
            await reader.readexactly(len(ANSWER))
        await dial(("fd00:10:96::80", 80), 2)
        for number in range(3):
            ask(("10.96.0.53", 53), 20000 + number)
        await shows(daemon, {"web": 1, "dns": 3, "six": 2})
        await bytes_fit(daemon, {"web": 20, "six": 2})
        assert await read(daemon, "kproxy_service_active_connections") == {
            "web": 1,
            "dns": 3,
            "six": 2,
            "kubernetes": 0,
        }
        assert '{namespace="default",port="dns",protocol="UDP",service="dns"} 3' in await scrape(daemon)
        writer.close()
        await writer.wait_closed()


async def test_who_does_not_ask_gets_no_listener_no_setting_and_no_series(api: ApiServer, tmp_path: Path) -> None:
    api.create(service("web", "10.96.0.80"))
    api.create(slice_of("web", FIRST))
    async with answering(), running(tmp_path, *flags(tmp_path)) as daemon:
        await daemon.ready()
        await dial(WAYS[0], 1)
        assert "kproxy_service" not in await scrape(daemon)
        assert "kproxy_flow" not in await scrape(daemon)
        assert not listeners()
    assert not counts_bytes()


def counts_bytes() -> bool:
    return Path("/proc/sys/net/netfilter/nf_conntrack_acct").read_text(encoding="ascii") == "1\n"


def listeners() -> list[str]:
    """Netlink sockets in this namespace that hear of conntrack's flows: netfilter's, of one of the groups 1 to 3."""
    lines = [line.split() for line in Path("/proc/net/netlink").read_text(encoding="ascii").splitlines()[1:]]
    return [fields[2] for fields in lines if fields[1] == "12" and int(fields[3], 16) & 0b111]


class Stream(asyncio.Protocol):
    """Answers each question."""

    def __init__(self, opened: set[asyncio.BaseTransport]) -> None:
        self._opened = opened
        self._asked = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._opened.add(transport)
        self.transport = transport

    def data_received(self, data: bytes) -> None:
        self._asked += len(data)
        while self._asked >= len(QUESTION):
            self._asked -= len(QUESTION)
            self.transport.write(ANSWER)  # type: ignore[attr-defined]


class Datagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self.transport.sendto(data, addr)  # type: ignore[attr-defined]


@asynccontextmanager
async def answering() -> AsyncIterator[None]:
    """Both endpoints answer by TCP and UDP."""
    opened: set[asyncio.BaseTransport] = set()
    act("sh", "-c", f"ip -batch - <<END\n{LINKS}\nEND")
    loop = asyncio.get_running_loop()
    servers = [await loop.create_server(lambda: Stream(opened), ip, 8080) for ip in (FIRST, SECOND, SIXTH)]
    for ip in (FIRST, SECOND):
        opened.add((await loop.create_datagram_endpoint(Datagrams, (ip, 8080)))[0])
    try:
        yield
    finally:
        for each in (*servers, *opened):
            each.close()
        await asyncio.sleep(0)  # transports end in the next turn


async def dial(to: tuple[str, int], times: int) -> None:
    async with asyncio.timeout(15):
        for _ in range(times):
            reader, writer = await asyncio.open_connection(*to)
            writer.write(QUESTION)
            try:
                assert await reader.readexactly(len(ANSWER)) == ANSWER
            finally:
                writer.close()
                await writer.wait_closed()


def ask(to: tuple[str, int], port: int) -> None:
    """One datagram from a port of its own."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.bind(("", port))
        client.sendto(b"who?", to)


async def scrape(daemon: Daemon) -> str:
    status, text = await get("http://127.0.0.1:10249/metrics")
    assert status == 200, daemon.log.read_text(encoding="utf-8")
    return text


async def read(daemon: Daemon, name: str, direction: str = "") -> dict[str, float]:
    """The samples of a metric, by service."""
    return {
        sample.labels.get("service", ""): sample.value
        for family in text_string_to_metric_families(await scrape(daemon))
        for sample in family.samples
        if sample.name == name and sample.labels.get("direction", "") == direction
    }


async def shows(daemon: Daemon, connections: dict[str, int]) -> None:
    """The table is not read at every scrape, so look until it is so."""

    async def check() -> bool:
        found = await read(daemon, "kproxy_service_connections_total")
        found.pop("kubernetes", None)  # the API server's own Service, which nobody dials
        return found == connections

    await eventually(check, daemon)


async def bytes_fit(daemon: Daemon, questions: dict[str, int]) -> None:
    """Each question and answer, and less than a quarter more for headers and the ends of connections."""
    for direction, size in (("in", len(QUESTION)), ("out", len(ANSWER))):
        found = await read(daemon, "kproxy_service_bytes_total", direction)
        for name, times in questions.items():
            assert times * size <= found[name] <= times * size * 1.6 + 1000, (name, direction, found)
