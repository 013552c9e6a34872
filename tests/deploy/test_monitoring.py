"""The dashboard and the alerts: every metric and label that they name is one that the daemon shows.

A panel that asks for a metric nobody has is empty, and an alert is silent: neither says that it is wrong. So the names
are looked up in the daemon's own collectors, with everything switched on; what is node_exporter's is named here.
promtool says whether queries can be read, and plays the alerts through (alerts.test.yaml).
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from kproxy.backend.base import SyncReport
from kproxy.backend.userspace.counts import REASONS, Counts, Tally
from kproxy.config import Config
from kproxy.daemon.localhost import LocalhostCollector
from kproxy.daemon.metrics import Metrics
from kproxy.daemon.relay_metrics import RelayCollector
from kproxy.daemon.service_metrics import ServiceMetrics
from kproxy.kernel.fake import FakeAccounting, FakeSysctl
from kproxy.kernel.sysctl import CONNTRACK_ACCOUNTING
from kproxy.model.enums import IPFamily, Protocol
from kproxy.model.keys import ServicePortKey
from kproxy.plan.build import build_plan
from kproxy.source.traffic import Traffic
from tests.builders import service, slice_of, snapshot

PLACE = Path(__file__).parents[2] / "deploy" / "monitoring"
ALERTS = yaml.safe_load((PLACE / "alerts.yaml").read_text(encoding="utf-8"))
DASHBOARD = json.loads((PLACE / "dashboard.json").read_text(encoding="utf-8"))
V4 = IPFamily.IPV4
OF_TARGETS = {"job", "instance"}  # Prometheus gives them to every series
OF_OTHERS = {  # not kproxy's
    "up": set[str](),
    "node_nf_conntrack_entries": set[str](),
    "node_nf_conntrack_entries_limit": set[str](),
}
_WORDS = {"or", "and", "unless", "on", "ignoring", "bool", "offset"}


def collectors() -> Iterator[Collector]:
    """Of a daemon that does everything at once."""
    tcp, udp = (ServicePortKey("a", "web", "http", protocol) for protocol in (Protocol.TCP, Protocol.UDP))
    tally = Tally(refused=Counter(REASONS))
    crew = SimpleNamespace(replaced=0, open_listeners=[1], serving=[1], tallies={tcp: tally, udp: tally})
    yield RelayCollector(crew)
    ports = SimpleNamespace(counts={Protocol.TCP: Counts(), Protocol.UDP: Counts()}, open=0, unserved=0)
    yield LocalhostCollector({V4: ports})  # type: ignore[dict-item]
    config = Config(hostname="n1", service_metrics=10)
    counting = ServiceMetrics(config, FakeAccounting(room=9), FakeSysctl({CONNTRACK_ACCOUNTING: 1}), tuple)
    counting.follow(build_plan(snapshot(service("web"), slice_of("web", "10.0.0.1")), config, V4))
    yield counting


def everything() -> Metrics:
    metrics = Metrics()
    plan = build_plan(snapshot(), Config(hostname="n1"), V4)
    report = SyncReport(full=True, rules_total={"nat": 1}, rules_written={}, refused=1, became_full=True)
    for full in (True, False):
        metrics.attempted(V4, 0.1, full=full)
    metrics.synced(V4, report, plan, wall=1.0)
    metrics.queued(V4, 1.0)
    metrics.programmed(V4, 0.1)
    metrics.cleaned(V4, seconds=0.1, deleted=1)
    metrics.remembers(100)
    metrics.answered_healthz(200)
    metrics.answered_livez(200)
    metrics.observe_pending([V4], lambda _: 0.0)
    traffic = Traffic()
    traffic.requests["200", "api:6443", "GET"] = 1
    for each in (traffic.seconds, traffic.sent, traffic.received):
        each["api:6443", "GET"].observe(1.0)
    metrics.observe_requests(traffic)
    for collector in collectors():
        metrics.observe(collector)
    return metrics


def shown() -> dict[str, set[str]]:
    """Labels of every series by its name, as a scrape finds them."""
    found: dict[str, set[str]] = {}
    metrics: list[Metric] = list(everything()._registry.collect())
    for sample in (sample for metric in metrics for sample in metric.samples):
        found.setdefault(sample.name, set()).update(sample.labels)
    return found


def panels() -> list[dict[str, Any]]:
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def queries() -> Iterator[tuple[str, str]]:
    """All of them with who asks."""
    for rule in ALERTS["groups"][0]["rules"]:
        yield rule["alert"], rule["expr"]
    for panel in panels():
        for target in panel["targets"]:
            yield panel["title"], target["expr"]
    for variable in DASHBOARD["templating"]["list"]:
        if variable["type"] == "query":
            text = variable["query"]["query"]
            yield variable["name"], re.sub(r"label_values\((.*), (\w+)\)", r"sum by (\2) (\1)", text)


def uses(query: str) -> Iterator[tuple[str, set[str]]]:
    """Metrics of a query with the labels that are asked of them; what it groups by counts for all of them."""
    bare = re.sub(r'"(?:[^"\\]|\\.)*"', '""', query)
    groups = {each for clause in re.findall(r"\b(?:by|without) \(([^)]*)\)", bare) for each in clause.split(", ")}
    bare = re.sub(r"\b(?:by|without) \([^)]*\)", "", re.sub(r"\[[^\]]*\]", "", bare))
    for name, selector in re.findall(r"\b([a-z_]\w*)\b(?!\s*\()(?:\{([^}]*)\})?", bare):
        if name not in _WORDS:
            yield name, groups | set(re.findall(r"(\w+)(?:=~|!~|!=|=)", selector))


def test_every_metric_and_label_is_one_of_the_daemons() -> None:
    known = shown() | OF_OTHERS
    wrong = []
    for who, query in queries():
        found = list(uses(query))
        assert found, who
        for name, labels in found:
            # What an `or` puts beside it may have more labels to group by.
            lacking = labels - known.get(name, set()) - OF_TARGETS if " or " not in query else set()
            if name not in known or lacking:
                wrong.append(f"{who}: {name} {' '.join(sorted(lacking))}")
    assert wrong == []


def test_the_reading_of_queries_finds_what_is_wrong() -> None:
    query = 'histogram_quantile(0.99, sum by (le, node) (rate(a_bucket{job="b c",x=~"{y}"}[5m]))) or d_e / f > 5'
    by = {"le", "node"}
    assert list(uses(query)) == [("a_bucket", by | {"job", "x"}), ("d_e", by), ("f", by)]


def test_legends_name_labels_that_the_query_leaves() -> None:
    for panel in panels():
        for target in panel["targets"]:
            wanted = set(re.findall(r"{{(\w+)}}", target.get("legendFormat", "")))
            grouped = re.search(r"\bby \(([^)]*)\)", target["expr"])
            left = set(grouped[1].split(", ")) if grouped else OF_TARGETS
            assert wanted <= left, f"{panel['title']}: {target['expr']}"


def test_the_dashboard_can_be_imported_anywhere() -> None:
    numbers = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(numbers) == len(set(numbers))
    assert "${datasource}" in json.dumps(DASHBOARD)
    for panel in panels():
        assert panel["datasource"]["uid"] == "${datasource}"
        assert panel["description"]
        assert {target["datasource"]["uid"] for target in panel["targets"]} == {"${datasource}"}
    titles = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert [title.split(":")[0] for title in titles] == [
        "Health",
        "Sync",
        "Rules and Services",
        "API server",
        "Relay",
        "Traffic of Services",
    ]


def test_panels_do_not_overlap() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        cells = {(at["x"] + x, at["y"] + y) for x in range(at["w"]) for y in range(at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not taken & cells, panel["title"]
        taken |= cells


def test_every_alert_says_what_to_do_and_is_played_through() -> None:
    played = (PLACE / "alerts.test.yaml").read_text(encoding="utf-8")
    for rule in ALERTS["groups"][0]["rules"]:
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert rule["annotations"].keys() == {"summary", "description", "runbook"}
        assert f'alertname="{rule["alert"]}"' in played


def test_what_a_runbook_quotes_from_the_log_is_logged() -> None:
    source = "".join(file.read_text(encoding="utf-8") for file in (PLACE.parents[1] / "kproxy").rglob("*.py"))
    quoted = {
        text
        for rule in ALERTS["groups"][0]["rules"]
        for text in re.findall(r'"([^"]+)"', rule["annotations"]["runbook"])
    }
    assert len(quoted) >= 4
    assert [text for text in quoted if f'"{text}' not in source] == []


@pytest.fixture
def promtool() -> str:
    beside = Path(sys.executable).with_name("promtool")
    found = shutil.which("promtool") or (str(beside) if beside.is_file() else "")
    return found or pytest.skip("needs promtool, of Debian's package prometheus, in the PATH or beside python")


def check(*command: str | Path) -> None:
    result = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120, cwd=PLACE)
    assert result.returncode == 0, result.stdout + result.stderr


def test_alerts_fire_when_they_should_and_only_then(promtool: str) -> None:
    check(promtool, "check", "rules", "alerts.yaml")
    check(promtool, "test", "rules", "alerts.test.yaml")


def test_prometheus_can_read_the_dashboards_queries(promtool: str, tmp_path: Path) -> None:
    rules = [
        {"record": f"panel_{panel['id']}_{number}", "expr": target["expr"].replace("$__rate_interval", "5m")}
        for panel in panels()
        for number, target in enumerate(panel["targets"])
    ]
    file = tmp_path / "queries.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}), encoding="utf-8")
    check(promtool, "check", "rules", file)
