"""What ``kproxy explain`` can say. Values only; JSON is these structs as they are, field by field.

``text.py`` and ``page.py`` show them to people. A field that a dump cannot tell holds its default, which is empty; no
field holds a sentence where a program would want a fact, except those that are called ``why``, ``remedy`` or
``message``.
"""

from __future__ import annotations

from enum import StrEnum

from msgspec import Struct

from kproxy.model.enums import IPFamily, Protocol


class Line(Struct, frozen=True):
    """One line of the dump."""

    number: int  # from 1, in the input as it was given; 0: made up here
    table: str
    chain: str
    text: str  # without counters
    packets: int = -1  # -1: the dump has no counters
    bytes: int = -1


class DumpFacts(Struct, frozen=True):
    """Where rules come from: one part of the input, or of the live host."""

    family: IPFamily
    variant: str  # "nft", "legacy"; empty: the dump does not tell
    version: str  # of iptables; empty: the dump does not tell
    writer: str  # "kproxy" or "kube-proxy" where proven, else "kube-proxy or kproxy"; empty: nobody's rules are in it
    lines: int
    chains: int
    rules: int
    counters: bool  # whether it was taken with -c


# --- services -------------------------------------------------------------------------------------------------


class FrontendKind(StrEnum):
    CLUSTER_IP = "cluster IP"
    EXTERNAL_IP = "external IP"
    LOAD_BALANCER_IP = "load balancer IP"
    NODE_PORT = "node port"
    HEALTH_CHECK = "health check node port"


class Fate(StrEnum):
    """What becomes of a packet."""

    DELIVERED = "delivered"  # rewritten to an endpoint
    REFUSED = "refused"  # the client is told so at once
    DROPPED = "dropped"  # the client waits in vain
    UNTOUCHED = "untouched"  # no Service answers: it goes where it was sent


class Frontend(Struct, frozen=True):
    """An address and port at which a service port answers."""

    kind: FrontendKind
    address: str  # empty: any address of the node
    port: int
    fate: Fate = Fate.DELIVERED  # of most clients: a firewalled frontend is DELIVERED and has source_ranges
    why: str = ""  # of a refusal: "has no endpoints", as the rule's comment says it
    chain: str = ""  # where its rule leads, such as KUBE-EXT-…
    line: int = 0
    packets: int = -1
    endpoints: str = "cluster"  # which list it uses for most clients: "cluster" or "local"


class Endpoint(Struct, frozen=True):
    """One of the endpoints among which chance chooses."""

    ip: str
    port: int
    probability: float  # 0 to 1: of a new flow, without affinity
    observed: float = -1.0  # 0 to 1: its share of the packets that its list's rules counted; -1: no counters
    packets: int = -1
    chain: str = ""  # KUBE-SEP-…; empty: rewritten in the service's chain
    line: int = 0  # of the rule that rewrites
    pod: str = ""  # "namespace/name", where objects were given
    node: str = ""
    state: str = ""  # "ready", "terminating", "not ready", "gone" where objects were given


class ServicePort(Struct, frozen=True):
    """One port of one Service, as far as the rules show it."""

    service: str  # "namespace/name"; empty: nothing names it
    port: str  # its name; empty: unnamed
    protocol: Protocol
    family: IPFamily
    hash: str  # of its chains; empty: it has none
    named_by: str = "comment"  # "comment", "objects" (recomputed from the hash), or "chain": only its hash is known
    frontends: tuple[Frontend, ...] = ()
    cluster: tuple[Endpoint, ...] = ()  # all endpoints (KUBE-SVC)
    local: tuple[Endpoint, ...] = ()  # this node's (KUBE-SVL)
    internal_policy: str = ""  # "Cluster", "Local", or empty: the rules do not tell
    external_policy: str = ""
    affinity_seconds: int = 0  # 0: none
    source_ranges: tuple[str, ...] = ()
    relayed: bool = False  # kproxy's userspace mode: the endpoint is the relay
    variant: str = ""  # of the dump it stands in

    @property
    def name(self) -> str:
        """As kube-proxy writes it: namespace/name:port."""
        known = self.service or (f"chain {self.hash}" if self.hash else self._somebody)
        return f"{known}:{self.port}" if self.port else known

    @property
    def _somebody(self) -> str:
        """What to call one that has neither name nor chain: a refusal without a comment."""
        at = self.frontends[0] if self.frontends else None
        return f"port {at.port} of {at.address or 'the node'}" if at else "nobody"

    @property
    def endpoints(self) -> tuple[Endpoint, ...]:
        """Every endpoint once, those of the cluster list first."""
        seen = {(each.ip, each.port) for each in self.cluster}
        return (*self.cluster, *(each for each in self.local if (each.ip, each.port) not in seen))


class Severity(StrEnum):
    ERROR = "error"  # traffic fails
    WARNING = "warning"  # traffic may fail, or not do what was meant
    NOTE = "note"  # good to know when something fails


