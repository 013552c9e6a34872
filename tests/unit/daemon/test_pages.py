"""Which paths there are and what they answer. Whether they say healthy is in test_status.py."""

from __future__ import annotations

import asyncio
import json
from typing import Any

from msgspec.structs import replace

from kproxy.config import Config
from kproxy.daemon.metrics import Metrics
from kproxy.daemon.pages import health_pages, metrics_pages
from kproxy.daemon.server import Page, Question
from kproxy.daemon.status import Answer, Health, Instant
from kproxy.model.enums import IPFamily
from kproxy.model.node import Node

CONFIG = Config(hostname="n1")


def ask(pages: dict[str, Page], path: str, **question: Any) -> tuple[int, str, str]:
    found = pages[path](Question(**question))
    answer = found if isinstance(found, Answer) else asyncio.run(found)
    return answer.status, answer.body.decode(), answer.headers.get("Content-Type", "")


def of_metrics(**config: Any) -> dict[str, Page]:
    return metrics_pages(Metrics(), replace(CONFIG, **config), lambda local: {"Names": "told"} if local else {})


def test_the_health_server_counts_what_it_answers() -> None:
    metrics = Metrics()
    health = Health((IPFamily.IPV4,), sync_period=30)
    pages = health_pages(health, metrics, lambda: Node("n1"), lambda: Instant(1.0, 1_700_000_000_000_000_000))
    assert pages.keys() == {"/healthz", "/livez", "/readyz"}
    status, body, kind = ask(pages, "/healthz")
    assert (status, json.loads(body)["nodeEligible"], kind) == (200, True, "application/json")
    assert ask(pages, "/livez")[0] == 200
    assert ask(pages, "/readyz")[0] == 503
    text = metrics.answer().body.decode()
    assert 'kubeproxy_proxy_healthz_total{code="200"} 1\n' in text
    assert 'kubeproxy_proxy_livez_total{code="200"} 1\n' in text


def test_the_metrics_server_has_kube_proxys_paths() -> None:
    plain = {"/healthz", "/healthz/ping", "/metrics", "/metrics/slis", "/proxyMode", "/configz", "/flagz", "/statusz"}
    assert of_metrics().keys() == plain
    gates = (("ComponentFlagz", False), ("ComponentStatusz", False))
    assert of_metrics(feature_gates=gates).keys() == plain - {"/flagz", "/statusz"}
    assert {"/debug/pprof/goroutine", "/debug/flags/v"} <= of_metrics(profiling=True).keys()


def test_what_the_metrics_server_says() -> None:
    pages = of_metrics()
    assert ask(pages, "/proxyMode") == (200, "iptables", "text/plain; charset=utf-8")
    assert ask(pages, "/healthz/ping")[:2] == (200, "ok")
    assert ask(pages, "/healthz")[:2] == (200, "ok")
    assert ask(pages, "/healthz", query={"verbose": ""})[1] == "[+]ping ok\nhealthz check passed\n"
    assert ask(pages, "/metrics")[2].startswith("text/plain; version=0.0.4")
    assert ask(pages, "/metrics", accept="application/openmetrics-text")[2].startswith("application/openmetrics-text")
    shown = json.loads(ask(pages, "/configz")[1])["kubeproxy.config.k8s.io"]
    assert (shown["kind"], shown["iptables"]["syncPeriod"]) == ("KubeProxyConfiguration", "30s")


def test_service_level_indicators_tell_of_the_checks_that_were_asked_for() -> None:
    pages = of_metrics()
    assert "kubernetes_healthcheck" not in ask(pages, "/metrics/slis")[1]
    ask(pages, "/healthz")
    ask(pages, "/healthz")
    text = ask(pages, "/metrics/slis")[1]
    assert 'kubernetes_healthcheck{name="ping",type="healthz"} 1\n' in text
    assert 'kubernetes_healthchecks_total{name="ping",status="success",type="healthz"} 2\n' in text
    assert "\nprocess_start_time_seconds " in text


def test_names_of_objects_are_for_who_asks_from_this_node() -> None:
    pages = of_metrics()
    assert "\nNames: told\n" in ask(pages, "/statusz", client="127.0.0.1")[1]
    assert "\nNames: told\n" in ask(pages, "/statusz", client="::ffff:127.0.0.1")[1]
    for stranger in ("192.0.2.7", "", "::ffff:192.0.2.7"):
        assert "Names" not in ask(pages, "/statusz", client=stranger)[1]
