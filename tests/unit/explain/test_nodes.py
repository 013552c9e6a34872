"""What operators ask on nodes where network plugins, container runtimes and firewalls write rules, too.

Where rules ask what nobody told, each way has its condition, no two of its conditions contradict each other, and the
answer says what to type on the node to settle it.
"""

from __future__ import annotations

import pytest

from kproxy.explain.answer import Fate, PacketAnswer, Question, Way
from kproxy.explain.packets.condition import asks
from kproxy.explain.packets.packet import answer, read_question
from kproxy.explain.read.facts import HostFacts
from kproxy.explain.show.text import render
from kproxy.model.enums import Protocol
from tests.unit.explain import nodes
from tests.unit.explain.dumps import survey_of

NODE = "192.168.100.11"
POD, CLIENT = "10.244.1.50", "198.51.100.7"
SERVICE, NODE_PORT = "10.96.0.20:80", f"{NODE}:30080"
HERE, THERE = "10.244.1.7:8080", "10.244.2.9:8080"
EVERY = ("CALICO", "FLANNEL", "CILIUM", "AWS", "ROUTER", "DOCKER", "UFW", "FIREWALLD")


def ask(node: str, source: str, to: str, interface: str = "") -> PacketAnswer:
    facts = HostFacts(addresses=frozenset({NODE}))
    question = read_question(source, to, interface, local=facts.addresses)
    return answer([survey_of(getattr(nodes, node))], question, facts)


@pytest.mark.parametrize("node", EVERY)
@pytest.mark.parametrize("asked", [(POD, SERVICE), (CLIENT, NODE_PORT), (NODE, SERVICE), (POD, NODE_PORT)])
def test_no_way_comes_by_two_interfaces_or_depends_on_both_of_two_opposites(node: str, asked: tuple[str, str]) -> None:
    for way in ask(node, *asked).ways:
        for of_one in ("it comes in by", "it does not come in", "it leaves by", "it does not leave"):
            assert sum(text.startswith(of_one) for text in way.depends) <= 1
        assert not {f"its {side} is in" for side in ("source", "destination")} & {f"not {text}" for text in way.depends}


@pytest.mark.parametrize(
    ("node", "fates"),
    [
        ("FLANNEL", {Fate.DELIVERED}),
        ("CILIUM", {Fate.DELIVERED}),
        ("AWS", {Fate.DELIVERED}),
        ("FIREWALLD", {Fate.DELIVERED}),
        ("UFW", {Fate.DROPPED}),  # its policy of FORWARD, until somebody routes
        ("DOCKER", {Fate.DELIVERED, Fate.DROPPED}),
        ("ROUTER", {Fate.DELIVERED, Fate.REFUSED}),
        ("CALICO", {Fate.DELIVERED, Fate.DROPPED}),
    ],
)
def test_a_pod_asks_for_a_service(node: str, fates: set[Fate]) -> None:
    said = ask(node, POD, SERVICE)
    assert {way.fate for way in said.ways} == fates
    assert said.service == "shop/web"
    assert said.ways[0].fate is min(fates, key=list(Fate).index)  # what is delivered is told first
    assert [each.probability for each in said.endpoints] == ([] if fates == {Fate.DROPPED} else [0.5, 0.5])


def test_three_rules_about_one_bridge_are_one_condition() -> None:
    said = ask("DOCKER", POD, SERVICE)
    assert {(way.fate, way.endpoint, way.depends) for way in said.ways} == {
        (Fate.DELIVERED, HERE, ("it comes in by interface docker0",)),
        (Fate.DELIVERED, THERE, ("it comes in by interface docker0",)),
        (Fate.DROPPED, "", ("it does not come in by interface docker0",)),
    }
    assert said.asks == (
        f"by which interface does it come in? `ip route get {POD}` on the node names the one that leads back; add --in",
    )
    told = ask("DOCKER", POD, SERVICE, "cni0")
    assert {(way.fate, way.depends) for way in told.ways} == {(Fate.DROPPED, ())}
    assert told.asks == ()


def test_a_pod_whose_interface_calico_knows_is_dropped_by_its_policies_alone() -> None:
    said = ask("CALICO", POD, SERVICE, "cali77665544332")
    assert not any("come in by" in text or "comes in by an" in text for way in said.ways for text in way.depends)
    dropped = {
        (way.path[-1].chain, way.depends[1:]) for way in said.ways if way.fate is Fate.DROPPED and len(way.depends) > 1
    }
    assert dropped == {
        ("cali-to-wl-dispatch", ("it leaves by an interface cali+ other than cali1a2b3c4d5e6 or cali77665544332",)),
        (
            "cali-tw-cali1a2b3c4d5e6",
            ("it leaves by interface cali1a2b3c4d5e6", "its source is not in ipset cali40s:web"),
        ),
    }
    assert said.asks[:2] == (
        "by which interface does it leave? `ip route get 10.244.1.7` and `ip route get 10.244.2.9` on the node",
        f"is its source in ipset cali40s:web? `ipset test cali40s:web {POD}` on the node",
    )


def test_a_pod_whose_interface_nobody_told_is_asked_for_it_first() -> None:
    said = ask("CALICO", POD, SERVICE)
    assert said.asks[0].startswith("by which interface does it come in?")
    first, *_ = render(said, width=0, colour=False).splitlines()
    assert first == (
        f"It depends: a new flow from {POD} to {SERVICE}/tcp goes to an endpoint; or is dropped, the client waits in "
        "vain, for one of 4 reasons"
    )


def test_a_client_outside_comes_by_no_pods_interface_once_that_is_told() -> None:
    ways = ask("CALICO", CLIENT, NODE_PORT, "eth0").ways
    assert {text for way in ways for text in way.depends if "leave" not in text} == {
        "its source is in ipset cali40s:web",
        "its source is not in ipset cali40s:web",
    }


def test_a_set_that_two_rules_ask_is_asked_once() -> None:
    said = ask("ROUTER", POD, SERVICE)
    here = {(way.fate, way.depends) for way in said.ways if way.endpoint != THERE}
    asked = ("-m set --match-set KUBE-SRC-ABC src", "-m set --match-set KUBE-DST-DEF dst")
    assert here == {
        (Fate.DELIVERED, ("its source is in ipset KUBE-SRC-ABC", "its destination is in ipset KUBE-DST-DEF")),
        (Fate.REFUSED, (f"not all of: {'; '.join(asked)}",)),
    }
    assert said.asks[0] == f"is its source in ipset KUBE-SRC-ABC? `ipset test KUBE-SRC-ABC {POD}` on the node"


def test_where_all_is_known_nothing_is_asked() -> None:
    for node in ("FLANNEL", "AWS", "FIREWALLD", "UFW"):
        assert ask(node, POD, SERVICE).asks == ()


def test_what_to_ask_stands_below_the_verdict() -> None:
    text = render(ask("DOCKER", POD, SERVICE), width=100, colour=False)
    assert f"\n  ask      by which interface does it come in? `ip route get {POD}` on the node" in text


def test_what_to_type_is_quoted_for_the_shell() -> None:
    way = Way(1.0, Fate.DELIVERED, depends=("its source is in ipset a$(b)",))
    assert list(asks([way], Question(POD, 0, "10.96.0.10", 53, Protocol.UDP, "eth0"))) == [
        f"is its source in ipset a$(b)? `ipset test 'a$(b)' {POD}` on the node"
    ]
