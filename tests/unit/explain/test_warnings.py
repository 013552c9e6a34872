"""All warnings together, of healthy nodes above all; and those about Services and settings.

Each subject's checks are in the files of their modules.
"""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.cli.plan import render_plan
from kproxy.config import Config, ProxyMode
from kproxy.explain.answer import Endpoint, Fate, Frontend, FrontendKind, ServicePort, Severity
from kproxy.explain.answer import Warning as Said
from kproxy.explain.health.warnings import warn
from kproxy.explain.read.dump import dumps_of
from kproxy.explain.read.facts import HostFacts
from kproxy.explain.read.objects import NOTHING, read_objects
from kproxy.explain.services.survey import Survey, survey
from kproxy.model.enums import IPFamily
from tests.unit.explain.dumps import FILTER, NAT, WEB, dump_of, service_port, table

RECORDED = Path(__file__).parents[1] / "backend" / "iptables" / "recorded"
SCENARIOS = Path(__file__).parents[2] / "scenarios"
HEALTHY = table("nat", *NAT, *WEB) + table("filter", *FILTER)
UNKNOWN = HostFacts()


def said(data: bytes | str, facts: HostFacts = UNKNOWN) -> list[Said]:
    dumps = dumps_of(data if isinstance(data, bytes) else data.encode())
    return list(warn([survey(each) for each in dumps], NOTHING, facts))


def of(*services: ServicePort, facts: HostFacts = UNKNOWN) -> list[Said]:
    return list(warn([Survey(dump_of(HEALTHY), services, {})], NOTHING, facts))


# --- healthy nodes --------------------------------------------------------------------------------------------

# What is true of them all the same: what the scenario is about
TRUE = {
    "no-endpoints": {"no-endpoints"},
    "affinity-client-ip": {"affinity-cap"},
    "itp-local": {"no-local-endpoints"},
}


RECORDS = sorted({path.name.partition(".")[0] for path in RECORDED.iterdir() if ".iptables-" in path.name})


@pytest.mark.parametrize("name", RECORDS)
def test_of_kube_proxys_own_rules_only_what_is_true_is_said(name: str) -> None:
    parts = sorted(RECORDED.glob(f"{name}.iptables-*.txt"))
    assert len(parts) == 2
    found = said(b"".join(path.read_bytes() for path in parts))
    assert {each.code for each in found} - {"invalid-drop"} == TRUE.get(name, set())
    assert not [each for each in found if each.severity is Severity.ERROR]


SCENARIO_TRUE = {
    "affinity": {"affinity-cap"},
    "clash": {"duplicate-claim"},
    "dual-stack": {"no-endpoints"},
    "external-local-elsewhere": {"no-local-endpoints"},
    "internal-local": {"no-local-endpoints"},
    "named-ports": {"no-endpoints"},
    "no-endpoints": {"no-endpoints"},
}


@pytest.mark.parametrize("layout", ["flat", "trees", "relay"])
@pytest.mark.parametrize("name", sorted(path.name for path in SCENARIOS.iterdir() if path.is_dir()))
def test_of_our_own_rules_only_what_is_true_is_said(name: str, layout: str) -> None:
    config = {
        "flat": Config(hostname="n1"),
        "trees": Config(hostname="n1", tree_threshold=1, endpoint_tree_threshold=1, large_cluster_endpoints=0),
        "relay": Config(hostname="n1", proxy_mode=ProxyMode.USERSPACE),
    }[layout]
    lines = render_plan(str(SCENARIOS / name / "cluster.yaml"), config, tuple(IPFamily), lambda _: None)
    objects = read_objects([str(SCENARIOS / name / "cluster.yaml")])
    dumps = dumps_of(("\n".join(lines) + "\n").encode())
    found = warn([survey(each, objects) for each in dumps], objects, UNKNOWN)
    expected = SCENARIO_TRUE.get(name, set())
    assert {each.code for each in found} - {"invalid-drop", "no-local-endpoints"} == expected - {
        "no-local-endpoints",
        *(["affinity-cap"] if layout == "relay" else []),
    }
    assert not [each for each in found if each.severity is Severity.ERROR]


# --- any dump -------------------------------------------------------------------------------------------------

LINES = [
    line
    for name in ("lb-source-ranges", "affinity-client-ip", "etp-local-without-endpoints")
    for path in sorted(RECORDED.glob(f"{name}.iptables-*.txt"))
    for line in path.read_text(encoding="utf-8").split("\n")
    if line.startswith("-A ")
]
CHAINS = sorted({word for line in LINES for word in line.split() if word.startswith("KUBE-")})


