"""The answer about one packet as text. Rules, tables and warnings are listing's."""

from __future__ import annotations

from msgspec.structs import replace

from kproxy.explain.answer import Fate, Line, Masquerade, PacketAnswer, Way
from kproxy.explain.show.text import render
from tests.unit.explain.answers import CLUSTER_IP, ONE, OTHER, PACKET, QUESTION, RULE, SOURCE

FLOW = "a new flow from 10.244.3.3:40000 by eth0 to 10.96.7.7:80/tcp with mark 0x200"
ENTRY = Line(20, "nat", "KUBE-SERVICES", "-A KUBE-SERVICES -d 10.96.7.7/32 -j KUBE-SVC-X")
OTHER_RULE = Line(33, "nat", "KUBE-SEP-B", "-A KUBE-SEP-B -j DNAT --to-destination 10.244.2.9:8080")
DELIVERED = PacketAnswer(
    question=QUESTION,
    fate=Fate.DELIVERED,
    service="shop/web:http",
    frontend=CLUSTER_IP,
    endpoints=(ONE, OTHER),
    ways=(
        Way(0.75, Fate.DELIVERED, "10.244.1.7:8080", SOURCE, path=(ENTRY, RULE)),
        Way(0.25, Fate.DELIVERED, "10.244.2.9:8080", SOURCE, path=(ENTRY, OTHER_RULE)),
    ),
)
UNTOUCHED = PacketAnswer(QUESTION, Fate.UNTOUCHED, ways=(Way(1.0, Fate.UNTOUCHED, path=(ENTRY,)),))


def show(answer: PacketAnswer, ways: int = 3) -> list[str]:
    return render(answer, width=0, colour=False, ways=ways).splitlines()


def test_the_answer_comes_first_and_the_path_second() -> None:
    assert show(DELIVERED) == [
        f"Delivered: {FLOW} goes to one of 2 endpoints of shop/web:http",
        "  service  shop/web:http, at its cluster IP 10.96.7.7:80/tcp (line 20)",
        "  source   replaced by the node's (SNAT): the source is outside of the pod range 10.244.0.0/16 (line 22)",
        "",
        "  ODDS  OBSERVED  ENDPOINT         POD           NODE      STATE  PACKETS  LINE",
        "   75%       70%  10.244.1.7:8080  shop/web-5f7  worker-a  ready       70    31",
        "   25%       30%  10.244.2.9:8080  shop/web-9x2  worker-b  ready       30    32",
        "",
        "75% delivered to 10.244.1.7:8080, its source replaced",
        "  20  nat KUBE-SERVICES              -d 10.96.7.7/32 -j KUBE-SVC-X",
        "  31  nat KUBE-SEP-QZ4MJSUJGUVIUKHD  -j DNAT --to-destination 10.244.1.7:8080  [70 packets]",
        "",
        "25% delivered to 10.244.2.9:8080, its source replaced; the rules above without line 31, with",
        "  33  nat KUBE-SEP-B  -j DNAT --to-destination 10.244.2.9:8080",
    ]


def test_one_endpoint_is_named_at_once() -> None:
    (first, *_) = show(replace(DELIVERED, ways=DELIVERED.ways[:1]))
    assert first.endswith("goes to endpoint 10.244.1.7:8080 of shop/web:http")


def test_a_known_flow_goes_where_it_goes_whoever_else_there_is() -> None:
    said = show(replace(DELIVERED, ways=DELIVERED.ways[:1], flow="conntrack knows the flow", established=True))
    known = FLOW.replace("a new flow", "a packet of a known flow")
    assert said[0] == f"Delivered: {known} goes to endpoint 10.244.1.7:8080 of shop/web:http"
    assert "  flow     conntrack knows the flow" in said


def test_a_refusal_says_why_once() -> None:
    answer = PacketAnswer(QUESTION, Fate.REFUSED, ways=(Way(1.0, Fate.REFUSED, why="shop/web has no endpoints"),))
    assert show(answer) == [
        f"Refused: {FLOW} is refused, the client is told so at once: shop/web has no endpoints",
        "",
        "100% refused",
    ]


def test_no_service_names_the_nearest_rule_and_what_failed() -> None:
    said = show(replace(UNTOUCHED, nearest=PACKET.nearest))
    assert said[0].startswith("Not a service packet: ")
    assert said[1:3] == [
        "  nearest  10.96.7.7 is shop/web (fails at --dport 80)",
        "           31  nat KUBE-SEP-QZ4MJSUJGUVIUKHD  -j DNAT --to-destination 10.244.1.7:8080  [70 packets]",
    ]
    assert not any("source" in each for each in said)


def test_a_packet_of_no_service_that_is_masqueraded_says_so() -> None:
    way = replace(UNTOUCHED.ways[0], masquerade=Masquerade(wanted=True))
    assert "  source   replaced by the node's (SNAT)" in show(replace(UNTOUCHED, ways=(way,)))


def test_odds_are_added_up_where_nothing_else_decides() -> None:
    ways = (replace(DELIVERED.ways[0], path=()), Way(0.25, Fate.DROPPED, why="shop/web has no local endpoints"))
    first, *_ = show(replace(DELIVERED, fate=Fate.DROPPED, ways=ways))
    assert first.startswith("It depends: a new flow from ")
    assert first.endswith(
        "goes to an endpoint in 75%; or is dropped, the client waits in vain in 25%: shop/web has no local endpoints"
    )


