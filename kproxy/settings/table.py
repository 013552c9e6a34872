"""Every setting, once: its flag, its path in the configuration file, its field of Config, and what it may hold.

Flags, the file, ``--write-config-to``, ``/configz`` and ``kproxy config`` are all driven by this table, so that a new
setting is one default in ``config.py``, and one row here if it is to have a flag. kube-proxy's settings keep its names
(spec: runtime.md 1, 2). Ours stand under the one key ``kproxy``, in camelCase: kube-proxy decodes a file leniently and
only logs one unknown field, so one file serves both programs.

In kube-proxy's document a text, number or duration that is empty or 0 counts as absent where Go has no pointer, and
kubeadm writes all of them so; with a pointer (``pointer``) only null does. Under ``kproxy`` only null is absent, which
is why two of kube-proxy's settings stand there a second time: their own field cannot say 0.

Rejected: types from which flags and schema are generated (pydantic and its like): the two spellings, the zero values
and the help would be annotations on annotations, and the table is easier to read.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, NamedTuple

import msgspec

from kproxy.config import (
    UNUSED,
    Balance,
    Config,
    DetectLocalMode,
    EndpointsSource,
    IptablesVariant,
    LoggingFormat,
    ProxyMode,
)
from kproxy.settings import kinds
from kproxy.settings.kinds import BOOLEAN, DURATION, FROM_TO, POSITIVE, QUANTITY, STRINGS, TEXT, Kind, choice, number

OURS = "kproxy"
_DEFAULTS = Config()


class Setting(NamedTuple):
    path: str  # in the file; empty: only a flag
    flag: str  # without dashes; empty: only in the file
    field: str  # of Config; empty: means nothing here
    kind: Kind
    metavar: str = ""
    help: str = ""
    pointer: bool = False  # a zero is a value and not absence
    wins: bool = False  # the flag counts beside a file, too

    @property
    def key(self) -> str:
        """What identifies the value: two settings may write one field."""
        return self.field or self.path or f"--{self.flag}"

    @property
    def default(self) -> Any:
        return getattr(_DEFAULTS, self.field) if self.field else UNUSED.get(self.path, "")

    @property
    def is_ours(self) -> bool:
        return self.path.startswith(f"{OURS}.")

    @property
    def boolean(self) -> bool:
        return self.kind is BOOLEAN


def _ours(field: str, kind: Kind, flag: str = "", metavar: str = "", help: str = "") -> Setting:  # noqa: A002
    """A setting that kube-proxy does not have; its flag wins, because a file that kube-proxy wrote cannot hold it."""
    head, *rest = field.split("_")
    path = f"{OURS}.{head}{''.join(word.capitalize() for word in rest)}"
    return Setting(path, flag, field, kind, metavar, help, pointer=True, wins=True)


def _unused(path: str, flag: str, kind: Kind, *, pointer: bool = False, wins: bool = False) -> Setting:
    return Setting(path, flag, "", kind, pointer=pointer, wins=wins)


_pointer = partial(Setting, pointer=True)
_winning = partial(Setting, wins=True)

CLUSTER = (
    Setting("clientConnection.kubeconfig", "kubeconfig", "kubeconfig", TEXT, "FILE",
            "how to reach the API server; without it: the pod's own account"),
    _ours("master", kinds.URL, "master", "URL", "the API server's address; overrides the kubeconfig's and the pod's"),
    _ours("manifests", TEXT, "manifests", "DIR", "serve the YAML manifests of a directory; no API server is needed"),
    _winning("hostnameOverride", "hostname-override", "hostname_override", kinds.HOST, "NAME",
             "this node's name in the cluster, if not the host's name"),
    _ours("endpoints_source", choice(EndpointsSource), "endpoints-source", "KIND",
          "endpointslices, or endpoints for clusters before 1.21"),
    _ours("service_proxy_name", TEXT, "service-proxy-name", "NAME",
          "serve the Services labelled service.kubernetes.io/service-proxy-name=NAME instead of the unlabelled ones"),
)  # fmt: skip

TRAFFIC = (
    Setting("mode", "proxy-mode", "proxy_mode", choice(ProxyMode), "MODE",
            "iptables: the kernel carries everything; userspace: a relay of kproxy does. A Service may differ from it"),
    Setting("bindAddress", "bind-address", "bind_address", kinds.ADDRESS, "IP",
            "overrides the node's primary address; nothing binds to it"),
    Setting("clusterCIDR", "cluster-cidr", "cluster_cidr", kinds.CIDR_PAIR, "CIDR[,CIDR]",
            "addresses of pods, one range of each family"),
    Setting("detectLocalMode", "detect-local-mode", "detect_local_mode", choice(DetectLocalMode), "MODE",
            "how this node's pods are recognised: ClusterCIDR, NodeCIDR, BridgeInterface or InterfaceNamePrefix"),
    Setting("detectLocal.bridgeInterface", "pod-bridge-interface", "pod_bridge_interface", kinds.interface(15), "NAME",
            "for BridgeInterface"),
    Setting("detectLocal.interfaceNamePrefix", "pod-interface-name-prefix", "pod_interface_name_prefix",
            kinds.interface(14), "PREFIX", "for InterfaceNamePrefix"),  # 15 with the + that a rule adds
    Setting("nodePortAddresses", "nodeport-addresses", "nodeport_addresses", kinds.NODE_PORTS, "CIDR,...",
            "local addresses that answer node ports, or primary; and localhost, for 127.0.0.1 and ::1 through "
            "listeners of kproxy; without it: all addresses of the node"),
    Setting("iptables.masqueradeAll", "masquerade-all", "masquerade_all", BOOLEAN, "",
            "hide the client's address behind the node's, always"),
    _pointer("iptables.masqueradeBit", "iptables-masquerade-bit", "iptables_masquerade_bit", number(0, 31), "BIT",
             "of the packet mark"),
    _pointer("iptables.localhostNodePorts", "iptables-localhost-nodeports", "iptables_localhost_nodeports", BOOLEAN, "",
             "node ports answer on 127.0.0.1, too; sets route_localnet"),
    _ours("iptables_backend", choice(IptablesVariant), "iptables-backend", "NAME", "auto, nft or legacy"),
    _ours("userspace_transparent", BOOLEAN, "userspace-transparent", "",
          "endpoints of relayed Services see the client's address"),
    Setting("featureGates", "feature-gates", "feature_gates", kinds.GATES, "A=BOOL,...",
            "AllowServiceExternalIPs=false: external IPs are not served; others change nothing here"),
)  # fmt: skip

TIMES = (
    Setting("iptables.syncPeriod", "iptables-sync-period", "iptables_sync_period", POSITIVE, "TIME",
            "longest wait before a failure is retried"),
    Setting("iptables.minSyncPeriod", "iptables-min-sync-period", "iptables_min_sync_period", DURATION, "TIME",
            "shortest pause between syncs"),
    _ours("iptables_min_sync_period", DURATION),  # a second time: kube-proxy's field cannot say 0
    _ours("idle_sync_period", POSITIVE, "idle-sync-period", "TIME",
          "compare the kernel with the plan at least this often"),
)  # fmt: skip

SERVERS = (
    Setting("healthzBindAddress", "healthz-bind-address", "healthz_bind_address", kinds.endpoint(10256), "IP:PORT",
            "of /healthz, /livez and /readyz"),
    _ours("healthz_bind_address", kinds.endpoint(10256)),  # a second time: kube-proxy's field cannot say off
    Setting("metricsBindAddress", "metrics-bind-address", "metrics_bind_address", kinds.endpoint(10249), "IP:PORT",
            "of /metrics, /proxyMode and /configz"),
    Setting("bindAddressHardFail", "bind-address-hard-fail", "bind_address_hard_fail", BOOLEAN, "",
            "end when a server cannot listen"),
    Setting("enableProfiling", "profiling", "profiling", BOOLEAN, "", "/debug/pprof and /debug/flags for metrics, too"),
    Setting("showHiddenMetricsForVersion", "show-hidden-metrics-for-version", "show_hidden_metrics_for_version",
            kinds.version("1.35"), "VERSION", "give 1.35 to see the metrics that 1.36 hides"),
    _ours("service_metrics", number(0), "service-metrics", "N",
          "count connections and bytes of at most so many service ports"),
)  # fmt: skip

NODE = (
    _pointer("conntrack.maxPerCore", "conntrack-max-per-core", "conntrack_max_per_core", number(0), "N",
             "conntrack entries; 0 leaves them alone"),
    _pointer("conntrack.min", "conntrack-min", "conntrack_min", number(0), "N", "at least so many entries"),
    _pointer("conntrack.tcpEstablishedTimeout", "conntrack-tcp-timeout-established",
             "conntrack_tcp_timeout_established", DURATION, "TIME", "0: as it is"),
    _pointer("conntrack.tcpCloseWaitTimeout", "conntrack-tcp-timeout-close-wait",
             "conntrack_tcp_timeout_close_wait", DURATION, "TIME", "0: as it is"),
    Setting("conntrack.tcpBeLiberal", "conntrack-tcp-be-liberal", "conntrack_tcp_be_liberal", BOOLEAN, "",
            "accept packets out of window"),
    Setting("conntrack.udpTimeout", "conntrack-udp-timeout", "conntrack_udp_timeout", DURATION, "TIME", "0: as it is"),
    Setting("conntrack.udpStreamTimeout", "conntrack-udp-timeout-stream", "conntrack_udp_timeout_stream", DURATION,
            "TIME", "0: as it is"),
    _pointer("oomScoreAdj", "oom-score-adj", "oom_score_adj", number(-1000, 1000), "N",
             "the kernel's reluctance to kill us"),
)  # fmt: skip

LOG = (
    _winning("logging.verbosity", "v", "verbosity", number(0), "LEVEL", "0 is quiet, 4 is talkative"),
    _winning("logging.vmodule", "vmodule", "vmodule", kinds.VMODULE, "NAME=LEVEL,...",
             "another level for lines of some modules"),
    _winning("logging.format", "logging-format", "logging_format", choice(LoggingFormat), "FORMAT", "text or json"),
)  # fmt: skip

GROUPS: Mapping[str, tuple[Setting, ...]] = {
    "the cluster": CLUSTER,
    "which traffic": TRAFFIC,
    "when to sync": TIMES,
    "questions from outside": SERVERS,
    "the node": NODE,
    "the log": LOG,
}

# What follows from other settings, and is none itself.
DERIVED = frozenset({"allow_external_ips", "hostname", "unused"})
_KINDS: Mapping[str, Kind] = {  # where the default's type does not say enough
    "backoff": FROM_TO,
    "large_cluster_endpoints": number(0),
    "node_wait": DURATION,
    "pod_cidr_wait": DURATION,
    "relay_address": kinds.ADDRESSES,
    "relay_balance": choice(Balance),
    "relay_drain": DURATION,
    "relay_mark_bit": number(0, 31),
    "relay_eject_after": number(0),
    "relay_eject_floor": kinds.SHARE,
    "relay_eject_seconds": FROM_TO,
    "relay_service_connections": number(0),
    "relay_shutdown": DURATION,
    "relay_silence": DURATION,
    "relay_slow_start": DURATION,
    "relay_worker_backoff": FROM_TO,
    "relay_sources": kinds.NETWORKS,
    "relay_workers": number(0),
    "service_metrics_share": kinds.SHARE,
    "tree_threshold": number(0),
    "watch_seconds": kinds.SECONDS,
    "xtables_wait": number(0),
}


def _tuning() -> Iterator[Setting]:
    """Every other field of Config, for the file alone: whoever changes one has measured something."""
    known = DERIVED | {setting.field for group in GROUPS.values() for setting in group}
    for field, default in sorted(msgspec.structs.asdict(_DEFAULTS).items()):
        if field not in known:
            yield _ours(field, _KINDS.get(field) or _kind_of(default))


def _kind_of(default: object) -> Kind:
    match default:
        case bool():
            return BOOLEAN
        case int():
            return number(1)
        case float():  # Config counts in seconds
            return POSITIVE
        case tuple():
            return kinds.DURATIONS
        case _:
            return TEXT


TUNING = tuple(_tuning())

# kube-proxy's settings that mean nothing here; they are read, so that a mistake in them is found, and shown again.
WITHOUT_EFFECT = (
    _unused("clientConnection.acceptContentTypes", "", TEXT),
    _unused("clientConnection.burst", "kube-api-burst", number(0)),
    _unused("clientConnection.contentType", "kube-api-content-type", TEXT),
    _unused("clientConnection.qps", "kube-api-qps", kinds.FLOAT),
    _unused("configSyncPeriod", "config-sync-period", POSITIVE),
    _unused("ipvs.excludeCIDRs", "ipvs-exclude-cidrs", STRINGS),
    _unused("ipvs.minSyncPeriod", "ipvs-min-sync-period", DURATION),
    _unused("ipvs.scheduler", "ipvs-scheduler", TEXT),
    _unused("ipvs.strictARP", "ipvs-strict-arp", BOOLEAN),
    _unused("ipvs.syncPeriod", "ipvs-sync-period", DURATION),
    _unused("ipvs.tcpFinTimeout", "ipvs-tcpfin-timeout", DURATION),
    _unused("ipvs.tcpTimeout", "ipvs-tcp-timeout", DURATION),
    _unused("ipvs.udpTimeout", "ipvs-udp-timeout", DURATION),
    _unused("logging.flushFrequency", "log-flush-frequency", kinds.FLUSH, wins=True),
    _unused("logging.options.json.infoBufferSize", "log-json-info-buffer-size", QUANTITY, wins=True),
    _unused("logging.options.json.splitStream", "log-json-split-stream", BOOLEAN, wins=True),
    _unused("logging.options.text.infoBufferSize", "log-text-info-buffer-size", QUANTITY, wins=True),
    _unused("logging.options.text.splitStream", "log-text-split-stream", BOOLEAN, wins=True),
    _unused("nftables.masqueradeAll", "", BOOLEAN),
    _unused("nftables.masqueradeBit", "", number(0, 31), pointer=True),
    _unused("nftables.minSyncPeriod", "", DURATION),
    _unused("nftables.syncPeriod", "", DURATION),
    _unused("portRange", "", TEXT),
    _unused("windowsRunAsService", "windows-run-as-service", BOOLEAN),
    _unused("winkernel.enableDSR", "enable-dsr", BOOLEAN),
    _unused("winkernel.forwardHealthCheckVip", "forward-healthcheck-vip", BOOLEAN),
    _unused("winkernel.networkName", "network-name", TEXT),
    _unused("winkernel.rootHnsEndpointName", "root-hnsendpoint-name", TEXT),
    _unused("winkernel.sourceVip", "source-vip", TEXT),
    _unused("", "boot-id-file", TEXT),
    _unused("", "machine-id-file", TEXT),
)
# kube-proxy forgets these in iptables mode, whoever gave them.
FORGOTTEN = frozenset(
    f"{mode}.{name}" for mode in ("ipvs", "nftables") for name in ("minSyncPeriod", "syncPeriod", "masqueradeAll")
)

SETTINGS = (*(setting for group in GROUPS.values() for setting in group), *TUNING, *WITHOUT_EFFECT)
BY_FLAG: Mapping[str, Setting] = {setting.flag: setting for setting in SETTINGS if setting.flag}
BY_PATH: Mapping[str, Setting] = {setting.path: setting for setting in SETTINGS if setting.path}
