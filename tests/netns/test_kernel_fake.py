"""The twin says no exactly where the programs and the kernel do: the same inputs go to both, in both variants."""

from __future__ import annotations

import pytest

from kproxy.config import IptablesVariant
from kproxy.errors import RestoreRefused
from kproxy.kernel.fake import FakeIptables
from kproxy.kernel.iptables import Iptables
from kproxy.model.enums import IPFamily

pytestmark = [pytest.mark.root, pytest.mark.usefixtures("inside")]

DEEP = "".join(f":C{n} - [0:0]\n" for n in range(3))
ACCEPTED = {
    "nothing": "",
    "chain": ":KUBE-A - [0:0]\n-A KUBE-A -j RETURN",
    "chain twice": ":KUBE-A - [0:0]\n:KUBE-A - [0:0]",
    "delete what was just made": ":KUBE-A - [0:0]\n-X KUBE-A",
    "prepend": "-I PREROUTING -p tcp -m tcp --dport 1:2 -j RETURN\n-I PREROUTING 2 -j RETURN",
    "remove": "-A PREROUTING -j RETURN\n-D PREROUTING -j RETURN",
    "comment with quotes": '-A PREROUTING -m comment --comment "say \\"hi\\" \\\\o/" -j RETURN',
    "longest name": f":{'K' * 28} - [0:0]",
    "longest comment": f'-A PREROUTING -m comment --comment "{"x y" * 85}"',
    "affinity": ":A - [0:0]\n-A A -m recent --rcheck --seconds 10 --reap --name A --mask 255.255.255.255 --rsource",
    "mark": ":A - [0:0]\n-A A -j MARK --set-xmark 0x4000/0x4000",
    "masquerade": "-A POSTROUTING -m mark ! --mark 0x4000/0x4000 -j MASQUERADE --random-fully",
    "dnat": ":A - [0:0]\n-A A -p udp -m udp -j DNAT --to-destination 10.0.0.1:53",
    "interfaces": "-A PREROUTING ! -s 10.0.0.0/8 -i lo+ -m addrtype --dst-type LOCAL -m conntrack --ctstate NEW",
    "chance": ":A - [0:0]\n-A A -m statistic --mode random --probability 0.33333333349 -j RETURN",
    "sctp": ":A - [0:0]\n-A A -p sctp -m sctp --dport 7 -j RETURN",
    "tree": f"{DEEP}-A C0 -j C1\n-A C0 -j C2\n-A C1 -j C2",
}
REFUSED = {
    "jump to a missing chain": "-A PREROUTING -j KUBE-MISSING",
    "rule in a missing chain": "-A KUBE-MISSING -j RETURN",
    "chain made twice": "-N A\n-N A",
    "deletion of a chain that is used": ":A - [0:0]\n-A PREROUTING -j A\n-X A",
    "deletion of a chain with rules": ":A - [0:0]\n-A A -j RETURN\n-X A",
    "deletion of a missing chain": "-X KUBE-MISSING",
    "removal of a missing rule": "-D PREROUTING -p tcp -j RETURN",
    "name too long": f":{'K' * 29} - [0:0]",
    "unknown match": "-A PREROUTING -m nosuch -j RETURN",
    "unknown option": "-A PREROUTING --dport 80 -j RETURN",
    "match without its protocol": "-A PREROUTING -m tcp --dport 80 -j RETURN",
    "match of another protocol": "-A PREROUTING -p udp -m tcp --dport 80 -j RETURN",
    "port out of range": "-A PREROUTING -p tcp -m tcp --dport 65536 -j RETURN",
    "address of the other family": "-A PREROUTING -d fd00::1/128 -j RETURN",
    "bad CIDR": "-A PREROUTING -s 10.0.0.0/33 -j RETURN",
    "bad address": "-A PREROUTING -s 10.0.0.256 -j RETURN",
    "interface name too long": "-A PREROUTING -i abcdefghijklmnop -j RETURN",
    "bad state": "-A PREROUTING -m conntrack --ctstate MAYBE -j RETURN",
    "bad probability": "-A PREROUTING -m statistic --mode random --probability 1.5 -j RETURN",
    "target of another table": "-A PREROUTING -j REJECT",
    "unknown protocol": "-A PREROUTING -p carrier-pigeon -j RETURN",
    "counter that does not exist": "-A PREROUTING -m nfacct --nfacct-name absent",
    "endpoint of the other family": ":A - [0:0]\n-A A -p tcp -m tcp -j DNAT --to-destination [fd00::1]:80",
    "endpoint port out of range": ":A - [0:0]\n-A A -p tcp -m tcp -j DNAT --to-destination 10.0.0.1:65536",
    "two targets": "-A PREROUTING -j RETURN -j RETURN",
    "loop": f"{DEEP}-A C0 -j C1\n-A C1 -j C2\n-A C2 -j C0\n-A PREROUTING -j C0",
    "no command": "hello",
}
VARIANTS = (IptablesVariant.NFT, IptablesVariant.LEGACY)


@pytest.mark.parametrize("name", ACCEPTED)
async def test_both_accept_and_hold_the_same(name: str) -> None:
    text = f"*nat\n{ACCEPTED[name]}\nCOMMIT\n".encode()
    fake = FakeIptables()
    await fake.restore(text)
    mine = sorted(line for line in (await fake.save("nat")).decode().splitlines() if line[0] in ":-")
    for variant in VARIANTS:
        real = Iptables(IPFamily.IPV4, variant, wait=5, deadline=20, restore=20)
        await real.restore(text)
        saved = (await real.save("nat")).decode().splitlines()
        assert mine == sorted(line for line in saved if line and line[0] in ":-")


@pytest.mark.parametrize("name", REFUSED)
async def test_both_refuse(name: str) -> None:
    text = f"*nat\n{REFUSED[name]}\nCOMMIT\n".encode()
    for variant in VARIANTS:
        with pytest.raises(RestoreRefused):
            await Iptables(IPFamily.IPV4, variant, wait=5, deadline=20, restore=20).restore(text)
    with pytest.raises(RestoreRefused):
        await FakeIptables().restore(text)


async def test_both_leave_earlier_tables_done_and_the_refused_one_alone() -> None:
    text = b"*filter\n:A - [0:0]\nCOMMIT\n*nat\n:A - [0:0]\n-A A -j MISSING\nCOMMIT\n"
    for variant in VARIANTS:
        real = Iptables(IPFamily.IPV4, variant, wait=5, deadline=20, restore=20)
        for door in (real, FakeIptables()):
            with pytest.raises(RestoreRefused):
                await door.restore(text)
            assert "A" in await door.chains("filter")
            assert "A" not in await door.chains("nat")
