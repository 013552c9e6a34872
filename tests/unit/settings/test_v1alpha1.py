"""A Config becomes kube-proxy's document, and means the same when it is read again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from kproxy.config import Config, DetectLocalMode, EndpointsSource, IptablesVariant
from kproxy.settings.document import read_document
from kproxy.settings.resolve import resolve
from kproxy.settings.v1alpha1 import render, to_yaml

DATA = Path(__file__).parent / "data"


def read_again(config: Config, *, whole: bool) -> Config:
    document = read_document(to_yaml(render(config, whole=whole)).encode())
    assert (document.unknown, document.doubled, document.problems) == ((), (), ())
    return resolve((), document, host="n", file="f").config


def test_the_defaults_are_what_kube_proxy_writes() -> None:
    assert to_yaml(render(Config())) == (DATA / "written.yaml").read_text(encoding="utf-8")


def test_ours_are_written_only_when_they_were_changed() -> None:
    assert "kproxy" not in render(Config())
    assert render(Config(tree_threshold=5))["kproxy"] == {"treeThreshold": 5}
    assert render(Config(), whole=True)["kproxy"]["treeThreshold"] == 100


def test_what_kube_proxys_fields_cannot_say_stands_under_our_key() -> None:
    tree = render(Config(iptables_min_sync_period=0.0, healthz_bind_address=""))
    assert tree["kproxy"] == {"iptablesMinSyncPeriod": "0s", "healthzBindAddress": ""}


def test_what_means_nothing_here_is_shown_as_it_was_given() -> None:
    config = Config(unused=(("clientConnection.qps", 7.5), ("ipvs.excludeCIDRs", ("10.0.0.0/8",))))
    tree = render(config)
    assert tree["ipvs"]["excludeCIDRs"] == ["10.0.0.0/8"]
    assert tree["clientConnection"]["qps"] == 7.5
    assert read_again(replace(config, hostname="n"), whole=False) == replace(config, hostname="n")


def test_a_comment_stands_behind_its_value() -> None:
    text = to_yaml({"a": {"b": 1, "c": []}, "l": ["x"]}, lambda path: {"a.b": "one", "l": "list"}.get(path, ""))
    assert text == "a:\n  b: 1  # one\n  c: []\nl:  # list\n- x\n"


@pytest.mark.parametrize(
    "text",
    ["", "true", "10", "1.5", "a: b", "#", "é", "\U0001f600", "\x85", "a\tb", "x" * 300, "'", "null", "0E0", "1:20"],
)
def test_any_text_survives(text: str) -> None:
    said = text.strip()
    excluded = (("ipvs.excludeCIDRs", (said,)),)
    config = Config(hostname="n", kubeconfig=said, vmodule=((f"{said}*", 1),), unused=excluded)
    assert read_again(config, whole=False) == config


_GATES = st.lists(
    st.tuples(st.sampled_from(["AllAlpha", "AllowServiceExternalIPs", "Other"]), st.booleans()),
    unique_by=lambda each: each[0],
)
_CHANGES: dict[str, st.SearchStrategy[Any]] = {
    "kubeconfig": st.text(max_size=20).map(str.strip),
    "master": st.sampled_from(["", "https://10.0.0.1:6443"]),
    "endpoints_source": st.sampled_from(EndpointsSource),
    "service_proxy_name": st.text(max_size=10).map(str.strip),
    "bind_address": st.sampled_from(["0.0.0.0", "::", "10.0.0.1"]),
    "cluster_cidr": st.sampled_from([(), ("10.0.0.0/8",), ("fd00::/8", "10.0.0.0/8")]),
    "detect_local_mode": st.sampled_from([DetectLocalMode.CLUSTER_CIDR, DetectLocalMode.NODE_CIDR]),
    "pod_bridge_interface": st.sampled_from(["", "cni0"]),
    "nodeport_addresses": st.sampled_from([(), ("primary",), ("localhost",), ("10.0.0.0/8", "fd00::/8", "localhost")]),
    "feature_gates": _GATES.map(lambda pairs: tuple(sorted(pairs))),
    "iptables_backend": st.sampled_from(IptablesVariant),
    "iptables_masquerade_bit": st.integers(0, 31),
    "masquerade_all": st.booleans(),
    "iptables_min_sync_period": st.integers(0, 30_000).map(lambda milliseconds: milliseconds / 1000),
    "healthz_bind_address": st.sampled_from(["", "[::]:10256", "127.0.0.1:1"]),
    "conntrack_max_per_core": st.integers(0, 2**31 - 1),
    "conntrack_udp_timeout": st.integers(0, 10**6).map(float),
    "oom_score_adj": st.integers(-1000, 1000),
    "verbosity": st.integers(0, 20),
    "vmodule": st.sampled_from([(), (("sync", 3),), (("a*", 0), ("b", 2))]),
    "backoff": st.sampled_from([(0.8, 30.0), (1.0, 1.0)]),
    "watch_seconds": st.sampled_from([(300, 600), (1, 2)]),
    "node_wait": st.sampled_from([0.0, 1.5]),
    "service_metrics": st.integers(0, 5000),
    "unused": st.sampled_from([(), (("clientConnection.qps", 7.5), ("portRange", "1-2"))]),
}


@settings(max_examples=40)  # a document is 10 ms of YAML
@given(st.fixed_dictionaries({}, optional=_CHANGES), st.booleans())
def test_what_was_written_means_the_same_when_it_is_read(changes: dict[str, Any], whole: bool) -> None:
    config = Config(hostname="n", **changes)
    gates = dict(config.feature_gates)
    config = replace(config, allow_external_ips=gates.get("AllowServiceExternalIPs", True))
    if config.iptables_masquerade_bit == config.relay_mark_bit:  # which then makes way
        config = replace(config, relay_mark_bit=config.relay_mark_bit - 1)
    assert read_again(config, whole=whole) == config
