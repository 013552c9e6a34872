"""The iptables door against the real programs and kernel: both variants, both families.

The twin's behaviour is in tests/unit/kernel/test_fake.py; starting programs in tests/unit/kernel/test_run.py.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from kproxy.config import IptablesVariant
from kproxy.errors import NotPermitted, RestoreRefused, UnreadableTable, XtablesLocked
from kproxy.kernel.doors import Capabilities
from kproxy.kernel.iptables import Iptables, explain_failure
from kproxy.kernel.legacy import legacy_tables
from kproxy.kernel.lock import xtables_lock
from kproxy.kernel.nfacct import Nfacct
from kproxy.kernel.probe import CHAIN
from kproxy.kernel.variant import detect_variant
from kproxy.model.enums import IPFamily
from tests.netns.conftest import Namespace

pytestmark = pytest.mark.root

NFT, LEGACY = IptablesVariant.NFT, IptablesVariant.LEGACY
PREFIX = {IPFamily.IPV4: "iptables", IPFamily.IPV6: "ip6tables"}
PARTS = (
    "*nat",
    ":KUBE-SERVICES - [0:0]",
    ":KUBE-SVC-A - [0:0]",
    '-A KUBE-SERVICES -p tcp -m comment --comment "a/b:c cluster IP" -m tcp --dport 443 -j KUBE-SVC-A',
    "-A KUBE-SVC-A -p tcp -m tcp -j RETURN",
    "COMMIT",
    "",
)
TEXT = "\n".join(PARTS).encode()


def door(family: IPFamily, variant: IptablesVariant, wait: int = 5) -> Iptables:
    return Iptables(family, variant, wait=wait, deadline=20, restore=20)


@pytest.fixture(params=[NFT, LEGACY], ids=lambda variant: variant.value)
def variant(request: pytest.FixtureRequest) -> IptablesVariant:
    return request.param  # type: ignore[no-any-return]


@pytest.fixture(params=list(IPFamily), ids=lambda family: family.value)
def iptables(request: pytest.FixtureRequest, variant: IptablesVariant) -> Iptables:
    request.getfixturevalue("inside")
    return door(request.param, variant)


async def test_what_is_restored_is_saved_in_the_same_words(iptables: Iptables) -> None:
    await iptables.restore(TEXT)
    saved = (await iptables.save("nat")).decode().splitlines()
    assert [line for line in saved if line.startswith("-A KUBE")] == [*PARTS[3:5]]


async def test_input_may_come_in_chunks(iptables: Iptables) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for line in PARTS[:-1]:
            yield f"{line}\n".encode()

    done = await iptables.restore(chunks())
    assert {"KUBE-SERVICES", "KUBE-SVC-A", "PREROUTING"} <= await iptables.chains("nat")
    assert done.peak_rss > 0


async def test_rules_of_chosen_chains_are_listed_and_absent_chains_left_out(iptables: Iptables) -> None:
    assert await iptables.rules("nat", ["KUBE-SERVICES", "NOWHERE"]) == {}
    await iptables.restore(TEXT)
    assert await iptables.rules("nat", ["KUBE-SERVICES", "POSTROUTING", "NOWHERE"]) == {
        "KUBE-SERVICES": (PARTS[3],),
        "POSTROUTING": (),
    }


async def test_one_rule_is_asked_for(iptables: Iptables) -> None:
    assert not await iptables.has_rule("nat", PARTS[3])
    await iptables.restore(TEXT)
    assert await iptables.has_rule("nat", PARTS[3])
    assert not await iptables.has_rule("nat", PARTS[3].replace("a/b:c", "a/b:d"))
    assert not await iptables.has_rule("nat", PARTS[3].replace("KUBE-SERVICES", "PREROUTING"))
    assert not await iptables.has_rule("nat", "-A PREROUTING -j KUBE-NONE")


async def test_a_foreign_comment_may_hold_any_byte(iptables: Iptables) -> None:
    odd = b'-A INPUT -m comment --comment "\xff\r-A INPUT -j DROP\r:KUBE-NONE - [0:0]" -j ACCEPT'
    await iptables.restore(b"*filter\n" + odd + b"\nCOMMIT\n")
    (rule,) = (await iptables.rules("filter", ["INPUT"]))["INPUT"]
    assert rule.endswith("-j ACCEPT")
    assert await iptables.chains("filter") == {"INPUT", "FORWARD", "OUTPUT"}


async def test_a_rule_that_iptables_cannot_print_leaves_the_others_to_be_asked_for(inside: Namespace) -> None:
    iptables = door(IPFamily.IPV4, NFT)
    await iptables.restore(TEXT.replace(b"COMMIT", b"-A POSTROUTING -j KUBE-SVC-A\nCOMMIT"))
    inside.run(("nft", "add", "rule", "ip", "nat", "POSTROUTING", "meta", "time", "5", "accept"))
    with pytest.raises(UnreadableTable, match="a table of their own"):
        await iptables.save("nat")
    assert await iptables.is_present()
    assert await iptables.has_rule("nat", "-A POSTROUTING -j KUBE-SVC-A")
    assert not await iptables.has_rule("nat", "-A POSTROUTING -j KUBE-SERVICES")
    assert await iptables.has_rule("nat", PARTS[3])


async def test_a_refused_line_is_numbered(iptables: Iptables) -> None:
    text = TEXT.replace(b"--dport 443", b"--dport 70000")
    with pytest.raises(RestoreRefused, match="70000") as caught:
        await iptables.restore(text)
    assert caught.value.line == 4
    assert "KUBE-SERVICES" not in await iptables.chains("nat")


async def test_a_test_run_finds_the_same_and_writes_nothing(iptables: Iptables) -> None:
    await iptables.restore_test(TEXT)
    assert "KUBE-SERVICES" not in await iptables.chains("nat")
    with pytest.raises(RestoreRefused):
        await iptables.restore_test(TEXT.replace(b"443", b"70000"))


async def test_a_refusal_of_the_kernel_is_a_refusal_too(iptables: Iptables) -> None:
    with pytest.raises(RestoreRefused):
        await iptables.restore(TEXT.replace(b"-j RETURN", b"-m nfacct --nfacct-name absent"))
    with pytest.raises(RestoreRefused):
        await iptables.restore(TEXT.replace(b"-j KUBE-SVC-A", b"-j KUBE-SVC-MISSING"))


async def test_everything_can_be_probed_and_nothing_is_left(iptables: Iptables) -> None:
    assert await iptables.is_present()
    assert await iptables.probe() == Capabilities()
    assert CHAIN not in await iptables.chains("nat")
    assert Nfacct().read("kproxy_probe") is None


async def test_a_match_that_does_not_work_is_reported_alone(
    iptables: Iptables, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(__import__("kproxy.kernel.probe").kernel.probe.RULES, "recent", "-m nosuch -j RETURN")
    found = await iptables.probe()
    assert not found.recent
    assert found.nfacct
    assert found.sctp
    assert [name for name, said in found.missing if "nosuch" in said] == ["recent"]


async def test_version(iptables: Iptables) -> None:
    assert await iptables.version() >= (1, 6, 2)


@pytest.mark.usefixtures("inside")
async def test_the_lock_of_another_program_is_waited_for_and_then_reported() -> None:
    with xtables_lock(0), pytest.raises(XtablesLocked, match="fuser"):
        await door(IPFamily.IPV4, LEGACY, wait=1).restore(TEXT)


@pytest.mark.usefixtures("inside")
async def test_listing_an_unused_legacy_table_does_not_create_it() -> None:
    legacy = door(IPFamily.IPV4, LEGACY)
    assert await legacy.chains("mangle") == frozenset()
    assert (await detect_variant(IptablesVariant.AUTO, deadline=20, save_deadline=20)).variant in {NFT, LEGACY}
    assert legacy_tables(IPFamily.IPV4) == frozenset()


@pytest.mark.usefixtures("inside")
@pytest.mark.parametrize("chain", ["KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY"])
async def test_kubelets_hint_decides(variant: IptablesVariant, chain: str) -> None:
    other = NFT if variant is LEGACY else LEGACY
    await door(IPFamily.IPV4, other).restore(TEXT)
    await door(IPFamily.IPV6, variant).restore(f"*mangle\n:{chain} - [0:0]\nCOMMIT\n".encode())
    verdict = await detect_variant(IptablesVariant.AUTO, deadline=20, save_deadline=20)
    assert verdict.variant is variant
    assert chain in verdict.why


@pytest.mark.usefixtures("inside")
async def test_without_a_hint_more_rules_decide(variant: IptablesVariant) -> None:
    await door(IPFamily.IPV4, variant).restore(TEXT)
    assert (await detect_variant(IptablesVariant.AUTO, deadline=20, save_deadline=20)).variant is variant


@pytest.mark.usefixtures("inside")
async def test_the_asked_variant_is_taken(variant: IptablesVariant) -> None:
    assert (await detect_variant(variant, deadline=20, save_deadline=20)).variant is variant


@pytest.mark.usefixtures("inside")
async def test_counters_are_made_read_and_removed() -> None:
    counter = Nfacct()
    counter.ensure("kproxy_test")
    counter.ensure("kproxy_test")
    assert counter.read("kproxy_test") == (0, 0)
    counter.delete("kproxy_test")
    counter.delete("kproxy_test")
    assert counter.read("kproxy_test") is None


def test_a_process_without_the_capability_is_told_so(netns: object, variant: IptablesVariant) -> None:
    for prefix in PREFIX.values():
        argv = ("setpriv", "--bounding-set", "-net_admin", "--inh-caps", "-net_admin")
        command = (f"{prefix}-{variant.value}-restore", "-w", "5", "--noflush")
        done = netns.run((*argv, *command), input="*nat\n:X - [0:0]\nCOMMIT\n", check=False)  # type: ignore[attr-defined]
        if variant is NFT:
            assert isinstance(explain_failure(command, done.returncode, done.stderr), NotPermitted)