@given(
    st.lists(st.sampled_from(LINES), max_size=30),
    st.lists(st.tuples(st.sampled_from(CHAINS), st.sampled_from(CHAINS), st.sampled_from("jg")), max_size=10),
    st.sets(st.sampled_from(CHAINS), max_size=5),
)
def test_rules_in_any_order_and_of_any_part_are_told_about_in_order(
    lines: list[str], jumps: list[tuple[str, str, str]], undeclared: set[str]
) -> None:
    rules = [*lines, *(f"-A {source} -{how} {to}" for source, to, how in jumps)]
    sources = {rule.split()[1] for rule in rules}
    heads = [f":{chain} - [0:0]" for chain in sorted({*CHAINS, *sources} - (undeclared - sources))]
    text = "\n".join(line for table in ("nat", "filter") for line in (f"*{table}", *heads, *rules, "COMMIT"))
    found = said(text + "\n")
    severities = [list(Severity).index(each.severity) for each in found]
    assert severities == sorted(severities)
    assert len(set(found)) == len(found)
    assert all(each.message and each.code == each.code.lower() for each in found)


# --- order ----------------------------------------------------------------------------------------------------


def test_the_gravest_come_first_then_the_first_line() -> None:
    text = table("nat", "-A KUBE-SERVICES -j KUBE-SVC-GONE", "-A KUBE-SERVICES -j KUBE-SVC-LOST", *WEB)
    text = text.replace(":KUBE-SVC-GONE - [0:0]\n", "").replace(":KUBE-SVC-LOST - [0:0]\n", "")
    found = said(text)
    severities = [each.severity for each in found]
    assert severities == sorted(severities, key=list(Severity).index)
    errors = [each.line for each in found if each.severity is Severity.ERROR]
    assert errors == sorted(errors)
    assert len(set(found)) == len(found)


def test_families_are_told_apart_where_there_are_two() -> None:
    data = "# Generated by iptables-save v1.8.9 on x\n*nat\n:KUBE-SERVICES - [0:0]\nCOMMIT\n"
    both = data + data.replace("iptables-save", "ip6tables-save")
    assert any("the IPv6 dump has no table filter" in each.message for each in said(both))
    assert any("the dump has no table filter" in each.message for each in said(data))


def test_a_dump_without_a_proxy_says_so() -> None:
    (each,) = said("*filter\n:INPUT ACCEPT [0:0]\nCOMMIT\n")
    assert (each.code, each.severity) == ("no-proxy", Severity.WARNING)


def test_no_dumps_at_all_say_so() -> None:
    assert [each.code for each in warn((), NOTHING, UNKNOWN)] == ["no-proxy"]


# --- services -------------------------------------------------------------------------------------------------


def test_a_service_without_endpoints_is_told_once_with_all_its_addresses() -> None:
    frontends = (
        Frontend(FrontendKind.CLUSTER_IP, "10.96.0.5", 80, Fate.REFUSED, "has no endpoints", line=7),
        Frontend(FrontendKind.NODE_PORT, "", 30080, Fate.REFUSED, "has no endpoints", line=5),
        Frontend(FrontendKind.EXTERNAL_IP, "fd00::5", 80, Fate.REFUSED, "has no endpoints", line=6),
    )
    (each,) = of(service_port("shop/web", "http", frontends=frontends))
    assert (each.code, each.severity, each.line, each.service) == ("no-endpoints", Severity.WARNING, 5, "shop/web:http")
    assert "cluster IP 10.96.0.5:80, node port 30080, external IP [fd00::5]:80 is refused" in each.message
    assert "kubectl get endpointslices -n shop" in each.remedy


def test_no_endpoint_here_is_a_warning_for_clients_inside_and_a_note_for_those_outside() -> None:
    inside = Frontend(FrontendKind.CLUSTER_IP, "10.96.0.5", 80, Fate.DROPPED, "has no local endpoints", line=7)
    outside = Frontend(FrontendKind.NODE_PORT, "", 30080, Fate.DROPPED, "has no local endpoints", line=8)
    (each,) = of(service_port(frontends=(inside,)))
    assert (each.code, each.severity) == ("no-local-endpoints", Severity.WARNING)
    (each,) = of(service_port(frontends=(outside,)))
    assert (each.code, each.severity) == ("no-local-endpoints", Severity.NOTE)
    assert "traffic policy is Local" in each.message


