"""What the kernel is told where our relay carries a Service."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from kproxy.config import Config, ProxyMode
from kproxy.model.endpoint import EndpointSlice
from kproxy.model.enums import IPFamily, Protocol, ServiceType, TrafficPolicy
from kproxy.model.relay import Wish
from kproxy.model.service import Service
from kproxy.plan.build import build_plan
from kproxy.plan.plan import Client, Forward, Plan, Pool, Reject, Route
from kproxy.plan.steer import Line, lines, steer
from tests.builders import port, service, slice_of, snapshot

IP = "169.254.73.80"
CONFIG = Config(hostname="n1", proxy_mode=ProxyMode.USERSPACE, cluster_cidr=("10.0.0.0/8",))


def plan_of(*objects: Service | EndpointSlice, config: Config = CONFIG, previous: Plan | None = None) -> Plan:
    return build_plan(snapshot(*objects), config, IPFamily.IPV4, ("192.168.0.2",), previous)


def ports_of(plan: Plan) -> dict[Line, int]:
    return {line: 40001 + nth for nth, (line, _) in enumerate(lines(plan))}


def local(name: str = "web") -> Service:
    ports = [port(80, node_port=30080)]
    return service(name, ports=ports, type=ServiceType.NODE_PORT, external_policy=TrafficPolicy.LOCAL)


def test_a_relayed_service_port_has_one_endpoint_in_each_pool_that_it_uses() -> None:
    plan = plan_of(local(), slice_of("web", "10.0.0.1 @n1", "10.0.0.2 @n2"))
    assert [(line.pool, [str(each) for each in each.targets(line.pool)]) for line, each in lines(plan)] == [
        (Pool.CLUSTER, ["10.0.0.1:8080", "10.0.0.2:8080"]),
        (Pool.LOCAL, ["10.0.0.1:8080"]),
    ]
    steered = steer(plan, IP, ports_of(plan)).plan
    (each,) = steered.services.values()
    assert [str(target) for target in each.cluster] == [f"{IP}:40001"]
    assert [str(target) for target in each.local] == [f"{IP}:40002"]
    assert steered.relay_ip == IP


def test_nobody_is_masqueraded_on_the_way_and_all_else_stays() -> None:
    plan = plan_of(local(), slice_of("web", "10.0.0.1 @n1"))
    (before,), (after,) = plan.services.values(), steer(plan, IP, ports_of(plan)).plan.services.values()
    for old, new in zip(before.frontends, after.frontends, strict=True):
        assert replace(new, action=old.action) == old
    actions = [each.action for each in after.frontends]
    assert actions == [
        Forward((Route(Client.POD, Pool.CLUSTER), Route(Client.ANY, Pool.CLUSTER))),
        Forward((Route(Client.POD, Pool.CLUSTER), Route(Client.HOST, Pool.CLUSTER), Route(Client.ANY, Pool.LOCAL))),
    ]


def test_a_service_without_endpoints_is_refused_as_ever() -> None:
    plan = plan_of(service("web"))
    assert not list(lines(plan))
    (each,) = steer(plan, IP, {}).plan.services.values()
    assert isinstance(each.frontends[0].action, Reject)


@pytest.mark.parametrize("missing", [0, 1])
def test_a_service_port_whose_sockets_are_not_all_open_stays_with_the_kernel(missing: int) -> None:
    plan = plan_of(local(), slice_of("web", "10.0.0.1 @n1"))
    ports = ports_of(plan)
    del ports[list(ports)[missing]]
    assert steer(plan, IP, ports).plan is plan


def test_affinity_is_the_relays_and_stale_flows_are_those_that_do_not_lead_to_it() -> None:
    udp = service("dns", ports=[port(53, protocol=Protocol.UDP)], affinity_seconds=60)
    plan = plan_of(udp, slice_of("dns", "10.0.0.1", protocol=Protocol.UDP))
    (each,) = steer(plan, IP, ports_of(plan)).plan.services.values()
    assert each.affinity_seconds == 0
    assert each.serving == {(IP, 40001)}


def test_a_service_may_differ_from_its_node_and_the_kernel_carries_all_of_sctp() -> None:
    mine = service("mine", "172.30.0.42", wish=Wish(mode=ProxyMode.USERSPACE))
    kernels = service("kernels", "172.30.0.43", wish=Wish(mode=ProxyMode.IPTABLES))
    sctp = service("sctp", "172.30.0.44", ports=[port(80, protocol=Protocol.SCTP)], wish=mine.wish)
    objects = [mine, kernels, sctp, service("web")]
    objects += [
        slice_of(name, "10.0.0.1", protocol=Protocol.SCTP if name == "sctp" else Protocol.TCP)
        for name in ("mine", "kernels", "sctp", "web")
    ]
    for mode, relayed in ((ProxyMode.USERSPACE, ["mine", "web"]), (ProxyMode.IPTABLES, ["mine"])):
        plan = plan_of(*objects, config=replace(CONFIG, proxy_mode=mode))
        assert [line.key.name for line, _ in lines(plan)] == relayed


def test_the_kernel_has_nothing_to_change_when_endpoints_do() -> None:
    before = plan_of(service("web"), slice_of("web", "10.0.0.1"))
    first = steer(before, IP, ports_of(before))
    after = plan_of(service("web"), slice_of("web", "10.0.0.7", "10.0.0.8"), previous=before)
    assert after.services != before.services
    again = steer(after, IP, ports_of(after), first)
    (one,), (other,) = first.plan.services.values(), again.plan.services.values()
    assert one is other


def test_what_did_not_change_is_the_same_object_and_equal_without_the_round_before() -> None:
    plan = plan_of(service("web"), slice_of("web", "10.0.0.1"))
    first = steer(plan, IP, ports_of(plan))
    again = steer(plan, IP, ports_of(plan), first)
    (one,), (other,) = first.plan.services.values(), again.plan.services.values()
    assert one is other
    moved = {line: number + 7 for line, number in ports_of(plan).items()}
    assert steer(plan, IP, moved, first).plan.services == steer(plan, IP, moved).plan.services


@pytest.mark.parametrize(("transparent", "sources"), [(True, "169.254.73.128/26"), (False, "")])
def test_a_plan_says_whence_the_relay_speaks_for_clients_if_it_does(transparent: bool, sources: str) -> None:
    plan = plan_of(
        service("web"), slice_of("web", "10.0.0.1"), config=replace(CONFIG, userspace_transparent=transparent)
    )
    assert steer(plan, IP, ports_of(plan), sources="169.254.73.128/26").plan.relay_sources == sources
    assert steer(plan, IP, {}, sources="169.254.73.128/26").plan.relay_sources == ""