class Warning(Struct, frozen=True):  # noqa: A001 -- the noun that people know; the built-in one is never used here
    code: str  # stable and in kebab case, such as "dangling-jump"
    severity: Severity
    message: str  # names the object
    remedy: str = ""
    line: int = 0
    service: str = ""  # ServicePort.name


class Summary(Struct, frozen=True, tag="summary"):
    """``kproxy explain DUMP``"""

    dumps: tuple[DumpFacts, ...]
    services: tuple[ServicePort, ...]
    warnings: tuple[Warning, ...] = ()


# --- one packet -----------------------------------------------------------------------------------------------


class Question(Struct, frozen=True):
    source: str  # an address, or empty: a process on the node
    source_port: int  # 0: any
    destination: str
    port: int
    protocol: Protocol
    interface: str  # where it comes in; empty: not told, or a process on the node sends it
    mark: int = 0
    service: str = ""  # as it was typed, where the destination was a Service's name and not an address
    here: bool = False  # a process on the node sends it


class Masquerade(Struct, frozen=True):
    """Whether endpoints see the node's address instead of the client's (SNAT)."""

    wanted: bool
    why: str = ""  # such as "comes from outside to a frontend of traffic policy Cluster"
    line: int = 0  # of the rule that marked it


class Way(Struct, frozen=True):
    """One way that the packet can go."""

    probability: float
    fate: Fate
    endpoint: str = ""  # ip:port, [ip]:port
    masquerade: Masquerade = Masquerade(wanted=False)
    depends: tuple[str, ...] = ()  # what rules cannot show; empty: certain
    path: tuple[Line, ...] = ()  # rules that matched, in the order met
    why: str = ""  # of a packet that is refused or dropped: "default/web has no endpoints"


class Nearest(Struct, frozen=True):
    """Of a packet that no Service took: the rule that came closest, and the first predicate that failed."""

    message: str  # "10.96.0.10 is kube-system/kube-dns; 54 is not one of its ports: 53/UDP, 53/TCP"
    line: Line | None = None
    predicate: str = ""  # "--dport 53"


class PacketAnswer(Struct, frozen=True, tag="packet"):
    """``kproxy explain DUMP --from A --to B:PORT/PROTO``"""

    question: Question
    fate: Fate  # the worst one that can happen
    service: str = ""  # ServicePort.name; empty: none
    frontend: Frontend | None = None
    endpoints: tuple[Endpoint, ...] = ()  # with the odds of this packet
    ways: tuple[Way, ...] = ()  # likeliest first
    flow: str = ""  # what conntrack's entries say of it, in words
    established: bool = False  # one of them decided: the rules of nat were not asked
    nearest: Nearest | None = None
    warnings: tuple[Warning, ...] = ()  # those that concern this packet
    relayed: bool = False  # kproxy's userspace mode: the endpoint is the relay, which chooses one
    asks: tuple[str, ...] = ()  # what somebody on the node can find out, to make the ways fewer


# --- one thing ------------------------------------------------------------------------------------------------


class ServiceAnswer(Struct, frozen=True, tag="service"):
    """``kproxy explain DUMP service NAMESPACE/NAME``"""

    services: tuple[ServicePort, ...]
    lines: tuple[Line, ...]
    warnings: tuple[Warning, ...] = ()


class ChainAnswer(Struct, frozen=True, tag="chain"):
    """``kproxy explain DUMP chain NAME``"""

    table: str
    chain: str
    meaning: str  # "chooses among all endpoints of default/web:http"
    services: tuple[str, ...]  # ServicePort.name
    referrers: tuple[Line, ...]  # rules that lead here
    lines: tuple[Line, ...]


class EndpointAnswer(Struct, frozen=True, tag="endpoint"):
    """``kproxy explain DUMP endpoint IP:PORT`` (or ``IP``)"""

    endpoint: str
    services: tuple[ServicePort, ...]  # those it serves
    lines: tuple[Line, ...]
    warnings: tuple[Warning, ...] = ()


# --- two dumps ------------------------------------------------------------------------------------------------


class Change(Struct, frozen=True):
    """One thing that differs between two dumps."""

    service: str  # ServicePort.name and protocol; empty: of the node as a whole
    what: str  # "service", "frontend", "endpoint", "odds", "policy", "affinity", "source ranges", "rules"
    before: str  # empty: it was not there
    after: str  # empty: it is gone


class Changes(Struct, frozen=True, tag="changes"):
    """``kproxy explain diff BEFORE AFTER``"""

    before: tuple[DumpFacts, ...]
    after: tuple[DumpFacts, ...]
    changes: tuple[Change, ...]
    same: int  # service ports in which nothing differs


Answer = Summary | PacketAnswer | ServiceAnswer | ChainAnswer | EndpointAnswer | Changes
