"""Flush detection against the real kernel: other people's transactions are told, our own are not."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from kproxy.config import IptablesVariant
from kproxy.kernel.doors import Completed, Flush, TableState
from kproxy.kernel.iptables import Iptables
from kproxy.kernel.legacy import legacy_tables, read_legacy_state
from kproxy.kernel.monitor import FlushMonitor, NftEvents
from kproxy.model.enums import IPFamily
from tests.netns.conftest import Namespace

pytestmark = pytest.mark.root

NFT, LEGACY = IptablesVariant.NFT, IptablesVariant.LEGACY
TEXT = b"""*filter
:KUBE-FORWARD - [0:0]
-A KUBE-FORWARD -j RETURN
-I FORWARD -j KUBE-FORWARD
COMMIT
*nat
:KUBE-SERVICES - [0:0]
-A KUBE-SERVICES -j RETURN
-I PREROUTING -j KUBE-SERVICES
COMMIT
"""
PROGRAMS = {IPFamily.IPV4: "iptables", IPFamily.IPV6: "ip6tables"}


def door(family: IPFamily, variant: IptablesVariant) -> Iptables:
    return Iptables(family, variant, wait=5, deadline=20, restore=20)


@pytest.fixture(params=list(IPFamily), ids=lambda family: family.value)
def family(request: pytest.FixtureRequest) -> IPFamily:
    return request.param  # type: ignore[no-any-return]


async def next_of(flushes: AsyncIterator[Flush]) -> Flush:
    async with asyncio.timeout(20):
        return await anext(flushes)


@pytest.mark.parametrize("comparable", [True, False], ids=["by pid", "by generation"])
async def test_nft_tells_foreign_flushes_and_not_our_own_writes(
    inside: Namespace, family: IPFamily, comparable: bool
) -> None:
    ours = door(family, NFT)
    await ours.restore(TEXT)
    monitor = FlushMonitor(NFT, [ours])
    monitor._pids_comparable &= comparable
    flushes = monitor.flushes()
    waiting = asyncio.ensure_future(next_of(flushes))
    await asyncio.sleep(0)  # listening from here on
    await ours.restore(TEXT)
    await ours.restore(b"*nat\n:KUBE-SERVICES - [0:0]\nCOMMIT\n")
    inside.run((f"{PROGRAMS[family]}-nft", "-t", "filter", "-F"))
    flush = await waiting
    assert (flush.family, flush.table) == (family, "filter")
    assert "KUBE-FORWARD" in flush.why
    inside.run(("nft", "flush", "ruleset"))
    tables = {(await next_of(flushes)).table for _ in range(2)}
    assert tables == {"filter", "nat"}
    await flushes.aclose()  # type: ignore[attr-defined]


async def test_nft_keeps_quiet_about_what_is_not_ours(inside: Namespace, family: IPFamily) -> None:
    events = NftEvents()
    monitor = FlushMonitor(NFT, [])
    script = "add table ip other\nadd chain ip other KUBE-X\ndelete table ip other\n"
    inside.run(("nft", "-f", "-"), input=script)
    inside.run((f"{PROGRAMS[family]}-nft", "-t", "nat", "-N", "DOCKER"))
    inside.run((f"{PROGRAMS[family]}-nft", "-t", "nat", "-X", "DOCKER"))
    generations = events.generations()
    async with asyncio.timeout(20):
        seen = [await anext(generations) for _ in range(3)]
    await generations.aclose()  # type: ignore[attr-defined]
    events.close()
    assert [flush for generation in seen for flush in monitor.judge(generation)] == []
    assert seen[0].process == "nft"
    assert [each.chain for each in seen[2].deleted] == ["DOCKER"]


async def test_a_foreign_edit_of_a_base_chain_is_told(inside: Namespace) -> None:
    ours = door(IPFamily.IPV4, NFT)
    await ours.restore(TEXT)
    events = NftEvents()
    inside.run(("iptables-nft", "-D", "FORWARD", "-j", "KUBE-FORWARD"))
    generations = events.generations()
    async with asyncio.timeout(20):
        (flush,) = FlushMonitor(NFT, [ours]).judge(await anext(generations))
    await generations.aclose()  # type: ignore[attr-defined]
    events.close()
    assert "FORWARD" in flush.why


async def test_legacy_tables_are_measured_without_being_created(inside: Namespace, family: IPFamily) -> None:
    assert read_legacy_state(family, "nat") is None
    assert legacy_tables(family) == frozenset()
    inside.run((f"{PROGRAMS[family]}-legacy-restore", "--noflush"), input=TEXT.decode())
    before = read_legacy_state(family, "nat")
    assert isinstance(before, TableState)
    assert before.entries > 0
    inside.run((f"{PROGRAMS[family]}-legacy", "-t", "nat", "-A", "KUBE-SERVICES", "-j", "RETURN"))
    after = read_legacy_state(family, "nat")
    assert after is not None
    assert after.entries == before.entries + 1
    assert legacy_tables(family) == {"nat", "filter"}


async def test_legacy_tells_foreign_flushes_and_not_our_own_writes(inside: Namespace, family: IPFamily) -> None:
    ours = door(family, LEGACY)
    monitor = FlushMonitor(LEGACY, [ours], interval=0.01)
    assert monitor.compare() == []
    await ours.restore(TEXT)
    await ours.restore(b"*nat\n:KUBE-SERVICES - [0:0]\nCOMMIT\n")
    assert monitor.compare() == []
    inside.run((f"{PROGRAMS[family]}-legacy", "-t", "nat", "-F"))
    flushes = monitor.flushes()
    flush = await next_of(flushes)
    assert (flush.family, flush.table) == (family, "nat")
    assert monitor.compare() == []
    await flushes.aclose()  # type: ignore[attr-defined]


INNER = b"*nat\n:KUBE-SERVICES - [0:0]\n-A KUBE-SERVICES -j ACCEPT\nCOMMIT\n"


@pytest.mark.parametrize("text", [INNER, TEXT], ids=["elsewhere", "into base chains"])
async def test_a_flush_between_our_commit_and_our_look_at_it_is_told(
    inside: Namespace, family: IPFamily, text: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours = door(family, LEGACY)
    monitor = FlushMonitor(LEGACY, [ours])
    await ours.restore(TEXT)
    await ours.restore(text)
    assert monitor.compare() == []
    restore = ours._restore

    async def then_flush(*arguments: Any) -> Completed:
        done = await restore(*arguments)
        inside.run((f"{PROGRAMS[family]}-legacy", "-t", "nat", "-F"))
        return done

    monkeypatch.setattr(ours, "_restore", then_flush)
    await ours.restore(text)
    assert [(flush.family, flush.table) for flush in monitor.compare()] == [(family, "nat")]
    assert monitor.compare() == []


async def test_a_foreign_change_just_before_our_write_is_told(inside: Namespace, family: IPFamily) -> None:
    ours = door(family, LEGACY)
    monitor = FlushMonitor(LEGACY, [ours])
    await ours.restore(TEXT)
    inside.run((f"{PROGRAMS[family]}-legacy", "-t", "filter", "-F", "KUBE-FORWARD"))
    await ours.restore(INNER)
    assert [flush.table for flush in monitor.compare()] == ["filter"]


@pytest.mark.usefixtures("inside")
async def test_half_of_our_own_write_is_not_told(family: IPFamily) -> None:
    ours = door(family, LEGACY)
    monitor = FlushMonitor(LEGACY, [ours])
    await ours.restore(TEXT)
    before = read_legacy_state(family, "filter")

    async def halves() -> AsyncIterator[bytes]:
        first, second = TEXT.split(b"*nat")
        # more than the program's buffer holds, so that it commits the first half before it sees the second
        yield first + b"#" * 65536 + b"\n"
        async with asyncio.timeout(20):
            while read_legacy_state(family, "filter") == before:  # noqa: ASYNC110 -- the kernel announces nothing
                await asyncio.sleep(0.001)
        assert monitor.compare() == []
        yield b"*nat" + second

    await ours.restore(halves())
    assert monitor.compare() == []