def test_a_place_that_two_claim_goes_to_who_serves_then_to_the_first_line() -> None:
    place = (FrontendKind.EXTERNAL_IP, "198.51.100.7", 80)
    first = service_port("a/one", frontends=(Frontend(*place, line=9),))
    second = service_port("b/two", frontends=(Frontend(*place, line=4),))
    dead = service_port("c/dead", frontends=(Frontend(*place, Fate.REFUSED, "has no endpoints", line=1),))
    found = [each for each in of(first, second, dead) if each.code == "duplicate-claim"]
    assert [each.service for each in found] == ["c/dead", "a/one"]
    assert all("b/two gets the packets" in each.message for each in found)
    assert "198.51.100.7:80/TCP is claimed by b/two (line 4) and a/one (line 9)" in found[1].message


def test_health_checks_and_other_protocols_are_no_clash() -> None:
    check = Frontend(FrontendKind.HEALTH_CHECK, "", 30000, line=1)
    assert of(service_port("a/one", frontends=(check,)), service_port("b/two", frontends=(check,))) == []


@pytest.mark.parametrize(("clients", "shown"), [(None, "100 clients"), (5000, "5000 clients")])
def test_how_many_clients_affinity_remembers(clients: int | None, shown: str) -> None:
    endpoints = (Endpoint("10.244.0.1", 80, 1.0, line=12),)
    sticky = service_port(affinity_seconds=10800, cluster=endpoints)
    (each,) = of(sticky, facts=HostFacts(recent_clients=clients))
    assert (each.code, each.severity, each.line) == ("affinity-cap", Severity.NOTE, 12)
    assert shown in each.message
    assert of(service_port(affinity_seconds=10800, cluster=endpoints, relayed=True)) == []


# --- settings -------------------------------------------------------------------------------------------------

INVALID = "-A KUBE-FORWARD -m conntrack --ctstate INVALID -j DROP"


def test_dropping_invalid_packets_is_a_note() -> None:
    (each,) = said(table("nat", *NAT, *WEB) + table("filter", *FILTER, f"[7:0] {INVALID}"))
    assert (each.code, each.severity) == ("invalid-drop", Severity.NOTE)
    assert "(7 so far)" in each.message


@pytest.mark.parametrize(("liberal", "codes"), [(None, []), (True, []), (False, ["invalid-not-dropped"])])
def test_not_dropping_them_matters_where_conntrack_is_strict(liberal: bool | None, codes: list[str]) -> None:
    assert [each.code for each in said(HEALTHY, HostFacts(be_liberal=liberal))] == codes


TAIL = "-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS"
GUARD = "-A KUBE-FIREWALL ! -s 127.0.0.0/8 -d 127.0.0.0/8 -m conntrack ! --ctstate RELATED,ESTABLISHED,DNAT -j DROP"
GUARDED = ("-A INPUT -j KUBE-FIREWALL", GUARD)
ON, OFF = HostFacts(route_localnet=frozenset({"all"})), HostFacts(route_localnet=frozenset())


@pytest.mark.parametrize(
    ("guard", "facts", "codes"),
    [
        ((), UNKNOWN, ["localnet-guard-missing"]),
        ((), ON, ["localnet-guard-missing"]),
        ((), OFF, []),
        (GUARDED, UNKNOWN, []),
        (GUARDED, ON, ["route-localnet"]),
    ],
)
def test_loopback_is_guarded_where_node_ports_answer_on_it(
    guard: tuple[str, ...], facts: HostFacts, codes: list[str]
) -> None:
    text = table("nat", *NAT, *WEB, TAIL) + table("filter", *FILTER, *guard)
    assert [each.code for each in said(text, facts)] == codes


def test_a_guard_in_the_other_variant_guards() -> None:
    nft = dump_of(table("nat", *NAT, *WEB, TAIL) + table("filter", *FILTER), variant="nft")
    legacy = dump_of(table("filter", *GUARDED), variant="legacy")
    codes = [each.code for each in warn([survey(nft), survey(legacy)], NOTHING, UNKNOWN)]
    assert "localnet-guard-missing" not in codes


@pytest.mark.parametrize(("address", "codes"), [("127.0.0.1", ["localnet-guard-missing"]), ("192.0.2.7", [])])
def test_node_ports_may_answer_on_listed_addresses_alone(address: str, codes: list[str]) -> None:
    tail = TAIL.replace("-m addrtype --dst-type LOCAL", f"-d {address}/32")
    assert [each.code for each in said(table("nat", *NAT, *WEB, tail) + table("filter", *FILTER))] == codes


def test_a_setting_that_nothing_needs_is_told() -> None:
    tail = TAIL.replace("-m addrtype", "! -d 127.0.0.0/8 -m addrtype")
    (each,) = said(table("nat", *NAT, *WEB, tail) + table("filter", *FILTER), ON)
    assert each.code == "route-localnet"
    assert "which nothing in these rules needs; no rule keeps neighbours" in each.message
