"""What /statusz says of the last rounds: counts, names, problems."""

from __future__ import annotations

from kproxy.backend.base import Quarantined, SyncReport
from kproxy.config import Config
from kproxy.daemon.rounds import Rounds, show_problems
from kproxy.errors import InvalidObject
from kproxy.model.enums import IPFamily, Protocol
from kproxy.model.keys import ServicePortKey
from kproxy.plan.build import build_plan
from kproxy.plan.plan import Plan
from tests.builders import service, slice_of, snapshot

REPORT = SyncReport(full=True, rules_total={}, rules_written={})


def plan(*names: str) -> Plan:
    services = [service(name, f"172.30.0.{41 + nth}") for nth, name in enumerate(names)]
    slices = [slice_of(name, "10.0.0.1", "10.0.0.2") for name in names]
    return build_plan(snapshot(*services, *slices), Config(hostname="n1"), IPFamily.IPV4)


def test_before_the_first_round_nothing_is_claimed() -> None:
    assert Rounds().show() == {}


def test_each_family_is_counted() -> None:
    rounds = Rounds()
    rounds.note(plan("web", "dns"), REPORT)
    rounds.note(build_plan(snapshot(), Config(hostname="n1"), IPFamily.IPV6), REPORT)
    assert rounds.show() == {
        "Services": "IPv4 2, IPv6 0",
        "Service ports": "IPv4 2, IPv6 0",
        "Endpoints": "IPv4 4, IPv6 0",
        "Relayed service ports": "IPv4 0, IPv6 0",
    }


def test_what_the_kernel_refuses_is_named_and_a_crowd_is_counted() -> None:
    rounds = Rounds()
    refused = [Quarantined(ServicePortKey("a", f"s{nth}", "http", Protocol.TCP), "why") for nth in range(12)]
    rounds.note(plan(), SyncReport(full=True, rules_total={}, rules_written={}, quarantined=tuple(refused)))
    shown = rounds.name()["Quarantined"]
    assert shown.startswith("IPv4 a/s0:http (TCP), IPv4 a/s1:http (TCP), ")
    assert shown.endswith(" and 2 more")
    rounds.note(plan(), REPORT)
    assert rounds.name() == {}


def test_problems_are_counted_and_the_first_are_told() -> None:
    assert show_problems([]) == {}
    odd = [InvalidObject("Service", f"a/{nth:02}", field="spec", why="is odd", remedy="fix it") for nth in range(12)]
    shown = show_problems(odd)
    assert (shown["Problems"], len(shown)) == ("12", 11)
    assert shown["Problem 1"] == "Service a/00: spec is odd; fix it"
