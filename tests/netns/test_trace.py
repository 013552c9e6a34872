"""``kproxy trace`` on a node, with real packets: what it prints is what happened, and it leaves nothing behind.

How sightings become passages, and passages answers, is in tests/unit/explain.
"""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from kproxy.config import IptablesVariant
from kproxy.errors import KernelError
from kproxy.kernel.logger import hear_legacy
from kproxy.kernel.monitor import FlushMonitor, NftEvents
from kproxy.kernel.trace_table import BURST, Selector
from kproxy.kernel.tracing import TraceRule, hear_nft
from kproxy.model.enums import IPFamily, Protocol
from tests.netns.conftest import Namespace
from tests.netns.traced_node import (
    CLIENT,
    DEADLINE,
    DENIED,
    DROPPED_AT,
    EMPTY,
    ENDPOINTS,
    NODE,
    NODE_PORT,
    REFUSED_AT,
    WEB,
    TracedNode,
    traced_node,
)

pytestmark = [pytest.mark.root, pytest.mark.asyncio(loop_scope="module")]
# The variants that have more to lose: numbers that change, and settings that are to be put back
on_nft = pytest.mark.parametrize("shared", ["nft"], indirect=True)
on_legacy = pytest.mark.parametrize("shared", ["legacy"], indirect=True)


