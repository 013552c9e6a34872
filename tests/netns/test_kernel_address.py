"""Interface addresses and their events, from the real kernel, on both event loops."""

from __future__ import annotations

import asyncio
import socket

import pytest
import uvloop

from kproxy.errors import KernelError
from kproxy.kernel.address import Addresses
from kproxy.kernel.doors import Address
from kproxy.model.enums import IPFamily
from tests.netns.conftest import Namespace

pytestmark = pytest.mark.root


async def scenario(netns: Namespace) -> None:
    async with Addresses(settle=0.01) as addresses:
        assert await addresses.list(IPFamily.IPV4) == (Address("127.0.0.1", 1, loopback=True),)
        changes = addresses.changes()
        async with asyncio.timeout(20):
            await anext(changes)
            netns.run(("ip", "addr", "add", "10.1.2.3/32", "dev", "lo"))
            netns.run(("ip", "addr", "add", "fd00::3/128", "dev", "lo"))
            await anext(changes)
            while "10.1.2.3" not in {each.ip for each in await addresses.list(IPFamily.IPV4)}:
                await anext(changes)
            while "fd00::3" not in {each.ip for each in await addresses.list(IPFamily.IPV6)}:
                await anext(changes)
        await changes.aclose()


@pytest.mark.parametrize("factory", [asyncio.SelectorEventLoop, uvloop.new_event_loop])
def test_addresses_are_listed_and_watched(inside: Namespace, factory: type) -> None:
    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(scenario(inside))


@pytest.mark.usefixtures("inside")
async def test_an_address_that_was_claimed_can_be_bound_to_at_once() -> None:
    async with Addresses() as addresses:
        for number in range(1, 40):  # the kernel's search for another owner ends before we look, more often than not
            await addresses.claim(f"fd00::{number}")
            with socket.socket(socket.AF_INET6) as sock:
                sock.bind((f"fd00::{number}", 0))


async def test_the_relays_address_is_claimed_and_released_however_often(inside: Namespace) -> None:
    async with Addresses() as addresses:
        for family, ip in (IPFamily.IPV4, "169.254.73.80"), (IPFamily.IPV6, "fd6b:7072:6f78:79::1"):
            for _ in range(2):
                await addresses.claim(ip)
            assert ip in {each.ip for each in await addresses.list(family)}
            assert [await addresses.release(ip) for _ in range(2)] == [True, False]
            assert ip not in {each.ip for each in await addresses.list(family)}
        inside.run(("sysctl", "-q", "-w", "net.ipv6.conf.all.disable_ipv6=1"))
        with pytest.raises(KernelError, match="did not add the address fd00::1 to the interface lo"):
            await addresses.claim("fd00::1")


async def test_networks_for_the_relay_are_claimed_and_released_however_often(inside: Namespace) -> None:
    async with Addresses() as addresses:
        for version, cidr in ("-4", "169.254.73.128/26"), ("-6", "fd6b:7072:6f78:79:1::/112"):
            list_local = ("ip", version, "route", "show", "table", "local", "dev", "lo")
            before = inside.run(list_local).stdout
            for _ in range(2):
                await addresses.claim_network(cidr)
            assert f"local {cidr} " in inside.run(list_local).stdout
            assert [await addresses.release_network(cidr) for _ in range(2)] == [True, False]
            assert inside.run(list_local).stdout == before
        inside.run(("sysctl", "-q", "-w", "net.ipv6.conf.all.disable_ipv6=1"))
        with pytest.raises(KernelError, match="did not route fd00::/64 to this node itself"):
            await addresses.claim_network("fd00::/64")
