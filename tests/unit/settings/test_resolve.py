"""Flags and files together: what is in force, where it comes from, and all that is wrong at once."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kproxy.config import Config, DetectLocalMode, EndpointsSource, IptablesVariant, LoggingFormat
from kproxy.errors import InvalidConfig
from kproxy.settings.document import API_VERSION, KIND, Document, read_document
from kproxy.settings.resolve import Origin, Settings, resolve
from kproxy.settings.table import BY_FLAG, BY_PATH

DATA = Path(__file__).parent / "data"
FILE = "/etc/kube-proxy.conf"
Flags = list[tuple[str, str]]


def flags(*given_flags: tuple[str, str]) -> Config:
    return resolve(given_flags, host="Node-1").config


def file(text: str, *given_flags: tuple[str, str]) -> Settings:
    document = read_document(f"apiVersion: {API_VERSION}\nkind: {KIND}\n{text}".encode())
    return resolve(given_flags, document, host="Node-1", file=FILE)


def problems(text: str | None, *given_flags: tuple[str, str]) -> list[str]:
    with pytest.raises(InvalidConfig) as caught:
        file(text, *given_flags) if text is not None else flags(*given_flags)
    return list(caught.value.problems)


def told(settings: Settings) -> list[str]:
    return [str(remark) for remark in settings.remarks]


# --- flags alone ------------------------------------------------------------------------------------------------


def test_without_anything_the_defaults_hold() -> None:
    settings = resolve(host="n1")
    assert settings.config == Config(hostname="n1")
    assert settings.remarks == ()
    assert settings.origin(BY_FLAG["proxy-mode"]) == Origin("default")
    assert str(settings.origins["hostname"]) == "derived the host's name"


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("metrics-bind-address", "", "metrics_bind_address", "127.0.0.1:10249"),
        ("healthz-port", "0", "healthz_bind_address", ""),
        ("healthz-port", "99", "healthz_bind_address", "0.0.0.0:10256"),
        ("feature-gates", "AllowServiceExternalIPs=false,Other=true", "allow_external_ips", False),
        ("feature-gates", "AllAlpha=true", "allow_external_ips", True),
        ("endpoints-source", "endpoints", "endpoints_source", EndpointsSource.ENDPOINTS),
        ("iptables-backend", "legacy", "iptables_backend", IptablesVariant.LEGACY),
        ("detect-local-mode", "NodeCIDR", "detect_local_mode", DetectLocalMode.NODE_CIDR),
        ("hostname-override", " Other ", "hostname", "other"),
        ("hostname-override", "", "hostname", "node-1"),
        ("iptables-min-sync-period", "0", "iptables_min_sync_period", 0.0),
        ("bind-address", "::", "metrics_bind_address", "127.0.0.1:10249"),
        ("logging-format", "json", "logging_format", LoggingFormat.JSON),
        ("cluster-cidr", "10.0.0.1/8,fd00::/8", "cluster_cidr", ("10.0.0.0/8", "fd00::/8")),
        ("show-hidden-metrics-for-version", "1.35", "show_hidden_metrics_for_version", "1.35"),
    ],
)
def test_a_flag_sets_a_field(name: str, value: str, field: str, expected: Any) -> None:
    assert getattr(flags((name, value)), field) == expected


def test_a_later_flag_wins_and_lists_add_up() -> None:
    config = flags(
        ("v", "1"),
        ("v", "2"),
        ("nodeport-addresses", "10.0.0.0/8"),
        ("nodeport-addresses", "localhost"),
        ("feature-gates", "A=true"),
        ("feature-gates", "A=false"),
    )
    assert config.verbosity == 2
    assert config.nodeport_addresses == ("10.0.0.0/8", "localhost")
    assert config.feature_gates == (("A", False),)


@pytest.mark.parametrize(
    ("given_flags", "address"),
    [
        ([("healthz-bind-address", "1.2.3.4"), ("healthz-port", "99")], "1.2.3.4:99"),
        ([("healthz-port", "99"), ("healthz-bind-address", "::")], "[::]:99"),
        ([("healthz-bind-address", "1.2.3.4:5"), ("healthz-port", "99")], "1.2.3.4:5"),
        ([("healthz-bind-address", "1.2.3.4:5"), ("healthz-port", "0")], ""),
    ],
)
def test_a_deprecated_port_serves_an_address_that_has_none(given_flags: Flags, address: str) -> None:
    assert flags(*given_flags).healthz_bind_address == address


def test_a_port_that_changes_nothing_is_told() -> None:
    (said,) = told(resolve([("healthz-port", "99")], host="n"))
    assert said.endswith("--healthz-port=99; give --healthz-bind-address with this port")
    assert told(resolve([("healthz-port", "10256")], host="n")) == []


@pytest.mark.parametrize(
    ("name", "value", "accepted"),
    [
        ("cluster-cidr", "10.0.0.0/8,11.0.0.0/8", "one of each IP family"),
        ("cluster-cidr", "10.0.0.0/8,fd00::/8,fd01::/16", "one of each IP family"),
        ("cluster-cidr", "10.0.0.1", "a CIDR such as"),
        ("healthz-bind-address", "localhost:1", "an IP address and a port"),
        ("metrics-port", "many", "a whole number from 0 to 65535"),
        ("healthz-port", "70000", "a whole number from 0 to 65535"),
        ("nodeport-addresses", "primary,10.0.0.0/8", "the word primary"),
        ("iptables-masquerade-bit", "32", "a whole number from 0 to 31"),
        ("masquerade-all", "yes", "true or false"),
        ("iptables-sync-period", "30", "a duration"),
        ("iptables-sync-period", "0", "a duration above 0"),
        ("idle-sync-period", "0", "a duration above 0"),
        ("proxy-mode", "ipvs", "give iptables, userspace, or nothing"),
        ("bind-address", "eth0", "an IP address"),
        ("feature-gates", "AllAlpha", "feature gates such as"),
        ("feature-gates", "NFTablesProxyMode=false", "NFTablesProxyMode=false: give true, or leave it out"),
        ("master", "10.0.0.1:6443", "a URL such as https://10.0.0.1:6443"),
        ("conntrack-min", "x", "a whole number of 0 or more"),
        ("show-hidden-metrics-for-version", "1.20", "1.35, or nothing"),
        ("ipvs-tcp-timeout", "soon", "a duration"),
        ("metrics-port", "0", "cannot be turned off"),
        ("hostname-override", "  ", "`kubectl get nodes`"),
        ("log-text-split-stream", "true", "LoggingAlphaOptions"),
    ],
)
def test_a_bad_flag_names_itself_the_value_and_what_is_accepted(name: str, value: str, accepted: str) -> None:
    (problem,) = problems(None, (name, value))
    assert problem.startswith(f"--{name}")
    assert accepted in problem


@pytest.mark.parametrize(
    ("given_flags", "named"),
    [
        (
            [("iptables-min-sync-period", "31s")],
            "--iptables-min-sync-period=31s: give at most --iptables-sync-period=30s",
        ),
        ([("detect-local-mode", "BridgeInterface")], "--pod-bridge-interface"),
        ([("detect-local-mode", "InterfaceNamePrefix")], "--pod-interface-name-prefix"),
        ([("manifests", "d"), ("kubeconfig", "k")], "--manifests: give either"),
        ([("vmodule", "a=1"), ("logging-format", "json")], "--vmodule: it works in the text format alone"),
    ],
)
def test_flags_that_contradict_each_other(given_flags: Flags, named: str) -> None:
    (problem,) = problems(None, *given_flags)
    assert problem.startswith(named)


def test_an_unreadable_cluster_cidr_matters_where_it_is_used_alone() -> None:
    settings = resolve([("cluster-cidr", "pods"), ("detect-local-mode", "NodeCIDR")], host="n")
    assert settings.config.cluster_cidr == ()
    assert told(settings) == ["clusterCIDR is unreadable; this detectLocalMode does not use it: pods"]


def test_the_relays_mark_makes_way_for_a_masquerade_bit_of_the_file() -> None:
    settings = file("iptables: {masqueradeBit: 13}")
    assert (settings.config.iptables_masquerade_bit, settings.config.relay_mark_bit) == (13, 12)
    assert settings.origins["relay_mark_bit"] == Origin("derived", "masqueradeBit")
    assert problems("iptables: {masqueradeBit: 13}\nkproxy: {relayMarkBit: 13}") == [
        "kproxy.relayMarkBit: 13: it is the bit of masquerading; give another one"
    ]


def test_all_mistakes_are_told_together() -> None:
    with pytest.raises(InvalidConfig) as caught:
        resolve([("v", "x"), ("masquerade-all", "x")], host="n", problems=["--nonsense: no such flag"])
    assert len(caught.value.problems) == 3


# --- a file -----------------------------------------------------------------------------------------------------


def test_the_file_that_kubeadm_writes_starts_with_kube_proxys_defaults() -> None:
    document = read_document((DATA / "kubeadm.yaml").read_bytes())
    settings = resolve([("hostname-override", "Node-1")], document, host="h", file=FILE)
    assert settings.config == Config(
        hostname="node-1",
        hostname_override="node-1",
        kubeconfig="/var/lib/kube-proxy/kubeconfig.conf",
        cluster_cidr=("10.244.0.0/16",),
    )
    assert settings.remarks == ()


def test_the_file_that_kind_writes_leaves_the_size_of_conntrack_alone() -> None:
    document = read_document((DATA / "kind.yaml").read_bytes())
    settings = resolve([("hostname-override", "Node-1")], document, host="h", file=FILE)
    assert settings.config == Config(
        hostname="node-1",
        hostname_override="node-1",
        kubeconfig="/var/lib/kube-proxy/kubeconfig.conf",
        cluster_cidr=("10.244.0.0/16", "fd00:10:244::/56"),
        conntrack_max_per_core=0,
    )
    assert settings.remarks == ()


@pytest.mark.parametrize(
    ("text", "field", "expected"),
    [
        ("iptables: {minSyncPeriod: 0s}", "iptables_min_sync_period", 1.0),
        ('iptables: {syncPeriod: ""}', "iptables_sync_period", 30.0),
        ("kproxy: {iptablesMinSyncPeriod: 0s}", "iptables_min_sync_period", 0.0),
        ('healthzBindAddress: ""', "healthz_bind_address", "0.0.0.0:10256"),
        ('kproxy: {healthzBindAddress: ""}', "healthz_bind_address", ""),
        ('bindAddress: "::"', "healthz_bind_address", "[::]:10256"),
        ('bindAddress: "fd00::1"', "metrics_bind_address", "[::1]:10249"),
        ("conntrack: {maxPerCore: 0}", "conntrack_max_per_core", 0),
        ("conntrack: {tcpEstablishedTimeout: 0s}", "conntrack_tcp_timeout_established", 0.0),
        ("iptables: {masqueradeBit: 0}", "iptables_masquerade_bit", 0),
        ("iptables: {localhostNodePorts: false}", "iptables_localhost_nodeports", False),
        ("oomScoreAdj: 0", "oom_score_adj", 0),
        ("nodePortAddresses: [primary, localhost]", "nodeport_addresses", ("primary", "localhost")),
        ("nodePortAddresses: []", "nodeport_addresses", ()),
        ("hostnameOverride: NODE-9", "hostname", "node-9"),
        ("featureGates: {AllowServiceExternalIPs: false}", "allow_external_ips", False),
        ("kproxy: {treeThreshold: 0, serviceMetrics: 7}", "service_metrics", 7),
        ("logging: {vmodule: [{filePattern: sync, verbosity: 4}]}", "vmodule", (("sync", 4),)),
        ("kproxy: {master: 'https://10.0.0.1'}", "master", "https://10.0.0.1"),
        ("clientConnection: {kubeconfig: relative/kubeconfig}", "kubeconfig", "relative/kubeconfig"),
    ],
)
def test_a_path_sets_a_field(text: str, field: str, expected: Any) -> None:
    assert getattr(file(text).config, field) == expected


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("mode: ipvs", 'mode: "ipvs": give iptables, userspace, or nothing'),
        ("mode: nftables", 'mode: "nftables": give iptables, userspace, or nothing'),
        ("mode: 5", "mode: 5: give iptables, userspace, or nothing"),
        ("iptables: {syncPeriod: 30}", "iptables.syncPeriod: 30: give a duration above 0, such as 30s, 1m30s or 200ms"),
        (
            "iptables: {syncPeriod: -1s}",
            'iptables.syncPeriod: "-1s": give a duration above 0, such as 30s, 1m30s or 200ms',
        ),
        (f"configSyncPeriod: {'9' * 400}s", 'configSyncPeriod: "999'),
        ("conntrack: {min: -1}", "conntrack.min: -1: give a whole number of 0 or more"),
        ("oomScoreAdj: 1.5", "oomScoreAdj: 1.5: give a whole number from -1000 to 1000"),
        ("nodePortAddresses: primary", 'nodePortAddresses: "primary": give CIDRs'),
        ("featureGates: {A: 1}", "featureGates: a section: give feature gates"),
        ("metricsBindAddress: localhost:1", 'metricsBindAddress: "localhost:1": give an IP address'),
        ("detectLocalMode: BridgeInterface", "detectLocal.bridgeInterface: mode BridgeInterface needs"),
        ("iptables: {minSyncPeriod: 31s}", "iptables.minSyncPeriod: 31s: give at most iptables.syncPeriod: 30s"),
        ("clusterCIDR: 10.0.0.0/8,10.0.0.0/8", "clusterCIDR: 10.0.0.0/8,10.0.0.0/8: give a CIDR"),
        ('hostnameOverride: " "', "hostnameOverride: it is empty; give"),
        ("configSyncPeriod: -1s", 'configSyncPeriod: "-1s": give'),
        ("clientConnection: {burst: -1}", "clientConnection.burst: -1: give a whole number of 0 or more"),
        ("ipvs: {strictARP: maybe}", 'ipvs.strictARP: "maybe": give true or false'),
        ("logging: {format: xml}", 'logging.format: "xml": give text, json, or nothing, which means text'),
        ("kproxy: {treeThreshold: null, listPage: 0}", "kproxy.listPage: 0: give a whole number of 1 or more"),
        ("logging: {options: {json: {infoBufferSize: 1Ki}}}", "logging.options.json.infoBufferSize: it is alpha"),
    ],
)
def test_a_bad_field_names_itself_the_value_and_what_is_accepted(text: str, problem: str) -> None:
    (found,) = problems(text)
    assert found.startswith(problem)


def test_what_is_odd_besides_is_a_note_of_the_error() -> None:
    with pytest.raises(InvalidConfig) as caught:
        file("mode: ipvs\nmodes: x")
    (note,) = caught.value.__notes__
    assert note.endswith(f"{FILE}; modes (did you mean mode?)")


def test_alpha_options_of_the_log_need_their_gate() -> None:
    settings = file("featureGates: {LoggingAlphaOptions: true}\nlogging: {options: {text: {splitStream: true}}}")
    assert settings.config.unused == (("logging.options.text.splitStream", True),)


def test_what_means_nothing_here_is_told_by_its_name() -> None:
    settings = file("ipvs: {scheduler: rr, syncPeriod: 30s, strictARP: false}\nclientConnection: {qps: 5}")
    assert told(settings) == [
        "Settings of kube-proxy that mean nothing here are ignored: ipvs.scheduler ipvs.syncPeriod"
    ]
    assert settings.config.unused == (("ipvs.scheduler", "rr"),)


def test_unknown_and_doubled_fields_are_told_and_nothing_else_happens() -> None:
    settings = file("metadata: {name: config}\niptables: {masqueradeBit: 3, masqueradeBit: 4}")
    assert settings.config == Config(hostname="node-1", iptables_masquerade_bit=4)
    assert [remark.fields["fields"] for remark in settings.remarks] == ["metadata", "iptables.masqueradeBit"]


# --- both -------------------------------------------------------------------------------------------------------


def test_beside_a_file_kube_proxys_flags_are_ignored_and_named_once() -> None:
    settings = file(
        "clusterCIDR: 10.0.0.0/8",
        ("cluster-cidr", "nonsense"),
        ("healthz-port", "0"),
        ("healthz-bind-address", "1.2.3.4:5"),
        ("cluster-cidr", "11.0.0.0/8"),
    )
    assert settings.config == Config(hostname="node-1", cluster_cidr=("10.0.0.0/8",))
    (remark,) = settings.remarks
    assert remark.fields == {"flags": "--cluster-cidr --healthz-port --healthz-bind-address", "file": FILE}


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("v", "7", "verbosity", 7),
        ("logging-format", "json", "logging_format", "json"),
        ("hostname-override", "other", "hostname", "other"),
        ("master", "https://h", "master", "https://h"),
        ("iptables-backend", "nft", "iptables_backend", "nft"),
        ("idle-sync-period", "1m", "idle_sync_period", 60.0),
        ("service-metrics", "5", "service_metrics", 5),
    ],
)
def test_flags_of_the_log_of_the_name_and_ours_win(name: str, value: str, field: str, expected: Any) -> None:
    text = "logging: {verbosity: 2}\nhostnameOverride: filed\nkproxy: {iptablesBackend: legacy}"
    settings = file(text, (name, value))
    assert getattr(settings.config, field) == expected
    assert str(settings.origin(BY_FLAG[name])) == f"flag --{name}"
    assert settings.remarks == ()


def test_levels_of_modules_are_joined_the_flags_first() -> None:
    text = "logging: {vmodule: [{filePattern: a, verbosity: 1}]}"
    assert file(text, ("vmodule", "b=2")).config.vmodule == (("b", 2), ("a", 1))


def test_an_origin_says_where_from() -> None:
    settings = file('bindAddress: "fd00::1"\nipvs: {scheduler: rr}', ("v", "1"))
    origins = {path: str(settings.origin(BY_PATH[path])) for path in ("bindAddress", "ipvs.scheduler", "oomScoreAdj")}
    assert origins == {"bindAddress": f"file {FILE}", "ipvs.scheduler": f"file {FILE}", "oomScoreAdj": "default"}
    assert str(settings.origin(BY_PATH["metricsBindAddress"])) == "derived bindAddress"


# --- anything ---------------------------------------------------------------------------------------------------

_VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12) | st.lists(st.text(max_size=5))


@given(st.dictionaries(st.sampled_from(sorted(BY_PATH)), _VALUES, max_size=6))
def test_any_document_is_a_config_or_sentences_that_name_fields(values: dict[str, Any]) -> None:
    found: tuple[str, ...] = ()
    try:
        resolve((), Document(values), host="n", file=FILE)
    except InvalidConfig as invalid:
        found = invalid.problems
    assert {problem.split(":")[0] for problem in found} <= BY_PATH.keys()


@given(st.lists(st.tuples(st.sampled_from(sorted(BY_FLAG)), st.text(max_size=30)), max_size=4))
def test_no_flag_is_more_than_a_problem(given_flags: Flags) -> None:
    with contextlib.suppress(InvalidConfig):
        flags(*given_flags)
