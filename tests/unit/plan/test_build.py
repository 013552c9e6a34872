"""The whole plan, and what is carried over. Each decision is its own module's; test_laws has random histories."""

from __future__ import annotations

from msgspec.structs import replace

from kproxy.config import Config, ProxyMode
from kproxy.model.change import Put, Removed
from kproxy.model.endpoint import SlicePort
from kproxy.model.enums import IPFamily, Kind, Protocol, ServiceType, TrafficPolicy
from kproxy.model.keys import ServicePortKey
from kproxy.plan import masquerade
from kproxy.plan.build import build_plan
from kproxy.plan.plan import (
    FromCIDR,
    Frontend,
    FrontendKind,
    HealthCheck,
    NodePorts,
    Plan,
    Reject,
    ServicePlan,
    Target,
)
from tests.builders import cluster, key, node, port, service, slice_of, snapshot, udp

CONFIG = Config(hostname="n1", cluster_cidr=("10.0.0.0/8", "fd00:10::/64"), iptables_masquerade_bit=5)
WEB = service("web", ports=[port(80, "http")])
WEB_SLICE = slice_of("web", "10.180.0.1 @n1", "10.180.1.1 @n2", port_name="http")
DNS = service("kube-system/dns", "172.30.0.10", ports=[udp(53, "dns"), port(53, "dns-tcp")])
DNS_SLICE = slice_of("kube-system/dns", "10.180.0.3", port_name="dns", protocol=Protocol.UDP, number=5353)
OTHER_SLICE = slice_of("kube-system/dns", "10.180.0.3", port_name="dns-tcp", number=5353, suffix="2")
WEB_KEY = ServicePortKey("default", "web", "http", Protocol.TCP)
DNS_KEY = ServicePortKey("kube-system", "dns", "dns", Protocol.UDP)
BALANCED = service(
    "lb",
    "172.30.0.7",
    type=ServiceType.LOAD_BALANCER,
    external_policy=TrafficPolicy.LOCAL,
    health_check_node_port=31000,
    load_balancer_vips=("1.1.1.1",),
    ports=[port(80, "a"), port(81, "b")],
    uid="u1",
)


def plan_of(*objects: object, config: Config = CONFIG, family: IPFamily = IPFamily.IPV4) -> Plan:
    return build_plan(snapshot(*objects), config, family, ("192.168.0.2",))  # type: ignore[arg-type]


def test_one_service_from_end_to_end() -> None:
    plan = plan_of(WEB, WEB_SLICE)
    forward = masquerade.internal(local=False, masquerade_all=False, detected=True)
    assert plan == Plan(
        family=IPFamily.IPV4,
        services={
            WEB_KEY: ServicePlan(
                key=WEB_KEY,
                frontends=(Frontend(FrontendKind.CLUSTER_IP, "172.30.0.41", 80, forward),),
                cluster=(Target("10.180.0.1", 8080, local=True), Target("10.180.1.1", 8080, local=False, remote=True)),
                endpoints_total=2,
            )
        },
        node_ports=NodePorts(None, localhost=True),
        detector=FromCIDR("10.0.0.0/8"),
        masquerade_mark=32,
    )


def test_a_service_without_slices_is_refused() -> None:
    (each,) = plan_of(WEB).services.values()
    assert ([frontend.action for frontend in each.frontends], each.cluster) == ([Reject()], ())


def test_only_datagram_ports_remember_who_serves() -> None:
    services = plan_of(DNS, DNS_SLICE, OTHER_SLICE).services
    assert {key.port: each.serving for key, each in services.items()} == {
        "dns": frozenset({("10.180.0.3", 5353)}),
        "dns-tcp": frozenset(),
    }


def test_service_ports_are_in_the_order_of_their_keys() -> None:
    services = [service(name, f"172.30.0.{number}") for number, name in enumerate(["c", "a", "b", "a/z"])]
    plan = plan_of(*services, DNS)
    assert list(plan.services) == sorted(plan.services)
    assert [key.name for key in plan.services] == ["z", "a", "b", "c", "dns", "dns"]


