"""Answers about one thing, and about two dumps, as text."""

from __future__ import annotations

from msgspec.structs import replace

from kproxy.explain.answer import Answer, ChainAnswer, Change, Changes, ServiceAnswer
from kproxy.explain.show.text import render
from tests.unit.explain.answers import EVERY, FACTS, RULE, WEB

_, _, SERVICE, CHAIN, ENDPOINT, CHANGES = EVERY
SHOWN = "  31  nat KUBE-SEP-QZ4MJSUJGUVIUKHD  -j DNAT --to-destination 10.244.1.7:8080  [70 packets]"


def show(answer: Answer) -> list[str]:
    return render(answer, width=0, colour=False).splitlines()


def test_everything_about_a_service() -> None:
    said = show(SERVICE)
    assert said[:10] == [
        "shop/web:http tcp, IPv4 (nft)",
        "  cluster 10.96.7.7:80/tcp, line 20, 100 packets",
        "  node port *:30080/tcp dropped (has no local endpoints), line 21, 0 packets",
        "  traffic policy: internal Cluster, external Local",
        "  the load balancer IP only from 192.168.0.0/16",
        "  a client keeps its endpoint for 10800 s (session affinity)",
        "  endpoints:",
        "    ODDS  OBSERVED  ENDPOINT         POD           NODE      STATE  PACKETS  LINE",
        "     75%       70%  10.244.1.7:8080  shop/web-5f7  worker-a  ready       70    31",
        "     25%       30%  10.244.2.9:8080  shop/web-9x2  worker-b  ready       30    32",
    ]
    assert "  endpoints of this node (local):" in said
    assert said[-2:] == ["Its rules", SHOWN]


def test_a_service_without_chains_or_a_name() -> None:
    bare = replace(WEB, service="", port="", named_by="chain", relayed=True, cluster=(), local=(), frontends=())
    said = show(ServiceAnswer((bare,), ()))
    assert said[0] == "chain LOLE4ISW44XBNF3G tcp, IPv4 (nft), which nothing names"
    assert "  served by kproxy's relay (userspace mode)" in said
    assert said[-1] == "It has no rules"


def test_a_chain_what_it_is_and_who_leads_there() -> None:
    assert show(CHAIN) == [
        "KUBE-SEP-QZ4MJSUJGUVIUKHD of table nat: rewrites to 10.244.1.7:8080",
        "",
        "Rules that lead here",
        SHOWN,
        "",
        "Its rules",
        SHOWN,
    ]
    orphan = ChainAnswer("nat", "X", "a branch", ("shop/a", "shop/b", "shop/c", "shop/d", "shop/e"), (), ())
    assert show(orphan) == [
        "X of table nat: a branch",
        "  of 5 service ports: shop/a, shop/b, shop/c and 2 more",
        "",
        "No rule leads here",
        "",
        "It has no rules",
    ]


def test_an_endpoint_and_whom_it_serves() -> None:
    said = show(ENDPOINT)
    assert said[0] == "10.244.1.7:8080 serves 1 service port"
    assert any(each.startswith("shop/web:http") for each in said)
    assert said[-1] == SHOWN


def test_what_changed() -> None:
    changes = (
        Change("shop/web:http/TCP", "endpoint", "", "10.244.1.7:8080"),
        Change("shop/web:http/TCP", "endpoint", "10.244.1.8:8080", ""),
        Change("shop/web:http/TCP", "odds", "50%", "100%"),
        Change("", "rules", "none", "60 rules"),
    )
    said = show(Changes((FACTS,), (FACTS,), changes, 4999))
    assert said[0].startswith("before IPv4: 60 rules in 20 chains, written by kube-proxy")
    assert said[1].startswith("after  IPv4: ")
    assert said[2:] == [
        "",
        "1 service port changed, 4,999 did not",
        "",
        "shop/web:http/TCP",
        "  endpoint + 10.244.1.7:8080",
        "  endpoint - 10.244.1.8:8080",
        "  odds 50% → 100%",
        "",
        "the node",
        "  rules none → 60 rules",
    ]
    assert show(Changes((), (), (), 1))[-1] == "1 service port did not change"


def test_text_of_a_dump_cannot_colour_or_move() -> None:
    nasty = replace(RULE, chain="X\x1b", text='-A X\x1b -m comment --comment "\x1b[2J\u202e[red]x"')
    said = show(replace(SERVICE, lines=(nasty,)))
    assert said[-1].startswith("  31  nat X\\x1b    # \\x1b[2J\\u202e[red]x")
