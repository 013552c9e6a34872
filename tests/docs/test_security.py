"""SECURITY.md names tests, files, addresses and capabilities: they are there, and they are these."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from kproxy.config import Config
from kproxy.daemon import complaints, events, server
from kproxy.plan import build
from kproxy.source import convert_service

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "SECURITY.md").read_text(encoding="utf-8")


def named() -> list[str]:
    """Tests, in full: ``\u2026/`` is the directory of the one before."""
    found: list[str] = []
    for each in re.findall(r"`((?:tests/|\u2026/)[^`]*)`", TEXT):
        found.append(each.replace("\u2026", found[-1].rpartition("/")[0]) if each.startswith("\u2026") else each)
    return found


def test_each_test_that_it_names_is_there() -> None:
    assert len(named()) > 50
    assert [each for each in named() if not (ROOT / each).exists()] == []


def test_it_says_what_the_daemonset_has() -> None:
    documents = list(yaml.safe_load_all((ROOT / "deploy/daemonset.yaml").read_text(encoding="utf-8")))
    (pod,) = (each["spec"]["template"]["spec"] for each in documents if each["kind"] == "DaemonSet")
    (role,) = (each["rules"] for each in documents if each["kind"] == "ClusterRole")
    (container,) = pod["containers"]
    security = container["securityContext"]
    assert security["capabilities"] == {"drop": ["ALL"], "add": ["NET_ADMIN", "NET_RAW"]}
    assert security["readOnlyRootFilesystem"]
    assert not security["allowPrivilegeEscalation"]
    assert "privileged" not in security
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert not {"hostPID", "hostIPC"} & pod.keys()
    paths = {each["name"]: each["hostPath"]["path"] for each in pod["volumes"] if "hostPath" in each}
    assert set(paths.values()) == {"/run/xtables.lock", "/lib/modules"}
    assert {
        paths[each["name"]] for each in container["volumeMounts"] if each["name"] in paths and "readOnly" not in each
    } == {"/run/xtables.lock"}
    writes = {(*rule["resources"], *rule["verbs"]) for rule in role if set(rule["verbs"]) - {"list", "watch"}}
    assert writes == {("events", "create", "patch")}
    assert {each for rule in role for each in rule["resources"]} == {
        *("services", "nodes", "endpointslices", "servicecidrs", "events")
    }


@pytest.mark.parametrize(
    "said",
    [
        f"`{Config().metrics_bind_address}`",
        f"`:{Config().healthz_bind_address.rpartition(':')[2]}` on all addresses",
        *(f"`{address}`" for address in Config().relay_address),
        f"{Config().relay_connections:,} connections and {Config().relay_udp_sessions:,} UDP sessions",
        f"{server._CONNECTIONS} connections a server",
        f"{convert_service._MOST_ADDRESSES:,} addresses and ports, or {build._MOST_ENDPOINTS:,} endpoints",
        f"{complaints._BURST:,} lines, then one a second",
        f"{events._BURST} Events, then one a second, {events._REMEMBERED:,} wait",
    ],
)
def test_its_figures_are_the_programs(said: str) -> None:
    assert said in TEXT


def test_what_it_calls_a_default_is_one() -> None:
    assert not Config().profiling
    assert Config().service_metrics == 0
