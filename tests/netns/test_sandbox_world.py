"""The sandbox's hosts and wires with real packets. Servers and wire formats alone: tests/unit/sandbox."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from kproxy.errors import ProgramMissing, ProgramTimeout
from kproxy.sandbox import probe
from kproxy.sandbox.workload import Ports, Workload
from kproxy.sandbox.world import World

pytestmark = pytest.mark.root


@pytest.fixture
async def world() -> AsyncIterator[World]:
    async with World() as world:
        await asyncio.gather(
            world.add_pod("near", "node-1", {"app": "a"}),
            world.add_pod("neighbour", "node-1"),
            world.add_pod("far", "node-2"),
        )
        yield world


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("asker", ["neighbour", "far", "client", "node-1", "node-2", "cp"])
async def test_every_host_reaches_a_pod_and_is_seen_as_itself(world: World, asker: str, family: int) -> None:
    near, host = world.pod("near"), world.host(asker)
    async with Workload("near", near, Ports(tcp=[80], udp=[80], http=[8080], dns=[53])):
        address = near.ip(family)
        answers = [
            await probe.tcp(host, address, 80),
            await probe.udp(host, address, 80),
            await probe.http(host, address, 8080),
            await probe.resolve(host, address),
            await probe.resolve(host, address, over="tcp"),
        ]
    assert [answer.name for answer in answers] == ["near"] * 5
    assert all(answer.source_kept for answer in answers)


@pytest.mark.parametrize("family", [4, 6])
async def test_a_closed_port_refuses_and_a_foreign_address_is_unreachable(world: World, family: int) -> None:
    near, far = world.pod("near"), world.pod("far")
    elsewhere = {4: "198.51.100.1", 6: "2001:db8::1"}[family]
    assert (await probe.tcp(far, near.ip(family), 9)).outcome == "refused"
    assert (await probe.udp(far, near.ip(family), 9)).outcome == "refused"
    assert (await probe.tcp(far, elsewhere, 9)).outcome == "unreachable"
    assert (await probe.udp(far, elsewhere, 9)).outcome == "unreachable"


async def test_two_pods_of_one_node_may_talk_through_an_address_translated_there(world: World) -> None:
    near, neighbour = world.pod("near"), world.pod("neighbour")
    translate = f"-A PREROUTING -d 10.96.0.10/32 -p tcp --dport 88 -j DNAT --to-destination {near.ip()}:80"
    await world.node("node-1").run(["iptables-restore"], stdin=f"*nat\n{translate}\nCOMMIT\n")
    async with Workload("near", near, Ports(tcp=[80])):
        answer = await probe.tcp(neighbour, "10.96.0.10", 88)
        outside = await probe.tcp(world.host("client"), "10.96.0.10", 88)
    assert (answer.name, answer.local, answer.source_kept) == ("near", f"{near.ip()}:80", True)
    assert outside.name == "near"


async def test_a_removed_pod_is_gone_and_its_address_is_not_given_again(world: World) -> None:
    address = world.pod("near").ip()
    await world.remove_pod("near")
    again = await world.add_pod("near", "node-1")
    assert again.ip() != address
    assert (await probe.tcp(world.pod("far"), address, 80, deadline=0.05)).outcome == "timeout"


async def test_programs_run_in_a_host_and_end_with_it() -> None:
    async with World(nodes=["n"], clients=[], families=[6]) as world:
        host = world.host("n")
        links = await host.run(["ip", "-brief", "address", "show", "dev", "eth0"])
        assert "fd00:100::b/64" in links.check().stdout
        assert "192.168" not in links.stdout
        staying = await host.popen(["sleep", "1000"])
        with pytest.raises(ProgramTimeout, match="sleep 1000 on n did not end within"):
            await host.run(["sleep", "1000"], deadline=0.05)
        with pytest.raises(ProgramMissing, match="no-such-program is not installed"):
            await host.run(["no-such-program"])
    assert staying.returncode is not None


async def test_a_host_is_named_once(world: World) -> None:
    with pytest.raises(ValueError, match="already a host named near"):
        await world.add_pod("near", "node-2")
    with pytest.raises(KeyError, match="client is not a node"):
        await world.add_pod("new", "client")
