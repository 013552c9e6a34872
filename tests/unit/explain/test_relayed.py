"""A packet that the rules lead to our relay."""

from __future__ import annotations

from kproxy.backend.iptables.compile import compile_plan
from kproxy.backend.iptables.dialect import Abilities
from kproxy.cli.plan import render
from kproxy.config import Config, ProxyMode
from kproxy.explain.answer import Fate
from kproxy.explain.packets.packet import answer, read_question
from kproxy.explain.read.dump import dumps_of
from kproxy.explain.services.survey import survey
from kproxy.model.enums import IPFamily
from kproxy.plan.build import build_plan
from kproxy.plan.steer import lines, steer
from tests.builders import service, slice_of, snapshot


def test_the_relay_is_on_the_node_and_is_reached_by_services_alone() -> None:
    config = Config(hostname="n1", proxy_mode=ProxyMode.USERSPACE)
    plan = build_plan(snapshot(service("web"), slice_of("web", "10.0.0.1")), config, IPFamily.IPV4)
    (line,) = (line for line, _ in lines(plan))
    led = steer(plan, "169.254.73.80", {line: 40001}).plan
    surveys = [survey(dump) for dump in dumps_of("\n".join(render(compile_plan(led, config, Abilities()))).encode())]
    ip = next(iter(plan.services.values())).frontends[0].ip
    said = answer(surveys, read_question("10.0.0.9", f"{ip}:80/tcp"))
    assert (said.fate, said.service) == (Fate.DELIVERED, "default/web")
    assert [(each.ip, each.port, each.probability) for each in said.endpoints] == [("169.254.73.80", 40001, 1.0)]
    assert surveys[0].services[0].relayed
    assert said.ways[0].masquerade.why == "up to kproxy's relay, which speaks to an endpoint for the client"
    assert said.relayed
    chains = {each.chain for way in said.ways for each in way.path}
    assert "INPUT" in chains
    assert "FORWARD" not in chains
    direct = answer(surveys, read_question("10.0.0.9", "169.254.73.80:40001/tcp"))
    assert direct.fate is Fate.DROPPED
    assert direct.ways[0].why
