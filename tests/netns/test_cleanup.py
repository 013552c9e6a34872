"""Clean-up of real tables, both variants and families: by libiptc where it can, without it where it cannot."""

from __future__ import annotations

import pytest

from kproxy.backend.iptables.cleanup import Cleaned
from kproxy.backend.iptables.rules import Table
from kproxy.cli.check import doubts
from kproxy.config import Config, IptablesVariant
from kproxy.daemon.cleanup import clean_relay, clean_table, remove_jumps
from kproxy.kernel import libiptc
from kproxy.kernel.address import Addresses
from kproxy.kernel.iptables import Iptables
from kproxy.kernel.libiptc import LegacyTables
from kproxy.model.enums import IPFamily

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("inside")]

LEGACY = IptablesVariant.LEGACY
TABLES = b"""*mangle
:KUBE-PROXY-CANARY - [0:0]
COMMIT
*nat
:KUBE-PROXY-CANARY - [0:0]
:KUBE-SERVICES - [0:0]
:KUBE-MARK-MASQ - [0:0]
:DOCKER - [0:0]
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A PREROUTING -m comment --comment "mine -j KUBE-SERVICES" -j DOCKER
-A PREROUTING -i eth7 -g KUBE-SERVICES
-A OUTPUT -p tcp -m tcp --dport 80 -j KUBE-SERVICES
-A KUBE-SERVICES -j KUBE-MARK-MASQ
-A DOCKER -j KUBE-MARK-MASQ
COMMIT
*filter
:KUBE-PROXY-CANARY - [0:0]
:KUBE-FORWARD - [0:0]
:KUBE-FIREWALL - [0:0]
-A INPUT -j KUBE-FIREWALL
-A FORWARD -m conntrack --ctstate NEW -j KUBE-FORWARD
COMMIT
"""
LEFT = {
    "mangle": [],
    "nat": [
        ":DOCKER",
        ":KUBE-MARK-MASQ",
        '-A PREROUTING -m comment --comment "mine -j KUBE-SERVICES" -j DOCKER',
        "-A DOCKER -j KUBE-MARK-MASQ",
    ],
    "filter": [":KUBE-FIREWALL", "-A INPUT -j KUBE-FIREWALL"],
}


@pytest.fixture(params=list(IPFamily), ids=lambda family: family.value)
def family(request: pytest.FixtureRequest) -> IPFamily:
    return request.param  # type: ignore[no-any-return]


async def filled(family: IPFamily, variant: IptablesVariant) -> Iptables:
    door = Iptables(family, variant, wait=5, deadline=20, restore=20)
    await door.restore(TABLES)
    return door


async def rest(door: Iptables) -> dict[str, list[str]]:
    """Chains that are not built-in, and all rules."""
    saved = {table.value: (await door.save(table.value)).decode().splitlines() for table in Table}
    return {
        table: [line.split(" - ")[0] for line in lines if line.startswith("-A") or " - [" in line]
        for table, lines in saved.items()
    }


@pytest.mark.parametrize("variant", [IptablesVariant.NFT, LEGACY])
async def test_what_is_ours_goes_and_all_else_stays(family: IPFamily, variant: IptablesVariant) -> None:
    door = await filled(family, variant)
    assert await remove_jumps(door, Config()) == (4 if variant is LEGACY else 0)
    cleaned = {table.value: await clean_table(door, table) for table in Table}
    jumps = {"nat": 0, "filter": 0} if variant is LEGACY else {"nat": 3, "filter": 1}
    assert cleaned == {
        "mangle": Cleaned(0, 1),
        "nat": Cleaned(jumps["nat"], 2, ("KUBE-MARK-MASQ",)),
        "filter": Cleaned(jumps["filter"], 2),
    }
    assert await rest(door) == LEFT


async def test_without_libiptc_it_is_the_same(family: IPFamily, monkeypatch: pytest.MonkeyPatch) -> None:
    door = await filled(family, LEGACY)
    monkeypatch.setattr(libiptc.sys, "executable", "/bin/false")
    assert await remove_jumps(door, Config()) == 0
    assert (await clean_table(door, Table.NAT)).rules == 3
    assert {"nat": (await rest(door))["nat"]} == {"nat": LEFT["nat"]}


async def test_libiptc_misses_the_canary_of_every_table(family: IPFamily) -> None:
    door = await filled(family, LEGACY)
    asked = {table.value: ("KUBE-PROXY-CANARY",) for table in Table}
    assert list(doubts((), await LegacyTables(family).read(asked))) == []
    for table in Table:
        await clean_table(door, table)
    found = list(doubts((), await LegacyTables(family).read(asked)))
    assert found == [f"table {table}: libiptc sees no KUBE-PROXY-CANARY" for table in Table]


async def test_the_relays_addresses_go_and_nobody_elses() -> None:
    config = Config()
    async with Addresses() as addresses:
        await addresses.claim("192.0.2.1")
        await addresses.claim_network("198.51.100.0/24")
        for ip, cidr in zip(config.relay_address, config.relay_sources, strict=True):
            await addresses.claim(ip)
            await addresses.claim_network(cidr)
        assert len((await clean_relay(config)).said) == 4
        assert (await clean_relay(config)).said == []
        assert await addresses.release("192.0.2.1")
        assert await addresses.release_network("198.51.100.0/24")
