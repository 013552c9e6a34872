"""Which Services are in a dump: what kube-proxy of many versions wrote, and whatever kproxy can write.

Walks over single chains are test_pools.py's, names from objects test_objects.py's.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from kproxy.backend.iptables import names
from kproxy.backend.iptables.compile import compile_plan
from kproxy.backend.iptables.dialect import Abilities
from kproxy.backend.iptables.service import forward_of
from kproxy.cli.plan import render
from kproxy.config import Config, ProxyMode
from kproxy.explain.answer import Fate, FrontendKind, ServicePort
from kproxy.explain.read.dump import Dump, dumps_of
from kproxy.explain.read.objects import NOTHING, Objects
from kproxy.explain.services.survey import Survey, relay_addresses, survey
from kproxy.model.enums import IPFamily, Protocol
from kproxy.plan.build import build_plan
from kproxy.plan.plan import Frontend, Plan, Pool, Reject, ServicePlan
from kproxy.plan.plan import FrontendKind as Kind
from kproxy.plan.steer import lines, steer
from tests.builders import service, slice_of, snapshot
from tests.unit.backend.iptables.examples import COUNTED, PODS, plan_of, service_sets, simple, targets
from tests.unit.backend.iptables.test_compile import RECORDED

DATA = Path(__file__).parent / "data"
FLAT = replace(PODS, tree_threshold=10**9, endpoint_tree_threshold=10**9)
TREES = replace(PODS, tree_threshold=0)
LARGE = replace(PODS, tree_threshold=0, endpoint_tree_threshold=16, large_cluster_endpoints=0)
LAYOUTS = (FLAT, TREES, LARGE)


def written(plan: Plan, config: Config = FLAT) -> str:
    return f"# {plan.family.value}\n" + "\n".join(render(compile_plan(plan, config, COUNTED))) + "\n"


def surveyed(text: str, objects: Objects = NOTHING) -> Survey:
    (dump,) = dumps_of(text.encode())
    return survey(dump, objects)


def recorded(name: str) -> str:
    texts = (RECORDED / f"{name}.iptables-{table}.txt" for table in ("nat", "filter"))
    return "".join(path.read_text(encoding="utf-8") for path in texts)


def one(found: Survey, name: str, protocol: Protocol = Protocol.TCP) -> ServicePort:
    (service_port,) = (each for each in found.services if each.name == name and each.protocol is protocol)
    return service_port


def places(each: ServicePort) -> list[tuple[str, str, int, str, str]]:
    return [(at.kind.value, at.address, at.port, at.fate.value, at.endpoints) for at in each.frontends]


def odds(endpoints: object) -> dict[str, float]:
    return {f"{each.ip}:{each.port}": each.probability for each in endpoints}  # type: ignore[attr-defined]


# --- what kube-proxy 1.36 was recorded to write ---------------------------------------------------------------


def test_external_policy_local_has_a_list_of_its_own() -> None:
    found = surveyed(recorded("etp-local-with-endpoints"))
    web = one(found, "default/etl")
    assert places(web) == [
        ("cluster IP", "10.96.3.1", 80, "delivered", "cluster"),
        ("load balancer IP", "203.0.113.31", 80, "delivered", "local"),
        ("node port", "", 30301, "delivered", "local"),
        ("health check node port", "", 30391, "delivered", "cluster"),
    ]
    assert odds(web.cluster) == {"10.244.1.10:8080": 0.5, "10.244.2.10:8080": 0.5}
    assert odds(web.local) == {"10.244.1.10:8080": 1.0}
    assert (web.internal_policy, web.external_policy, web.named_by) == ("Cluster", "Local", "comment")
    assert web.hash == "LAHWZBDITIGHFEYH"
    assert [each.name for each in found.services] == [
        "default/etl",
        "default/kubernetes:https",
        "hx-system/hx-sentinel",
    ]
    assert found.owners["nat", "KUBE-EXT-LAHWZBDITIGHFEYH"] == (0,)
    assert found.owners["nat", "KUBE-SEP-MLKVNIG37ZL4O4JQ"] == (0,)
    assert ("nat", "KUBE-SERVICES") not in found.owners


def test_lines_are_those_of_the_dump() -> None:
    text = recorded("etp-local-with-endpoints")
    web = one(surveyed(text), "default/etl")
    at = text.split("\n")
    assert "--dport 30301" in at[web.frontends[2].line - 1]
    assert "127.0.0.0/8" not in at[web.frontends[2].line - 1]
    assert at[web.cluster[1].line - 1].endswith("--to-destination 10.244.2.10:8080")


def test_internal_policy_local_without_endpoints_here_is_dropped_for_the_cluster_ip_alone() -> None:
    found = surveyed(recorded("itp-local"))
    served, dropped = one(found, "default/itl"), one(found, "default/itn")
    assert (served.internal_policy, served.external_policy) == ("Local", "Cluster")
    assert odds(served.local) == {"10.244.1.10:8080": 0.5, "10.244.1.11:8080": 0.5}
    assert len(served.cluster) == 3
    assert places(dropped) == [
        ("cluster IP", "10.96.3.4", 80, "dropped", "local"),
        ("node port", "", 30304, "delivered", "cluster"),
    ]
    assert dropped.frontends[0].why == "has no local endpoints"
    assert (dropped.internal_policy, dropped.external_policy) == ("Local", "Cluster")


def test_who_has_no_endpoints_is_known_by_what_refuses_it() -> None:
    found = surveyed(recorded("no-endpoints"))
    empty = one(found, "default/empty:u", Protocol.UDP)
    assert {at.fate for at in empty.frontends} == {Fate.REFUSED}
    assert {at.why for at in empty.frontends} == {"has no endpoints"}
    assert [at.address for at in empty.frontends] == ["10.96.3.7", "198.51.100.37", "203.0.113.37", ""]
    assert (empty.hash, empty.endpoints, empty.internal_policy) == ("", (), "")


def test_objects_tell_a_refused_load_balancers_address_from_an_external_one() -> None:
    known = service("empty", "10.96.3.7", load_balancer_vips=("203.0.113.37",), external_ips=("198.51.100.37",))
    found = surveyed(recorded("no-endpoints"), Objects(services={known.key: known}))
    kinds = {at.address: at.kind for at in one(found, "default/empty:t").frontends}
    assert kinds["203.0.113.37"] is FrontendKind.LOAD_BALANCER_IP
    assert kinds["198.51.100.37"] is FrontendKind.EXTERNAL_IP


def test_source_ranges_affinity_sctp_and_addresses_of_node_ports() -> None:
    ranged = one(surveyed(recorded("lb-source-ranges")), "default/lbr")
    assert ranged.source_ranges == ("192.168.100.0/24", "10.244.0.0/16", "203.0.113.12/32")
    assert ranged.frontends[1].chain == f"KUBE-FW-{ranged.hash}"
    assert ranged.frontends[1].fate is Fate.DELIVERED
    assert one(surveyed(recorded("affinity-client-ip")), "default/aff").affinity_seconds == 10800
    assert odds(one(surveyed(recorded("sctp-clusterip")), "default/sc", Protocol.SCTP).cluster) == {
        "10.244.1.10:9000": 0.5,
        "10.244.2.10:9000": 0.5,
    }
    addressed = one(surveyed(recorded("nodeport-addresses-cidr")), "default/npa")
    assert places(addressed)[1] == ("node port", "192.168.101.11", 30206, "delivered", "cluster")


def test_ipv6() -> None:
    found = surveyed((RECORDED / "dual-stack-service.ip6tables-nat.txt").read_text(encoding="utf-8"))
    dual = one(found, "default/dual:t")
    assert dual.family is IPFamily.IPV6
    assert odds(dual.cluster) == {"fd00:10:244:1::10:8080": 0.5, "fd00:10:244:2::10:8080": 0.5}
    assert dual.frontends[0].address == "fd00:10:96::105"


# --- older kube-proxies ---------------------------------------------------------------------------------------


def test_kube_proxy_1_18() -> None:
    found = surveyed((DATA / "kube-proxy-1.18.txt").read_text(encoding="utf-8"))
    web, dns = one(found, "shop/web:http"), one(found, "kube-system/kube-dns:dns", Protocol.UDP)
    assert places(web) == [
        ("cluster IP", "10.96.7.1", 80, "delivered", "cluster"),
        ("external IP", "198.51.100.7", 80, "delivered", "cluster"),
        ("load balancer IP", "203.0.113.7", 80, "delivered", "local"),
        ("node port", "", 30080, "delivered", "local"),
    ]
    assert odds(web.cluster) == pytest.approx({"10.244.1.7:8080": 0.5, "10.244.2.7:8080": 0.5})
    assert odds(web.local) == {"10.244.1.7:8080": 1.0}
    assert (web.internal_policy, web.source_ranges) == ("Cluster", ("192.0.2.0/24",))
    assert places(dns) == [("cluster IP", "10.96.0.10", 53, "delivered", "cluster")]
    assert (dns.cluster[0].packets, dns.cluster[1].packets) == (75, 25)
    assert (dns.cluster[0].observed, dns.cluster[1].observed) == (0.75, 0.25)
    assert dns.frontends[0].packets == 100
    assert dns.affinity_seconds == 10800
    old = one(found, "shop/old")
    assert old.hash == names.digest("shop/old:tcp")  # a colon stood behind every name
    assert places(old)[1] == ("load balancer IP", "203.0.113.8", 81, "dropped", "local")
    assert old.frontends[1].why == "has no local endpoints"
    assert found.owners["nat", f"KUBE-XLB-{web.hash}"] == (found.services.index(web),)


def test_chains_of_unprintable_rules_are_read_from_what_is_left() -> None:
    text = recorded("etp-local-with-endpoints")
    broken = re.sub(r"DNAT --to-destination \S+", "DNAT [unsupported revision]", text)
    whole, found = one(surveyed(text), "default/etl"), one(surveyed(broken), "default/etl")
    assert odds(found.cluster) == odds(whole.cluster)
    silent = re.sub(r' -m comment --comment "[^"]*->[^"]*"', "", broken)
    assert odds(one(surveyed(silent), "default/etl").cluster) == {"10.244.1.10:0": 0.5, "10.244.2.10:0": 0.5}
    key = plan_key("default", "etl")
    slices = slice_of("etl", "10.244.1.10", "10.244.2.10")
    objects = Objects(slices={key.service: (slices,)}, nodes={}, pods={}, hashes={})
    assert odds(one(surveyed(silent, objects), "default/etl").cluster) == odds(whole.cluster)


def plan_key(namespace: str, name: str) -> names.ServicePortKey:
    return names.ServicePortKey(namespace, name, "", Protocol.TCP)


def test_what_is_counted_apart_is_counted_together() -> None:
    rules = [
        f'[{packets}:1] -A KUBE-NODEPORTS {where}-p tcp -m comment --comment "a/b" -m tcp --dport 30000 -j KUBE-EXT-A'
        for packets, where in ((3, "-d 127.0.0.0/8 "), (4, ""), (5, "-s 10.0.0.0/8 "))
    ]
    rules.append("[9:1] -A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS")
    heads = [f":{name} - [0:0]" for name in ("KUBE-SERVICES", "KUBE-NODEPORTS")]
    (each,) = surveyed("\n".join(["*nat", *heads, *rules, "COMMIT", ""])).services
    assert [(at.address, at.packets, at.line) for at in each.frontends] == [("", 12, 5)]


# --- dumps that are not whole ---------------------------------------------------------------------------------


def test_what_leads_nowhere_is_left_untouched() -> None:
    text = (
        "*nat\n:KUBE-SERVICES - [0:0]\n"
        '-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m comment --comment "a/b cluster IP" -m tcp --dport 80 '
        "-j KUBE-SVC-AAAAAAAAAAAAAAAA\nCOMMIT\n"
    )
    (each,) = surveyed(text).services
    assert places(each) == [("cluster IP", "10.96.0.1", 80, "untouched", "cluster")]
    assert each.endpoints == ()


def test_a_refusal_that_nothing_names_is_called_by_its_address() -> None:
    text = (
        "*filter\n:KUBE-SERVICES - [0:0]\n"
        "-A KUBE-SERVICES -d 10.96.0.1/32 -p tcp -m tcp --dport 80 -j REJECT --reject-with icmp-port-unreachable\n"
        "COMMIT\n"
    )
    assert [each.name for each in surveyed(text).services] == ["port 80 of 10.96.0.1"]


def test_an_empty_dump_has_no_services() -> None:
    assert surveyed("*nat\n:PREROUTING ACCEPT [0:0]\nCOMMIT\n").services == ()


def test_chains_that_lead_to_themselves_and_each_other_end() -> None:
    chains = [f"KUBE-SVC-{letter * 16}" for letter in "ABCDEFGHIJKLMNOPQRSTUVWXYZ"]
    rules = [f"-A KUBE-SERVICES -d 10.0.0.1/32 -p tcp -m tcp --dport {n + 1} -j {c}" for n, c in enumerate(chains)]
    rules += [f"-A {one_} -j {other}" for one_ in chains for other in chains]
    rules += [
        "-A KUBE-SERVICES -j KUBE-SERVICES",
        "-A KUBE-SERVICES -j KUBE-NODEPORTS",
        "-A KUBE-NODEPORTS -j KUBE-SERVICES",
    ]
    heads = [f":{name} - [0:0]" for name in ("KUBE-SERVICES", "KUBE-NODEPORTS", *chains)]
    found = surveyed("\n".join(["*nat", *heads, *rules, "COMMIT", ""]))
    assert {at.fate for each in found.services for at in each.frontends} == {Fate.UNTOUCHED}


def test_an_address_for_every_node_port_is_not_written_out_beyond_measure() -> None:
    rules = [f"-A KUBE-SERVICES -d 192.168.{n // 250}.{n % 250}/32 -j KUBE-NODEPORTS" for n in range(1000)]
    rules.append("-A KUBE-NODEPORTS -p tcp -m tcp --dport 30000 -j KUBE-EXT-AAAAAAAAAAAAAAAA")
    heads = [f":{name} - [0:0]" for name in ("KUBE-SERVICES", "KUBE-NODEPORTS", "KUBE-EXT-AAAAAAAAAAAAAAAA")]
    (each,) = surveyed("\n".join(["*nat", *heads, *rules, "COMMIT", ""])).services
    assert [at.address for at in each.frontends] == [""]
    assert each.name == "chain AAAAAAAAAAAAAAAA"


# --- laws: whatever a plan holds, its rules tell --------------------------------------------------------------


def meant(each: ServicePlan) -> set[tuple[str, str, int, str]]:
    found = {(_kind(at), at.ip, at.port, _fate(at, each)) for at in each.frontends}
    if each.health_check_port:
        found.add(("health check node port", "", each.health_check_port, "delivered"))
    return found


def _kind(at: Frontend) -> str:
    if at.kind is Kind.LOAD_BALANCER_VIP and forward_of(at) is not None:
        return "load balancer IP"
    return "external IP" if at.kind is Kind.LOAD_BALANCER_VIP else at.kind.value


def _fate(at: Frontend, each: ServicePlan) -> str:
    forward = forward_of(at)
    if forward is None:
        return "refused" if isinstance(at.action, Reject) else "dropped"
    pool = forward.routes[-1].pool
    if pool is None:
        return "dropped"
    return "delivered" if each.targets(pool) else "untouched"


def meant_odds(each: ServicePlan, pool: Pool) -> dict[str, float]:
    """Of a list, if a frontend leads there."""
    forwards = [forward for at in each.frontends if (forward := forward_of(at))]
    members = each.targets(pool)
    if not any(route.pool is pool for forward in forwards for route in forward.routes):
        return {}
    return {f"{target.ip}:{target.port}": 1 / len(members) for target in members}


@settings(max_examples=60)
@given(st.data(), st.sampled_from(LAYOUTS), st.sampled_from(IPFamily))
def test_a_survey_of_its_rules_says_what_a_plan_means(data: st.DataObject, config: Config, family: IPFamily) -> None:
    plan = plan_of(*data.draw(service_sets(family)), family=family)
    found = surveyed(written(plan, config))
    expected = {(str(key), key.protocol): each for key, each in plan.services.items()}
    assert {(each.name, each.protocol) for each in found.services} == expected.keys()
    for each in found.services:
        said = expected[each.name, each.protocol]
        assert {(at.kind.value, at.address, at.port, at.fate.value) for at in each.frontends} == meant(said)
        assert len(each.frontends) == len(meant(said))
        assert odds(each.cluster) == pytest.approx(meant_odds(said, Pool.CLUSTER))
        assert odds(each.local) == pytest.approx(meant_odds(said, Pool.LOCAL))
        if each.endpoints:
            assert each.affinity_seconds == said.affinity_seconds
            assert each.hash == names.service_hash(said.key)
    assert all(0 <= place < len(found.services) for whose in found.owners.values() for place in whose)


@settings(max_examples=30)
@given(st.data(), st.sampled_from(LAYOUTS), st.sampled_from(IPFamily))
def test_without_comments_objects_give_the_names(data: st.DataObject, config: Config, family: IPFamily) -> None:
    plan = plan_of(*data.draw(service_sets(family)), family=family)
    text = written(plan, config)
    silent = re.sub(r' -m comment --comment ("[^"]*"|\S+)', "", text)
    objects = Objects(
        hashes={names.service_hash(key): key for key in plan.services},
        frontends={
            (at.ip, at.port, key.protocol.value): key for key, each in plan.services.items() for at in each.frontends
        },
    )
    told, found = surveyed(text), surveyed(silent, objects)
    checks = FrontendKind.HEALTH_CHECK  # whose port is in no frontend of the plan

    def essence(each: ServicePort) -> object:
        where = {(at.address, at.port, at.fate) for at in each.frontends if at.kind is not checks}
        return each.name, each.protocol, each.hash, where, each.cluster, each.local, each.source_ranges

    named = [each for each in found.services if each.service]
    assert list(map(essence, named)) == list(map(essence, told.services))
    assert all(at.kind is checks for each in found.services if not each.service for at in each.frontends)
    assert {each.named_by for each in named} <= {"objects"}


@pytest.mark.parametrize("remote", [True, False])
@pytest.mark.parametrize("count", [17, 300, 1200])
def test_trees_of_endpoints_give_even_odds(count: int, *, remote: bool) -> None:
    plan = plan_of(simple(1, targets(count, remote=remote)))
    flat, tree = (
        surveyed(written(plan, config)).services[0] for config in (FLAT, replace(TREES, large_cluster_endpoints=0))
    )
    assert {not each.chain for each in tree.cluster} == {remote}
    assert odds(tree.cluster) == pytest.approx(dict.fromkeys(map(str, targets(count)), 1 / count), rel=1e-4)
    assert [(each.ip, each.port) for each in tree.cluster] == [(each.ip, each.port) for each in flat.cluster]


def test_the_relay_is_told_from_endpoints() -> None:
    config = Config(hostname="n1", proxy_mode=ProxyMode.USERSPACE)
    plan = build_plan(snapshot(service("web"), slice_of("web", "10.0.0.1")), config, IPFamily.IPV4)
    (line,) = (line for line, _ in lines(plan))
    led = steer(plan, "169.254.73.80", {line: 40001}).plan
    text = "# IPv4\n" + "\n".join(render(compile_plan(led, config, Abilities()))) + "\n"
    dump: Dump
    (dump,) = dumps_of(text.encode())
    (web,) = survey(dump).services
    assert web.relayed
    assert odds(web.cluster) == {"169.254.73.80:40001": 1.0}
    assert relay_addresses(dump) == {"169.254.73.80"}