def test_the_other_family_is_another_plan() -> None:
    dual = service("web", "172.30.0.41", "fd00:30::41", ports=[port(80, "http")])
    slices = slice_of("web", "fd00:10::1", port_name="http")
    (each,) = plan_of(dual, slices, family=IPFamily.IPV6).services.values()
    assert [str(target) for target in each.cluster] == ["[fd00:10::1]:8080"]
    assert plan_of(WEB, WEB_SLICE, family=IPFamily.IPV6).services == {}


def test_affinity_is_handed_on() -> None:
    (each,) = plan_of(service(affinity_seconds=10800)).services.values()
    assert each.affinity_seconds == 10800


def test_health_checks_are_in_the_order_of_their_services() -> None:
    second = replace(
        BALANCED, key=key("a"), cluster_ips=("172.30.0.8",), load_balancer_vips=(), health_check_node_port=9
    )
    local = slice_of("lb", "10.0.0.1 @n1", port_name="b")
    plan = plan_of(BALANCED, second, local)
    assert plan.health_checks == (
        HealthCheck(key("a"), 9, local_ready=0, uid="u1"),
        HealthCheck(key("lb"), 31000, local_ready=1, uid="u1"),
    )
    assert [each.health_check_port for each in plan.services.values()] == [9, 9, 31000, 31000]


def test_a_lost_frontend_is_left_out_and_noted() -> None:
    thief = service("a", "172.30.0.9", external_ips=("172.30.0.41",), ports=[port(80)])
    plan = plan_of(thief, WEB, WEB_SLICE)
    assert [[frontend.ip for frontend in each.frontends] for each in plan.services.values()] == [
        ["172.30.0.9"],
        ["172.30.0.41"],
    ]
    assert [note.problem.name for note in plan.notes] == ["default/a"]


def test_whoever_lost_every_frontend_serves_nobody() -> None:
    thief = service("x", "172.30.0.41", ports=[port(80)])
    each = plan_of(WEB, thief, slice_of("x", "10.0.0.1")).services[ServicePortKey("default", "x", "", Protocol.TCP)]
    assert (each.frontends, each.cluster, each.local) == ((), (), ())


def test_ports_and_endpoints_that_multiply_beyond_measure_are_refused_and_nobody_else() -> None:
    ports = [SlicePort(f"p{number}", Protocol.TCP, number) for number in range(1, 1101)]
    crowd = slice_of("big", *(f"10.1.{at // 250}.{at % 250}" for at in range(250)), ports=ports)
    big = service("big", "172.30.0.9", ports=[port(each.port, each.name) for each in ports], uid="u2")
    plan = plan_of(big, crowd, WEB, WEB_SLICE)
    assert [*plan.services] == [WEB_KEY]
    (note,) = plan.notes
    assert (note.reason, note.uid, note.problem.field) == ("TooManyEndpoints", "u2", "spec.ports")
    assert "275000 endpoints" in note.problem.why


def test_the_relays_address_is_no_endpoint_in_either_family() -> None:
    thief = slice_of("web", "fd6b:7072:6f78:79::1", "fd00:10::7", port_name="http")
    plan = plan_of(service("web", "fd00::41", ports=[port(80, "http")]), thief, family=IPFamily.IPV6)
    assert [target.ip for target in plan.services[WEB_KEY].cluster] == ["fd00:10::7"]


