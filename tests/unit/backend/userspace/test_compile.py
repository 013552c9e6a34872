"""Which listeners a plan asks for. That they are opened is test_apply's."""

from __future__ import annotations

import msgspec
import pytest
from msgspec.structs import replace

from kproxy.backend.userspace.compile import localhost_rules, relay_rules
from kproxy.backend.userspace.rules import NOTHING, Keeping, Listener, Rule, Ruleset
from kproxy.config import Config, DetectLocalMode, ProxyMode
from kproxy.model.endpoint import EndpointSlice
from kproxy.model.enums import IPFamily, Protocol, ServiceType, TrafficPolicy
from kproxy.model.service import Service
from kproxy.plan.build import build_plan
from kproxy.plan.plan import Client, Drop, Forward, Frontend, FrontendKind, Plan, Pool, Route
from kproxy.plan.relay import default_relay
from kproxy.plan.steer import lines
from tests.builders import port, service, slice_of, snapshot

CONFIG = Config(hostname="n1", nodeport_addresses=("primary", "localhost"))
TCP = Listener("127.0.0.1", 30080, Protocol.TCP)


def web(protocol: Protocol = Protocol.TCP, *cluster_ips: str, **rest: object) -> Service:
    ports = [port(80, protocol=protocol, node_port=30080)]
    return service("web", *cluster_ips, ports=ports, type=ServiceType.NODE_PORT, **rest)


def plan_of(*objects: Service | EndpointSlice, family: IPFamily = IPFamily.IPV4, config: Config = CONFIG) -> Plan:
    return build_plan(snapshot(*objects), config, family, ("192.168.0.2", "fd00::2"))


def rules_of(plan: Plan) -> Ruleset:
    return localhost_rules(plan, default_relay(CONFIG))


def served(rules: Ruleset) -> dict[str, list[str]]:
    return {str(listener): [str(target) for target in rule.targets] for listener, rule in rules.rules.items()}


def test_a_node_port_listens_on_the_loopback_address_of_each_family_that_the_service_has() -> None:
    both = (web(Protocol.TCP, "172.30.0.41", "fd00:96::1"), slice_of("web", "10.0.0.1"))
    more = slice_of("web", "fd00::9", suffix="6")
    assert served(rules_of(plan_of(*both, more))) == {"127.0.0.1:30080/TCP": ["10.0.0.1:8080"]}
    assert served(rules_of(plan_of(*both, more, family=IPFamily.IPV6))) == {"[::1]:30080/TCP": ["[fd00::9]:8080"]}
    only4 = plan_of(web(), slice_of("web", "10.0.0.1"), family=IPFamily.IPV6)
    assert rules_of(only4) == NOTHING


def test_nothing_listens_unless_asked() -> None:
    plan = plan_of(web(), slice_of("web", "10.0.0.1"), config=Config(hostname="n1"))
    assert rules_of(plan) is NOTHING


def test_nothing_listens_where_nobody_can_serve() -> None:
    assert rules_of(plan_of(web())) == NOTHING
    assert rules_of(plan_of(web(), slice_of("web", "10.0.0.1 N"))) == NOTHING


@pytest.mark.parametrize("endpoints", [("10.0.0.1 @n1", "10.0.0.2 @n2"), ("10.0.0.2 @n2",)])
def test_under_policy_local_the_node_is_inside_and_gets_every_endpoint(endpoints: tuple[str, ...]) -> None:
    local = web(external_policy=TrafficPolicy.LOCAL)
    (targets,) = served(rules_of(plan_of(local, slice_of("web", *endpoints)))).values()
    assert targets == [f"{each.split()[0]}:8080" for each in endpoints]


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        (Drop(), []),
        (Forward((Route(Client.ANY, None),)), []),
        (Forward((Route(Client.POD, Pool.CLUSTER), Route(Client.ANY, Pool.LOCAL))), ["10.0.0.1:8080"]),
    ],
)
def test_the_first_route_that_a_node_meets_decides(action: Drop | Forward, expected: list[str]) -> None:
    plan = plan_of(web(), slice_of("web", "10.0.0.1 @n1", "10.0.0.2"))
    (key, made) = next(iter(plan.services.items()))
    frontend = Frontend(FrontendKind.NODE_PORT, "", 30080, action)
    made = replace(made, frontends=(frontend,), local=made.cluster[:1])
    rules = rules_of(replace(plan, services={key: made}))
    assert served(rules).get(str(TCP), []) == expected


