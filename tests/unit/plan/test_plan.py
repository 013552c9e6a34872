"""The nouns of a plan: only what they compute."""

from __future__ import annotations

from kproxy.errors import InvalidObject
from kproxy.model.enums import IPFamily, Protocol
from kproxy.model.keys import ServicePortKey
from kproxy.plan.plan import Memory, NodePorts, Note, Plan, ServicePlan, Target

KEY = ServicePortKey("default", "web", "", Protocol.TCP)
A, B = Target("10.0.0.1", 80, local=True), Target("10.0.0.2", 80, local=False)


def test_a_target_prints_as_netfilter_wants_it() -> None:
    assert [str(A), str(Target("fd00::1", 80, local=False))] == ["10.0.0.1:80", "[fd00::1]:80"]


def test_reachable_is_the_union_of_both_pools_in_order() -> None:
    pools = [((), ()), ((A, B), ()), ((), (A,)), ((B,), (A,)), ((A, B), (A,))]
    reachable = [ServicePlan(KEY, (), cluster, local).reachable for cluster, local in pools]
    assert reachable == [(), (A, B), (A,), (A, B), (A, B)]


def test_reachable_of_equal_pools_is_the_pool() -> None:
    both = (A, B)
    assert ServicePlan(KEY, (), both, both).reachable is both


def test_a_plan_adds_up_endpoints() -> None:
    services = {
        KEY: ServicePlan(KEY, (), endpoints_total=2),
        KEY._replace(port="b"): ServicePlan(KEY, (), endpoints_total=3),
    }
    assert Plan(IPFamily.IPV4, services, NodePorts()).endpoints_total == 5


def test_what_a_plan_remembers_is_no_part_of_its_meaning() -> None:
    assert (Memory() == Memory(), Memory() == object(), hash(Memory()) == hash(Memory())) == (True, False, True)


def test_notes_that_say_the_same_are_equal() -> None:
    def note(why: str) -> Note:
        return Note("Reason", InvalidObject("Service", "a/b", field="spec", why=why, remedy="change it"))

    assert note("is odd") == note("is odd") != note("is even")
    assert hash(note("is odd")) == hash(note("is odd"))
