"""What /statusz and /flagz say, and in which format."""

from __future__ import annotations

import json
import time

import pytest
import yaml

from kproxy.config import Config
from kproxy.daemon.status import Answer
from kproxy.daemon.zpages import flagz, show_flags, started, statusz

CONFIG = Config(hostname="n1", cluster_cidr=("10.0.0.0/8", "fd00::/48"), feature_gates=(("ComponentFlagz", True),))
PATHS = ["/healthz", "/healthz/ping", "/metrics", "/metrics/slis"]


def status(accept: str = "") -> Answer:
    return statusz(PATHS, {"Iptables": "nft"}, accept)


def test_the_text_begins_as_kube_proxys_and_ends_with_lines_of_ours() -> None:
    text = status().body.decode()
    assert text.startswith("\nkube-proxy statusz\nWarning: This endpoint is not meant to be machine parseable")
    lines = dict(line.split(": ", 1) for line in text.split("\n\n")[1].splitlines())
    assert [*lines] == [
        "Started",
        "Up",
        "Go version",
        "Binary version",
        "Emulation version",
        "Paths",
        "Iptables",
    ]
    assert lines["Up"].startswith("0 hr ")
    assert lines["Binary version"].startswith("1.36.2")
    assert (lines["Emulation version"], lines["Paths"]) == ("1.36", "/healthz /metrics")


@pytest.mark.parametrize("version", ["v1beta1", "v1alpha1"])
def test_a_structured_answer_keeps_to_its_schema(version: str) -> None:
    answer = status(f"application/json;v={version};g=config.k8s.io;as=Statusz")
    body = json.loads(answer.body)
    assert answer.headers["Content-Type"] == "application/json"
    assert (body["kind"], body["apiVersion"]) == ("Statusz", f"config.k8s.io/{version}")
    assert (body["metadata"], body["paths"]) == ({"name": "kube-proxy"}, ["/healthz", "/metrics"])
    assert body.keys() - {"kind", "apiVersion", "metadata", "paths"} == {
        "startTime",
        "uptimeSeconds",
        "goVersion",
        "binaryVersion",
        "emulationVersion",
    }


@pytest.mark.parametrize(
    ("accept", "code", "kind"),
    [
        ("", 200, "text/plain; charset=utf-8"),
        ("*/*", 200, "text/plain; charset=utf-8"),
        ("text/plain", 200, "text/plain; charset=utf-8"),
        ("application/yaml; g=config.k8s.io; v=v1beta1; as=Flagz", 200, "application/yaml"),
        ("application/json;v=foo;g=config.k8s.io;as=Flagz,*/*", 200, "text/plain; charset=utf-8"),
        ("application/json", 406, "text/plain; charset=utf-8"),
        ("application/json;v=v1beta1;g=config.k8s.io;as=Statusz", 406, "text/plain; charset=utf-8"),
        ("application/xml", 406, "text/plain; charset=utf-8"),
    ],
)
def test_the_accept_header_decides(accept: str, code: int, kind: str) -> None:
    answer = flagz(CONFIG, accept)
    assert (answer.status, answer.headers["Content-Type"]) == (code, kind)


def test_flags_are_told_by_their_names() -> None:
    shown = show_flags(CONFIG)
    assert [*shown] == sorted(shown)
    assert shown["v"] == "0"
    assert shown["cluster-cidr"] == "10.0.0.0/8,fd00::/48"
    assert shown["feature-gates"] == "ComponentFlagz=true"
    assert shown["iptables-sync-period"] == "30s"
    assert shown["conntrack-tcp-timeout-established"] == "24h0m0s"
    assert shown["masquerade-all"] == "false"
    assert "\ncluster-cidr=10.0.0.0/8,fd00::/48\n" in flagz(CONFIG, "").body.decode()
    structured = flagz(CONFIG, "application/yaml;g=config.k8s.io;v=v1beta1;as=Flagz")
    assert yaml.safe_load(structured.body)["flags"] == shown


def test_the_process_began_before_now() -> None:
    assert 0 <= time.time() - started() < 7 * 86400


def test_a_fact_cannot_end_its_line() -> None:
    text = statusz(PATHS, {"Problem 1": "Service a/b: \x1b[31m says\nKernel settings: none"}, "").body.decode()
    assert text.endswith("\nProblem 1: Service a/b:  [31m says Kernel settings: none\n")