def test_sctp_is_left_out_and_named() -> None:
    rules = rules_of(plan_of(web(Protocol.SCTP), slice_of("web", "10.0.0.1", protocol=Protocol.SCTP)))
    assert not rules.rules
    assert [str(key) for key in rules.unserved] == ["default/web"]


def test_a_flow_stays_with_an_endpoint_that_serves_though_it_gets_no_new_ones() -> None:
    config = replace(CONFIG, hostname="n1")
    udp = web(Protocol.UDP)
    ending = slice_of("web", "10.0.0.1 ST", "10.0.0.2", "10.0.0.3 N", protocol=Protocol.UDP)
    (rule,) = rules_of(plan_of(udp, ending, config=config)).rules.values()
    (target,) = rule.targets
    assert str(target) == "10.0.0.2:8080"
    assert rule.serves(target)
    assert rule.serves(replace(target, ip="10.0.0.1"))
    assert not rule.serves(replace(target, ip="10.0.0.3"))


# --- whose address endpoints see ------------------------------------------------------------------------------

PODS, SOURCES = "10.0.0.0/8", "169.254.73.128/26"
TRANSPARENT = Config(
    hostname="n1", proxy_mode=ProxyMode.USERSPACE, userspace_transparent=True, cluster_cidr=(PODS, "fd00::/48")
)
TO_ALL, TO_THOSE_HERE = Keeping(PODS, SOURCES, PODS), Keeping("0.0.0.0/0", SOURCES)


def kept(each: Service, config: Config = TRANSPARENT, sources: str = SOURCES) -> dict[str, Keeping | None]:
    """By pool."""
    plan = plan_of(each, slice_of("web", "10.0.0.1 @n1", "10.0.0.2 @n2"), config=config)
    at = {line: Listener("169.254.73.80", 40000 + nth, line.key.protocol) for nth, (line, _) in enumerate(lines(plan))}
    keeping = {rule.listener: rule.keeping for rule in relay_rules(plan, at, sources)}
    return {line.pool.value: keeping[listener] for line, listener in at.items()}


def test_pods_are_known_to_all_pods_and_by_policy_local_everybody_to_those_here() -> None:
    assert kept(service("web")) == {"cluster": TO_ALL}
    assert kept(web(external_policy=TrafficPolicy.LOCAL)) == {"cluster": TO_ALL, "local": TO_THOSE_HERE}
    assert kept(service("web", internal_policy=TrafficPolicy.LOCAL)) == {"local": TO_THOSE_HERE}


def test_only_to_endpoints_here_where_another_nodes_pod_may_come_by_the_same_line() -> None:
    assert kept(web()) == {"cluster": Keeping(PODS, SOURCES)}


def test_nobody_is_kept_whom_the_kernel_would_masquerade_or_who_cannot_be_told() -> None:
    nobody, here = {"cluster": None}, {"cluster": None, "local": TO_THOSE_HERE}
    local = web(external_policy=TrafficPolicy.LOCAL)
    assert kept(service("web"), replace(TRANSPARENT, masquerade_all=True)) == nobody
    by_interface = replace(TRANSPARENT, detect_local_mode=DetectLocalMode.BRIDGE_INTERFACE, pod_bridge_interface="cni0")
    assert kept(local, by_interface) == here
    assert kept(local, replace(TRANSPARENT, cluster_cidr=())) == here


def test_nobody_is_kept_without_wish_or_sources() -> None:
    assert kept(service("web"), replace(TRANSPARENT, userspace_transparent=False)) == {"cluster": None}
    assert kept(service("web"), sources="") == {"cluster": None}


def test_who_is_kept_can_be_told_to_another_process() -> None:
    plan = plan_of(service("web"), slice_of("web", "10.0.0.1"), config=TRANSPARENT)
    (rule,) = relay_rules(plan, {line: TCP for line, _ in lines(plan)}, SOURCES)
    assert msgspec.msgpack.decode(msgspec.msgpack.encode(rule), type=Rule) == rule
