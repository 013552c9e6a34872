"""A packet that the rules lead to our relay."""

from __future__ import annotations

from kproxy.backend.iptables.compile import compile_plan
from kproxy.backend.iptables.dialect import Abilities
from kproxy.backend.iptables.parse import parse_save
from kproxy.backend.iptables.trace import Host
from kproxy.cli.plan import render
from kproxy.config import Config, ProxyMode
from kproxy.explain.packet import describe, read_packet
from kproxy.model.enums import IPFamily
from kproxy.plan.build import build_plan
from kproxy.plan.steer import lines, steer
from tests.builders import service, slice_of, snapshot


def test_the_relay_is_told_from_an_endpoint_and_is_on_the_node() -> None:
    config = Config(hostname="n1", proxy_mode=ProxyMode.USERSPACE)
    plan = build_plan(snapshot(service("web"), slice_of("web", "10.0.0.1")), config, IPFamily.IPV4)
    (line,) = (line for line, _ in lines(plan))
    led = steer(plan, "169.254.73.80", {line: 40001}).plan
    tables = parse_save(render(compile_plan(led, config, Abilities())))
    ip = next(iter(plan.services.values())).frontends[0].ip
    said = "\n".join(describe(tables, read_packet("10.0.0.9", f"{ip}:80/tcp", "eth0"), Host()))
    assert "100%  goes to kproxy's relay at 169.254.73.80:40001, which chooses an endpoint" in said
    assert "-A INPUT" in said
    assert "-A FORWARD" not in said
    direct = "\n".join(describe(tables, read_packet("10.0.0.9", "169.254.73.80:40001/tcp", "eth0"), Host()))
    assert "100%  is dropped" in direct