def test_odds_of_different_conditions_are_not_added_up() -> None:
    ways = (
        Way(1.0, Fate.DELIVERED, "10.244.1.7:8080", depends=("always", "ipset x holds 10.244.3.3")),
        Way(1.0, Fate.REFUSED, depends=("always", "ipset x does not hold 10.244.3.3")),
    )
    said = show(replace(DELIVERED, fate=Fate.REFUSED, ways=ways))
    assert said[0].endswith(
        "goes to an endpoint, provided ipset x holds 10.244.3.3; "
        "or is refused, the client is told so at once, provided ipset x does not hold 10.244.3.3"
    )
    assert "  provided always" in said
    assert "100% delivered to 10.244.1.7:8080, provided ipset x holds 10.244.3.3" in said
    assert "100% refused, provided ipset x does not hold 10.244.3.3" in said


def test_of_many_ways_a_few_are_told_rule_by_rule() -> None:
    answer = replace(DELIVERED, ways=tuple(replace(DELIVERED.ways[0], probability=0.02) for _ in range(50)))
    said = show(answer)
    assert len([each for each in said if each.startswith("2% delivered")]) == 3
    assert said[-1] == "… and 47 more ways; all of them: --all"
    assert len([each for each in show(answer, ways=0) if each.startswith("2% delivered")]) == 50
    assert "2% delivered to 10.244.1.7:8080, its source replaced; the rules above" in said


def test_a_process_on_the_node_and_a_service_by_name() -> None:
    question = replace(QUESTION, source="", source_port=0, interface="", mark=0, service="shop/web:80")
    (first, *_) = show(replace(DELIVERED, question=question))
    assert first.startswith("Delivered: a new flow from a process on the node to shop/web:80 (10.96.7.7:80/tcp) goes")


def test_warnings_stand_before_the_path() -> None:
    said = show(PACKET)
    assert said.index("warning: shop/web has no endpoints (line 21); look whether its pods are ready") < 10


def test_the_relay_is_told_from_an_endpoint() -> None:
    ways = (Way(1.0, Fate.DELIVERED, "169.254.73.80:32768"),)
    (first, *_) = show(replace(DELIVERED, ways=ways, relayed=True))
    assert first == (
        f"Delivered: {FLOW} goes to kproxy's relay at 169.254.73.80:32768, which chooses an endpoint of shop/web:http"
    )


def test_of_many_endpoints_a_terminal_shows_a_few() -> None:
    answer = replace(DELIVERED, endpoints=(ONE,) * 100)
    said = render(answer, width=120, colour=False, rows=40).splitlines()
    assert len([each for each in said if each.startswith("   75%")]) == 40
    assert "  … and 60 more endpoints; all of them: --all" in said
    assert len([each for each in show(answer) if each.startswith("   75%")]) == 100


def test_what_is_no_endpoint_of_the_service_is_not_called_one() -> None:
    gone = replace(OTHER, pod="", line=0)
    flow = replace(DELIVERED, ways=DELIVERED.ways[1:], endpoints=(gone,))
    assert show(flow)[0].endswith("goes to 10.244.2.9:8080, which is no endpoint of shop/web:http")
    either = show(replace(DELIVERED, endpoints=(ONE, gone)))
    assert either[0].endswith(
        "goes to an endpoint of shop/web:http, or to 10.244.2.9:8080, which is no endpoint of shop/web:http"
    )


def test_in_how_many_ways_a_source_is_replaced_is_told() -> None:
    kept = Masquerade(wanted=False, why="the source is within the pod range")
    ways = (DELIVERED.ways[0], replace(DELIVERED.ways[1], masquerade=kept))
    assert [line for line in show(replace(DELIVERED, ways=ways)) if line.startswith("  source")] == [
        f"  source   in 75% replaced by the node's (SNAT): {SOURCE.why} (line 22)",
        "  source   in 25% kept: the source is within the pod range",
    ]


def test_of_many_reasons_a_few_are_told() -> None:
    ways = tuple(Way(0.1, Fate.DELIVERED, "10.244.1.7:8080", Masquerade(wanted=True, line=n)) for n in range(1, 11))
    said = [line for line in show(replace(DELIVERED, ways=ways)) if line.startswith("  source")]
    assert len(said) == 4
    assert said[-1] == "  source   … and 7 more reasons; all of them: --json"


def test_rules_that_are_left_out_are_listed_as_people_do() -> None:
    more = tuple(replace(RULE, number=number) for number in (41, 42))
    ways = (replace(DELIVERED.ways[0], path=(ENTRY, RULE, *more)), DELIVERED.ways[1])
    assert any(
        "the rules above without lines 31, 41 and 42, with" in line for line in show(replace(DELIVERED, ways=ways))
    )


def test_a_rule_that_cannot_be_read_may_lead_elsewhere() -> None:
    unread = Way(0.25, Fate.DELIVERED, depends=("it goes where `-j DNAT [unsupported revision]` leads",))
    said = show(replace(DELIVERED, ways=(DELIVERED.ways[0], unread), endpoints=(ONE,)))
    assert said[0].endswith(
        "goes to endpoint 10.244.1.7:8080 of shop/web:http, or where a rule leads that cannot be read"
    )


def test_what_no_service_has_is_not_called_an_endpoint() -> None:
    nobody = replace(DELIVERED, service="", frontend=None, ways=DELIVERED.ways[:1], endpoints=(replace(ONE, line=0),))
    assert show(nobody)[0].endswith("goes to 10.244.1.7:8080, which is no endpoint of a Service")
