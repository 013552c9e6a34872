"""Which endpoints may serve, and forward, reject or drop. Routes and masquerading are test_masquerade's."""

from __future__ import annotations

from itertools import permutations

import pytest
from msgspec.structs import replace

from kproxy.model.endpoint import EndpointSlice, SlicePort
from kproxy.model.enums import IPFamily, Protocol, ServiceType, TrafficPolicy
from kproxy.plan import masquerade
from kproxy.plan.endpoints import Candidate, count, decide, external_policy_local, gather, offers, select, serving
from kproxy.plan.plan import Drop, Forward, FrontendKind, Reject, Target
from kproxy.plan.viewpoint import Viewpoint
from tests.builders import endpoint, port, service, slice_of

LOCAL, CLUSTER = TrafficPolicy.LOCAL, TrafficPolicy.CLUSTER
INSIDE = (FrontendKind.CLUSTER_IP,)
BOTH = (FrontendKind.CLUSTER_IP, FrontendKind.NODE_PORT)
VIEW = Viewpoint(IPFamily.IPV4, node="me", zone="a", ip="192.168.0.2", detected=True)


def candidates(*texts: str) -> list[Candidate]:
    """Endpoints 10.0.0.1:80, 10.0.0.2:80 ... from what is special about each."""
    return [(endpoint(f"10.0.0.{number} {text}"), 80) for number, text in enumerate(texts, 1)]


def numbers(targets: tuple[Target, ...]) -> str:
    return " ".join(target.ip.rpartition(".")[2] for target in targets)


# --- gather ---------------------------------------------------------------------------------------------------


def gathered(*slices: EndpointSlice, view: Viewpoint = VIEW, name: str = "") -> list[str]:
    found = gather(offers(slices, view.family).get((name, Protocol.TCP), ()), view)
    return [str(Target(each.ip, number, local=False)) for each, number in found]


def test_endpoints_are_sorted_bytewise() -> None:
    assert gathered(slice_of("web", "10.180.0.1", "10.180.0.12", "10.180.0.11")) == [
        "10.180.0.11:8080",
        "10.180.0.12:8080",
        "10.180.0.1:8080",
    ]


def test_slices_of_a_service_are_merged() -> None:
    assert gathered(slice_of("web", "10.0.0.1"), slice_of("web", "10.0.0.2", number=9090)) == [
        "10.0.0.1:8080",
        "10.0.0.2:9090",
    ]


def test_the_other_family_is_left_out() -> None:
    slices = slice_of("web", "10.0.0.1"), slice_of("web", "fd00::1")
    assert gathered(*slices, view=replace(VIEW, family=IPFamily.IPV6)) == ["[fd00::1]:8080"]


def test_ports_meet_by_name_and_protocol() -> None:
    ports = (
        SlicePort("a", Protocol.TCP, 1),
        SlicePort("b", Protocol.UDP, 2),
        SlicePort("b", Protocol.TCP, 3),
        SlicePort("b", Protocol.TCP, 4),
    )
    assert gathered(slice_of("web", "10.0.0.1", ports=ports), name="b") == ["10.0.0.1:3", "10.0.0.1:4"]


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ("R", "ST"),
        ("N", "RT"),  # a running one beats a terminating one, whatever else
        ("R", "NS"),
        ("NS", "N"),
        ("RT", "ST"),
        ("R @b", "R @a"),
        ("R @a", "R"),
        ("R n=b", "R n=a"),
        ("R z=b", "R z=a"),
    ],
)
def test_of_two_with_one_address_the_better_stays(better: str, worse: str) -> None:
    slices = slice_of("web", f"10.0.0.1 {better}"), slice_of("web", f"10.0.0.1 {worse}", suffix="2")
    for order in permutations(slices):
        offered = offers(order, IPFamily.IPV4)["", Protocol.TCP]
        assert gather(offered, VIEW) == [(endpoint(f"10.0.0.1 {better}"), 8080)]


def test_the_relays_own_address_is_no_endpoint() -> None:
    view = replace(VIEW, relay_ip="10.0.0.2")
    assert gathered(slice_of("web", "10.0.0.1", "10.0.0.2"), view=view) == ["10.0.0.1:8080"]


def test_endpoints_are_counted_for_each_port_that_has_them() -> None:
    offered = offers(
        [slice_of("web", "10.0.0.1", "10.0.0.2", ports=_two("a", "b")), slice_of("web", "fd00::1")], VIEW.family
    )
    assert count(service(ports=[port(1, "a"), port(2, "b"), port(3, "c")]), offered) == 4


