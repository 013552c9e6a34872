"""Every setting and every default of the program, in one frozen value.

Flags keep kube-proxy's names, so a field here is a kube-proxy flag with underscores unless a comment says it is ours.
Durations are seconds. What a flag or a line of a configuration file means is ``settings/table.py``'s, what of them is
in force ``settings/resolve.py``'s; nothing below reads the environment.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from types import MappingProxyType
from typing import Any

from msgspec import Struct

from kproxy import __version__

KUBERNETES = "1.36.2"  # the kube-proxy whose flags, fields and answers these are
# Alerts compare it with the API server's version (KubeVersionMismatch), but not what stands behind the plus sign.
RELEASE = f"v{KUBERNETES}+kproxy-{__version__}"


class ProxyMode(StrEnum):
    """Who carries the bytes; a Service may ask for the other one (model/relay.py)."""

    IPTABLES = "iptables"  # the kernel
    USERSPACE = "userspace"  # our relay, to which the kernel's rules lead


class Balance(StrEnum):
    """How our relay chooses among endpoints."""

    ROUND_ROBIN = "round-robin"
    RANDOM = "random"
    LEAST_CONNECTIONS = "least-connections"  # of two endpoints drawn by lot the one with fewer


class DetectLocalMode(StrEnum):
    """How pods of this node are told from everybody else (spec: runtime.md 4)."""

    CLUSTER_CIDR = "ClusterCIDR"
    NODE_CIDR = "NodeCIDR"
    BRIDGE_INTERFACE = "BridgeInterface"
    INTERFACE_NAME_PREFIX = "InterfaceNamePrefix"


class EndpointsSource(StrEnum):
    SLICES = "endpointslices"
    ENDPOINTS = "endpoints"  # clusters before 1.21


class IptablesVariant(StrEnum):
    AUTO = "auto"
    NFT = "nft"
    LEGACY = "legacy"


class LoggingFormat(StrEnum):
    TEXT = "text"
    JSON = "json"


class Config(Struct, frozen=True):
    # Where the cluster is
    kubeconfig: str = ""  # empty: in-cluster
    master: str = ""
    manifests: str = ""  # ours: a directory of YAML instead of an API server
    endpoints_source: EndpointsSource = EndpointsSource.SLICES  # ours
    service_proxy_name: str = ""  # ours: serve Services labelled service-proxy-name=<this> instead of unlabelled
    hostname_override: str = ""  # as given
    hostname: str = ""  # derived: the override, else the host's name; trimmed and lower-cased by whoever fills it
    list_page: int = 500  # ours: objects a page of a LIST
    watch_seconds: tuple[int, int] = (300, 600)  # server-side timeout of a watch, drawn from this range
    read_grace: float = 30.0  # ours: how long after the server-side timeout a silent connection counts as dead
    request_deadline: float = 30.0  # ours: connect, and each page of a list
    backoff: tuple[float, float] = (0.8, 30.0)  # ours: first and longest wait after a failed request
    credentials_deadline: float = 60.0  # ours: the child that reads the kubeconfig, its exec plugin included
    token_reread: float = 60.0  # ours: how often a token file is read again
    manifests_poll: float = 0.5  # ours: how often a directory of manifests is looked at
    node_wait: float = 30.0  # ours: how long the first sync waits for our Node object and its addresses
    pod_cidr_wait: float = 300.0  # ours: how long it then waits for the Node's podCIDRs, where pods are told by them

    # Which traffic
    proxy_mode: ProxyMode = ProxyMode.IPTABLES
    bind_address: str = "0.0.0.0"  # noqa: S104 -- nothing binds here: a specific address overrides the node IP
    cluster_cidr: tuple[str, ...] = ()
    detect_local_mode: DetectLocalMode = DetectLocalMode.CLUSTER_CIDR
    pod_bridge_interface: str = ""
    pod_interface_name_prefix: str = ""
    # CIDRs, or "primary"; empty: every local address. "localhost" besides is ours: node ports answer on 127.0.0.1 and
    # ::1 by listeners of our own, without route_localnet.
    nodeport_addresses: tuple[str, ...] = ()
    allow_external_ips: bool = True  # derived: feature gate AllowServiceExternalIPs
    feature_gates: tuple[tuple[str, bool], ...] = ()  # as given, by name

    # iptables mode
    iptables_backend: IptablesVariant = IptablesVariant.AUTO  # ours
    iptables_masquerade_bit: int = 14
    masquerade_all: bool = False
    iptables_localhost_nodeports: bool = True
    iptables_sync_period: float = 30.0
    iptables_min_sync_period: float = 1.0
    idle_sync_period: float = 3600.0  # the kernel is compared with the plan at least this often
    xtables_wait: int = 5  # seconds given to iptables' -w
    # ours: KUBE-SERVICES stays flat up to this many frontends, above it becomes a tree (bench/README.md)
    tree_threshold: int = 100
    # ours: above this many endpoints a service's chain becomes a tree of `statistic` rules
    endpoint_tree_threshold: int = 128
    large_cluster_endpoints: int = 1000  # above: no comments in per-endpoint rules (spec: iptables.md 10)
    restore_chunk: int = 200  # ours: services a restore in the staged first sync of the nft variant
    program_deadline: float = 30.0  # ours: any one short program
    restore_deadline: float = 300.0  # ours: one iptables-restore, or one save of a whole table

    # Our relay (ours): listeners on loopback, and Services in userspace mode. What a Service may set for itself by an
    # annotation is a default here (model/relay.py). The caps are for each family, and lower where files are scarce.
    userspace_transparent: bool = False  # endpoints see the client's address
    relay_workers: int = 0  # processes; 0: one for each processor, eight at most
    # Where rules lead to, one address of each family. The second says kproxy, as ASCII after the fd of a local prefix.
    relay_address: tuple[str, ...] = ("169.254.73.80", "fd6b:7072:6f78:79::1")
    # Where connections leave from that endpoints see as their client's; rewritten before they leave this node.
    relay_sources: tuple[str, ...] = ("169.254.73.128/26", "fd6b:7072:6f78:79:1::/112")
    relay_mark_bit: int = 13  # of packets that the relay sends to endpoints; rules do not lead them back to it
    relay_balance: Balance = Balance.ROUND_ROBIN
    relay_service_connections: int = 0  # of one service port; 0: no limit of its own
    relay_silence: float = 0.0  # a connection on which nobody ever said anything ends after that; 0: as any idle one
    relay_drain: float = 0.0  # connections to an endpoint that gets no new ones end after that; 0: when they end
    relay_eject_after: int = 3  # failures to connect, one after another, that eject an endpoint; 0: never
    relay_eject_seconds: tuple[float, float] = (5.0, 300.0)  # for how long: the first time, and at most
    relay_eject_floor: float = 0.5  # of the endpoints, that are never ejected at a time
    relay_slow_start: float = 0.0  # seconds in which a new endpoint's share grows to a full one; 0: at once
    relay_shutdown: float = 5.0  # how long connections may go on when kproxy is told to end
    retire_deadline: float = 60.0  # for the rules that serve without the relay, before that
    relay_connections: int = 65536  # of a node, in each family; fewer where files are scarce
    relay_connect_deadlines: tuple[float, ...] = (0.25, 0.5, 1.0, 2.0)  # one attempt each, as kube-proxy once had
    relay_idle: float = 86400.0  # an idle connection lives as long as kube-proxy lets conntrack remember it
    relay_half_closed: float = 3600.0  # and one that ended in one direction, too
    relay_keepalive: float = 60.0  # a silent endpoint is asked whether it is there; gone after twice that
    relay_buffer: int = 65536  # bytes that are read at once, and may wait before their sender is no longer read
    relay_pipe: int = 1048576  # the same for bulk, which is moved without copying; a quarter where many are bulk
    relay_pipes: int = 256  # at most; one for a direction that is moving bulk, and for one that is full of it
    relay_udp_sessions: int = 16384  # the same; each takes a port of this node, too
    relay_udp_idle: float = 120.0  # the kernel's own for a flow that was answered
    relay_udp_buffer: int = 2097152  # bytes of datagrams that may wait in a socket; the kernel doubles it for its own
    relay_affinity_clients: int = 4096  # remembered for each listener
    relay_accept_pause: float = 1.0  # after accepting failed for want of files or memory
    relay_sweep: float = 5.0  # how often idle flows are looked for
    relay_beat: float = 1.0  # how often workers are asked what they counted, and so whether they are there
    relay_beats: int = 10  # without an answer: then a worker is replaced
    relay_worker_start: float = 30.0  # after which a worker that has just been started must serve
    relay_worker_backoff: tuple[float, float] = (0.1, 5.0)  # first and longest wait before one that ended is replaced
    relay_patience: float = 5.0  # how long new rules wait for the workers, and how long workers have to end
    relay_hold: float = 2.0  # how long a round waits for workers to start; after that the kernel serves until they do
    relay_linger: float = 1.0  # how long a socket that no rule leads to stays, for clients who are on their way

    # Questions from outside
    healthz_bind_address: str = "0.0.0.0:10256"  # empty: off
    metrics_bind_address: str = "127.0.0.1:10249"
    bind_address_hard_fail: bool = False
    bind_retry: float = 5.0
    last_words: float = 5.0  # ours: how long kproxy stays for an Event that says why it ends

    # The node's conntrack table; 0 leaves a setting alone. Its size is only ever raised; timeouts are set exactly
    # as asked, as kube-proxy does: its day for established flows is below the kernel's five.
    conntrack_max_per_core: int = 32768
    conntrack_min: int = 131072
    conntrack_tcp_timeout_established: float = 86400.0
    conntrack_tcp_timeout_close_wait: float = 3600.0
    conntrack_tcp_be_liberal: bool = False
    conntrack_udp_timeout: float = 0.0
    conntrack_udp_timeout_stream: float = 0.0
    oom_score_adj: int = -999

    # What is said and shown
    verbosity: int = 0
    vmodule: tuple[tuple[str, int], ...] = ()  # a pattern of module names, and their verbosity
    logging_format: LoggingFormat = LoggingFormat.TEXT
    show_hidden_metrics_for_version: str = ""
    profiling: bool = False  # /debug/pprof and /debug/flags on the metrics server
    service_metrics: int = 0  # ours: connections and bytes are counted for at most so many service ports; 0: none
    service_metrics_share: float = 0.02  # ours: of a processor, at most, for reading the table of flows for them
    service_metrics_pause: float = 0.1  # ours: after a flow ended, before the ends of flows are read
    service_metrics_patience: float = 3.0  # ours: how long a scrape waits for fresh figures
    config_poll: float = 1.0  # ours: how often the configuration file is looked at

    # kube-proxy's fields that mean nothing here and were given, by path; kept because /configz shows all
    unused: tuple[tuple[str, Any], ...] = ()

    @property
    def relay_mark(self) -> int:
        return 1 << self.relay_mark_bit

    @property
    def masquerade_mark(self) -> int:
        return 1 << self.iptables_masquerade_bit


# What kube-proxy's fields that mean nothing here are when nobody gives them. The periods of other modes read 0.
UNUSED: Mapping[str, Any] = MappingProxyType(
    {
        "clientConnection.acceptContentTypes": "",
        "clientConnection.burst": 10,
        "clientConnection.contentType": "application/vnd.kubernetes.protobuf",
        "clientConnection.qps": 5.0,
        "configSyncPeriod": 900.0,
        "ipvs.excludeCIDRs": (),
        "ipvs.minSyncPeriod": 0.0,
        "ipvs.scheduler": "",
        "ipvs.strictARP": False,
        "ipvs.syncPeriod": 0.0,
        "ipvs.tcpFinTimeout": 0.0,
        "ipvs.tcpTimeout": 0.0,
        "ipvs.udpTimeout": 0.0,
        "logging.flushFrequency": 5.0,
        "logging.options.json.infoBufferSize": "0",
        "logging.options.json.splitStream": False,
        "logging.options.text.infoBufferSize": "0",
        "logging.options.text.splitStream": False,
        "nftables.masqueradeAll": False,
        "nftables.masqueradeBit": 14,
        "nftables.minSyncPeriod": 0.0,
        "nftables.syncPeriod": 0.0,
        "portRange": "",
        "windowsRunAsService": False,
        "winkernel.enableDSR": False,
        "winkernel.forwardHealthCheckVip": False,
        "winkernel.networkName": "",
        "winkernel.rootHnsEndpointName": "",
        "winkernel.sourceVip": "",
    }
)
