"""What is said of a packet that no Service takes."""

from __future__ import annotations

import pytest
from msgspec.structs import replace

from kproxy.explain.answer import Fate, Nearest
from kproxy.explain.packets.packet import answer, read_question
from kproxy.explain.read.facts import HostFacts
from kproxy.explain.read.objects import NOTHING, Backing
from kproxy.explain.services.survey import Survey
from kproxy.model.enums import IPFamily, Protocol
from kproxy.model.keys import ServicePortKey
from kproxy.model.node import Node
from tests.unit.explain.dumps import survey_of, table
from tests.unit.explain.test_packet import recorded

NODE = "192.168.0.2"


def service(name: str, place: str, chain: str, *endpoints: str, protocol: str = "tcp") -> list[str]:
    """``place``: ADDRESS:PORT, or :PORT for a node port."""
    ip, _, port = place.rpartition(":")
    where = f"-d {ip}/{128 if ':' in ip else 32} " if ip else ""
    kind = " cluster IP" if ip else ""
    comment = f'-m comment --comment "{name}{kind}"'
    entrance = "KUBE-SERVICES" if ip else "KUBE-NODEPORTS"
    rules = [f"-A {entrance} {where}-p {protocol} {comment} -m {protocol} --dport {port} -j {chain}"]
    rules += [f"-A {chain} -p {protocol} -m {protocol} -j DNAT --to-destination {endpoint}" for endpoint in endpoints]
    return rules


JUMPS = ("-A PREROUTING -j KUBE-SERVICES", "-A OUTPUT -j KUBE-SERVICES")
TO_NODE_PORTS = "-A KUBE-SERVICES -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS"
DNS = (
    *service("kube-system/kube-dns:dns", "10.96.0.10:53", "KUBE-SVC-DNS", "10.244.1.2:5353", protocol="udp"),
    *service("kube-system/kube-dns:dns-tcp", "10.96.0.10:53", "KUBE-SVC-DNSTCP", "10.244.1.2:5353"),
    *service("default/time", "10.96.0.20:123", "KUBE-SVC-TIME", "10.244.1.3:123", protocol="udp"),
    *service("default/web:http", "10.96.3.1:80", "KUBE-SVC-WEB", "10.244.1.7:8080"),
)
PORTS = (
    *service("default/web:http", ":30080", "KUBE-SVC-WEB"),
    *service("default/time", ":30123", "KUBE-SVC-TIME", protocol="udp"),
)
HEALTH = (
    '-A KUBE-NODEPORTS -p tcp -m comment --comment "default/web:http health check node port" -m tcp --dport 30999 '
    "-j ACCEPT"
)
FILTER = table("filter", "-A INPUT -j KUBE-NODEPORTS", HEALTH)


def cluster(*more: str, jumps: tuple[str, ...] = JUMPS, entry: tuple[str, ...] = (TO_NODE_PORTS,)) -> Survey:
    return survey_of(table("nat", *jumps, *DNS, *more, *entry, *PORTS) + FILTER)


def nearest(survey: Survey, to: str, source: str = "10.244.9.9", objects: object = None) -> Nearest:
    facts = HostFacts(addresses=frozenset({NODE}))
    said = answer([survey], read_question(source, to), facts, (), objects)  # type: ignore[arg-type]
    assert said.fate is Fate.UNTOUCHED
    assert said.nearest is not None
    return said.nearest