def _two(*names: str) -> list[SlicePort]:
    return [SlicePort(name, Protocol.TCP, 80) for name in names]


# --- select ---------------------------------------------------------------------------------------------------

# service, endpoints, cluster list, local list, usable anywhere: the table of model.md 12 and a little more
ITP_CLUSTER = (True, False)
ETP_LOCAL = (True, True)
ITP_LOCAL = (False, True)


@pytest.mark.parametrize(
    ("uses", "endpoints", "cluster", "local", "usable"),
    [
        (ITP_CLUSTER, ["R @x", "R @me"], "1 2", "", True),
        (ITP_CLUSTER, ["R z=a", "R z=b", "R z=a"], "1 3", "", True),
        (ITP_CLUSTER, ["R z=a", "R"], "1 2", "", True),
        (ITP_CLUSTER, ["N z=a", "R z=b"], "2", "", True),
        (ETP_LOCAL, ["R @x z=a", "R @me z=b"], "1", "2", True),
        (ITP_LOCAL, ["R @x", "R @me"], "", "2", True),
        (ITP_LOCAL, ["R @x", "R @x"], "", "", True),
        (ETP_LOCAL, ["ST @x", "ST @x"], "1 2", "", True),
        (ETP_LOCAL, ["R @x", "N @me", "ST @me", "ST @x"], "1", "3", True),
        (ITP_CLUSTER, ["ST @x", "ST @me"], "1 2", "", True),
        (ITP_CLUSTER, ["N @x"], "", "", False),
        (ITP_CLUSTER, ["R n=me", "R n=other"], "1", "", True),
        (ITP_CLUSTER, ["R n=o z=a", "R n=p z=b"], "1", "", True),
        # and what the table leaves out
        (ITP_CLUSTER, [], "", "", False),
        (ITP_CLUSTER, ["NS @me"], "", "", False),
        (ITP_CLUSTER, ["RT @x", "ST @x"], "1", "", True),
        (ITP_CLUSTER, ["R z=b", "R z=c"], "1 2", "", True),
        (ITP_CLUSTER, ["R z=b,a", "R z=c"], "1", "", True),
        (ITP_CLUSTER, ["R z=a", "R z=b", "NS"], "1", "", True),
        (ITP_CLUSTER, ["ST z=a", "ST z=b"], "1 2", "", True),
        (ITP_CLUSTER, ["R n=me", "R z=a"], "1 2", "", True),  # neither kind of hint is on all of them
        (ITP_CLUSTER, ["R n=me z=b", "R z=a"], "2", "", True),  # zones are
        (ITP_CLUSTER, ["R n=me z=b", "R n=o z=a"], "1", "", True),
        (ITP_LOCAL, ["ST @x"], "", "", True),
        (ITP_LOCAL, ["ST @me", "R @x"], "", "1", True),
        (ITP_LOCAL, ["N @me"], "", "", False),
        (ETP_LOCAL, ["R @me", "ST @me"], "1", "1", True),
    ],
)
def test_selection(uses: tuple[bool, bool], endpoints: list[str], cluster: str, local: str, usable: bool) -> None:
    chosen = select(candidates(*endpoints), VIEW, uses_cluster=uses[0], uses_local=uses[1])
    assert (numbers(chosen.cluster), numbers(chosen.local), chosen.usable) == (cluster, local, usable)


def test_without_a_zone_zone_hints_mean_nothing() -> None:
    view = Viewpoint(IPFamily.IPV4, node="me", zone=None)
    assert numbers(select(candidates("z=a", "z=b"), view, uses_cluster=True, uses_local=False).cluster) == "1 2"


def test_without_a_name_nothing_is_local() -> None:
    view = Viewpoint(IPFamily.IPV4, node="", zone="a")
    chosen = select(candidates("R", "R n=x"), view, uses_cluster=True, uses_local=True)
    assert (chosen.local, [target.local for target in chosen.cluster]) == ((), [False, False])


def test_targets_say_whether_they_are_local() -> None:
    chosen = select(candidates("@me", "@x", ""), VIEW, uses_cluster=True, uses_local=False)
    assert [target.local for target in chosen.cluster] == [True, False, False]


def test_equal_pools_are_one_object() -> None:
    chosen = select(candidates("@me", "@me"), VIEW, uses_cluster=True, uses_local=True)
    assert chosen.local is chosen.cluster


