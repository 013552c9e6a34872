"""Which addresses and ports receive traffic, and who keeps one that several Services claim.

A clash is settled by who vouches for the address, then by age:

1. a cluster IP, which the API server allots and keeps unique;
2. a load-balancer VIP, which a controller writes into ``status``;
3. an external IP, which anybody who may edit a Service can type in. Were age all that counts, such a user could take
   over the traffic of any Service younger than theirs (CVE-2020-8554 is this, upstream it is a matter of map order);
4. among equals the older Service, for it was there first; a Service without a date is the youngest; then the name.

The loser keeps its other frontends, and its user is told who has this one. A clash is about one address, port and
protocol: several Services may share an address (load balancers do that on purpose). Node ports have no address, so
they clash with node ports only; where an external IP is also a node's address, the more exact claim comes first in
every backend. Health-check node ports are node ports for this purpose.

The API servers' own addresses are claimed for ``default/kubernetes`` and come before VIPs and external IPs. A node that
a Service had cut off from its API server would never hear that the Service is gone. They do not come before cluster
IPs, or whoever may write a slice in ``default`` could take those from anybody.

One service port may hold an address twice, as its VIP and as its external IP. That is no clash; it counts as what
stands higher above. So source ranges, which only VIPs have, are obeyed, where kube-proxy's iptables mode would let
everybody in by the external IP.

Source: spec: model.md 2.1, 2.3, 2.5; iptables.md 7.3 (source ranges).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from ipaddress import ip_address, ip_network
from itertools import chain
from typing import NamedTuple

from msgspec import Struct

from kproxy.errors import InvalidObject
from kproxy.model.enums import IPFamily, Protocol, ServiceType
from kproxy.model.keys import ObjectKey
from kproxy.model.service import Service
from kproxy.plan.health import health_check_port
from kproxy.plan.plan import Action, Frontend, FrontendKind, Note
from kproxy.plan.relay import API_SERVER
from kproxy.plan.viewpoint import Viewpoint, of_family


class Claim(NamedTuple):
    """Where traffic arrives; ``ip`` is empty for a node port."""

    ip: str
    port: int
    protocol: Protocol

    def __str__(self) -> str:
        ip = f"[{self.ip}]" if ":" in self.ip else self.ip
        return f"{ip}:{self.port}/{self.protocol}" if ip else f"{self.port}/{self.protocol}"


class Bid(NamedTuple):
    """What one Service wants a claim for."""

    claim: Claim
    kind: FrontendKind
    ordinal: int  # of the port in the Service; the number of ports: the health-check node port; one more: no port


Lost = frozenset[tuple[int, Claim]]  # the bids, by ordinal, that a Service lost
NOTHING_LOST: Lost = frozenset()
_RANK = {
    FrontendKind.CLUSTER_IP: 0,
    FrontendKind.LOAD_BALANCER_VIP: 1,
    FrontendKind.EXTERNAL_IP: 2,
    FrontendKind.NODE_PORT: 0,
}
_FIELD = {
    FrontendKind.CLUSTER_IP: "spec.clusterIP",
    FrontendKind.LOAD_BALANCER_VIP: "status.loadBalancer.ingress",
    FrontendKind.EXTERNAL_IP: "spec.externalIPs",
}


def cluster_ip(service: Service, view: Viewpoint) -> str:
    """The cluster IP of this family; empty: the Service is not served."""
    if service.type is ServiceType.EXTERNAL_NAME:
        return ""
    ipv6 = view.family is IPFamily.IPV6
    for ip in service.cluster_ips:
        if (":" in ip) is ipv6:
            return ip
    return ""


def port_bids(service: Service, ordinal: int, view: Viewpoint) -> list[Bid]:
    """What one port of a served Service bids for, in the order in which frontends are written."""
    port = service.ports[ordinal]
    kinds = {Claim(cluster_ip(service, view), port.port, port.protocol): FrontendKind.CLUSTER_IP}
    if view.external_ips and service.external_ips:
        for ip in of_family(service.external_ips, view.family):
            kinds.setdefault(Claim(ip, port.port, port.protocol), FrontendKind.EXTERNAL_IP)
    if service.load_balancer_vips:
        for ip in of_family(service.load_balancer_vips, view.family):
            claim = Claim(ip, port.port, port.protocol)
            if kinds.get(claim) is not FrontendKind.CLUSTER_IP:
                kinds[claim] = FrontendKind.LOAD_BALANCER_VIP
    if port.node_port:
        kinds[Claim("", port.node_port, port.protocol)] = FrontendKind.NODE_PORT
    return [Bid(claim, kind, ordinal) for claim, kind in kinds.items()]


def bids(service: Service, view: Viewpoint) -> list[Bid]:
    """Everything that a Service bids for; nothing if it is not served in this family."""
    if not cluster_ip(service, view):
        return []
    wanted = [bid for ordinal in range(len(service.ports)) for bid in port_bids(service, ordinal, view)]
    health = health_check_port(service)
    if health:
        wanted.append(Bid(Claim("", health, Protocol.TCP), FrontendKind.NODE_PORT, len(service.ports)))
    if service.key == API_SERVER:  # no port has this ordinal: nothing is written for them
        held = (Claim(ip, port, Protocol.TCP) for ip, port in sorted(view.api_servers))
        wanted += [Bid(claim, FrontendKind.LOAD_BALANCER_VIP, len(service.ports) + 1) for claim in held]
    return wanted


def health_check_won(service: Service, lost: Lost) -> int:
    """The health-check node port that is ours to open; 0: none."""
    port = health_check_port(service)
    return 0 if (len(service.ports), Claim("", port, Protocol.TCP)) in lost else port


class Contest(Struct, frozen=True):
    """Who bids for what, and how the clashes ended."""

    claims: dict[ObjectKey, tuple[Claim, ...]] = {}
    bidders: dict[Claim, int] = {}  # how many there are
    contested: frozenset[Claim] = frozenset()  # those with more than one
    lost: dict[ObjectKey, Lost] = {}
    notes: tuple[Note, ...] = ()


def contest(
    before: Contest,
    services: Mapping[ObjectKey, Service],
    gone: Iterable[ObjectKey],
    changed: Iterable[ObjectKey],
    view: Viewpoint,
) -> Contest:
    """Settle who wins, given which Services are gone and which are new or changed since ``before``.

    Slices have no say in it. With nothing contested, as nearly always, a round costs what changed, not what exists.
    """
    if not gone and not changed:
        return before
    claims, bidders = before.claims.copy(), before.bidders.copy()
    for key in chain(gone, changed):
        for claim in claims.pop(key, ()):
            bidders[claim] -= 1
            if not bidders[claim]:
                del bidders[claim]
    doubtful = set(before.contested)
    for key in changed:
        claims[key] = wanted = tuple([bid.claim for bid in bids(services[key], view)])
        for claim in wanted:
            bidders[claim] = bidders.get(claim, 0) + 1
        doubtful.update(wanted)
    contested = frozenset(claim for claim in doubtful if bidders.get(claim, 0) > 1)
    rivals = [services[key] for key, wanted in claims.items() if contested and not contested.isdisjoint(wanted)]
    lost, notes = _settle(contested, rivals, view)
    return Contest(claims, bidders, contested, lost, notes)


def _settle(
    contested: Collection[Claim], claimants: Iterable[Service], view: Viewpoint
) -> tuple[dict[ObjectKey, Lost], tuple[Note, ...]]:
    rivals: dict[Claim, list[tuple[Service, Bid]]] = {claim: [] for claim in contested}
    for service in claimants:
        for bid in bids(service, view):
            if bid.claim in rivals:
                rivals[bid.claim].append((service, bid))
    lost: defaultdict[ObjectKey, set[tuple[int, Claim]]] = defaultdict(set)
    notes: list[Note] = []
    for claim in sorted(rivals):
        (winner, _), *losers = sorted(rivals[claim], key=_precedence)
        for service, bid in losers:
            lost[service.key].add((bid.ordinal, claim))
            if not _is_held(service, bid):
                notes.append(_note(service, bid, winner))
    return {key: frozenset(each) for key, each in lost.items()}, tuple(notes)


def _precedence(rival: tuple[Service, Bid]) -> tuple[object, ...]:
    service, bid = rival
    by_age = (not service.created, service.created, service.key, bid.ordinal)
    return (_RANK[bid.kind], not _is_held(service, bid), *by_age)


def _is_held(service: Service, bid: Bid) -> bool:
    """Whether it is an API server's own address."""
    return bid.ordinal > len(service.ports)