@pytest.mark.parametrize(
    ("to", "message", "predicate"),
    [
        (
            "10.96.0.10:54/udp",
            "10.96.0.10 is kube-system/kube-dns; 54 is not one of its ports: 53/UDP, 53/TCP",
            "--dport 53",
        ),
        ("10.96.0.20:123", "10.96.0.20:123 is answered for UDP, not for TCP", "-p udp"),
        ("10.96.0.10:53/sctp", "10.96.0.10:53 is answered for TCP, UDP, not for SCTP", "-p udp"),
        (f"{NODE}:30081", "30081 is no node port; the nearest is 30080/TCP of default/web:http", "--dport 30080"),
        (f"{NODE}:30080/udp", "node port 30080 of default/web:http is answered for TCP, not for UDP", "-p tcp"),
        (
            "192.168.0.3:30080",
            (
                "192.168.0.3 was taken for an address outside of this node; "
                "if it is one of the node's, add --local 192.168.0.3"
            ),
            "--dst-type LOCAL",
        ),
        (
            f"{NODE}:30999",
            "30999 is the health check node port of default/web: the service proxy itself answers there",
            "",
        ),
        (
            "10.244.1.7:8080",
            "10.244.1.7:8080 is an endpoint of default/web:http, dialled directly; no Service is in the way",
            "",
        ),
        (
            "10.244.1.7:9090",
            (
                "10.244.1.7 is an endpoint of default/web:http at 8080/TCP; 9090/TCP is dialled directly, "
                "no Service is in the way"
            ),
            "",
        ),
        (
            "10.96.7.7:80",
            "10.96.7.7 is no address of any Service in this dump; cluster IPs here are within 10.96.0.0–10.96.3.255",  # noqa: RUF001 -- from-to
            "",
        ),
        (
            "192.168.0.3:30081",
            "192.168.0.3 is no address of any Service in this dump; cluster IPs here are within 10.96.0.0–10.96.3.255",  # noqa: RUF001 -- from-to
            "",
        ),
    ],
)
def test_the_nearest_is_told_and_what_did_not_fit(to: str, message: str, predicate: str) -> None:
    found = nearest(cluster(), to)
    assert (found.message, found.predicate) == (message, predicate)
    if predicate:
        assert found.line is not None
        assert predicate in found.line.text
    if "endpoint" in message:
        assert found.line is not None
        assert "10.244.1.7:8080" in found.line.text


def test_node_ports_may_not_be_answered_on_loopback() -> None:
    closed = cluster(entry=("-A KUBE-SERVICES ! -d 127.0.0.0/8 -m addrtype --dst-type LOCAL -j KUBE-NODEPORTS",))
    found = nearest(closed, "127.0.0.1:30080", "host")
    assert found.message == "node port 30080/TCP of default/web:http is not answered at addresses within 127.0.0.0/8"
    assert found.predicate == "! -d 127.0.0.0/8"


def test_node_ports_may_be_answered_at_some_addresses_alone() -> None:
    some = cluster(entry=("-A KUBE-SERVICES -d 192.168.1.2/32 -j KUBE-NODEPORTS",))
    for to in (NODE, "192.168.0.3", "127.0.0.1"):
        found = nearest(some, f"{to}:30080", "host")
        assert found.message == (
            f"node port 30080/TCP of default/web:http is answered at 192.168.1.2 (nodePortAddresses), not at {to}"
        )
        assert found.predicate == "-d 192.168.1.2"
    assert nearest(some, "192.168.1.2:30081").message.startswith("30081 is no node port; the nearest is 30080/TCP")


def test_nodes_are_known_by_their_objects() -> None:
    objects = replace(NOTHING, nodes={"n7": Node(name="n7", addresses=("192.168.0.7",))})
    found = nearest(cluster(), "192.168.0.7:30080", objects=objects)
    assert found.message == "192.168.0.7 is an address of node n7; if these are its rules, add --local 192.168.0.7"


def test_objects_know_what_rules_do_not() -> None:
    objects = replace(
        NOTHING,
        frontends={("10.96.9.9", 80, "TCP"): ServicePortKey("default", "new", "http", Protocol.TCP)},
        pods={"10.244.5.5": Backing("default/lone", "n7"), "10.244.5.6": Backing()},
    )
    unknown = "10.96.9.9:80 is default/new:http of the given objects, but no rule of this dump is about it"
    assert nearest(cluster(), "10.96.9.9:80", objects=objects).message == unknown
    found = nearest(cluster(), "10.244.5.5:80", objects=objects)
    assert found.message == ("10.244.5.5 is pod default/lone on node n7, dialled directly; no Service is in the way")
    for to in ("10.96.9.9:81", "10.96.9.9:80/udp", "10.244.5.6:80"):
        assert "is no address of any Service" in nearest(cluster(), to, objects=objects).message