@pytest_asyncio.fixture(scope="module", loop_scope="module", params=["nft", "legacy"])
async def shared(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[TracedNode]:
    async with traced_node(request.param, tmp_path_factory.mktemp(request.param)) as made:
        yield made


@pytest_asyncio.fixture(loop_scope="module")
async def node(shared: TracedNode) -> AsyncIterator[TracedNode]:
    yield shared
    await shared.end_all()


async def test_the_endpoint_that_is_printed_is_the_one_that_answered(node: TracedNode) -> None:
    before = node.logger()
    trace = await node.start("--service", "shop/web", "--json", "--limit", "5")
    assert "watching first packets of flows" in trace.began
    assert await node.is_marking()
    answered = [
        f"{(await node.dial(WEB[4]))[0]}:8080",
        f"{await node.ask(WEB[4])}:5353",
        f"[{(await node.dial(WEB[6]))[0]}]:8080",
        f"{(await node.dial(NODE[4], NODE_PORT))[0]}:8080",
        f"{(await node.dial(NODE[4], NODE_PORT, host=node.node))[0]}:8080",
    ]
    packets = await trace.packets()
    assert [each["endpoint"] for each in packets] == answered
    assert [each["service"] for each in packets] == [f"shop/web:{port}" for port in ("http", "dns", *["http"] * 3)]
    assert [each["masquerade"]["wanted"] for each in packets] == [False] * 3 + [True] * 2
    assert [each["interface"] for each in packets] == ["outside"] * 4 + [""]
    assert {(each["variant"], each["fate"]) for each in packets} == {(node.variant, "delivered")}
    assert not await node.is_marking()
    assert node.logger() == before
    # Rules are named by the lines that iptables-save prints
    saved = (await node.run(f"iptables-{node.variant}-save", "-c")).splitlines()
    for rule in packets[0]["rules"]:
        assert saved[rule["line"]["number"] - 1].endswith(rule["line"]["text"])
    chains = [rule["line"]["chain"][:9] for rule in packets[0]["rules"] if rule["line"]["table"] == "nat"]
    assert chains[:4] == ["PREROUTIN", "KUBE-SERV", "KUBE-SVC-", "KUBE-SEP-"]


@on_nft
async def test_what_is_refused_is_told_to_people(node: TracedNode) -> None:
    trace = await node.start("--to", f"{EMPTY}:80/tcp")
    with pytest.raises(ConnectionRefusedError):
        await node.dial(EMPTY)
    status, out, err = await trace.end(signal.SIGINT)
    assert (status, err) == (0, "")
    assert "shop/empty → refused: shop/empty has no endpoints" in out
    assert out.endswith("1 packet of 1 flow; the trace rule is removed\n")


async def test_the_end_is_told_though_the_kernel_renumbers_packets_at_a_bridge(node: TracedNode) -> None:
    """Several at once; a refusal and a drop in filter FORWARD, which is behind the bridge."""
    trace = await node.start("--service", "shop/denied", "--json", "--limit", "4")
    dialled = [(DENIED[family], port) for family in (4, 6) for port in (DROPPED_AT, REFUSED_AT)]
    dialling = [asyncio.create_task(node.dial(*each)) for each in dialled]
    packets = {packet["destination"]: packet for packet in await trace.packets()}
    for each in dialling:
        each.cancel()
    said = await asyncio.gather(*dialling, return_exceptions=True)
    assert [isinstance(each, ConnectionRefusedError) for each in said[:2]] == [False, True]
    assert not any(isinstance(each, tuple) for each in said)
    for ip, endpoint in ((DENIED[family], ENDPOINTS[family][0]) for family in (4, 6)):
        for port, fate, target in ((DROPPED_AT, "dropped", "DROP"), (REFUSED_AT, "refused", "REJECT")):
            packet = packets[f"[{ip}]:{port}" if ":" in ip else f"{ip}:{port}"]
            assert (packet["fate"], packet["service"]) == (fate, f"shop/denied:{fate}")
            assert packet["endpoint"].strip("[").startswith(endpoint)
            assert (packet["interface"], packet["rules"][-1]["line"]["chain"]) == ("outside", "FORWARD")
            assert f"-j {target}" in packet["rules"][-1]["line"]["text"]


@on_legacy
async def test_all_packets_are_those_of_known_flows_too(node: TracedNode) -> None:
    trace = await node.start("--to", f"{WEB[4]}:80", "--all", "--json", "--limit", "3")
    answered, _ = await node.dial(WEB[4])
    packets = await trace.packets()
    assert {(each["endpoint"], each["fate"]) for each in packets} == {(f"{answered}:8080", "delivered")}
    assert [each["known_flow"] for each in packets] == [False, True, True]


@on_nft
async def test_its_time_ends_it_while_packets_come_and_come(node: TracedNode) -> None:
    async def ask_for_ever() -> None:
        while True:
            await node.ask(WEB[4])
            await asyncio.sleep(0.005)  # faster than --rate, and slow enough to leave others the processor

    trace = await node.start("--service", "shop/web", "--for", "300ms", "--rate", "100", "--limit", "10000")
    asking = asyncio.create_task(ask_for_ever())
    _, out, _ = await trace.end()
    asking.cancel()
    await asyncio.gather(asking, return_exceptions=True)
    assert re.search(r"\d+ packets of \d+ flows; the trace rule is removed\n$", out)


@on_legacy
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name)
async def test_nothing_is_left_however_it_ends(node: TracedNode, number: int) -> None:
    before = node.logger()
    trace = await node.start("--from", CLIENT[4])
    assert await node.is_marking()
    assert node.logger() == "nfnetlink_log" != before
    status, out, _ = await trace.end(number)
    assert not await node.is_marking()
    async with asyncio.timeout(DEADLINE):
        while node.logger() != before:  # noqa: ASYNC110 -- after SIGKILL the guard does it, and /proc tells nobody
            await asyncio.sleep(0.01)
    if number == signal.SIGKILL:
        assert status == -signal.SIGKILL
    else:
        assert (status, out) == (3, "\nno such packet came; the trace rule is removed\n")


