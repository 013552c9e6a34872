"""Flags → Config: every flag, what it accepts, and all that is wrong with a command line at once.

Names, defaults and spellings are kube-proxy's (spec: runtime.md 2), so that its command line works unchanged:
underscores or dashes, ``--v=2`` or ``-v=2``, booleans with or without a value, Go's durations. A flag that kube-proxy
has and that means nothing here is accepted and named in a log line; one that would be ignored at the user's peril
(``--config``) is a problem with a sentence. kube-proxy stops at the first bad value; we list them all, each with the
flag, the value and what is accepted, because a DaemonSet's round trip from one mistake to the next takes minutes.

Rejected: argparse's ``type=``, which ends the program at the first problem and says "invalid value".
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from functools import partial
from typing import Any, NamedTuple

from kproxy.cli.values import (
    address,
    boolean,
    choice,
    cidr_pair,
    duration,
    endpoint,
    external_ips_gate,
    interface,
    nodeport_addresses,
    number,
    show_duration,
    text,
    url,
)
from kproxy.config import Config, DetectLocalMode, EndpointsSource, IptablesVariant, ProxyMode
from kproxy.errors import InvalidConfig


class Flag(NamedTuple):
    """One flag. ``read`` raises ValueError, whose text says what is accepted."""

    name: str
    field: str  # of Config
    read: Callable[[str], Any]
    metavar: str
    help: str

    @property
    def boolean(self) -> bool:
        return self.read is boolean


def _count(low: int, high: int = 2**31 - 1) -> Callable[[str], int]:
    return partial(number, low=low, high=high)


def _one_of(kind: type[StrEnum]) -> Callable[[str], StrEnum]:
    return partial(choice, kind=kind)


# --- the flags ------------------------------------------------------------------------------------------------

CLUSTER = (
    Flag("kubeconfig", "kubeconfig", text, "FILE", "how to reach the API server; without it: the pod's own account"),
    Flag("master", "master", url, "URL", "the API server's address; overrides the kubeconfig's"),
    Flag("manifests", "manifests", text, "DIR", "serve the YAML manifests of a directory; no API server is needed"),
    Flag("hostname-override", "hostname", text, "NAME", "this node's name in the cluster, if not the host's name"),
    Flag(
        "endpoints-source",
        "endpoints_source",
        _one_of(EndpointsSource),
        "KIND",
        "endpointslices, or endpoints for clusters before 1.21",
    ),
    Flag(
        "service-proxy-name",
        "service_proxy_name",
        text,
        "NAME",
        "serve the Services labelled service.kubernetes.io/service-proxy-name=NAME instead of the unlabelled ones",
    ),
)

TRAFFIC = (
    Flag("proxy-mode", "proxy_mode", _one_of(ProxyMode), "MODE", "there is one"),
    Flag("bind-address", "bind_address", address, "IP", "overrides the node's primary address; nothing binds to it"),
    Flag("cluster-cidr", "cluster_cidr", cidr_pair, "CIDR[,CIDR]", "addresses of pods, one range of each family"),
    Flag(
        "detect-local-mode",
        "detect_local_mode",
        _one_of(DetectLocalMode),
        "MODE",
        "how this node's pods are recognised: ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix",
    ),
    Flag("pod-bridge-interface", "pod_bridge_interface", partial(interface, longest=15), "NAME", "for BridgeInterface"),
    Flag(
        "pod-interface-name-prefix",
        "pod_interface_name_prefix",
        partial(interface, longest=14),  # 15 with the + that a rule adds
        "PREFIX",
        "for InterfaceNamePrefix",
    ),
    Flag(
        "nodeport-addresses",
        "nodeport_addresses",
        nodeport_addresses,
        "CIDR,...",
        "local addresses that answer node ports, or primary; without it: all",
    ),
    Flag("masquerade-all", "masquerade_all", boolean, "", "hide the client's address behind the node's, always"),
    Flag("iptables-masquerade-bit", "iptables_masquerade_bit", _count(0, 31), "BIT", "of the packet mark"),
    Flag(
        "iptables-localhost-nodeports",
        "iptables_localhost_nodeports",
        boolean,
        "",
        "node ports answer on 127.0.0.1, too; sets route_localnet",
    ),
    Flag("iptables-backend", "iptables_backend", _one_of(IptablesVariant), "NAME", "auto, nft or legacy"),
    Flag(
        "feature-gates",
        "allow_external_ips",
        external_ips_gate,
        "A=BOOL,...",
        "AllowServiceExternalIPs=false: external IPs are not served (default: true); other gates are ignored",
    ),
)

TIMES = (
    Flag("iptables-sync-period", "iptables_sync_period", duration, "TIME", "longest wait before a failure is retried"),
    Flag("iptables-min-sync-period", "iptables_min_sync_period", duration, "TIME", "shortest pause between syncs"),
    Flag(
        "idle-sync-period", "idle_sync_period", duration, "TIME", "compare the kernel with the plan at least this often"
    ),
)

SERVERS = (
    Flag(
        "healthz-bind-address",
        "healthz_bind_address",
        partial(endpoint, default_port=10256),
        "IP:PORT",
        "of /healthz, /livez and /readyz",
    ),
    Flag(
        "metrics-bind-address",
        "metrics_bind_address",
        partial(endpoint, default_port=10249),
        "IP:PORT",
        "of /metrics, /proxyMode and /configz",
    ),
    Flag("healthz-port", "healthz_bind_address", _count(0, 65535), "PORT", "deprecated; 0 turns the server off"),
    Flag("metrics-port", "metrics_bind_address", _count(0, 65535), "PORT", "deprecated"),
    Flag("bind-address-hard-fail", "bind_address_hard_fail", boolean, "", "end when a server cannot listen"),
)

SYSTEM = (
    Flag("conntrack-max-per-core", "conntrack_max_per_core", _count(0), "N", "conntrack entries; 0 leaves them alone"),
    Flag("conntrack-min", "conntrack_min", _count(0), "N", "at least so many entries"),
    Flag("conntrack-tcp-timeout-established", "conntrack_tcp_timeout_established", duration, "TIME", "0: as it is"),
    Flag("conntrack-tcp-timeout-close-wait", "conntrack_tcp_timeout_close_wait", duration, "TIME", "0: as it is"),
    Flag("conntrack-tcp-be-liberal", "conntrack_tcp_be_liberal", boolean, "", "accept packets out of window"),
    Flag("conntrack-udp-timeout", "conntrack_udp_timeout", duration, "TIME", "0: as it is"),
    Flag("conntrack-udp-timeout-stream", "conntrack_udp_timeout_stream", duration, "TIME", "0: as it is"),
    Flag("oom-score-adj", "oom_score_adj", _count(-1000, 1000), "N", "the kernel's reluctance to kill us"),
    Flag("v", "verbosity", _count(0, 19), "LEVEL", "0 is quiet, 4 is talkative"),
)

GROUPS: Mapping[str, tuple[Flag, ...]] = {
    "the cluster": CLUSTER,
    "which traffic": TRAFFIC,
    "when to sync": TIMES,
    "questions from outside": SERVERS,
    "the node": SYSTEM,
}
FLAGS = {flag.name: flag for flags in GROUPS.values() for flag in flags}

# kube-proxy's flags that mean nothing here: accepted, named in one log line. Value: it is boolean.
IGNORED: Mapping[str, bool] = dict.fromkeys(
    (
        "boot-id-file",
        "config-sync-period",
        "ipvs-exclude-cidrs",
        "ipvs-min-sync-period",
        "ipvs-scheduler",
        "ipvs-sync-period",
        "ipvs-tcp-timeout",
        "ipvs-tcpfin-timeout",
        "ipvs-udp-timeout",
        "kube-api-burst",
        "kube-api-content-type",
        "kube-api-qps",
        "log-flush-frequency",
        "log-json-info-buffer-size",
        "log-text-info-buffer-size",
        "logging-format",
        "machine-id-file",
        "show-hidden-metrics-for-version",
        "vmodule",
    ),
    False,
) | dict.fromkeys(
    ("ipvs-strict-arp", "log-json-split-stream", "log-text-split-stream", "profiling", "windows-run-as-service"),
    True,
)

# kube-proxy's flags that would be ignored at the user's peril
_NOT_YET = {
    "config": "configuration files are not read by this version; give the same settings as flags",
    "write-config-to": "this version does not write configuration files; /configz on the metrics port shows all",
}
NOT_YET = tuple(_NOT_YET)
_EMPTY_MEANS_UNSET = {"hostname-override", "healthz-bind-address", "metrics-bind-address"}  # as in kube-proxy


def explain(flag: Flag) -> str:
    """The flag's help, with its default where there is one to show."""
    default = getattr(Config(), flag.field)
    if flag.name.endswith("-port") or flag.field == "allow_external_ips" or default in ("", ()):
        return flag.help
    if flag.read is duration:
        return f"{flag.help} ({show_duration(default)})"
    return f"{flag.help} ({str(default).lower() if flag.boolean else default})"


