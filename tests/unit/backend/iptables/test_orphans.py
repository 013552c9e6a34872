"""Which saved rules say what a datagram's client dialled. That it is reported is in test_apply.py."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from kproxy.backend.iptables.compile import compile_plan
from kproxy.backend.iptables.orphans import destination_of, unwanted
from kproxy.backend.iptables.rules import Table
from kproxy.backend.iptables.text import render_rule
from kproxy.model.enums import IPFamily, Protocol
from kproxy.model.flow import Destination
from kproxy.model.keys import ServicePortKey
from kproxy.plan.masquerade import external, internal
from kproxy.plan.plan import Frontend, FrontendKind, ServicePlan
from tests.unit.backend.iptables.examples import COUNTED, PODS, plan_of, targets

IPS = {IPFamily.IPV4: "10.96.0.{}", IPFamily.IPV6: "fd00::{}"}


def service(number: int, protocol: Protocol, family: IPFamily) -> ServicePlan:
    to = internal(local=False, masquerade_all=False, detected=True)
    out = external(local=False, served_here=True, detected=True)
    ip = IPS[family].format(number + 1)
    frontends = (
        Frontend(FrontendKind.CLUSTER_IP, ip, 53, to),
        Frontend(FrontendKind.LOAD_BALANCER_VIP, ip, 1000 + number, out, ("10.0.0.0/8",)),
        Frontend(FrontendKind.NODE_PORT, "", 30000 + number, out),
    )
    return ServicePlan(ServicePortKey("default", f"s{number}", "", protocol), frontends, cluster=targets(2))


def destinations(plan: ServicePlan) -> set[Destination]:
    return {Destination(plan.key.protocol, each.ip, each.port) for each in plan.frontends}


@pytest.mark.parametrize("family", IPFamily)
@pytest.mark.parametrize("threshold", [2, 1000])
def test_exactly_the_frontends_of_datagrams_are_found_in_our_own_rules(family: IPFamily, threshold: int) -> None:
    plans = [service(number, list(Protocol)[number % 3], family) for number in range(60)]
    config = replace(PODS, tree_threshold=threshold)
    rules = compile_plan(plan_of(*plans, family=family), config, COUNTED)
    nat = (chain for chain in rules.chains() if chain.table is Table.NAT)
    lines = (render_rule(chain.name, rule) for chain in nat for rule in chain.rules)
    found = {destination for line in lines if (destination := destination_of(line))}
    datagrams = [plan for plan in plans if plan.key.protocol is not Protocol.TCP]
    assert found == {where for plan in datagrams for where in destinations(plan)}
    assert unwanted(found, plans) == set()
    assert unwanted(found, [plan for plan in plans if plan is not datagrams[0]]) == destinations(datagrams[0])


@pytest.mark.parametrize(
    "line",
    [
        "-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m tcp --dport 53 -j KUBE-SVC-X",
        "-A DOCKER -d 10.96.0.1/32 -p udp -m udp --dport 53 -j KUBE-SVC-X",
        "-A KUBE-SVC-UDP-1-90 -p udp -m udp --dport 1:50 -j KUBE-SVC-UDP-1-50",
        "-A KUBE-NODEPORTS -d 127.0.0.0/8 -p udp -m udp --dport 30000 -m nfacct --nfacct-name n -j KUBE-EXT-X",
        "-A KUBE-SEP-X -p udp -m udp -j DNAT --to-destination 10.0.0.1:53",
    ],
)
def test_other_rules_say_nothing(line: str) -> None:
    assert destination_of(line) is None
