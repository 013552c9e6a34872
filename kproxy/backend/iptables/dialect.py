"""What the rules depend on besides the services: settings, the plan's facts about the node, the programs' abilities.

Split in two by what they reach. A ``Dialect`` is read by the chains of every service port: when it changes, all of
them are compared again. ``Fixtures`` are read only by the few chains that every node has, so that an address that
appears on the node does not cost a look at ten thousand services.
"""

from __future__ import annotations

from functools import lru_cache
from ipaddress import ip_network

from msgspec import Struct

from kproxy.backend.iptables import rules as r
from kproxy.backend.iptables.rules import Match
from kproxy.config import Config
from kproxy.model.enums import IPFamily
from kproxy.plan.plan import Detector, FromCIDR, NodePorts, Plan

INVALID_COUNTER = "ct_state_invalid_dropped_pkts"
LOCALHOST_COUNTER = "localhost_nps_accepted_pkts"


class Abilities(Struct, frozen=True):
    """What the kernel and the programs of this node can do, probed once."""

    random_fully: bool = True
    recent: bool = True  # xt_recent: session affinity
    sctp: bool = True
    invalid_counter: bool = False  # the nfacct objects of these names exist
    localhost_counter: bool = False
    drop_invalid: bool = True  # off where nf_conntrack_tcp_be_liberal was 1 at start


class Dialect(Struct, frozen=True):
    """What every service port's rules depend on."""

    family: IPFamily
    detector: Detector = None
    large: bool = False  # more endpoints than config.large_cluster_endpoints
    tree_threshold: int = 200
    endpoint_tree_threshold: int = 128
    localhost_counter: bool = False  # node ports on loopback are counted by a rule of their own
    listeners: bool = False  # node ports on loopback are sockets of ours: no rule may refuse what they take
    recent: bool = True
    sctp: bool = True


class Fixtures(Struct, frozen=True):
    """What only the chains of fixed name depend on."""

    family: IPFamily
    mark: int
    node_ports: NodePorts
    random_fully: bool = True
    drop_invalid: bool = True
    invalid_counter: bool = False
    service_cidrs: tuple[str, ...] = ()  # refused where no service answers; empty: left alone
    relay_mark: int = 1 << 13
    relay_ip: str = ""  # guarded; empty: no relay
    relay_sources: str = ""  # masqueraded; empty: nobody's address is kept


def dialect(plan: Plan, config: Config, abilities: Abilities) -> Dialect:
    return Dialect(
        family=plan.family,
        detector=plan.detector,
        large=plan.endpoints_total > config.large_cluster_endpoints,
        tree_threshold=config.tree_threshold,
        endpoint_tree_threshold=config.endpoint_tree_threshold,
        localhost_counter=abilities.localhost_counter and plan.node_ports.localhost,
        listeners=plan.node_ports.listeners,
        recent=abilities.recent,
        sctp=abilities.sctp,
    )


def fixtures(plan: Plan, abilities: Abilities) -> Fixtures:
    return Fixtures(
        family=plan.family,
        mark=plan.masquerade_mark,
        node_ports=plan.node_ports,
        random_fully=abilities.random_fully,
        drop_invalid=abilities.drop_invalid,
        invalid_counter=abilities.invalid_counter,
        service_cidrs=plan.service_cidrs,
        relay_mark=plan.relay_mark,
        relay_ip=plan.relay_ip,
        relay_sources=plan.relay_sources,
    )


@lru_cache(maxsize=1024)
def canonical_cidr(text: str) -> str:
    """An address or CIDR as iptables-save prints it: masked, and always with its length."""
    return str(ip_network(text, strict=False))


def from_source(text: str, *, negated: bool = False) -> tuple[Match, ...]:
    """``-s``; a source that is everybody is not printed by iptables-save, so it is no match."""
    cidr = canonical_cidr(text)
    return () if cidr.endswith("/0") and not negated else (r.Source(cidr, negated),)


def from_pod(detector: Detector, *, negated: bool = False) -> tuple[Match, ...]:
    """The local-traffic detector as a match; ``negated``: anybody but a pod of this node."""
    match detector:
        case None:
            return ()
        case FromCIDR(cidr):
            return from_source(cidr, negated=negated)
        case _:
            return (r.InInterface(f"{detector.name}+" if detector.prefix else detector.name, negated),)