def _note(loser: Service, bid: Bid, winner: Service) -> Note:
    if bid.kind is not FrontendKind.NODE_PORT:
        reason, field, remedy = "AddressClash", _FIELD[bid.kind], "give one of them another address or port"
    elif bid.ordinal == len(loser.ports):
        reason, field = "NodePortClash", "spec.healthCheckNodePort"
        remedy = "give one of them another port"
    else:
        reason, field = "NodePortClash", f"spec.ports[{bid.ordinal}].nodePort"
        remedy = "give one of them another port"
    holder = "another port of the same Service" if winner.key == loser.key else f"Service {winner.key}"
    why = f"claims {bid.claim}, which belongs to {holder}"
    problem = InvalidObject("Service", str(loser.key), field=field, why=why, remedy=remedy)
    return Note(reason, problem, loser.uid)


def frontends(
    service: Service, won: Iterable[Bid], view: Viewpoint, internal: Action, external: Action
) -> tuple[Frontend, ...]:
    """The frontends of one service port, for the bids that it won."""
    sources = allowed_sources(service, view) if service.source_ranges else ()
    return tuple(
        [
            Frontend(
                kind,
                claim.ip,
                claim.port,
                internal if kind is FrontendKind.CLUSTER_IP else external,
                sources if kind is FrontendKind.LOAD_BALANCER_VIP else (),
            )
            for claim, kind, _ in won
        ]
    )


def allowed_sources(service: Service, view: Viewpoint) -> tuple[str, ...]:
    """CIDRs that may send to the VIPs; empty: anyone. Said whatever the action, also for one that refuses everybody.

    Where this node is allowed to send, the VIPs themselves are too: on a load balancer's node that has the VIP on an
    interface, the node's own connections to it carry the VIP as their source.
    """
    ranges = of_family(service.source_ranges, view.family)
    if any(cidr.endswith("/0") for cidr in ranges):
        return ()
    node = ip_address(view.ip)
    if not any(node in ip_network(cidr) for cidr in ranges):
        return ranges
    return ranges + tuple(f"{ip}/{view.family.bits}" for ip in of_family(service.load_balancer_vips, view.family))
