"""Endpoints as a service port's listeners come and go. Who of them is chosen is test_balance's."""

from __future__ import annotations

from typing import Any

from kproxy.backend.userspace.balance import Balancer
from kproxy.backend.userspace.counts import Tally
from kproxy.backend.userspace.endpoints import Ejection, Endpoint, ServicePort, ServicePorts
from kproxy.plan.plan import Target
from tests.unit.backend.userspace.sockets import key, rule, settings

A, B, C = (Target(f"10.0.0.{n}", 80, local=False) for n in (1, 2, 3))


def listener(service: ServicePort, *targets: Target, **asked: Any) -> Balancer:
    made = Balancer(service, chance=lambda: 0, clients=9)
    made.follow(rule(1, *targets, **asked), 0)
    return made


def of(balancer: Balancer, target: Target) -> Endpoint:
    return next(each for each in balancer.endpoints if each.target == target)


def test_an_endpoint_of_two_listeners_is_one_and_leaves_with_the_second_rule_that_loses_it() -> None:
    service = ServicePort(key(), settings())
    one, other = listener(service, A, B), listener(service, B)
    shared = of(one, B)
    assert of(other, B) is shared
    one.follow(rule(1, A), 5)
    assert shared.left is None
    other.leave(7)
    assert shared.left == 7
    assert service.listeners == 1


def test_one_that_returns_while_it_has_flows_is_the_same_one_as_if_it_were_new() -> None:
    service = ServicePort(key(), settings())
    made = listener(service, A, B)
    known = of(made, B)
    known.active = 1
    made.failed(known, 1)
    made.follow(rule(1, A), 5)
    made.follow(rule(1, A, B), 6)
    assert of(made, B) is known
    assert (known.active, known.left, known.failures, known.since) == (1, None, 0, 6)


def test_those_that_left_are_forgotten_once_they_have_no_flows() -> None:
    service = ServicePort(key(), settings())
    made = listener(service, A, B)
    busy = of(made, A)
    busy.active = 1
    for _ in range(3):
        made.follow(rule(1, C), 1)
        made.follow(rule(1, B, C), 2)
    assert list(service._past.values()) == [busy]
    busy.active = 0
    made.follow(rule(1, C), 3)
    assert not service._past


def test_what_is_known_of_an_endpoint_is_the_newest() -> None:
    service = ServicePort(key(), settings())
    made = listener(service, A)
    here = Target(A.ip, A.port, local=True)
    made.follow(rule(1, here, idle=5), 1)
    assert [each.target for each in made.endpoints] == [here]
    assert service.relay.idle == 5


def test_a_service_port_is_kept_until_its_listeners_are_gone_and_its_flows_have_ended() -> None:
    services = ServicePorts()
    service = services.get(key(), settings())
    made = listener(service, A)
    service.tally.active = 1
    assert services.release() == frozenset()
    made.leave(1)
    assert services.release() == frozenset()
    assert services.get(key(), settings()) is service
    service.tally.active = 0
    assert services.release() == {key()}
    assert services.tallies(1) == {}


def test_an_ejection_is_news_once() -> None:
    services = ServicePorts()
    made = listener(services.get(key(), settings()), A, B, C, eject_after=2, eject_seconds=(5.0, 60.0))
    for _ in range(2):
        made.failed(of(made, A), 0)
    assert services.take_ejections() == [Ejection(key(), "10.0.0.1:80", failures=2, seconds=5.0)]
    assert services.take_ejections() == []


def test_the_tally_says_how_many_endpoints_are_ejected_at_present() -> None:
    services = ServicePorts()
    made = listener(services.get(key(), settings()), A, B, C, eject_after=1)
    for target in (A, B):  # of three endpoints two stay
        made.failed(of(made, target), 0)
    assert services.tallies(1) == {key(): Tally(ejections=1, ejected=1)}
    assert services.tallies(5) == {key(): Tally(ejections=1, ejected=0)}
    made.failed(of(made, A), 6)
    made.follow(rule(1, B, C, eject_after=1), 7)
    assert services.tallies(7) == {key(): Tally(ejections=2, ejected=0)}
