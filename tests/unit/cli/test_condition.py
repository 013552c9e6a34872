"""What is made of a daemon's pages. The pages are the daemon's own, so that a name that changes there fails here."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from kproxy.backend.base import SyncReport
from kproxy.cli.condition import (
    OF_HEALTH,
    OF_METRICS,
    Condition,
    Pages,
    Reply,
    clean,
    health_address,
    kernel_settings,
    understand,
)
from kproxy.cli.screen import show
from kproxy.config import Config
from kproxy.daemon.metrics import Metrics
from kproxy.daemon.pages import health_pages, metrics_pages
from kproxy.daemon.rounds import show_problems
from kproxy.daemon.server import Page, Question
from kproxy.daemon.status import Answer, Health, Instant
from kproxy.errors import InvalidObject
from kproxy.model.enums import IPFamily
from kproxy.model.node import Node
from kproxy.plan.plan import NodePorts, Plan

CONFIG = Config(hostname="n1")
NODE = Node("n1")
FACTS = {
    "Node": "n1",
    "Process": "4711",
    "Kernel settings": "nf_conntrack_max 131072, was 65536; route_localnet stays 0, wanted 1: read-only; mount it",
    "Iptables variant": "nft: chains of kubelet are there",
    "Relay": "2 of 2 workers serve",
    "Node IPs": "192.0.2.1, none (IPv6)",
    "Services": "IPv4 5, IPv6 1",
    "Service ports": "IPv4 6, IPv6 1",
    "Endpoints": "IPv4 9, IPv6 2",
    "Relayed service ports": "IPv4 1, IPv6 0",
    "API server": "answers, heard 4 s ago",
    "Conntrack": "899 of 1000 flows",
}
WAITS = 0.0


def heard(pages: Mapping[str, Page]) -> dict[str, Reply]:
    async def ask(page: Page) -> Reply:
        found = page(Question(client="127.0.0.1"))
        answer = found if isinstance(found, Answer) else await found
        return Reply(answer.status, answer.body.decode())

    return {path: asyncio.run(ask(page)) for path, page in pages.items()}


def metrics(*, waits: float = WAITS, refused: int = 0) -> Metrics:
    found = Metrics()
    report = SyncReport(full=True, rules_total={"nat": 20, "filter": 6}, rules_written={}, refused=refused)
    for family in IPFamily:
        found.synced(family, report, Plan(family, {}, NodePorts()), wall=1_700_000_000.0)
    found.observe_pending(IPFamily, lambda _: waits)
    return found


def of_metrics(
    facts: Mapping[str, str] = FACTS, config: Config = CONFIG, *, waits: float = WAITS, refused: int = 0
) -> dict[str, Reply]:
    pages = metrics_pages(metrics(waits=waits, refused=refused), config, lambda local: facts if local else {})
    return heard(pages)


def of_health(*, ready: bool = True, waits: float = 0.0, node: Node | None = NODE) -> dict[str, Reply]:
    health = Health(IPFamily, sync_period=30)
    for family in IPFamily:
        health.started(family, Instant(0.0, 0))
        if ready:
            health.taken(family)
            health.synced(family, Instant(0.0, 0))
        if waits:
            health.queued(family, Instant(0.0, 0))
    return heard(health_pages(health, Metrics(), lambda: node, lambda: Instant(waits, 0)))


def look(pages: Pages | None = None, health: Pages | None = None) -> Condition:
    pages = of_metrics() if pages is None else pages
    return understand(pages, of_health() if health is None else health, Config(hostname="here"))


def test_a_daemon_that_is_well() -> None:
    found = look()
    assert found.healthy
    assert (found.program, found.version, found.node, found.process) == ("kproxy", "0.1.0", "n1", 4711)
    assert (found.mode, found.variant) == ("iptables", "nft: chains of kubelet are there")
    assert (found.node_addresses, found.api_server) == ("192.0.2.1, none (IPv6)", "answers, heard 4 s ago")
    assert found.health == {"/livez": 200, "/readyz": 200, "/healthz": 200}
    four, six = found.families
    assert (four.family, four.services, four.service_ports, four.endpoints, four.relayed) == ("IPv4", 5, 6, 9, 1)
    assert (six.family, six.services, six.rules, six.refused, six.failed_restores) == ("IPv6", 1, 26, 0, 0)
    assert (four.last_sync, four.pending_seconds) == (datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC), 0.0)
    assert found.started is not None
    assert found.warnings == ("kernel setting route_localnet stays 0, wanted 1: read-only; mount it",)


@pytest.mark.parametrize(
    ("health", "reason"),
    [
        (of_health(ready=False), "the first sync is not done, says /readyz (503)"),
        (of_health(waits=61), "rules do not follow the cluster, says /livez (503)"),
        (dict.fromkeys(OF_HEALTH, Reply(problem="nobody listens on x")), "the health server does not answer: nobody"),
        ({"/livez": Reply(404, "404 page not found")}, "rules do not follow the cluster, says /livez (404)"),
    ],
)
def test_what_the_kubelet_would_be_told_decides(health: Pages, reason: str) -> None:
    found = look(health=health)
    assert not found.healthy
    assert found.reasons[0].startswith(reason)


def test_without_a_health_server_its_figures_decide() -> None:
    config = replace(CONFIG, healthz_bind_address="")
    pages = of_metrics(config=config)
    assert health_address(pages, "0.0.0.0:10256") == ""
    assert look(pages, {}).healthy
    late = look(of_metrics(config=config, waits=61), {})
    assert late.reasons == (
        "IPv4: a change waits for 61 s to be in the kernel",
        "IPv6: a change waits for 61 s to be in the kernel",
    )
    patient = replace(config, iptables_sync_period=60.0)
    assert look(of_metrics(config=patient, waits=61), {}).healthy
    young = {
        **pages,
        "/metrics": Reply(200, "\n".join(each for each in pages["/metrics"].body.split("\n") if "_last_" not in each)),
    }
    assert look(young, {}).reasons == ("the first sync is not done",)


def test_the_daemon_says_where_it_answers_for_its_health() -> None:
    pages = of_metrics(config=replace(CONFIG, healthz_bind_address="127.0.0.1:7"))
    assert health_address(pages, "0.0.0.0:10256") == "127.0.0.1:7"
    assert health_address({}, "0.0.0.0:10256") == "0.0.0.0:10256"


def test_what_is_wrong_without_being_ill() -> None:
    odd = [InvalidObject("Service", f"a/{nth:02}", field="spec", why="is odd", remedy="fix it") for nth in range(12)]
    facts = FACTS | {
        "Kernel settings": "none asked for",
        "Relay": "1 of 2 workers serve",
        "API server": "no news, heard 70 s ago: https://api: refused",
        "Quarantined": "IPv4 default/web:http (TCP)",
        "Conntrack": "900 of 1000 flows",
        "Sync IPv6 failed": "/run/xtables.lock was held by another program",
        **show_problems(odd),
    }
    pages = of_metrics(facts, waits=61.0)
    text = pages["/metrics"].body.replace(
        'kproxy_quarantined_services{ip_family="IPv4"} 0', 'kproxy_quarantined_services{ip_family="IPv4"} 1'
    )
    found = look({**pages, "/metrics": Reply(200, text)}, of_health(node=None))
    assert found.healthy
    assert found.warnings == (
        "IPv4: a change waits for 61 s to be in the kernel; see the log",
        "IPv6: the last sync failed, it is tried again: /run/xtables.lock was held by another program",
        "the kernel refuses IPv4 default/web:http (TCP)",
        "API server: no news, heard 70 s ago: https://api: refused",
        "relay: 1 of 2 workers serve",
        "load balancers are told to leave this node out (/healthz 503): it is being removed, or has no Node",
        "conntrack holds 900 of 1,000 flows; a full table drops new connections; raise nf_conntrack_max",
        *(f"Service a/{nth:02}: spec is odd; fix it" for nth in range(10)),
        "and 2 more objects with problems; the log and `kubectl get events -A` name them",
    )


def test_pages_that_are_missing_cost_what_they_would_have_said() -> None:
    pages = {path: reply for path, reply in of_metrics().items() if path != "/statusz"}
    found = look(pages)
    assert (found.healthy, found.program, found.variant, found.node) == (True, "kproxy", "", "here")
    assert found.families[0].rules == 26
    assert found.warnings[0].startswith("/statusz does not answer")
    slow = look(of_metrics() | {"/metrics": Reply(problem="127.0.0.1:10249 did not answer within 3 s")})
    assert (slow.healthy, slow.program, slow.version, slow.families) == (True, "kproxy", "0.1.0", ())
    assert slow.warnings[0].startswith("/metrics does not answer, so numbers are missing: 127.0.0.1:10249 did not")
    alone = look(dict.fromkeys(of_metrics(), Reply(problem="nobody listens on 127.0.0.1:10249")))
    assert (alone.healthy, alone.program, alone.families) == (True, "kproxy", ())
    assert alone.warnings[0].startswith("the metrics server does not answer: nobody listens on 127.0.0.1:10249; give ")


KUBE_PROXY = """\
# HELP kubernetes_build_info [ALPHA] A metric with a constant '1' value
kubernetes_build_info{git_version="v1.36.2",go_version="go1.24",major="1"} 1
kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv4"} 1.7000000005e+09
kubeproxy_sync_proxy_rules_last_timestamp_seconds{ip_family="IPv6"} 0
kubeproxy_sync_proxy_rules_iptables_total{ip_family="IPv4",table="nat"} 7
kubeproxy_sync_proxy_rules_iptables_restore_failures_total 2
process_start_time_seconds 1.7e+09
"""


def test_kube_proxy_is_called_so_and_shown_as_far_as_it_speaks() -> None:
    pages = {
        "/metrics": Reply(200, KUBE_PROXY),
        "/proxyMode": Reply(200, "iptables"),
        "/statusz": Reply(404, "404 page not found"),
    }
    health = {**of_health(), "/readyz": Reply(404, "404 page not found")}
    found = look(pages, health)
    assert (found.healthy, found.program, found.version, found.mode) == (True, "kube-proxy", "v1.36.2", "iptables")
    (family,) = found.families
    assert (family.family, family.rules, family.services, family.pending_seconds) == ("IPv4", 7, None, None)
    assert found.warnings == ()
    old = {"/livez": Reply(404), "/readyz": Reply(404), "/healthz": health["/healthz"]}
    assert look(pages, old).healthy
    assert not look(pages, {**old, "/healthz": Reply(503, "{}")}).healthy


def test_a_kube_proxy_that_knows_no_families_has_one_column() -> None:
    text = KUBE_PROXY.replace('{ip_family="IPv4"}', "").replace('ip_family="IPv4",', "")
    text = "\n".join(line for line in text.split("\n") if "IPv6" not in line)
    (family,) = look({"/metrics": Reply(200, text), "/proxyMode": Reply(200, "ipvs")}).families
    assert (family.family, family.rules, family.failed_restores) == ("all", 7, 2)
    assert family.last_sync is not None


@pytest.mark.parametrize(
    "body", ["", "<html>hello</html>", "up 1\n", 'kubernetes_build_info{git_version="v1.36.2"} 1\n', "\x00\xff{{{"]
)
def test_a_stranger_is_neither(body: str) -> None:
    pages = dict.fromkeys(("/metrics", "/statusz", "/configz", "/proxyMode"), Reply(200, body))
    found = look(pages, dict.fromkeys(OF_HEALTH, Reply(200, body)))
    assert (found.healthy, found.program) == (False, "")


def test_nothing_that_is_read_reaches_a_terminal_as_it_is() -> None:
    assert clean("a\x1b[31mb\nc\u202e") == "a [31mb c"
    assert len(clean("x" * 1000)) == 300
    pages = {**of_metrics(), "/proxyMode": Reply(200, "ipt\x1b[2J")}
    assert look(pages).mode == ""
    hostile = Reply(200, 'kubernetes_build_info{git_version="v1+kproxy-\x1b[2J"} 1\n')
    assert look({"/metrics": hostile}).version == " [2J"


PIECES = (
    *(
        "kubernetes_build_info",
        "kubeproxy_sync_proxy_rules_last_timestamp_seconds",
        "kproxy_oldest_pending_change_seconds",
    ),
    *(
        '{ip_family="',
        '{git_version="v1+kproxy-',
        '"}',
        "{",
        "}",
        '"',
        "\\",
        " ",
        "\n",
        ": ",
        "; ",
        "1e400",
        "NaN",
        "9" * 30,
        "-1",
    ),
    *(
        "Services: IPv4 ",
        "Process: ",
        "Problems: ",
        "Problem 1: ",
        "Relay: ",
        " of ",
        "Kernel settings: x stays ",
        "\x1b[2J",
    ),
    *(
        '{"kubeproxy.config.k8s.io":',
        '{"healthzBindAddress":',
        '{"iptables":{"syncPeriod":',
        "[" * 50,
        "null",
        "iptables",
    ),
)
TEXTS = st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=12).map("".join)


def texts(value: Any) -> Iterator[str]:
    match value:
        case str():
            yield value
        case dict():
            yield from (text for pair in value.items() for each in pair for text in texts(each))
        case list() | tuple():
            yield from (text for each in value for text in texts(each))


REPLIES = st.builds(Reply, st.sampled_from([0, 200, 404, 503]), TEXTS, st.just("nobody"))


@given(
    st.fixed_dictionaries(dict.fromkeys(OF_METRICS, REPLIES)),
    st.fixed_dictionaries(dict.fromkeys(OF_HEALTH, REPLIES)),
)
def test_whatever_is_answered_is_a_condition_of_printable_words(pages: Pages, health: Pages) -> None:
    found = look(pages, health)
    assert all(map(str.isprintable, texts(msgspec.to_builtins(found))))
    for line in show(found, now=datetime(2026, 1, 1, tzinfo=UTC)):
        assert line.text.isprintable()
    host, _, port = health_address(pages, "127.0.0.1:7").rpartition(":")
    assert port.isdecimal() or not host


def test_kernel_settings_are_told_apart_although_reasons_have_semicolons() -> None:
    every, troubles = kernel_settings(FACTS["Kernel settings"])
    assert (len(every), troubles) == (2, ["route_localnet stays 0, wanted 1: read-only; mount it"])
    assert kernel_settings("none asked for") == ([], [])
