"""python-iptables as an independent reader and small editor of legacy tables, in the real kernel, both families."""

from __future__ import annotations

import pytest

from kproxy.config import IptablesVariant
from kproxy.errors import XtablesLocked
from kproxy.kernel.iptables import Iptables
from kproxy.kernel.legacy import legacy_tables
from kproxy.kernel.libiptc import LegacyTables
from kproxy.kernel.lock import xtables_lock
from kproxy.kernel.nfacct import Nfacct
from kproxy.model.enums import IPFamily

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("inside")]

RULES = """\
-A PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES
-A OUTPUT -j RETURN
-A KUBE-MARK-MASQ -j MARK --set-xmark 0x4000/0x4000
-A KUBE-POSTROUTING -m mark ! --mark 0x4000/0x4000 -j RETURN
-A KUBE-POSTROUTING -m comment --comment k -j MASQUERADE --random-fully
-A KUBE-SEP-A -p tcp -m comment --comment "a/b" -m recent --set --name KUBE-SEP-A --mask {mask} --rsource -m tcp \
-j DNAT --to-destination {endpoint}
-A KUBE-SERVICES -d {ip} -p tcp -m comment --comment "a/b:c cluster IP" -m tcp --dport 443 -j KUBE-SVC-A
-A KUBE-SERVICES -d {ip} -p sctp -m comment --comment "say \\\\"hi\\\\"" -m sctp --dport 443 -j KUBE-SVC-A
-A KUBE-SERVICES -p udp -m udp --dport 30000:30010 -m addrtype --dst-type LOCAL -j KUBE-SVC-A
-A KUBE-SERVICES -i lo+ ! -o eth0 -m conntrack --ctstate RELATED,ESTABLISHED -j KUBE-SVC-A
-A KUBE-SVC-A ! -s {range} -m statistic --mode random --probability 0.33333333349 -j KUBE-SEP-A
-A KUBE-SVC-A -m nfacct --nfacct-name kproxy_test
""".replace("\\\\", "\\")
CHAINS = ["KUBE-MARK-MASQ", "KUBE-POSTROUTING", "KUBE-SEP-A", "KUBE-SERVICES", "KUBE-SVC-A"]
WORDS = {
    IPFamily.IPV4: {
        "mask": "255.255.255.255",
        "endpoint": "10.0.0.1:80",
        "ip": "10.96.0.1/32",
        "range": "10.0.0.0/8",
    },
    IPFamily.IPV6: {
        "mask": ":".join(["ffff"] * 8),
        "endpoint": "[fd00::2]:80",
        "ip": "fd00::1/128",
        "range": "fd00::/64",
    },
}


@pytest.fixture(params=list(IPFamily), ids=lambda family: family.value)
async def iptables(request: pytest.FixtureRequest) -> Iptables:
    door = Iptables(request.param, IptablesVariant.LEGACY, wait=5, deadline=20, restore=20)
    Nfacct().ensure("kproxy_test")
    heads = "".join(f":{chain} - [0:0]\n" for chain in CHAINS)
    await door.restore(f"*nat\n{heads}{RULES.format(**WORDS[door.family])}COMMIT\n".encode())
    return door


async def test_it_reads_in_the_same_words_as_iptables_save(iptables: Iptables) -> None:
    text = (await iptables.save("nat")).decode().replace("name  k", "name k")  # nfacct's second space
    saved = [line for line in text.splitlines() if line.startswith("-A")]
    read = await LegacyTables(iptables.family).read({"nat": ()})
    assert [rule for rules in read["nat"].values() for rule in rules] == saved
    assert "\n".join(saved) + "\n" == RULES.format(**WORDS[iptables.family])


async def test_it_reads_chosen_chains_of_several_tables(iptables: Iptables) -> None:
    await iptables.restore(b"*filter\n:KUBE-X - [0:0]\n-A FORWARD -j KUBE-X\nCOMMIT\n")
    asked = {"nat": ["PREROUTING", "POSTROUTING", "ABSENT"], "filter": ["FORWARD"]}
    read = await LegacyTables(iptables.family).read(asked)
    counts = {table: {chain: len(rules) for chain, rules in chains.items()} for table, chains in read.items()}
    assert counts == {"nat": {"PREROUTING": 1, "POSTROUTING": 0}, "filter": {"FORWARD": 1}}


async def test_it_removes_jumps_and_nothing_else(iptables: Iptables) -> None:
    await iptables.restore(b"*filter\n:KUBE-X - [0:0]\n-A FORWARD -g KUBE-X\n-A INPUT -m mark --mark 1\nCOMMIT\n")
    editor = LegacyTables(iptables.family)
    before = await editor.read({"nat": (), "filter": ()})
    assert await editor.remove_jumps({"nat": [*CHAINS, "ABSENT"], "filter": ["KUBE-X"], "raw": ["KUBE-X"]}) == 2
    after = await editor.read({"nat": (), "filter": ()})
    assert (before["nat"].pop("PREROUTING"), after["nat"].pop("PREROUTING")) == ((RULES.splitlines()[0],), ())
    assert (before["filter"].pop("FORWARD"), after["filter"].pop("FORWARD")) == (("-A FORWARD -g KUBE-X",), ())
    assert after == before
    assert await editor.remove_jumps({"nat": CHAINS}) == 0


async def test_an_unused_table_is_not_created(iptables: Iptables) -> None:
    assert await LegacyTables(iptables.family).read({"raw": ()}) == {}
    assert "raw" not in legacy_tables(iptables.family)


async def test_it_waits_for_the_lock(iptables: Iptables) -> None:
    with xtables_lock(0), pytest.raises(XtablesLocked, match="held by another program"):
        await LegacyTables(iptables.family, lock_deadline=0).read({"nat": ()})
