"""The page of ``--html`` in a browser: what people do with it, at a desk and on a phone.

What may stand in it at all: tests/unit/explain/test_page.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

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
from kproxy.explain.show import page
from kproxy.model.enums import IPFamily, Protocol
from tests.e2e.browser import Browser

EVIL = "</script><img src=x onerror=globalThis.pwned=1>"
SHOWN = "[...document.querySelectorAll('#rows tr')].map((row) => row.querySelector('a').textContent)"
DETAIL = "document.querySelector('#detail').innerText"
DRAWN = "[...document.querySelectorAll('#detail svg g')].map((node) => [...node.querySelectorAll('text')].map((text) => text.textContent))"  # noqa: E501 -- one expression
FOCUSED = "document.activeElement.textContent || document.activeElement.id"


def service(name: str, number: int, *, port: str = "http", endpoints: int = 2) -> ServicePort:
    chain = f"KUBE-SVC-{number:016}"
    return ServicePort(
        name,
        port,
        Protocol.TCP,
        IPFamily.IPV4,
        f"{number:016}",
        frontends=(Frontend(FrontendKind.CLUSTER_IP, f"10.96.{number // 250}.{number % 250}", 80, chain=chain),),
        cluster=tuple(
            Endpoint(f"10.244.{number // 250}.{each}", 8080, 1 / endpoints, chain=f"KUBE-SEP-{each:016}")
            for each in range(endpoints)
        ),
    )


def summary() -> Summary:
    facts = DumpFacts(IPFamily.IPV4, "nft", "1.8.9", "kube-proxy", 100, 20, 80, counters=False)
    outside = Frontend(FrontendKind.NODE_PORT, "", 30080, chain="KUBE-EXT-7", endpoints="local")
    web = service("default/web", 7)
    both = ServicePort(
        web.service,
        web.port,
        web.protocol,
        web.family,
        web.hash,
        frontends=(*web.frontends, outside),
        cluster=web.cluster,
        local=(Endpoint("10.244.0.0", 8080, 1.0),),
        external_policy="Local",
        affinity_seconds=10800,
    )
    refused = Frontend(FrontendKind.CLUSTER_IP, "10.96.9.9", 80, fate=Fate.REFUSED, why="has no endpoints")
    empty = ServicePort("default/empty", "http", Protocol.TCP, IPFamily.IPV4, "", frontends=(refused,))
    named = [service("default/big", 1, endpoints=200), empty, both, service(f"evil/{EVIL}", 8, port=EVIL)]
    many = [service(f"ns/app-{number}", number) for number in range(10, 300)]
    said = "default/empty:http has no endpoints"
    warned = [Warning("no-endpoints", Severity.WARNING, said, "look", service="default/empty:http")]
    warned += [Warning("evil", Severity.ERROR, EVIL, EVIL, service=EVIL)] * 5
    return Summary((facts,), (*named, *many), tuple(warned))


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    started = Browser(tmp_path_factory.mktemp("browser"))
    yield started
    started.close()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(page.render(summary(), title="node-1.txt"), encoding="utf-8")
    return path.as_uri()


@pytest.fixture(autouse=True)
def _quiet(browser: Browser, url: str) -> Iterator[None]:
    """Whatever a test did: nothing was asked of the network, nothing went wrong, nothing of the dump was executed."""
    yield
    assert browser.problems == []
    assert {request.partition("#")[0] for request in browser.requests} == {url}
    assert browser.evaluate("typeof globalThis.pwned") == "undefined"
    assert browser.evaluate("document.images.length") == 0


@pytest.mark.parametrize("width", [1280, 360])
def test_search_choose_and_come_back_by_keys_alone(browser: Browser, url: str, width: int) -> None:
    browser.open(url, width=width)
    browser.press("/")
    browser.type("10.96.0.7")
    found = browser.evaluate(SHOWN)
    assert found[0] == "default/web:http"
    assert "ns/app-70:http" in found
    assert browser.evaluate("document.querySelector('#found').textContent") == f"{len(found)} of 294 service ports"
    browser.press("ArrowDown")
    assert browser.evaluate(FOCUSED) == "default/web:http"
    browser.press("ArrowDown")
    assert browser.evaluate(FOCUSED) == found[1]
    browser.press("ArrowUp", "Enter")
    assert browser.evaluate("location.hash") == "#default/web:http"
    told = browser.evaluate(DETAIL)
    assert "3 hours" in told
    assert "*:30080" in told
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert browser.evaluate("getComputedStyle(document.querySelector('#list')).display") == (
        "block" if width > 1000 else "none"
    )
    browser.press("Escape")
    assert browser.evaluate("[location.hash, document.querySelector('#detail').hidden]") == ["", True]
    assert browser.evaluate(FOCUSED) == "default/web:http"
    browser.press("/", "Escape")
    assert browser.evaluate("[query.value, document.querySelectorAll('#rows tr').length]") == ["", 100]


@pytest.mark.parametrize("width", [1280, 360])
def test_the_drawing_leads_from_addresses_over_chains_to_endpoints_with_their_odds(
    browser: Browser, url: str, width: int
) -> None:
    browser.open(f"{url}#default/web:http", width=width)
    assert browser.evaluate(DRAWN) == [
        ["10.96.0.7:80", "cluster IP"],
        ["*:30080", "node port"],
        ["from outside", "KUBE-EXT-7"],
        ["all endpoints", "KUBE-SVC-0000000000000007"],
        ["endpoints of this node", "KUBE-SVL-0000000000000007"],
        ["10.244.0.0:8080", "KUBE-SEP-0000000000000000", "100%", "50%"],
        ["10.244.0.1:8080", "KUBE-SEP-0000000000000001", "50%"],
    ]
    wide = "[...document.querySelectorAll('#detail svg path')].map((line) => Number(line.getAttribute('stroke-width')))"
    assert sorted(browser.evaluate(wide)) == [1.5, 1.5, 1.5, 13, 13, 26]
    inside = (
        "[...document.querySelectorAll('#detail svg text')].map((text) => [text.getBBox(), text.ownerSVGElement])"
        ".every(([at, drawing]) => at.x >= 0 && at.x + at.width <= drawing.viewBox.baseVal.width)"
    )
    assert browser.evaluate(inside)
    assert "10.244.0.0:8080 50%" in browser.evaluate("document.querySelector('#detail svg').getAttribute('aria-label')")


def test_of_many_endpoints_the_first_are_drawn_and_all_are_listed_when_asked_for(browser: Browser, url: str) -> None:
    browser.open(f"{url}#default/big:http")
    drawn = browser.evaluate(DRAWN)
    assert len(drawn) == 1 + 1 + 13
    assert drawn[-1] == ["188 more", "see below", "94%"]
    listed = "document.querySelectorAll('#detail section:last-child tbody tr').length"
    assert browser.evaluate(listed) == 25
    browser.evaluate("document.querySelector('#detail section:last-child button').click()")
    assert browser.evaluate(listed) == 200


def small(name: str = "kube-system/kubernetes-dashboard-metrics-scraper", *, relayed: bool = False) -> ServicePort:
    """Three addresses, two endpoints; or the relay."""
    web = service(name, 7, port="https")
    others = tuple(Frontend(FrontendKind.EXTERNAL_IP, f"198.51.100.{nth}", 80, chain="KUBE-EXT-7") for nth in (1, 2))
    relay = (Endpoint("169.254.73.80", 32768, 1.0, chain=""),)
    return ServicePort(
        web.service, web.port, web.protocol, web.family, web.hash, frontends=(*web.frontends, *others),
        cluster=relay if relayed else web.cluster, relayed=relayed,
    )  # fmt: skip


@pytest.fixture
def other(url: str, browser: Browser, tmp_path: Path) -> Iterator[str]:
    """A page of two service ports, one of them relayed."""
    path = tmp_path / "other.html"
    told = [Warning("odd", Severity.WARNING, f"{nth} is odd") for nth in range(4)]
    path.write_text(page.render(Summary((), (small(), small("a/b", relayed=True)), tuple(told))), encoding="utf-8")
    yield path.as_uri()
    assert browser.problems == []
    browser.open(url)


def test_the_relay_is_drawn_as_what_it_is(browser: Browser, other: str) -> None:
    browser.open(f"{other}#a/b:https")
    *_, chain, relay = browser.evaluate(DRAWN)
    assert chain == ["chain", "KUBE-SVC-0000000000000007"]
    assert relay == ["kproxy\u2019s relay", "169.254.73.80:32768"]
    told = browser.evaluate(DETAIL)
    assert "all endpoints" not in told
    assert "which chooses the endpoint" in told


@pytest.mark.parametrize("width", [1280, 360])
def test_names_break_behind_their_signs_alone(browser: Browser, other: str, width: int) -> None:
    browser.open(other, width=width)
    heights = "[...document.querySelectorAll('#rows a .whole')].map((word) => word.getClientRects().length)"
    assert set(browser.evaluate(heights)) == {1}
    assert browser.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert "kube-system/kubernetes-dashboard-metrics-scraper:https" in browser.evaluate(SHOWN)


@pytest.mark.parametrize(("width", "shown"), [(1280, 0), (360, 2)])
def test_on_a_phone_the_cluster_ip_stands_below_the_name(browser: Browser, other: str, width: int, shown: int) -> None:
    browser.open(other, width=width)
    there = (
        "[...document.querySelectorAll('#rows .narrow')].filter((each) => each.offsetHeight).map((e) => e.textContent)"
    )
    assert browser.evaluate(there) == ["10.96.0.7:80"] * shown


def test_nobody_is_asked_to_open_one_more_line(browser: Browser, other: str) -> None:
    browser.open(other)
    told = browser.evaluate("document.body.innerText")
    assert "1 more" not in told
    assert "3 is odd" in told
    assert "198.51.100.2:80" in browser.evaluate("document.querySelector('#rows').textContent")


def test_a_refusal_is_drawn_and_told_and_its_warning_leads_to_it(browser: Browser, url: str) -> None:
    browser.open(url)
    browser.evaluate("document.querySelector('#warnings a').click()")
    browser.settle()
    assert browser.evaluate("location.hash") == "#default/empty:http"
    assert browser.evaluate(DRAWN) == [["10.96.9.9:80", "cluster IP"], ["refused", "has no endpoints"]]
    assert "default/empty:http has no endpoints" in browser.evaluate(DETAIL)


def test_names_that_would_be_html_are_names(browser: Browser, url: str) -> None:
    browser.open(url)
    browser.press("/")
    browser.type("evil/")
    assert browser.evaluate(SHOWN) == [f"evil/{EVIL}:{EVIL}"]
    browser.press("Enter")
    assert browser.evaluate("document.querySelector('#detail h2').textContent") == f"evil/{EVIL}:{EVIL}"
    browser.open(browser.evaluate("location.href"))
    assert browser.evaluate("document.title") == f"evil/{EVIL}:{EVIL} \u2013 node-1.txt"
    browser.evaluate("[...document.querySelectorAll('#warnings button')].forEach((each) => each.click())")


def test_whoever_knows_address_port_and_protocol_finds_the_one_service(browser: Browser, url: str) -> None:
    browser.open(url)
    browser.press("/")
    browser.type("10.96.0.7:80/tcp")
    assert browser.evaluate(SHOWN) == ["default/web:http"]
    browser.press("Escape")
    browser.type("refused 9.9")
    assert browser.evaluate(SHOWN) == ["default/empty:http"]
    assert "10.96.9.9:80/tcp" in browser.evaluate("document.querySelector('#rows .why').textContent")


def test_a_dump_without_services_is_a_page_too(browser: Browser, url: str, tmp_path: Path) -> None:
    path = tmp_path / "empty.html"
    path.write_text(page.render(Summary((), ())), encoding="utf-8")
    browser.open(path.as_uri())
    assert browser.evaluate("document.querySelector('#found').textContent") == "0 service ports"
    assert browser.problems == []
    browser.open(url)


def test_a_link_to_what_is_not_there_says_so(browser: Browser, url: str) -> None:
    browser.open(f"{url}#default/gone:%E0%A4%A")
    assert "No service of this name is in this dump." in browser.evaluate(DETAIL)


def test_columns_sort_both_ways_and_more_rows_come_as_one_goes_down(browser: Browser, url: str) -> None:
    browser.open(url)
    assert browser.evaluate(f"{SHOWN}.slice(0, 2)") == ["default/big:http", "default/empty:http"]
    browser.evaluate("document.querySelector('[data-sort=endpoints]').click()")
    assert browser.evaluate(f"{SHOWN}[0]") == "default/big:http"
    browser.evaluate("document.querySelector('[data-sort=endpoints]').click()")
    assert browser.evaluate(f"{SHOWN}[0]") == "default/empty:http"
    assert browser.evaluate("document.querySelector('[aria-sort]').getAttribute('aria-sort')") == "ascending"
    browser.evaluate("document.querySelector('[data-sort=address]').click()")
    assert browser.evaluate(f"{SHOWN}.slice(0, 4)") == [
        "default/big:http", "default/web:http", f"evil/{EVIL}:{EVIL}", "ns/app-10:http",
    ]  # fmt: skip
    going_down = (  # all at once, before anything is drawn
        "document.querySelector('#rows tr:last-child a').focus(),"
        "document.dispatchEvent(new KeyboardEvent('keydown', {key: 'ArrowDown'})),"
        "[...document.querySelectorAll('#rows tr')].indexOf(document.activeElement.closest('tr'))"
    )
    assert browser.evaluate(going_down) == 100


def test_the_policy_of_the_page_holds_against_markup_that_came_in_after_all(browser: Browser, url: str) -> None:
    browser.open(url)
    browser.evaluate("document.body.insertAdjacentHTML('beforeend', '<b onclick=\"globalThis.pwned=1\"></b>')")
    browser.evaluate("document.body.lastElementChild.click()")
    assert "Content Security Policy" in str(browser.problems)
    browser.evaluate("document.body.lastElementChild.remove()")
    browser.events[:] = [each for each in browser.events if "Content Security Policy" not in str(each)]


def test_it_is_dark_where_the_reader_wants_it(browser: Browser, url: str) -> None:
    colours = []
    for dark in (False, True):
        browser.open(url, dark=dark)
        colours.append(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert colours == ["rgb(252, 251, 249)", "rgb(20, 21, 23)"]


def test_on_paper_all_rows_stand_and_what_is_to_be_clicked_does_not(browser: Browser, url: str) -> None:
    browser.open(url)
    browser.evaluate("window.dispatchEvent(new Event('beforeprint'))")
    browser.call("Emulation.setEmulatedMedia", media="print")
    assert browser.evaluate("document.querySelectorAll('#rows tr').length") == 294
    assert browser.evaluate("getComputedStyle(document.querySelector('.search')).display") == "none"
    browser.call("Emulation.setEmulatedMedia", media="")


def test_without_script_the_table_is_there(browser: Browser, url: str) -> None:
    browser.call("Emulation.setScriptExecutionDisabled", value=True)
    try:
        browser.load(url)
        told = browser.evaluate("document.body.innerText")
    finally:
        browser.call("Emulation.setScriptExecutionDisabled", value=False)
    assert "With JavaScript this page has a search" in told
    assert "10.96.0.7:80 (cluster IP)" in told
    assert "default/empty:http" in told
