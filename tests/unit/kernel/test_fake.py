"""The twins.

That they refuse what the real programs refuse is shown side by side in tests/netns/test_kernel_fake.py.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from random import Random

import pytest

from kproxy.errors import KernelError, RestoreRefused, XtablesLocked
from kproxy.kernel.doors import Address, Capabilities, Flush
from kproxy.kernel.fake import FakeAddresses, FakeFlushes, FakeIptables, FakeNfacct, Faulty
from kproxy.model.enums import IPFamily


def text(*lines: str, table: str = "nat") -> bytes:
    return "\n".join([f"*{table}", *lines, "COMMIT", ""]).encode()


async def test_tables_are_told_as_facts_and_saved_as_iptables_does() -> None:
    twin = FakeIptables()
    await twin.restore(text(":KUBE-A - [0:0]", "[1:2] -A KUBE-A -j RETURN", "-I OUTPUT -j KUBE-A"))
    assert twin.tables["nat"]["KUBE-A"] == ("-j RETURN",)
    assert await twin.rules("nat", ["OUTPUT", "NO"]) == {"OUTPUT": ("-A OUTPUT -j KUBE-A",)}
    saved = (await twin.save("nat")).decode().splitlines()
    assert saved[1:-1] == [
        "*nat",
        ":PREROUTING ACCEPT [0:0]",
        ":INPUT ACCEPT [0:0]",
        ":OUTPUT ACCEPT [0:0]",
        ":POSTROUTING ACCEPT [0:0]",
        ":KUBE-A - [0:0]",
        "-A OUTPUT -j KUBE-A",
        "-A KUBE-A -j RETURN",
        "COMMIT",
    ]
    again = FakeIptables()
    await again.restore(await twin.save("nat"))
    assert again.tables == twin.tables


async def test_chunks_of_any_kind_are_taken_and_pieces_given() -> None:
    async def chunks() -> AsyncIterator[bytes]:
        yield text(":KUBE-A - [0:0]")

    twin = FakeIptables()
    await twin.restore(chunks())
    await twin.restore(iter([text(":KUBE-", "")[:11], text(":KUBE-B - [0:0]")[11:]]))
    assert {"KUBE-A", "KUBE-B"} <= await twin.chains("nat")
    pieces: list[bytes] = []
    assert await twin.save("nat", pieces.append) == b""
    assert b"".join(pieces) == await twin.save("nat")


async def test_a_refused_table_stays_as_it_was_and_the_line_is_told() -> None:
    twin = FakeIptables()
    await twin.restore(text(":KUBE-A - [0:0]"))
    with pytest.raises(RestoreRefused) as caught:
        await twin.restore(text(":KUBE-B - [0:0]", "-A KUBE-B -j KUBE-A", "-A KUBE-B -j KUBE-MISSING"))
    assert caught.value.line == 4
    assert "KUBE-B" not in twin.tables["nat"]


async def test_a_test_run_writes_nothing() -> None:
    twin = FakeIptables()
    await twin.restore_test(text(":KUBE-A - [0:0]"))
    assert "KUBE-A" not in twin.tables["nat"]


@pytest.mark.parametrize("bad", ["", "hello", "*nat", "*nosuch\nCOMMIT"])
async def test_input_without_a_whole_table_is_refused(bad: str) -> None:
    if not bad:
        await FakeIptables().restore(b"")
        return
    with pytest.raises(RestoreRefused):
        await FakeIptables().restore(bad.encode())


async def test_comments_that_iptables_would_cut_are_refused() -> None:
    with pytest.raises(RestoreRefused, match="too long"):
        await FakeIptables().restore(text(f'-A OUTPUT -m comment --comment "{"x y" * 100}" -j RETURN'))


@pytest.mark.parametrize(
    ("lacks", "rule"),
    [
        ("recent", "-m recent --name A --set -j RETURN"),
        ("nfacct", "-m nfacct --nfacct-name a -j RETURN"),
        ("random_fully", "-j MASQUERADE --random-fully"),
    ],
)
async def test_a_kernel_without_a_match_refuses_it(lacks: str, rule: str) -> None:
    counters = {"a"}
    await FakeIptables(counters=counters).restore(text(f"-A OUTPUT {rule}"))
    lacking = Capabilities(**{lacks: False})  # type: ignore[arg-type]
    twin = FakeIptables(capabilities=lacking, counters=counters)
    assert await twin.probe() is lacking
    with pytest.raises(RestoreRefused):
        await twin.restore(text(f"-A OUTPUT {rule}"))


async def test_a_rule_may_name_only_counters_that_were_ensured() -> None:
    counters: set[str] = set()
    twin, nfacct = FakeIptables(counters=counters), FakeNfacct(counters)
    rule = text("-A OUTPUT -m nfacct --nfacct-name a -j RETURN")
    with pytest.raises(RestoreRefused):
        await twin.restore(rule)
    nfacct.ensure("a")
    await twin.restore(rule)
    assert nfacct.read("a") == (0, 0)
    nfacct.delete("a")
    assert nfacct.read("a") is None
    with pytest.raises(KernelError):
        nfacct.ensure("x" * 32)


async def test_faults_and_flushes_can_be_made() -> None:
    twin = FakeIptables()
    twin.fail_next(XtablesLocked("busy"))
    with pytest.raises(XtablesLocked):
        await twin.restore(text(":KUBE-A - [0:0]"))
    assert "KUBE-A" not in twin.tables["nat"]
    await twin.restore(text(":KUBE-A - [0:0]"))
    twin.flush()
    assert "KUBE-A" not in twin.tables["nat"]
    assert len(twin.restored) == 2


async def test_faulty_fails_about_one_call_in_n_before_or_after_the_deed() -> None:
    twin = FakeIptables()
    faulty = Faulty(twin, 4, Random(1))
    failed = {"before": 0, "after": 0}
    for number in range(400):
        try:
            await faulty.restore(text(f":KUBE-{number} - [0:0]"))
        except XtablesLocked:
            failed["after" if f"KUBE-{number}" in twin.tables["nat"] else "before"] += 1
    assert failed["before"] > 20
    assert failed["after"] > 20
    assert sum(failed.values()) < 150
    assert faulty.family is IPFamily.IPV4


async def test_addresses_and_flushes_are_told() -> None:
    addresses, flushes = FakeAddresses(), FakeFlushes()
    changes = addresses.changes()
    await anext(changes)
    addresses.set(IPFamily.IPV4, Address("10.0.0.1", 2, loopback=False))
    async with asyncio.timeout(20):
        await anext(changes)
        assert [each.ip for each in await addresses.list(IPFamily.IPV4)] == ["10.0.0.1"]
        flushes.put(Flush(None, "", "why"))
        assert (await anext(flushes.flushes())).why == "why"