def to_config(given: Iterable[tuple[str, str]], *, host: str, problems: Sequence[str] = ()) -> Config:
    """The configuration of these flags, in the order given; a later one of the same name wins.

    ``host``: the host's name, for who gives no --hostname-override. ``problems``: what the caller has found already.
    Raises InvalidConfig with everything that is wrong.
    """
    wrong = list(problems)
    values: dict[str, Any] = {"hostname": host}
    ports: dict[str, int] = {}
    for name, value in given:
        if name in _NOT_YET:
            wrong.append(f"--{name}: {_NOT_YET[name]}")
            continue
        flag = FLAGS[name]
        try:
            read = flag.read(value)
        except ValueError as error:
            wrong.append(f"--{name}={value}: give {error}")
            continue
        if name.endswith("-port"):
            ports[flag.field] = read
        elif value or name not in _EMPTY_MEANS_UNSET:
            values[flag.field] = read
    _merge_ports(values, ports)
    values["hostname"] = values["hostname"].strip().lower()
    config = Config(**values)
    wrong += _contradictions(config)
    if wrong:
        raise InvalidConfig(*wrong)
    return config


def _merge_ports(values: dict[str, Any], ports: Mapping[str, int]) -> None:
    """The deprecated ports: 0 turns a server off; else a port for an address that was not given."""
    for field, port in ports.items():
        if port == 0:
            values[field] = ""
        elif field not in values:
            values[field] = f"{getattr(Config(), field).rpartition(':')[0]}:{port}"


