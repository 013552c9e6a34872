"""What changed between two dumps, in terms of Services: another layout is no change, and every real one is said."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from kproxy.cli.plan import render
from kproxy.config import Config, ProxyMode
from kproxy.explain.answer import Changes
from kproxy.explain.read.dump import dumps_of
from kproxy.explain.services.survey import Survey, survey
from kproxy.explain.services.writer import KUBE_PROXY
from kproxy.explain.views.changes import compare
from kproxy.model.enums import IPFamily
from kproxy.plan.build import build_plan
from kproxy.plan.plan import Target
from kproxy.plan.steer import lines, steer
from tests.builders import node, port, service, slice_of, snapshot
from tests.unit.backend.iptables.examples import PODS, compiled, plan_of, service_sets, simple, targets
from tests.unit.backend.iptables.test_compile import CONFIGS, SCENARIOS
from tests.unit.explain.test_survey import FLAT, LARGE, LAYOUTS, TREES, recorded, written

A, B, C = (Target(f"10.244.1.{n}", 8080, local=n == 1) for n in (1, 2, 3))
ANY = FLAT, TREES


def surveys(text: str) -> tuple[Survey, ...]:
    return tuple(map(survey, dumps_of(text.encode())))


def changed(before: str, after: str) -> list[tuple[str, str, str, str]]:
    return told(compare(surveys(before), surveys(after)))


def told(changes: Changes) -> list[tuple[str, str, str, str]]:
    return [(each.service, each.what, each.before, each.after) for each in changes.changes]


# --- the same cluster -----------------------------------------------------------------------------------------


@settings(max_examples=40)
@given(st.data(), st.sampled_from(LAYOUTS), st.sampled_from(LAYOUTS), st.sampled_from(IPFamily))
def test_another_layout_of_the_same_plan_is_no_change(
    data: st.DataObject, one: Config, other: Config, family: IPFamily
) -> None:
    plan = plan_of(*data.draw(service_sets(family)), family=family)
    before, after = surveys(written(plan, one)), surveys(written(plan, other))
    assert compare(before, after).changes == ()
    assert compare(before, after).same == len(before[0].services)


@pytest.mark.parametrize("layout", [FLAT, LARGE])
@pytest.mark.parametrize("name", sorted(SCENARIOS.keys() - {"detect-local-bridge"}))
def test_kproxy_takes_over_from_kube_proxy_without_a_change(name: str, layout: Config) -> None:
    config = replace(
        CONFIGS.get(name, PODS),
        tree_threshold=layout.tree_threshold,
        endpoint_tree_threshold=layout.endpoint_tree_threshold,
        large_cluster_endpoints=layout.large_cluster_endpoints,
    )
    rules = compiled(
        *SCENARIOS[name],
        service("kubernetes", "10.96.0.1", ports=[port(443, "https")]),
        slice_of("kubernetes", "192.168.100.5", port_name="https", number=6443),
        node(addresses=("192.168.100.11",)),
        config=config,
        addresses=("192.168.100.11", "192.168.101.11", "127.0.0.1"),
    )
    found = compare(surveys(recorded(name)), surveys("\n".join(("# IPv4", *render(rules), ""))))
    assert {each.service for each in found.changes} - {""} == {"hx-system/hx-sentinel TCP"}  # the recorder's own
    is_proven = surveys(recorded(name))[0].dump.facts.writer == KUBE_PROXY
    assert (("", "rules", "written by kube-proxy", "written by kproxy") in told(found)) is is_proven
    assert found.same == len({each.name for each in surveys(recorded(name))[0].services}) - 1


# --- another cluster ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", ANY)
def test_services_and_endpoints_come_and_go(layout: Config) -> None:
    before = plan_of(simple(1, (A, B)), simple(2, (A,)), simple(3, ()))
    after = plan_of(simple(1, (A, C)), simple(3, (B,)), simple(4, (C,)))
    assert changed(written(before, FLAT), written(after, layout)) == [
        ("default/s00001 TCP", "endpoint", "10.244.1.2:8080", ""),
        ("default/s00001 TCP", "endpoint", "", "10.244.1.3:8080"),
        ("default/s00002 TCP", "service", "cluster IP 10.96.0.2:80: 1 endpoint", ""),
        (
            "default/s00003 TCP",
            "frontend",
            "cluster IP 10.96.0.3:80: refused, has no endpoints",
            "cluster IP 10.96.0.3:80",
        ),
        ("default/s00003 TCP", "endpoint", "", "10.244.1.2:8080"),
        ("default/s00004 TCP", "service", "", "cluster IP 10.96.0.4:80: 1 endpoint"),
    ]


def test_odds_that_the_number_of_endpoints_does_not_explain_are_said() -> None:
    before = written(plan_of(simple(1, targets(4))))
    assert "0.2500000000" in before
    assert changed(before, before.replace("0.25000000000", "0.70000000000")) == [
        ("default/s00001 TCP", "odds", "10.244.0.1:8080 among all: 25.00%", "10.244.0.1:8080 among all: 70.00%"),
        ("default/s00001 TCP", "odds", "10.244.0.2:8080 among all: 25.00%", "10.244.0.2:8080 among all: 10.00%"),
        ("default/s00001 TCP", "odds", "10.244.0.3:8080 among all: 25.00%", "10.244.0.3:8080 among all: 10.00%"),
        ("default/s00001 TCP", "odds", "10.244.0.4:8080 among all: 25.00%", "10.244.0.4:8080 among all: 10.00%"),
    ]
    assert [each[1] for each in changed(before, written(plan_of(simple(1, targets(3)))))] == ["endpoint"]


def test_frontends_affinity_ranges_and_policies() -> None:
    affine = written(plan_of(simple(1, (A, B), node_port=30001, affinity_seconds=60)))
    assert changed(written(plan_of(simple(1, (A, B)))), affine) == [
        ("default/s00001 TCP", "frontend", "", "node port 30001"),
        ("default/s00001 TCP", "affinity", "none", "a client keeps its endpoint for 60 s"),
    ]
    ranged = recorded("lb-source-ranges")
    assert changed(ranged, ranged.replace("-s 192.168.100.0/24", "-s 192.168.0.0/16")) == [
        (
            "default/lbr TCP",
            "source ranges",
            "192.168.100.0/24, 10.244.0.0/16, 203.0.113.12/32",
            "192.168.0.0/16, 10.244.0.0/16, 203.0.113.12/32",
        )
    ]
    local = recorded("etp-local-with-endpoints")
    by_all = local.replace("-A KUBE-EXT-LAHWZBDITIGHFEYH -j KUBE-SVL-", "-A KUBE-EXT-LAHWZBDITIGHFEYH -j KUBE-SVC-")
    assert changed(local, by_all) == [
        ("default/etl TCP", "policy", "external traffic policy Local", "external traffic policy Cluster")
    ]


def test_an_endpoint_that_is_no_longer_among_this_nodes() -> None:
    before = recorded("itp-local")
    gone = [line for line in before.splitlines() if not ("KUBE-SVL-" in line and "-> 10.244.1.11:8080" in line)]
    after = re.sub(r"(-A KUBE-SVL-.*) -m statistic --mode random --probability \S+", r"\1", "\n".join(gone))
    assert changed(before, after) == [("default/itl TCP", "endpoint", "10.244.1.11:8080 among this node's", "")]


# --- the node -------------------------------------------------------------------------------------------------


def node_of(before: str, change: Callable[[str], str]) -> list[tuple[str, str]]:
    found = changed(before, change(before))
    assert {each[0] for each in found} <= {""}
    return [each[2:] for each in found]


def without(*parts: str) -> Callable[[str], str]:
    return lambda text: "\n".join(line for line in text.split("\n") if not all(part in line for part in parts))


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (without("-A INPUT", "KUBE-PROXY-FIREWALL"), [("filter INPUT leads to KUBE-PROXY-FIREWALL", "")]),
        (
            lambda text: text.replace("0x4000/0x4000", "0x8000/0x8000"),
            [("what is to be masqueraded has mark 0x4000", "what is to be masqueraded has mark 0x8000")],
        ),
        (
            lambda text: text.replace(":FORWARD ACCEPT", ":FORWARD DROP"),
            [("filter FORWARD has policy ACCEPT", "filter FORWARD has policy DROP")],
        ),
        (
            lambda text: text.replace("*filter\n", "*filter\n:cali-INPUT - [0:0]\n:odd - [0:0]\n"),
            [("", "chains of Calico: filter cali-INPUT"), ("", "chains of others: filter odd")],
        ),
        (lambda text: text.replace("(nf_tables)", "(legacy)"), [("variant nft", "variant legacy")]),
        (lambda text: text.replace("v1.8.9", "v1.8.10"), [("iptables 1.8.9", "iptables 1.8.10")]),
    ],
)
def test_what_changes_on_the_node(change: Callable[[str], str], said: Sequence[tuple[str, str]]) -> None:
    assert node_of(recorded("etp-local-with-endpoints"), change) == said


def test_variants_are_compared_with_their_own() -> None:
    nft = recorded("etp-local-with-endpoints")
    legacy = nft.replace("(nf_tables)", "(legacy)").replace("10.244.2.10", "10.244.2.99")
    assert changed(nft + legacy, legacy + nft) == []
    assert changed(nft + legacy, legacy) == [("", "rules", "rules of IPv4 nft, 3 service ports", "")]
    moved = changed(nft + legacy, nft + legacy.replace("10.244.2.99", "10.244.2.98"))
    assert moved == [
        ("default/etl TCP legacy", "endpoint", "10.244.2.99:8080", ""),
        ("default/etl TCP legacy", "endpoint", "", "10.244.2.98:8080"),
    ]
    marked = changed(nft + legacy, nft + legacy.replace(":OUTPUT ACCEPT", ":OUTPUT DROP"))
    assert marked[0] == (
        "",
        "rules",
        "legacy: filter OUTPUT has policy ACCEPT",
        "legacy: filter OUTPUT has policy DROP",
    )


def test_a_service_that_the_relay_takes_over_is_said_and_its_ports_are_not() -> None:
    kernel = build_plan(snapshot(service("web"), slice_of("web", "10.0.0.1", "10.0.0.2")), PODS, IPFamily.IPV4)
    config = replace(PODS, proxy_mode=ProxyMode.USERSPACE)
    plan = build_plan(snapshot(service("web"), slice_of("web", "10.0.0.1", "10.0.0.2")), config, IPFamily.IPV4)
    (line,) = (line for line, _ in lines(plan))
    one, other = (written(steer(plan, "169.254.73.80", {line: port}).plan) for port in (40001, 40002))
    assert changed(one, other) == []
    taken = ("default/web TCP", "rules", "balanced by the kernel", "carried by kproxy's relay")
    assert taken in changed(written(kernel), one)
    assert {each[0] for each in changed(written(kernel), one)} <= {"", "default/web TCP"}


def test_what_nothing_names_is_compared_by_its_address() -> None:
    silent = re.sub(r' -m comment --comment ("[^"]*"|\S+)', "", recorded("no-endpoints"))
    assert changed(silent, silent) == []
    gone = "\n".join(line for line in silent.split("\n") if "10.96.3.8" not in line)
    assert changed(silent, gone) == [
        ("port 80 of 10.96.3.8 TCP", "service", "cluster IP 10.96.3.8:80: no endpoints", "")
    ]


def test_families_are_compared_with_their_own_and_one_that_is_missing_is_said_once() -> None:
    four, six = (
        written(plan_of(simple(1, (A,)), family=IPFamily.IPV4)),
        written(plan_of(family=IPFamily.IPV6)),
    )
    assert changed(four + six, six + four) == []
    assert changed(four, four + six) == [("", "rules", "", "rules of IPv6, 0 service ports")]
    assert changed(four + six, written(plan_of(simple(1, (B,)))) + six) == [
        ("default/s00001 TCP IPv4", "endpoint", "10.244.1.1:8080", ""),
        ("default/s00001 TCP IPv4", "endpoint", "", "10.244.1.2:8080"),
    ]