def test_nobody_takes_the_api_servers_address_from_a_node() -> None:
    kubernetes = service("kubernetes", "172.30.0.1", ports=[port(443, "https")])
    servers = slice_of("kubernetes", "192.168.0.9", "192.168.0.10", port_name="https", number=6443)
    thief = service(
        "web", external_ips=("192.168.0.9", "192.168.0.8"), ports=[port(6443, "http")], created="2000-01-01"
    )
    usurper = service("x", "172.30.0.6", load_balancer_vips=("192.168.0.10",), ports=[port(6443)])
    plan = plan_of(kubernetes, servers, thief, usurper)
    frontends = {key.name: [each.ip for each in service.frontends] for key, service in plan.services.items()}
    assert frontends == {"kubernetes": ["172.30.0.1"], "web": ["172.30.0.41", "192.168.0.8"], "x": ["172.30.0.6"]}
    assert [note.problem.why for note in plan.notes] == [
        "claims 192.168.0.10:6443/TCP, which belongs to Service default/kubernetes",
        "claims 192.168.0.9:6443/TCP, which belongs to Service default/kubernetes",
    ]
    moved = slice_of("kubernetes", "192.168.0.7", port_name="https", number=6443)
    assert rebuilt(plan, kubernetes, moved, thief, usurper).notes == ()


def test_a_slice_of_the_api_servers_takes_no_cluster_ip_from_anybody() -> None:
    kubernetes = service("kubernetes", "172.30.0.1", ports=[port(443, "https")], created="2000-01-01")
    thief = slice_of("kubernetes", "172.30.0.41", "192.168.0.9", port_name="https", number=80)
    plan = plan_of(kubernetes, thief, replace(WEB, created="2020-01-01"), WEB_SLICE)
    assert [each.ip for each in plan.services[WEB_KEY].frontends] == ["172.30.0.41"]
    assert plan.notes == ()


# --- rounds ---------------------------------------------------------------------------------------------------


def rebuilt(before: Plan, *objects: object, config: Config = CONFIG) -> Plan:
    """The plan after ``before``, which must be what a first round would give."""
    plan = build_plan(snapshot(*objects), config, IPFamily.IPV4, ("192.168.0.2",), before)  # type: ignore[arg-type]
    scratch = plan_of(*objects, config=config)
    assert plan == scratch
    assert list(plan.services) == list(scratch.services)
    return plan


def test_an_unchanged_service_is_the_same_object() -> None:
    before = plan_of(WEB, WEB_SLICE, DNS, DNS_SLICE)
    plan = rebuilt(before, WEB, WEB_SLICE, DNS, slice_of("kube-system/dns", "10.180.0.4", port_name="dns"))
    assert plan.services[WEB_KEY] is before.services[WEB_KEY]
    assert plan.services[DNS_KEY] != before.services[DNS_KEY]


def test_of_a_changed_service_the_ports_that_stay_are_the_same_objects() -> None:
    before = plan_of(DNS, DNS_SLICE, OTHER_SLICE)
    plan = rebuilt(before, DNS, DNS_SLICE)
    assert [plan.services[each] is before.services[each] for each in plan.services] == [True, False]


def test_an_annotation_changes_nothing() -> None:
    before = plan_of(BALANCED, slice_of("lb", "10.0.0.1 @n1", port_name="a"))
    plan = rebuilt(before, BALANCED, replace(slice_of("lb", "10.0.0.1 @n1", port_name="a"), triggered=7.0))
    assert all(plan.services[each] is before.services[each] for each in plan.services)
    assert plan.health_checks[0] is before.health_checks[0]


def test_a_zone_label_is_obeyed_at_once_and_concerns_only_hinted_services() -> None:
    hinted = slice_of("web", "10.180.0.1 z=a", "10.180.1.1 z=b", port_name="http")
    before = plan_of(WEB, hinted, DNS, DNS_SLICE)
    plan = rebuilt(before, WEB, hinted, DNS, DNS_SLICE, node(zone="b"))
    assert [str(target) for target in plan.services[WEB_KEY].cluster] == ["10.180.1.1:8080"]
    assert plan.services[DNS_KEY] is before.services[DNS_KEY]