@on_legacy
async def test_one_trace_at_a_time_and_only_for_root(node: TracedNode) -> None:
    first = await node.start("--from", CLIENT[4])
    status, _, err = await (await node.start("--from", CLIENT[4])).end()
    assert status == 1
    assert f"a trace is running on this node already (process {first.process.pid}): end that one first" in err
    nobody = await node.start("--from", CLIENT[4], under=("setpriv", "--bounding-set=-net_admin", "--"))
    status, _, err = await nobody.end()
    assert (status, err.count("\n")) == (1, 1)
    assert "run kproxy as root or give it CAP_NET_ADMIN" in err
    assert await node.is_marking()
    await first.end(signal.SIGINT)


@on_nft
async def test_another_programs_trace_is_not_shown(node: TracedNode) -> None:
    rule = ("PREROUTING", "-j", "TRACE")
    await node.run("iptables-nft", "-t", "raw", "-A", *rule)
    trace = await node.start("--to", f"{WEB[4]}:80", "--json", "--limit", "1")
    await node.ask(WEB[4])
    answered, port = await node.dial(WEB[4])
    (packet,) = await trace.packets()
    await node.run("iptables-nft", "-t", "raw", "-D", *rule)
    assert packet["source"] == f"{CLIENT[4]}:{port}"
    assert packet["endpoint"] == f"{answered}:8080"


async def test_rules_that_change_meanwhile_are_not_mistaken_for_others(node: TracedNode) -> None:
    trace = await node.start("--to", f"{WEB[4]}:80", "--json", "--limit", "1")
    await node.run(f"iptables-{node.variant}", "-t", "nat", "-I", "KUBE-SERVICES", "-p", "sctp", "-j", "RETURN")
    answered, _ = await node.dial(WEB[4])
    (packet,) = await trace.packets()
    assert (packet["service"], packet["endpoint"]) == ("shop/web:http", f"{answered}:8080")
    (line,) = [rule["line"] for rule in packet["rules"] if rule["line"]["chain"] == "KUBE-SERVICES"]
    assert not line["number"] or f"-d {WEB[4]}/32 -p tcp" in line["text"]


# --- without a program ----------------------------------------------------------------------------------------


async def test_the_kernel_keeps_to_the_rate(inside: Namespace) -> None:
    inside.run(("ip", "address", "add", "192.0.2.1/32", "dev", "lo"))
    ear = hear_nft()
    selector = Selector(IPFamily.IPV4, destination="192.0.2.1", port=53, protocol=Protocol.UDP)
    with TraceRule([selector], rate=2, every=False):
        began = time.monotonic()
        for _ in range(60):
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.sendto(b"?", ("192.0.2.1", 53))
        took = time.monotonic() - began
        marked = [sighting for sighting in ear.hear() if sighting.is_mark and sighting.header]
    ear.close()
    assert BURST <= len(marked) <= BURST + 1 + 2 * took


async def test_the_daemon_does_not_mind(inside: Namespace) -> None:
    assert inside
    events = NftEvents()
    with TraceRule([Selector(IPFamily.IPV6)], rate=1, every=True):
        pass
    monitor = FlushMonitor(IptablesVariant.NFT, [])
    generations = events.generations()
    async with asyncio.timeout(DEADLINE):
        seen = [await anext(generations) for _ in range(2)]
    await generations.aclose()  # type: ignore[attr-defined]
    events.close()
    assert [flush for generation in seen for flush in monitor.judge(generation)] == []


async def test_a_logger_that_is_set_already_is_left_and_told(inside: Namespace) -> None:
    path = "/proc/sys/net/netfilter/nf_log/10"
    inside.run(("sh", "-c", f"echo nfnetlink_log >{path}"))
    async with hear_legacy(list(IPFamily), 5.0) as (_ear, remarks):
        assert [remark.split(" was ")[0] for remark in remarks] == [path]
        with pytest.raises(KernelError, match="another program has it, such as ulogd; stop that one"):
            async with hear_legacy(list(IPFamily), 5.0):
                pass
    assert [inside.run(("cat", path.replace("10", family))).stdout.strip() for family in ("2", "10")] == [
        "nf_log_ipv4",
        "nfnetlink_log",
    ]
