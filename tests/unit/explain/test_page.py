"""What may stand in a page, and what it may do. How it looks and answers in a browser: tests/e2e/test_page.py."""

from __future__ import annotations

import json
import re
from base64 import b64encode
from hashlib import sha256
from html.parser import HTMLParser
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kproxy.explain.answer import (
    DumpFacts,
    Endpoint,
    Fate,
    Frontend,
    FrontendKind,
    ServicePort,
    Severity,
    Summary,
    Warning,  # noqa: A004 -- the noun of answer.py
)
from kproxy.explain.services.writer import EITHER
from kproxy.explain.show import page
from kproxy.model.enums import IPFamily, Protocol

FACTS = DumpFacts(IPFamily.IPV4, "nft", "1.8.9", "kube-proxy", 100, 20, 80, counters=False)
HEADLINE = (
    "IPv4: 1 service port in 80 rules and 20 chains, written by kube-proxy; iptables 1.8.9 (nft), 100 lines, "
    "without counters"
)


def service(name: str = "default/web", port: str = "http", endpoints: int = 2) -> ServicePort:
    return ServicePort(
        name,
        port,
        Protocol.TCP,
        IPFamily.IPV4,
        "LOLE4ISW44XBNF3G",
        frontends=(Frontend(FrontendKind.CLUSTER_IP, "10.96.0.80", 80, chain="KUBE-SVC-LOLE4ISW44XBNF3G"),),
        cluster=tuple(Endpoint(f"10.244.0.{number}", 8080, 1 / endpoints) for number in range(endpoints)),
    )


class Elements(HTMLParser):
    """What a browser makes of a page: elements, and the text of each kind. ``script``: whether it runs scripts."""

    def __init__(self, text: str, *, script: bool) -> None:
        super().__init__()
        self.names: list[str] = []
        self.policy = ""
        self.texts: dict[str, list[str]] = {}
        if script:
            text = re.sub(r"<noscript>.*?</noscript>", "", text, flags=re.DOTALL)
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.names.append(tag)
        held = dict(attrs)
        assert not any(name.startswith("on") or name in {"src", "style"} for name in held), attrs
        if held.get("http-equiv") == "Content-Security-Policy":
            self.policy = held["content"] or ""

    def handle_data(self, data: str) -> None:
        if self.names:
            self.texts.setdefault(self.names[-1], []).append(data)


def embedded(text: str) -> Any:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', text, re.DOTALL)
    assert found
    assert not set("<>&\u2028\u2029") & set(found[1])  # no HTML parser, however lenient, can find an end in it
    return json.loads(found[1])


def test_the_data_are_the_nouns_of_json_without_what_holds_its_default() -> None:
    assert embedded(page.render(Summary((FACTS,), (service(endpoints=1),)), title="a.txt")) == {
        "title": "a.txt",
        "headlines": [HEADLINE],
        "dumps": [
            {
                "family": "IPv4",
                "variant": "nft",
                "version": "1.8.9",
                "writer": "kube-proxy",
                "lines": 100,
                "chains": 20,
                "rules": 80,
                "counters": False,
            }
        ],
        "services": [
            {
                "service": "default/web",
                "port": "http",
                "name": "default/web:http",
                "protocol": "TCP",
                "family": "IPv4",
                "hash": "LOLE4ISW44XBNF3G",
                "frontends": [
                    {
                        "kind": "cluster IP",
                        "address": "10.96.0.80",
                        "port": 80,
                        "chain": "KUBE-SVC-LOLE4ISW44XBNF3G",
                    }
                ],
                "cluster": [{"ip": "10.244.0.0", "port": 8080, "probability": 1.0}],
            }
        ],
    }


def test_the_policy_allows_the_style_and_the_script_by_their_hashes_and_nothing_else() -> None:
    text = page.render(Summary((FACTS,), (service(),)))
    style, script = (re.search(f"<{tag}>(.*?)</{tag}>", text, re.DOTALL) for tag in ("style", "script"))
    assert style
    assert script
    assert Elements(text, script=True).policy == (
        f"default-src 'none'; style-src '{hashed(style[1])}'; script-src '{hashed(script[1])}'; "
        "base-uri 'none'; form-action 'none'"
    )