def _contradictions(config: Config) -> list[str]:
    """What is wrong between flags that are right alone."""
    wrong = []
    if not config.hostname:
        wrong.append("--hostname-override: the node's name is empty; give the name that `kubectl get nodes` shows")
    if config.iptables_sync_period <= 0:
        wrong.append("--iptables-sync-period: give a duration above 0")
    if config.idle_sync_period <= 0:
        wrong.append("--idle-sync-period: give a duration above 0")
    if config.iptables_min_sync_period > config.iptables_sync_period:
        wrong.append(
            f"--iptables-min-sync-period={config.iptables_min_sync_period:g}s: "
            f"give at most --iptables-sync-period ({config.iptables_sync_period:g}s)"
        )
    if not config.metrics_bind_address:
        wrong.append("--metrics-port=0: the metrics server cannot be turned off; give a port from 1 to 65535")
    if config.detect_local_mode is DetectLocalMode.BRIDGE_INTERFACE and not config.pod_bridge_interface:
        wrong.append("--pod-bridge-interface: --detect-local-mode=BridgeInterface needs the bridge's name")
    if config.detect_local_mode is DetectLocalMode.INTERFACE_NAME_PREFIX and not config.pod_interface_name_prefix:
        wrong.append("--pod-interface-name-prefix: --detect-local-mode=InterfaceNamePrefix needs the prefix")
    if config.manifests and (config.kubeconfig or config.master):
        wrong.append("--manifests: give either a directory or an API server, not both")
    return wrong
