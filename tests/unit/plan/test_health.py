"""What a health-check node port answers. Which Service keeps a contested one is test_frontends'."""

from __future__ import annotations

import pytest

from kproxy.model.enums import ServiceType, TrafficPolicy
from kproxy.model.service import Service
from kproxy.plan.health import health_check, health_check_port
from kproxy.plan.plan import HealthCheck
from tests.builders import endpoint, key, service

BALANCED = service(
    type=ServiceType.LOAD_BALANCER, external_policy=TrafficPolicy.LOCAL, health_check_node_port=31000, uid="u1"
)


@pytest.mark.parametrize(
    ("svc", "port"),
    [
        (BALANCED, 31000),
        (service(type=ServiceType.LOAD_BALANCER, external_policy=TrafficPolicy.LOCAL), 0),
        (service(type=ServiceType.LOAD_BALANCER, health_check_node_port=31000), 0),
        (service(type=ServiceType.NODE_PORT, external_policy=TrafficPolicy.LOCAL, health_check_node_port=31000), 0),
    ],
)
def test_only_load_balancers_under_policy_local_have_the_port(svc: Service, port: int) -> None:
    assert health_check_port(svc) == port


def test_counts_distinct_addresses_of_ready_local_endpoints() -> None:
    http = [(endpoint(text), 80) for text in ("10.0.0.1 @n1", "10.0.0.2 @n2", "10.0.0.3 ST @n1", "10.0.0.4")]
    https = [(endpoint(text), 443) for text in ("10.0.0.1 @n1", "10.0.0.5 RT @n1")]
    assert health_check(BALANCED, [http, https], "n1") == HealthCheck(key("web"), 31000, local_ready=2, uid="u1")


def test_without_a_name_nothing_is_local() -> None:
    assert health_check(BALANCED, [[(endpoint("10.0.0.1"), 80)]], "").local_ready == 0
