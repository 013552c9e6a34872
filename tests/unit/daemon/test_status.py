"""Healthy or not, and the bytes that say so. How they travel is in test_server.py."""

import json

from hypothesis import given
from hypothesis import strategies as st

from kproxy.daemon.status import Health, Instant, is_eligible, rfc3339
from kproxy.model.enums import IPFamily
from kproxy.model.keys import ObjectKey
from kproxy.model.node import Node
from kproxy.plan.plan import HealthCheck

V4, V6 = IPFamily.IPV4, IPFamily.IPV6
NODE = Node("n1")
EPOCH = 1_700_000_000_000_000_000  # 2023-11-14T22:13:20Z


def at(seconds: float) -> Instant:
    return Instant(seconds, EPOCH + int(seconds * 1_000_000_000))


def running(*families: IPFamily) -> Health:
    health = Health(families or (V4,), sync_period=30.0)
    for family in families or (V4,):
        health.started(family, at(0))
    return health


def test_a_process_that_starts_is_healthy_and_not_ready() -> None:
    health = Health((V4,), sync_period=30.0)
    assert health.healthz(NODE, at(1)).status == 200
    assert health.livez(at(1)).status == 200
    assert health.readyz().status == 503


def test_a_change_may_wait_for_twice_the_sync_period() -> None:
    health = running()
    health.queued(V4, at(10))
    assert health.healthy(at(69.9))
    assert not health.healthy(at(70))


def test_only_the_oldest_change_counts() -> None:
    health = running()
    health.queued(V4, at(10))
    health.queued(V4, at(60))
    assert not health.healthy(at(70))


def test_a_change_during_a_round_is_not_forgotten_when_the_round_succeeds() -> None:
    health = running()
    health.queued(V4, at(10))
    health.taken(V4)
    health.queued(V4, at(12))
    health.synced(V4, at(13))
    assert health.pending_seconds(V4, at(15)) == 3.0


def test_a_failed_round_leaves_its_changes_as_old_as_they_are() -> None:
    health = running()
    health.queued(V4, at(10))
    health.taken(V4)
    health.queued(V4, at(40))
    health.failed(V4)
    assert health.pending_seconds(V4, at(50)) == 40.0


def test_one_stuck_family_makes_the_process_unhealthy() -> None:
    health = running(V4, V6)
    health.queued(V6, at(0))
    answer = json.loads(health.livez(at(100)).body)
    assert answer["healthy"] is False
    assert [answer["status"][family]["healthy"] for family in ("IPv4", "IPv6")] == [True, False]


def test_ready_means_every_family_has_synced() -> None:
    health = running(V4, V6)
    health.taken(V4)
    health.synced(V4, at(1))
    assert not health.ready
    health.taken(V6)
    health.synced(V6, at(2))
    assert health.readyz().status == 200


def test_the_body_of_healthz_is_kube_proxys() -> None:
    health = running(V4, V6)
    health.taken(V4)
    health.synced(V4, at(1.5))
    answer = health.healthz(NODE, at(2))
    assert answer.body == (
        b'{"lastUpdated":"2023-11-14T22:13:22Z","currentTime":"2023-11-14T22:13:22Z","nodeEligible":true,'
        b'"healthy":true,"status":{"IPv4":{"lastUpdated":"2023-11-14T22:13:21.5Z","healthy":true},'
        b'"IPv6":{"lastUpdated":"2023-11-14T22:13:20Z","healthy":true}}}'
    )
    assert answer.headers == {"Content-Type": "application/json", "X-Content-Type-Options": "nosniff"}


def test_a_draining_node_is_ineligible_yet_healthy_and_alive() -> None:
    health = running()
    node = Node("n1", taints=frozenset({"ToBeDeletedByClusterAutoscaler"}))
    answer = health.healthz(node, at(5))
    assert answer.status == 503
    assert answer.body.startswith(b'{"lastUpdated":"2023-11-14T22:13:20Z","currentTime":"2023-11-14T22:13:25Z",')
    assert b'"nodeEligible":false,"healthy":true' in answer.body
    assert health.livez(at(5)).status == 200


def test_livez_says_nothing_of_eligibility_and_omits_an_empty_status() -> None:
    assert Health((V4,), sync_period=30.0).livez(at(0)).body == (
        b'{"lastUpdated":"2023-11-14T22:13:20Z","currentTime":"2023-11-14T22:13:20Z","healthy":true}'
    )


def test_without_any_update_the_last_one_is_gos_zero_time() -> None:
    assert b'"lastUpdated":"0001-01-01T00:00:00Z"' in Health((V4,), sync_period=30.0).healthz(None, at(0)).body


def test_which_nodes_are_eligible() -> None:
    assert is_eligible(NODE)
    assert not is_eligible(None)
    assert not is_eligible(Node("n1", deleting=True))


def test_the_body_of_a_health_check_node_port_is_kube_proxys() -> None:
    answer = running().health_check(HealthCheck(ObjectKey("ns2", "svc2"), 30000, 0), at(0))
    assert answer.status == 503
    assert answer.body == (
        b'{\n\t"service": {\n\t\t"namespace": "ns2",\n\t\t"name": "svc2"\n\t},\n'
        b'\t"localEndpoints": 0,\n\t"serviceProxyHealthy": true\n}'
    )
    assert answer.headers["X-Load-Balancing-Endpoint-Weight"] == "0"


def test_a_health_check_node_port_is_bad_when_the_proxy_is() -> None:
    health = running()
    check = HealthCheck(ObjectKey("ns2", "svc2"), 30000, 2)
    assert health.health_check(check, at(0)).status == 200
    health.queued(V4, at(0))
    assert health.health_check(check, at(60)).status == 503


def test_times_have_as_many_decimals_as_they_need() -> None:
    assert rfc3339(EPOCH + 120_000_000) == "2023-11-14T22:13:20.12Z"
    assert rfc3339(EPOCH + 1) == "2023-11-14T22:13:20.000000001Z"


@given(st.lists(st.sampled_from(["queue", "take", "sync", "fail"]), max_size=40))
def test_what_is_pending_is_as_old_as_its_oldest_change(steps: list[str]) -> None:
    """Against the plainest model: two lists of moments."""
    health, waiting, taken = running(), list[int](), list[int]()
    for now, step in enumerate(steps):
        match step:
            case "queue":
                health.queued(V4, at(now))
                waiting.append(now)
            case "take":
                health.taken(V4)
                taken, waiting = taken + waiting, []
            case "sync":
                health.synced(V4, at(now))
                taken = []
            case _:
                health.failed(V4)
                taken, waiting = [], taken + waiting
        oldest = min(taken + waiting, default=None)
        assert health.pending_seconds(V4, at(now)) == (0 if oldest is None else now - oldest)
