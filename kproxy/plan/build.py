"""From a snapshot to a plan, looking again only at what changed.

Every Service is one part of the plan. A part depends on the Service, on its slices, on the frontends that it lost to
others, and on the viewpoint. Where all four are those of the round before (the first two by identity, which is what
frozen snapshots are for) the part is carried over, and a backend sees the very same ServicePlan objects; it also does
where looking again gave an equal answer, as after an edited annotation.

Dirty flags, as in kube-proxy, were rejected: a forgotten flag is a silent error, a forgotten comparison costs time.
What a round remembers travels with the plan, so there is no planner to reset, and a lost plan costs one slow round.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from ipaddress import collapse_addresses, ip_network
from types import MappingProxyType

from msgspec import Struct
from msgspec.structs import replace

from kproxy.config import Config, ProxyMode
from kproxy.errors import InvalidObject
from kproxy.model.cluster import Snapshot
from kproxy.model.endpoint import EndpointSlice
from kproxy.model.enums import IPFamily, Protocol
from kproxy.model.keys import ObjectKey, ServicePortKey
from kproxy.model.service import Service
from kproxy.plan.difference import difference
from kproxy.plan.endpoints import Candidate, count, decide, gather, offers, serving
from kproxy.plan.frontends import (
    NOTHING_LOST,
    Contest,
    Lost,
    cluster_ip,
    contest,
    frontends,
    health_check_won,
    port_bids,
)
from kproxy.plan.health import health_check
from kproxy.plan.masquerade import detector
from kproxy.plan.node_ports import doubt, node_ports
from kproxy.plan.plan import FrontendKind, HealthCheck, Memory, Note, Plan, ServicePlan
from kproxy.plan.relay import API_SERVER, mode_for, relay
from kproxy.plan.viewpoint import Viewpoint, of_family, viewpoint

_MOST_ENDPOINTS = 1 << 18  # of one Service, over its ports


class Part(Struct, frozen=True, gc=False):
    """One Service's part of a plan."""

    plans: tuple[ServicePlan, ...] = ()
    health: HealthCheck | None = None
    note: Note | None = None  # why there is nothing else


class Round(Memory):
    """What the next round starts from. Nothing in it changes once the round is over."""

    __slots__ = ("contest", "parts", "plans", "snapshot", "view")

    def __init__(
        self,
        snapshot: Snapshot,
        view: Viewpoint | None,
        contest: Contest,
        parts: dict[ObjectKey, Part],
        plans: dict[ServicePortKey, ServicePlan],
    ) -> None:
        self.snapshot = snapshot
        self.view = view
        self.contest = contest
        self.parts = parts
        self.plans = plans  # sorted by key


NO_ROUND = Round(Snapshot(services={}, slices={}), None, Contest(), {}, {})


def build_plan(
    snapshot: Snapshot,
    config: Config,
    family: IPFamily,
    addresses: Collection[str] = (),
    previous: Plan | None = None,
) -> Plan:
    """Decide what this node must do. ``addresses``: those of its interfaces, of any family, in canonical text.

    ``previous``, the plan of an earlier round of the same family, only saves time; leaving it out gives an equal plan.
    Service ports are in the order of their keys.
    """
    before = previous.memory if previous is not None and isinstance(previous.memory, Round) else NO_ROUND
    view = viewpoint(config, snapshot.node, family, _api_servers(snapshot, family))
    gone, changed = difference(before.snapshot.services, snapshot.services)
    if before.view is None or replace(before.view, api_servers=view.api_servers) != view:
        changed = list(snapshot.services)
    elif view != before.view and API_SERVER in snapshot.services and API_SERVER not in changed:
        changed = [*changed, API_SERVER]  # it alone bids for their addresses
    claims = contest(before.contest, snapshot.services, gone, changed, view)
    stirred = {*changed, *_stirred(before, snapshot, claims)}
    parts = _parts(before, snapshot, claims.lost, view, gone, stirred)
    plans = _plans(before, parts, [*gone, *stirred])
    checks = [part.health for part in parts.values() if part.health is not None]
    refused = [part.note for part in parts.values() if part.note is not None]
    where = node_ports(config, snapshot.node, family, addresses)
    doubtful = doubt(config, snapshot.node, family, addresses, where)
    return Plan(
        family=family,
        services=MappingProxyType(plans),
        node_ports=where,
        detector=detector(config, snapshot.node, family),
        masquerade_mark=config.masquerade_mark,
        relay_mark=config.relay_mark,
        service_cidrs=_service_cidrs(snapshot, view),
        health_checks=tuple(sorted(checks, key=lambda check: check.service)),
        notes=(
            *([doubtful] if doubtful and (checks or _has_node_ports(plans.values())) else []),
            *claims.notes,
            *sorted(refused, key=lambda note: note.problem.name),
        ),
        memory=Round(snapshot, view, claims, parts, plans),
    )


def _has_node_ports(plans: Iterable[ServicePlan]) -> bool:
    return any(frontend.kind is FrontendKind.NODE_PORT for each in plans for frontend in each.frontends)