# --- decide ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", [INSIDE, BOTH])
@pytest.mark.parametrize("endpoints", [[], ["N @me"], ["NS @me"]])
def test_no_usable_endpoint_is_refused(kinds: tuple[FrontendKind, ...], endpoints: list[str]) -> None:
    decision = decide(service(internal_policy=LOCAL), kinds, candidates(*endpoints), VIEW)
    assert (decision.internal, decision.external) == (Reject(), Reject())
    assert (decision.no_local_internal, decision.no_local_external) == (False, False)


def test_internal_policy_local_without_local_endpoints_is_silent() -> None:
    decision = decide(service(internal_policy=LOCAL), BOTH, candidates("@x"), VIEW)
    assert (decision.internal, decision.no_local_internal, decision.no_local_external) == (Drop(), True, False)
    assert decision.external == masquerade.external(local=False, served_here=False, detected=True)


def test_internal_policy_local_with_local_endpoints() -> None:
    decision = decide(service(internal_policy=LOCAL), INSIDE, candidates("@x", "@me"), VIEW)
    assert decision.internal == masquerade.internal(local=True, masquerade_all=False, detected=True)
    assert (numbers(decision.selection.cluster), numbers(decision.selection.local)) == ("", "2")


@pytest.mark.parametrize(("where", "stranded"), [("@me", False), ("@x", True)])
def test_external_policy_local(where: str, stranded: bool) -> None:
    svc = service(type=ServiceType.NODE_PORT, external_policy=LOCAL)
    decision = decide(svc, BOTH, candidates(where), VIEW)
    assert decision.external == masquerade.external(local=True, served_here=not stranded, detected=True)
    assert decision.internal == masquerade.internal(local=False, masquerade_all=False, detected=True)
    assert (decision.no_local_internal, decision.no_local_external) == (False, stranded)


@pytest.mark.parametrize("endpoints", [["R @x"], ["ST @x"], ["R @x z=b"], ["R @x n=o z=b", "ST @me"], ["RT @me"]])
def test_whoever_is_usable_leaves_a_cluster_list_for_the_short_circuit(endpoints: list[str]) -> None:
    svc = service(type=ServiceType.NODE_PORT, external_policy=LOCAL, internal_policy=LOCAL)
    decision = decide(svc, BOTH, candidates(*endpoints), VIEW)
    assert isinstance(decision.external, Forward)
    assert decision.selection.cluster


def test_external_policy_local_without_external_frontends_means_nothing() -> None:
    svc = service(type=ServiceType.NODE_PORT, external_policy=LOCAL)
    decision = decide(svc, INSIDE, candidates("@x", "@me"), VIEW)
    assert (numbers(decision.selection.cluster), decision.selection.local) == ("1 2", ())
    assert not decision.no_local_external


def test_pools_that_no_frontend_routes_to_are_empty() -> None:
    decision = decide(service(), (), candidates("@me"), VIEW)
    assert (decision.selection.cluster, decision.selection.local) == ((), ())


@pytest.mark.parametrize(
    ("kind", "policy", "external_ips", "local"),
    [
        (ServiceType.LOAD_BALANCER, LOCAL, (), True),
        (ServiceType.NODE_PORT, LOCAL, (), True),
        (ServiceType.CLUSTER_IP, LOCAL, ("1.2.3.4",), True),
        (ServiceType.CLUSTER_IP, LOCAL, (), False),
        (ServiceType.LOAD_BALANCER, CLUSTER, (), False),
    ],
)
def test_external_policy_local_needs_something_external(
    kind: ServiceType, policy: TrafficPolicy, external_ips: tuple[str, ...], local: bool
) -> None:
    svc = service(type=kind, external_policy=policy, external_ips=external_ips)
    assert external_policy_local(svc) is local


# --- serving --------------------------------------------------------------------------------------------------


def test_serving_is_everybody_who_answers() -> None:
    found = candidates("R", "ST @x z=b", "NS", "N")
    assert serving(found) == {(f"10.0.0.{number}", 80) for number in (1, 2, 3)}


def test_ready_counts_as_serving() -> None:
    odd = replace(endpoint("10.0.0.1"), serving=False)
    assert serving([(odd, 80)]) == {("10.0.0.1", 80)}


def test_only_an_endpoint_of_another_node_is_remote() -> None:
    found = candidates("@me", "@other", "")
    here = [(each.local, each.remote) for each in select(found, VIEW, uses_cluster=True, uses_local=False).cluster]
    assert here == [(True, False), (False, True), (False, False)]
    nowhere = select(found, replace(VIEW, node=""), uses_cluster=True, uses_local=False).cluster
    assert not any(each.local or each.remote for each in nowhere)
