"""Whose doing a repair is: a flush, or another proxy that writes the same chains. A part of apply.py."""

from __future__ import annotations

import pytest

from kproxy.backend.iptables.apply import IptablesBackend
from kproxy.backend.iptables.compile import Ruleset
from kproxy.errors import NotPermitted
from kproxy.kernel.doors import Capabilities
from kproxy.kernel.fake import FakeIptables
from tests.unit.backend.iptables.examples import PODS, plan_of, simple, targets

RIVAL = (  # the fixed chains and the stale ones, as kube-proxy writes them at each sync
    b"*nat\n:KUBE-SERVICES - [0:0]\n:KUBE-SVC-AAAAAAAAAAAAAAAA - [0:0]\n"
    b"-A KUBE-SVC-AAAAAAAAAAAAAAAA -j RETURN\n-A KUBE-SERVICES -j KUBE-SVC-AAAAAAAAAAAAAAAA\nCOMMIT\n"
)


class World:
    def __init__(self) -> None:
        self.kernel = FakeIptables()
        self.proxy = IptablesBackend(PODS, self.kernel, Capabilities(nfacct=False))

    def rules(self, services: int = 3) -> Ruleset:
        plans = [simple(number, targets(2)) for number in range(services)]
        return self.proxy.compile(plan_of(*plans), self.proxy.applied)


@pytest.fixture
async def world() -> World:
    made = World()
    assert not (await made.proxy.apply(made.rules())).rewritten
    return made


async def test_chains_that_another_proxy_wrote_are_put_back_and_said(world: World) -> None:
    await world.kernel.restore(RIVAL)
    report = await world.proxy.apply(world.rules(), full=True)
    assert report.rewritten
    assert report.transactions == 1
    assert not (await world.proxy.apply(world.rules(), full=True)).rewritten


EMPTIED = b"*nat\n:KUBE-SERVICES - [0:0]\nCOMMIT\n"
CUT_OFF = b'*nat\n-D PREROUTING -m comment --comment "kubernetes service portals" -j KUBE-SERVICES\nCOMMIT\n'


ELSEWHERE = b"*nat\n:KUBE-MARK-MASQ - [0:0]\n:KUBE-POSTROUTING - [0:0]\nCOMMIT\n"  # one by one, as by a script


@pytest.mark.parametrize("text", [b"", EMPTIED, CUT_OFF, ELSEWHERE])
async def test_a_flush_is_nobodys_rewriting(world: World, text: bytes) -> None:
    if text:
        await world.kernel.restore(text)
    else:
        world.kernel.flush()
    report = await world.proxy.apply(world.rules(), full=True)
    assert report.transactions == 1
    assert not report.rewritten


async def test_a_change_that_comes_with_the_comparison_is_no_rewriting(world: World) -> None:
    report = await world.proxy.apply(world.rules(4), full=True)
    assert report.transactions == 1
    assert not report.rewritten


async def test_after_a_failure_nobody_knows_who_wrote(world: World) -> None:
    world.kernel.fail_next(NotPermitted("a test"))
    with pytest.raises(NotPermitted):
        await world.proxy.apply(world.rules(4))
    await world.kernel.restore(RIVAL)
    assert not (await world.proxy.apply(world.rules(4))).rewritten