def _api_servers(snapshot: Snapshot, family: IPFamily) -> frozenset[tuple[str, int]]:
    """Where the API servers say that they are: they write the endpoints of their own Service."""
    slices = (each for each in snapshot.slices.get(API_SERVER, ()) if each.family is family)
    return frozenset((end.ip, port.port) for each in slices for end in each.endpoints for port in each.ports)


def _service_cidrs(snapshot: Snapshot, view: Viewpoint) -> tuple[str, ...]:
    """Without overlap; none in iptables mode, which leaves them alone as kube-proxy does (spec: parity.md 76 to 78)."""
    if view.mode is not ProxyMode.USERSPACE:
        return ()
    known = map(ip_network, of_family(snapshot.service_cidrs, view.family))
    return tuple(map(str, collapse_addresses(known)))  # type: ignore[type-var]  # all are of one family


def _stirred(before: Round, snapshot: Snapshot, claims: Contest) -> Iterable[ObjectKey]:
    """Services that did not change themselves, but whose slices did, or whose fortune in a clash."""
    gone, changed = difference(before.snapshot.slices, snapshot.slices)
    lost, lost_before = claims.lost, before.contest.lost
    fortunes = [key for key in lost.keys() | lost_before.keys() if lost.get(key) != lost_before.get(key)]
    return (key for key in (*gone, *changed, *fortunes) if key in snapshot.services)


def _parts(
    before: Round,
    snapshot: Snapshot,
    lost: Mapping[ObjectKey, Lost],
    view: Viewpoint,
    gone: Iterable[ObjectKey],
    stirred: Iterable[ObjectKey],
) -> dict[ObjectKey, Part]:
    parts = before.parts.copy()
    for key in gone:
        del parts[key]
    for key in stirred:
        new = _part(snapshot.services[key], snapshot.slices.get(key, ()), lost.get(key, NOTHING_LOST), view)
        old = before.parts.get(key)
        parts[key] = new if old is None else _reusing(old, new)
    return parts


def _plans(
    before: Round, parts: Mapping[ObjectKey, Part], touched: Iterable[ObjectKey]
) -> dict[ServicePortKey, ServicePlan]:
    plans = before.plans.copy()
    sort = False
    for key in touched:
        wanted = {each.key: each for each in parts[key].plans} if key in parts else {}
        for each in before.parts[key].plans if key in before.parts else ():
            if each.key not in wanted:
                del plans[each.key]
        sort = sort or not wanted.keys() <= plans.keys()
        plans.update(wanted)
    return dict(sorted(plans.items())) if sort else plans


def _reusing(old: Part, new: Part) -> Part:
    """The new part, made of the old objects where they say the same."""
    if old == new:
        return old
    known = {each.key: each for each in old.plans}
    return Part(
        note=new.note,
        plans=tuple([known[each.key] if known.get(each.key) == each else each for each in new.plans]),
        health=old.health if old.health == new.health else new.health,
    )


def _part(service: Service, slices: tuple[EndpointSlice, ...], lost: Lost, view: Viewpoint) -> Part:
    if not cluster_ip(service, view):  # headless, ExternalName, or of the other family
        return Part()
    offered = offers(slices, view.family)
    number = count(service, offered)
    if number > _MOST_ENDPOINTS:
        return Part(note=_too_many(service, number))
    health_port = health_check_won(service, lost)
    ports = [gather(offered.get((port.name, port.protocol), ()), view) for port in service.ports]
    return Part(
        plans=tuple(
            [
                _service_plan(service, ordinal, candidates, lost, view, health_port)
                for ordinal, candidates in enumerate(ports)
            ]
        ),
        health=health_check(service, ports, view.node) if health_port else None,
    )


def _too_many(service: Service, number: int) -> Note:
    """Ports and endpoints multiply: a Service and a slice of 50 kB each could make more rules than there is memory."""
    why = f"meet slices with {number} endpoints in all, more than {_MOST_ENDPOINTS}, so none of it is served"
    remedy = "make several Services of it, with fewer ports each"
    problem = InvalidObject("Service", str(service.key), field="spec.ports", why=why, remedy=remedy)
    return Note("TooManyEndpoints", problem, service.uid)


def _service_plan(
    service: Service, ordinal: int, candidates: list[Candidate], lost: Lost, view: Viewpoint, health_port: int
) -> ServicePlan:
    port = service.ports[ordinal]
    won = [bid for bid in port_bids(service, ordinal, view) if (ordinal, bid.claim) not in lost]
    decision = decide(service, [bid.kind for bid in won], candidates, view)
    return ServicePlan(
        key=ServicePortKey(service.key.namespace, service.key.name, port.name, port.protocol),
        frontends=frontends(service, won, view, decision.internal, decision.external),
        cluster=decision.selection.cluster,
        local=decision.selection.local,
        affinity_seconds=service.affinity_seconds,
        serving=serving(candidates) if port.protocol is not Protocol.TCP else frozenset(),
        endpoints_total=len(candidates),
        health_check_port=health_port,
        no_local_internal=decision.no_local_internal,
        no_local_external=decision.no_local_external,
        relay=relay(service.wish, port.protocol, mode_for(service.key, view.mode), view.relay),
    )