ONE = survey_of(table("nat", *JUMPS, *service("a/b", "10.96.3.1:80", "KUBE-SVC-B", "10.1.1.1:1")))
HOLLOW = service("default/hollow", "10.96.9.9:80", "KUBE-SVC-HOLLOW")
NOBODY = "is no address of any Service in this dump"


@pytest.mark.parametrize(
    ("survey", "to", "message"),
    [
        (cluster(jumps=JUMPS[1:]), "10.96.3.1:80", "no rule of nat PREROUTING leads to KUBE-SERVICES, where {}"),
        (
            cluster(jumps=("-A PREROUTING -d 10.96.3.1/32 -j ACCEPT", *JUMPS)),
            "10.96.3.1:80",
            "the rule at line 10, in nat PREROUTING, takes the packet before it comes to KUBE-SERVICES, where {}",
        ),
        (cluster(*HOLLOW), "10.96.9.9:80", "the rule of default/hollow gives the packet back: {}"),
        (survey_of(FILTER), "10.96.3.1:80", "the nat table is not in this dump; {}"),
        (survey_of(table("nat", *JUMPS)), "10.96.3.1:80", "no Service is in this dump"),
        (ONE, "10.96.3.2:80", f"10.96.3.2 {NOBODY}; the one cluster IP here is 10.96.3.1"),
        (ONE, f"{NODE}:80", f"{NODE} is an address of this node, and no Service has a node port here"),
    ],
)
def test_rules_may_be_there_and_not_be_met(survey: Survey, to: str, message: str) -> None:
    said = nearest(survey, to).message
    assert said.startswith(message.removesuffix("{}"))
    assert (said == message) == (not message.endswith("{}"))


def test_ranges_hold_also_where_the_rule_that_drops_is_missing() -> None:
    (whole,) = recorded("lb-source-ranges")
    text = "\n".join(line for line in whole.dump.lines if not line.startswith("-A KUBE-PROXY-FIREWALL"))
    found = nearest(survey_of(text), "203.0.113.12:80", "192.0.2.9")
    assert found.message == (
        "192.0.2.9 is in none of the source ranges of default/lbr: 192.168.100.0/24, 10.244.0.0/16, 203.0.113.12/32"
    )


def test_what_the_node_sends_to_a_service_without_endpoints_may_not_be_refused() -> None:
    (survey,) = recorded("no-endpoints")
    found = nearest(survey, "203.0.113.37:80", "host")
    assert found.message == (
        "default/empty:t has no endpoints, "
        "but no rule of filter OUTPUT leads to KUBE-EXTERNAL-SERVICES, where it is refused"
    )


def test_a_rule_may_ask_for_more_than_the_place() -> None:
    (rule,) = service("a/b", "10.96.3.1:80", "KUBE-SVC-B")
    picky = table("nat", *JUMPS, rule.replace("-A KUBE-SERVICES", "-A KUBE-SERVICES -s 10.1.0.0/16"))
    found = nearest(survey_of(picky), "10.96.3.1:80")
    assert found.message == "the packet does not fit the rule of a/b"
    assert found.predicate == "-s 10.1.0.0/16"


def test_many_ports_are_counted() -> None:
    rules = [
        rule for n in range(1, 20) for rule in service(f"a/b:p{n}", f"10.96.3.1:{n}", f"KUBE-SVC-{n}", "10.1.1.1:1")
    ]
    found = nearest(survey_of(table("nat", *JUMPS, *rules)), "10.96.3.1:99")
    assert found.message.endswith("11/TCP, 12/TCP and 7 more")
    assert found.predicate == "--dport 19"


def test_ipv6_is_told_alike() -> None:
    rules = (*JUMPS, *service("a/b", "fd00::1:80", "KUBE-SVC-B", "[fd01::1]:1"))
    survey = survey_of(table("nat", *rules), IPFamily.IPV6)
    assert nearest(survey, "[fd00::1]:80/udp", "fd02::2").message == "[fd00::1]:80 is answered for TCP, not for UDP"
    assert nearest(survey, "[fd00::2]:80", "fd02::2").message.endswith("the one cluster IP here is fd00::1")
    assert "[fd01::1]:1 is an endpoint of a/b" in nearest(survey, "[fd01::1]:1", "fd02::2").message