def hashed(content: str) -> str:
    return f"sha256-{b64encode(sha256(content.encode()).digest()).decode()}"


def test_it_refers_to_nothing_outside() -> None:
    text = page.render(Summary((FACTS,), (service(),)))
    addresses = set(re.findall(r"[a-z]+://[^\"' )]*", text))
    assert addresses == {"http://www.w3.org/2000/svg"}  # the name of a language, which nobody fetches
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|innerHTML|insertAdjacent|document\.write|eval\(", text)


HOSTILE = (
    "</script><img src=x onerror=alert(1)>",
    "<!--<script>",
    "]]>",
    "</noscript><script>alert(1)</script>",
    "\u2028\u2029\"'`\\",
    "&lt;b&gt;${x}",
    "\ud800\x00\x1b[31m",
)


@given(st.sampled_from(HOSTILE) | st.text(alphabet=st.characters(), max_size=20))
def test_no_string_of_a_dump_becomes_an_element(hostile: str) -> None:
    frontend = Frontend(FrontendKind.CLUSTER_IP, hostile, 80, fate=Fate.REFUSED, why=hostile, chain=hostile)
    endpoint = Endpoint(hostile, 80, 1.0, chain=hostile, pod=hostile, node=hostile, state=hostile)
    evil = ServicePort(
        hostile,
        hostile,
        Protocol.TCP,
        IPFamily.IPV4,
        hostile,
        frontends=(frontend,),
        cluster=(endpoint,),
        source_ranges=(hostile,),
        variant=hostile,
    )
    warned = Warning(hostile, Severity.ERROR, hostile, hostile, service=hostile)
    facts = DumpFacts(IPFamily.IPV4, hostile, hostile, hostile, 1, 1, 1, counters=True)
    tame = Summary((FACTS,), (service(endpoints=1),), (Warning("x", Severity.ERROR, "x"),))
    text = page.render(Summary((facts,), (evil,), (warned,)), title=hostile)
    text.encode("ascii")
    for script in (True, False):
        assert Elements(text, script=script).names == Elements(page.render(tame, title="x"), script=script).names
    assert embedded(text)["services"][0].get("service", "") == page._visible(hostile)


def test_what_cannot_be_seen_is_shown_as_its_code() -> None:
    assert page._visible("web\u202ebew\x1b[0m\u200b") == "web\\u{202e}bew\\u{1b}[0m\\u{200b}"
    assert page._visible("na\u00efve") == "na\u00efve"


def test_without_script_there_is_a_table_up_to_a_limit() -> None:
    refused = Frontend(FrontendKind.NODE_PORT, "", 30080, fate=Fate.REFUSED, why="has no endpoints")
    empty = ServicePort("default/empty", "", Protocol.TCP, IPFamily.IPV4, "", frontends=(refused,))
    many = tuple(service(f"default/web-{number}", endpoints=1) for number in range(510))
    warned = (Warning("x", Severity.ERROR, "two proxies", "end one"),)
    text = page.render(Summary((FACTS,), (empty, service(endpoints=10), *many), warned))
    plain = text[text.index("<noscript>") : text.index("</noscript>")]
    assert "<td>default/empty<td>TCP<td>*:30080 (node port, refused has no endpoints)<td></tr>" in plain
    assert "10.244.0.7:8080 10%<br>and 2 more" in plain
    assert plain.count("<tr>") == 1 + 500
    assert "<p>and 12 more service ports, which need JavaScript</p>" in plain
    assert "<li>error: two proxies; end one</li>" in plain
    assert f"<p>{HEADLINE.replace('1 service port', '512 service ports')}</p>" in plain


def test_no_line_says_one_more_and_a_relay_is_no_endpoint() -> None:
    relayed = replace(service("default/relayed", endpoints=1), relayed=True)
    either = replace(FACTS, writer=EITHER)
    text = page.render(Summary((either,), (service(endpoints=9), relayed)))
    plain = text[text.index("<noscript>") :]
    assert "10.244.0.8:8080 11.11%</tr>" in plain
    assert "more" not in plain.partition("<table>")[2].partition("</table>")[0]
    assert "<td>kproxy&#x27;s relay</tr>" in plain
    assert "in kube-proxy&#x27;s layout (kube-proxy or kproxy); iptables" in plain
