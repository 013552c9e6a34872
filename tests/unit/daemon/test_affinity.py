"""When the limit of session affinity is told, and how."""

from __future__ import annotations

from typing import Any

import pytest

from kproxy.config import Config
from kproxy.daemon.affinity import LIMIT, AffinityLimit
from kproxy.daemon.metrics import Metrics
from kproxy.kernel.fake import FakeSysctl
from kproxy.model.enums import IPFamily
from kproxy.plan.build import build_plan
from kproxy.plan.plan import Plan
from tests.builders import service, slice_of, snapshot


def plan(**spec: Any) -> Plan:
    return build_plan(snapshot(service("web", **spec), slice_of("web", "10.0.0.1")), Config(), IPFamily.IPV4, ())


@pytest.mark.parametrize(("clients", "level"), [(100, "WARNING"), (2000, "INFO")])
def test_the_limit_is_said_once(clients: int, level: str, caplog: pytest.LogCaptureFixture) -> None:
    limit = AffinityLimit(FakeSysctl({LIMIT: clients}), metrics := Metrics())
    with caplog.at_level("INFO", "kproxy"):
        for _ in range(3):
            limit.look(plan(affinity_seconds=10800))
    (record,) = caplog.records
    assert (record.levelname, record.__dict__["fields"]["clients"]) == (level, clients)
    assert f"kproxy_affinity_clients_limit {clients}\n" in metrics.answer().body.decode()


def test_who_uses_no_affinity_hears_nothing(caplog: pytest.LogCaptureFixture) -> None:
    AffinityLimit(FakeSysctl({LIMIT: 100}), metrics := Metrics()).look(plan())
    assert caplog.records == []
    assert "affinity" not in metrics.answer().body.decode()


def test_a_module_that_is_not_loaded_yet_is_looked_at_again(caplog: pytest.LogCaptureFixture) -> None:
    limit = AffinityLimit(sysctl := FakeSysctl(), Metrics())
    limit.look(plan(affinity_seconds=10800))
    assert caplog.records == []
    sysctl.values[LIMIT] = 100
    limit.look(plan(affinity_seconds=10800))
    assert len(caplog.records) == 1
