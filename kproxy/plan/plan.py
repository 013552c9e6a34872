"""The nouns of a plan: what happens to which traffic on this node, said once for every backend.

A backend that reads a traffic policy, a hint or an endpoint condition is a bug: the plan has answered. What remains
for it is syntax. A plan is for one IP family, because kernels, programs and kube-proxy's metrics are, too; a
dual-stack node has two.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum

from msgspec import Struct

from kproxy.errors import InvalidObject
from kproxy.model.enums import IPFamily
from kproxy.model.keys import ObjectKey, ServicePortKey
from kproxy.model.relay import Relay


class FrontendKind(Enum):
    CLUSTER_IP = "cluster IP"
    EXTERNAL_IP = "external IP"
    LOAD_BALANCER_VIP = "loadbalancer IP"
    NODE_PORT = "node port"


class Pool(Enum):
    """Which of a service port's two lists of endpoints (spec: model.md 4)."""

    CLUSTER = "cluster"
    LOCAL = "local"


class Client(Enum):
    """Who sends; a packet meets the first route whose client it is."""

    POD = "pod"  # a pod of this node, as the local-traffic detector sees it
    HOST = "host"  # the source address is one of this node's
    ANY = "any"


class Route(Struct, frozen=True, gc=False):
    """Where this client's packets go. ``pool`` None: dropped, for no endpoint may serve this client."""

    client: Client
    pool: Pool | None
    masquerade: bool = False


class Forward(Struct, frozen=True, gc=False):
    """Load-balance. The last route is always for Client.ANY."""

    routes: tuple[Route, ...]


class Reject(Struct, frozen=True, gc=False):
    """Refuse with an ICMP error: the Service has no endpoint anywhere."""


class Drop(Struct, frozen=True, gc=False):
    """Say nothing: there are endpoints, but the traffic policy allows none of them here."""


Action = Forward | Reject | Drop


class Frontend(Struct, frozen=True, gc=False):
    """An address and port that receive traffic; all addresses of the node (see NodePorts) where ``ip`` is empty."""

    kind: FrontendKind
    ip: str
    port: int
    action: Action
    # CIDRs that may send; empty: anyone. Already holds the VIPs themselves where the node is in a range.
    allowed_sources: tuple[str, ...] = ()


class Target(Struct, frozen=True, gc=False):
    """One endpoint of a service port, ready to be dialled."""

    ip: str
    port: int
    local: bool  # on this node
    # The slice names another node, so this node's pods cannot own the address: no packet can hairpin to it.
    # An endpoint whose node is unknown is neither local nor remote.
    remote: bool = False

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if ":" in self.ip else f"{self.ip}:{self.port}"


class ServicePlan(Struct, frozen=True, gc=False):
    """One service port. Both pools are sorted by the text of ``ip:port``, bytewise (spec: model.md 3.3)."""

    key: ServicePortKey
    frontends: tuple[Frontend, ...]
    cluster: tuple[Target, ...] = ()  # what Pool.CLUSTER holds; empty where no frontend routes to it
    local: tuple[Target, ...] = ()
    affinity_seconds: int = 0  # 0: none
    # UDP and SCTP only: every endpoint that still serves, whatever policy or hint; decides which flows are stale
    serving: frozenset[tuple[str, int]] = frozenset()
    endpoints_total: int = 0  # endpoints of any condition; decides on large-cluster mode
    health_check_port: int = 0  # this service port opens it to the load balancer; 0: none
    no_local_internal: bool = False  # internal policy Local, endpoints somewhere, none here
    no_local_external: bool = False
    relay: Relay | None = None  # carried by our relay, and how; None: by the kernel

    def targets(self, pool: Pool) -> tuple[Target, ...]:
        return self.cluster if pool is Pool.CLUSTER else self.local

    @property
    def reachable(self) -> tuple[Target, ...]:
        """Both pools without repetition, in order."""
        if not self.local or self.local is self.cluster:
            return self.cluster
        return tuple(sorted({*self.cluster, *self.local}, key=str))


class HealthCheck(Struct, frozen=True, gc=False):
    """What a health-check node port answers (spec: model.md 9)."""

    service: ObjectKey
    port: int
    local_ready: int  # distinct IPs of ready local endpoints, over all ports of the Service
    uid: str = ""


class NodePorts(Struct, frozen=True, gc=False):
    """Where node ports listen, and with them the health-check node ports."""

    addresses: tuple[str, ...] | None = None  # None: every local address
    localhost: bool = False  # loopback addresses too (IPv4 only; needs route_localnet)
    listeners: bool = False  # 127.0.0.1 or ::1 is served by sockets of our own; rules leave loopback alone


class FromCIDR(Struct, frozen=True, gc=False):
    cidr: str


class FromInterface(Struct, frozen=True, gc=False):
    name: str
    prefix: bool  # name is only how interface names begin


# How a packet from a pod of this node is recognised; None: it cannot be.
Detector = FromCIDR | FromInterface | None


class Note(Struct, frozen=True):
    """Something that the user should hear: which object, what we did, why."""

    reason: str  # CamelCase, as in an Event
    problem: InvalidObject
    uid: str = ""


class Memory:
    """What ``build_plan`` keeps for the next round; no part of what a plan means, so all memories are equal."""

    __slots__ = ()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Memory)

    def __hash__(self) -> int:
        return hash(Memory)


class Plan(Struct, frozen=True):
    family: IPFamily
    services: Mapping[ServicePortKey, ServicePlan]
    node_ports: NodePorts
    detector: Detector = None
    masquerade_mark: int = 1 << 14
    health_checks: tuple[HealthCheck, ...] = ()
    notes: tuple[Note, ...] = ()
    # Mode userspace: where nobody but a Service answers, so whoever asks for none is told; empty: left alone
    service_cidrs: tuple[str, ...] = ()
    relay_ip: str = ""  # where our relay's sockets are, which only translated packets may reach; empty: there are none
    relay_mark: int = 1 << 13  # of what the relay sends to endpoints
    relay_sources: str = ""  # whence the relay speaks for its clients: nothing leaves this node as from there
    memory: Memory = Memory()

    @property
    def endpoints_total(self) -> int:
        return sum(each.endpoints_total for each in self.services.values())
