"""One flag at a time, and all mistakes at once. Which words make a command is in test_cli.py."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.cli import flags, values
from kproxy.config import Config, DetectLocalMode, EndpointsSource, IptablesVariant
from kproxy.daemon.configz import go_duration
from kproxy.errors import InvalidConfig


def read(*given_flags: tuple[str, str]) -> Config:
    return flags.to_config(given_flags, host="Node-1")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("30s", 30), ("1m0s", 60), ("200ms", 0.2), ("1h2m3.5s", 3723.5), ("0", 0), ("0s", 0), (".5s", 0.5), ("2us", 2e-6)],
)
def test_durations_are_gos(text: str, seconds: float) -> None:
    assert values.duration(text) == pytest.approx(seconds)


@given(st.integers(0, 10**7))
def test_what_go_prints_is_read_back(milliseconds: int) -> None:
    assert values.duration(go_duration(milliseconds / 1000)) == pytest.approx(milliseconds / 1000)


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("cluster-cidr", "10.0.0.0/8,fd00::/8", "cluster_cidr", ("10.0.0.0/8", "fd00::/8")),
        ("healthz-bind-address", "127.0.0.1", "healthz_bind_address", "127.0.0.1:10256"),
        ("healthz-bind-address", "::", "healthz_bind_address", "[::]:10256"),
        ("metrics-bind-address", "[::1]:99", "metrics_bind_address", "[::1]:99"),
        ("metrics-bind-address", "", "metrics_bind_address", "127.0.0.1:10249"),
        ("healthz-port", "0", "healthz_bind_address", ""),
        ("healthz-port", "99", "healthz_bind_address", "0.0.0.0:99"),
        ("nodeport-addresses", "primary", "nodeport_addresses", ("primary",)),
        ("nodeport-addresses", "10.0.0.0/8, 127.0.0.1/32", "nodeport_addresses", ("10.0.0.0/8", "127.0.0.1/32")),
        ("feature-gates", "AllowServiceExternalIPs=false,Other=true", "allow_external_ips", False),
        ("iptables-masquerade-bit", "31", "iptables_masquerade_bit", 31),
        ("masquerade-all", "T", "masquerade_all", True),
        ("master", "https://[fd00::1]:6443", "master", "https://[fd00::1]:6443"),
        ("master", "", "master", ""),
        ("endpoints-source", "endpoints", "endpoints_source", EndpointsSource.ENDPOINTS),
        ("iptables-backend", "legacy", "iptables_backend", IptablesVariant.LEGACY),
        ("detect-local-mode", "NodeCIDR", "detect_local_mode", DetectLocalMode.NODE_CIDR),
        ("oom-score-adj", "-1000", "oom_score_adj", -1000),
        ("hostname-override", " Other ", "hostname", "other"),
        ("hostname-override", "", "hostname", "node-1"),
        ("iptables-min-sync-period", "0", "iptables_min_sync_period", 0.0),
    ],
)
def test_a_value_becomes_a_field(name: str, value: str, field: str, expected: Any) -> None:
    assert getattr(read((name, value)), field) == expected


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("cluster-cidr", "10.0.0.0/8,11.0.0.0/8", "one of each IP family"),
        ("cluster-cidr", "10.0.0.1", "a CIDR such as"),
        ("healthz-bind-address", "localhost:1", "an IP address and a port"),
        ("healthz-bind-address", "1.2.3.4:70000", "from 1 to 65535"),
        ("nodeport-addresses", "primary,10.0.0.0/8", "the single word primary"),
        ("iptables-masquerade-bit", "32", "a whole number from 0 to 31"),
        ("masquerade-all", "yes", "true or false"),
        ("iptables-sync-period", "30", "a duration"),
        ("iptables-sync-period", "-1s", "a duration"),
        ("proxy-mode", "ipvs", "one of iptables"),
        ("bind-address", "eth0", "an IP address"),
        ("feature-gates", "AllAlpha", "pairs such as"),
        ("master", "10.0.0.1:6443", "a URL such as https://10.0.0.1:6443"),
        ("master", "https://", "a URL such as https://10.0.0.1:6443"),
        ("master", "https://[::1", "a URL such as https://10.0.0.1:6443"),
        ("master", "https://10.0.0.1:port", "a URL such as https://10.0.0.1:6443"),
        ("conntrack-min", "x", "a whole number of 0 or more"),
        ("config", "/etc/x", "give the same settings as flags"),
        ("pod-interface-name-prefix", '"; -j ACCEPT', "as the kernel names interfaces"),
        ("pod-interface-name-prefix", "x" * 15, "at most 14 letters"),
        ("pod-bridge-interface", "cni0\n-A INPUT -j ACCEPT", "as the kernel names interfaces"),
    ],
)
def test_a_bad_value_names_the_flag_the_value_and_what_is_accepted(name: str, value: str, accepted: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        read((name, value))
    (problem,) = caught.value.problems
    assert problem.startswith(f"--{name}")
    assert accepted in problem


@pytest.mark.parametrize(
    ("given_flags", "named"),
    [
        ([("hostname-override", "  ")], "--hostname-override"),
        ([("iptables-sync-period", "0")], "--iptables-sync-period"),
        ([("iptables-min-sync-period", "31s")], "at most --iptables-sync-period (30s)"),
        ([("metrics-port", "0")], "cannot be turned off"),
        ([("detect-local-mode", "BridgeInterface")], "--pod-bridge-interface"),
        ([("detect-local-mode", "InterfaceNamePrefix")], "--pod-interface-name-prefix"),
        ([("manifests", "d"), ("kubeconfig", "k")], "not both"),
    ],
)
def test_flags_that_contradict_each_other(given_flags: list[tuple[str, str]], named: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        read(*given_flags)
    assert any(named in problem for problem in caught.value.problems)


def test_all_mistakes_are_told_together() -> None:
    with pytest.raises(InvalidConfig) as caught:
        flags.to_config([("v", "99"), ("masquerade-all", "x")], host="n", problems=["--nonsense: no such flag"])
    assert len(caught.value.problems) == 3


def test_every_flag_sets_a_field_that_exists() -> None:
    assert {flag.field for flag in flags.FLAGS.values()} <= set(Config.__struct_fields__)


def test_without_flags_the_defaults_of_config_hold() -> None:
    assert flags.to_config([], host="n1") == Config(hostname="n1")


@given(st.sampled_from(sorted(flags.FLAGS)), st.text(max_size=30))
def test_no_value_is_more_than_a_problem(name: str, value: str) -> None:
    with contextlib.suppress(InvalidConfig):
        read((name, value))


def test_an_empty_mode_is_the_default() -> None:
    config = read(("proxy-mode", ""), ("detect-local-mode", ""))
    assert (config.proxy_mode, config.detect_local_mode) == (Config().proxy_mode, Config().detect_local_mode)


@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("iptables-sync-period", "(30s)"),
        ("conntrack-tcp-timeout-established", "(24h)"),
        ("conntrack-udp-timeout", "(0s)"),
        ("masquerade-all", "(false)"),
        ("iptables-backend", "(auto)"),
        ("oom-score-adj", "(-999)"),
        ("metrics-port", "deprecated"),
        ("kubeconfig", "the pod's own account"),
    ],
)
def test_help_ends_with_the_default(name: str, end: str) -> None:
    assert flags.explain(flags.FLAGS[name]).endswith(end)