def test_a_node_may_move_while_everything_else_stays() -> None:
    hinted = slice_of("web", "10.180.0.1 z=a", "10.180.1.1 z=b", port_name="http")
    store = cluster(WEB, hinted, node(zone="a"))
    before = build_plan(store.snapshot(), CONFIG, IPFamily.IPV4)
    store.apply(Put(Kind.NODE, node(zone="b")))
    plan = build_plan(store.snapshot(), CONFIG, IPFamily.IPV4, previous=before)
    assert [str(target) for target in plan.services[WEB_KEY].cluster] == ["10.180.1.1:8080"]


def test_health_counts_follow_the_endpoints() -> None:
    before = plan_of(BALANCED, slice_of("lb", "10.0.0.1 @n1", port_name="a"))
    plan = rebuilt(before, BALANCED, slice_of("lb", "10.0.0.1 @n2", port_name="a"))
    assert [check.local_ready for check in (*before.health_checks, *plan.health_checks)] == [1, 0]


def test_ports_come_and_go() -> None:
    before = plan_of(DNS, WEB)
    plan = rebuilt(before, replace(DNS, ports=(port(53, "dns-tcp"), port(9153, "metrics"))), WEB)
    assert [each.port for each in plan.services] == ["http", "dns-tcp", "metrics"]
    assert plan.services[WEB_KEY] is before.services[WEB_KEY]


def test_services_come_and_go() -> None:
    before = plan_of(DNS)
    assert rebuilt(rebuilt(before, DNS, WEB), WEB).services.keys() == {WEB_KEY}


def test_a_service_may_stop_being_served() -> None:
    assert not rebuilt(plan_of(WEB), replace(WEB, cluster_ips=())).services


def test_slices_of_unknown_services_wait() -> None:
    before = plan_of(WEB_SLICE)
    assert rebuilt(before, WEB_SLICE, WEB).services[WEB_KEY].endpoints_total == 2


def test_the_winner_goes_and_the_loser_serves() -> None:
    rival = service("x", "172.30.0.9", external_ips=("172.30.0.41",))
    before = plan_of(WEB, rival)
    (each,) = rebuilt(before, rival).services.values()
    assert len(each.frontends) == 2


def test_a_plan_made_elsewhere_is_no_help_and_no_harm() -> None:
    foreign = Plan(IPFamily.IPV4, {}, NodePorts())
    assert rebuilt(foreign, WEB, WEB_SLICE) == plan_of(WEB, WEB_SLICE)


def test_snapshots_of_one_store_share_what_did_not_change() -> None:
    store = cluster(WEB, WEB_SLICE, DNS, DNS_SLICE, node())
    before = build_plan(store.snapshot(), CONFIG, IPFamily.IPV4)
    store.apply(Put(Kind.ENDPOINT_SLICE, OTHER_SLICE))
    store.apply(Removed(Kind.SERVICE, WEB.key))
    plan = build_plan(store.snapshot(), CONFIG, IPFamily.IPV4, previous=before)
    assert plan == build_plan(store.snapshot(), CONFIG, IPFamily.IPV4)
    assert plan.services[DNS_KEY] is before.services[DNS_KEY]


def test_in_userspace_mode_alone_the_service_ranges_are_to_be_refused_without_overlap() -> None:
    seen = snapshot(WEB, WEB_SLICE)
    ranges = replace(seen, service_cidrs=("10.96.0.0/16", "10.96.1.0/24", "10.97.0.0/16", "fd00:10:96::/108"))
    relayed = replace(CONFIG, proxy_mode=ProxyMode.USERSPACE)
    assert build_plan(ranges, CONFIG, IPFamily.IPV4).service_cidrs == ()
    assert build_plan(ranges, relayed, IPFamily.IPV4).service_cidrs == ("10.96.0.0/15",)
    assert build_plan(ranges, relayed, IPFamily.IPV6).service_cidrs == ("fd00:10:96::/108",)
