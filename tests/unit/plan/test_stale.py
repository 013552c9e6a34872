"""Which flows are forgotten. Asking the kernel for them is kernel/'s and the daemon's."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from kproxy.config import Config
from kproxy.model.enums import IPFamily, Protocol, TrafficPolicy
from kproxy.model.flow import Destination, Flow
from kproxy.model.service import Service
from kproxy.plan.build import build_plan
from kproxy.plan.plan import NodePorts, Plan
from kproxy.plan.stale import stale_flows, suspects
from tests.builders import port, service, slice_of, snapshot, udp

UDP = Protocol.UDP
HERE = ("192.168.0.2", "192.168.0.77", "127.0.0.1")
IP = "172.30.0.10"
DNS = service(
    "dns", IP, ports=[udp(53, node_port=30053)], external_ips=("203.0.113.1",), load_balancer_vips=("1.1.1.1",)
)
CLUSTER_IP, NODE_PORT = Destination(UDP, IP, 53), Destination(UDP, "", 30053)
ALL = {CLUSTER_IP, NODE_PORT, Destination(UDP, "203.0.113.1", 53), Destination(UDP, "1.1.1.1", 53)}
A, B = ("10.180.0.1", 5353), ("10.180.0.2", 5353)


def plan_of(*objects: object, previous: Plan | None = None, config: Config | None = None) -> Plan:
    config = config or Config(hostname="n1")
    return build_plan(snapshot(*objects), config, IPFamily.IPV4, HERE, previous)  # type: ignore[arg-type]


def backed(*endpoints: str, svc: Service = DNS) -> Plan:
    """The plan in which ``svc`` has these endpoints, named by their last octet and what is special about them."""
    texts = [f"10.180.0.{text}" for text in endpoints]
    return plan_of(svc, slice_of(svc.key.name, *texts, protocol=UDP, number=5353))


def flow(answered_by: tuple[str, int], to: str = IP, port: int = 53, protocol: Protocol = UDP) -> Flow:
    return Flow(protocol, "10.180.0.9", 4000, to, port, *answered_by)


def is_stale(plan: Plan, *flows: Flow, previous: Plan | None = None) -> list[bool]:
    found = list(stale_flows(flows, suspects(plan, previous), plan.node_ports, HERE))
    return [each in found for each in flows]


# --- which frontends ------------------------------------------------------------------------------------------


def test_at_first_every_datagram_frontend_is_suspected() -> None:
    plan = backed("1")
    assert suspects(plan) == dict.fromkeys(ALL, frozenset({A}))


def test_tcp_never_is() -> None:
    tcp = service("web", ports=[port(53, node_port=30053)])
    assert suspects(plan_of(tcp, slice_of("web", "10.180.0.1"))) == {}
    assert suspects(plan_of(), plan_of(tcp)) == {}


def test_sctp_is() -> None:
    svc = service("sig", ports=[port(36412, protocol=Protocol.SCTP)])
    assert list(suspects(plan_of(svc))) == [Destination(Protocol.SCTP, "172.30.0.41", 36412)]


@pytest.mark.parametrize(
    ("before", "after", "suspected"),
    [
        (["1"], ["1"], False),
        (["1"], ["1", "2"], False),
        (["1"], ["1 ST"], False),
        (["1", "2"], ["1"], True),
        (["1"], ["2"], True),
        (["1"], ["1 N"], True),
        (["1"], [], True),
        ([], ["1"], True),
        ([], [], False),
    ],
)
def test_afterwards_only_where_somebody_ceased_to_serve_or_began(
    before: list[str], after: list[str], suspected: bool
) -> None:
    plan = backed(*after)
    serving = frozenset((f"10.180.0.{text[0]}", 5353) for text in after if "N" not in text)
    assert suspects(plan, backed(*before)) == (dict.fromkeys(ALL, serving) if suspected else {})


@pytest.mark.parametrize(
    ("svc", "before", "after"),
    [
        (DNS, ["1 NS"], ["1"]),  # it served before, and was not ready: refused
        (replace(DNS, internal_policy=TrafficPolicy.LOCAL), ["2 @n2"], ["1 @n1", "2 @n2"]),
        (replace(DNS, external_policy=TrafficPolicy.LOCAL), ["2 @n2"], ["1 @n1", "2 @n2"]),
    ],
)
def test_a_frontend_that_was_silent_and_answers_is_suspected_whoever_served_before(
    svc: Service, before: list[str], after: list[str]
) -> None:
    serving = frozenset((f"10.180.0.{text[0]}", 5353) for text in after)
    assert suspects(backed(*after, svc=svc), backed(*before, svc=svc))[CLUSTER_IP] == serving
    assert suspects(backed(*before, svc=svc), backed(*before, svc=svc)) == {}


def test_a_deleted_service_leaves_flows_that_nobody_may_answer() -> None:
    assert suspects(plan_of(), backed("1")) == dict.fromkeys(ALL, frozenset())


def test_so_does_an_address_that_was_taken_away() -> None:
    after = suspects(backed("1", svc=replace(DNS, external_ips=())), backed("1"))
    assert after[Destination(UDP, "203.0.113.1", 53)] == frozenset()
    assert after[CLUSTER_IP] == {A}


def test_a_frontend_that_another_service_took_over_is_answered_by_that_one() -> None:
    other = service("other", IP, ports=[udp(53)])
    slices = slice_of("dns", "10.180.0.1", protocol=UDP, number=5353), slice_of("other", "10.180.0.2", protocol=UDP)
    before, after = plan_of(DNS, *slices), plan_of(other, *slices)
    assert suspects(after, before)[CLUSTER_IP] == {("10.180.0.2", 8080)}


def test_what_was_not_cleaned_is_asked_again_with_newer_answers() -> None:
    first, second, third = backed("1"), backed("2"), backed("2", "1")
    pending = suspects(second, first)
    assert suspects(third, second) == {}
    assert suspects(third, second, pending) == dict.fromkeys(ALL, frozenset({A, B}))


def test_node_ports_that_listen_elsewhere_are_suspected() -> None:
    slices = slice_of("dns", "10.180.0.1", protocol=UDP, number=5353)
    moved = plan_of(DNS, slices, config=Config(hostname="n1", nodeport_addresses=("192.168.0.0/30",)))
    assert suspects(moved, plan_of(DNS, slices)) == {NODE_PORT: frozenset({A})}


def test_an_address_of_this_node_with_the_number_of_a_node_port_keeps_its_own_answer() -> None:
    own = service("own", "172.30.0.11", external_ips=("192.168.0.2",), ports=[udp(30053)])
    slices = slice_of("own", "10.180.0.7", protocol=UDP), slice_of("dns", "10.180.0.1", protocol=UDP)
    before = plan_of(DNS, own, *slices)
    after = plan_of(DNS, own, slices[0])
    exact, reached = flow(("10.180.0.7", 8080), "192.168.0.2", 30053), flow(A, "192.168.0.77", 30053)
    assert is_stale(after, exact, reached, previous=before) == [False, True]


# --- which flows ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoints", "answered_by", "stale"),
    [
        (["1", "2"], A, False),
        (["2"], A, True),
        (["1 ST", "2"], A, False),  # it still serves
        (["1 N", "2"], A, True),
        (["1"], (A[0], 53), True),  # the right address, another port
        ([], A, True),  # nobody serves
        (["1"], (IP, 53), True),  # made before there were rules
        ([], (IP, 53), False),
    ],
)
def test_a_flow_is_stale_unless_its_endpoint_serves(
    endpoints: list[str], answered_by: tuple[str, int], stale: bool
) -> None:
    assert is_stale(backed(*endpoints), flow(answered_by)) == [stale]


def test_every_kind_of_address_counts() -> None:
    flows = [flow(A, to) for to in (IP, "203.0.113.1", "1.1.1.1", "9.9.9.9")]
    assert is_stale(backed("2"), *flows) == [True, True, True, False]


def test_other_ports_and_protocols_are_nobodys_business() -> None:
    flows = [flow(A, port=54), flow(A, protocol=Protocol.TCP), flow(A, protocol=Protocol.SCTP)]
    assert is_stale(backed("2"), *flows) == [False, False, False]


def test_a_node_port_is_meant_only_at_addresses_where_it_listens() -> None:
    flows = [flow(A, to, 30053) for to in ("192.168.0.2", "127.0.0.5", "8.8.8.8")]
    assert is_stale(backed("2"), *flows) == [True, True, False]
    found = stale_flows(flows, {NODE_PORT: frozenset()}, NodePorts(("192.168.0.2",)), HERE)
    assert list(found) == flows[:1]


def test_flows_of_a_deleted_service_go_unless_they_were_never_rewritten() -> None:
    assert is_stale(plan_of(), flow(A), flow((IP, 53)), previous=backed("1")) == [True, False]
