"""Which sockets of the relay the rules of a kernel name."""

from __future__ import annotations

import pytest

from kproxy.backend.iptables.compile import compile_plan
from kproxy.backend.iptables.dialect import Abilities
from kproxy.backend.iptables.relayed import relay_ports
from kproxy.backend.iptables.text import render_rule
from kproxy.config import Config, ProxyMode
from kproxy.model.enums import IPFamily, ServiceType, TrafficPolicy
from kproxy.plan.build import build_plan
from kproxy.plan.steer import lines, steer
from tests.builders import port, service, slice_of, snapshot


@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("family", IPFamily)
def test_the_ports_that_were_led_to_are_read_again(family: IPFamily, large: bool) -> None:
    config = Config(hostname="n1", proxy_mode=ProxyMode.USERSPACE, large_cluster_endpoints=0 if large else 1000)
    ip, pod = ("169.254.73.80", "10.0.0.1") if family is IPFamily.IPV4 else ("fd6b::1", "fd00::1")
    address = "172.30.0.41" if family is IPFamily.IPV4 else "fd96::1"
    ports = [port(80, node_port=30080)]
    web = service("web", address, ports=ports, type=ServiceType.NODE_PORT, external_policy=TrafficPolicy.LOCAL)
    plan = build_plan(snapshot(web, slice_of("web", f"{pod} @n1")), config, family)
    chosen = {line: 40001 + nth for nth, (line, _) in enumerate(lines(plan))}
    assert len(chosen) == 2
    rules = compile_plan(steer(plan, ip, chosen).plan, config, Abilities())
    saved = [render_rule(chain.name, rule) for chain in rules.chains() for rule in chain.rules]
    assert relay_ports(saved, chosen, ip) == chosen
    assert relay_ports(saved, chosen, "192.0.2.1") == {}
    direct = compile_plan(plan, config, Abilities())
    assert relay_ports([render_rule(c.name, rule) for c in direct.chains() for rule in c.rules], chosen, ip) == {}
