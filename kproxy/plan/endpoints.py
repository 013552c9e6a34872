"""Which endpoints may serve, and what becomes of traffic if none may: forward, reject or drop.

Two lists are chosen, for the two kinds of traffic policy: *cluster* from all endpoints, narrowed by topology hints;
*local* from those of this node, whatever the hints. Either falls back, on its own, to endpoints that are terminating
but still serve when it has no ready one: a rolling update on a node with one pod must not refuse anybody.

No endpoint anywhere is refused, so that clients learn at once. Endpoints elsewhere only, under policy Local, is
silence: a load balancer that sees a refusal takes the Service for dead, while silence makes it try another node.

Could a Service under external policy Local have usable endpoints but an empty cluster list, so that pods and the node
are routed nowhere? No: any ready endpoint leaves one in the cluster list (hints are obeyed only if they match a ready
endpoint), and without a ready one both that list and "usable somewhere" come from the same terminating ones.

Order and repetition in the input must not matter, for slices arrive in any order: of two endpoints with one address
and port the running one is kept, then the readier. (kube-proxy keeps whichever it happens to meet last.)

Source: spec: model.md 3.3, 4 and 5; KEP-1669 (terminating), KEP-2086 (internal policy), KEP-2433 and KEP-3015 (hints).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence

from msgspec import Struct

from kproxy.model.endpoint import Endpoint, EndpointSlice
from kproxy.model.enums import IPFamily, Protocol, ServiceType, TrafficPolicy
from kproxy.model.service import Service
from kproxy.plan import masquerade
from kproxy.plan.plan import Action, Drop, FrontendKind, Reject, Target
from kproxy.plan.viewpoint import Viewpoint

Candidate = tuple[Endpoint, int]  # an endpoint and the port on which it serves this service port
Offers = Mapping[tuple[str, Protocol], Sequence[tuple[EndpointSlice, int]]]  # a port's name and protocol → who has it


class Selection(Struct, frozen=True, gc=False):
    cluster: tuple[Target, ...]
    local: tuple[Target, ...]
    usable: bool  # some endpoint may serve somewhere in the cluster


class Decision(Struct, frozen=True, gc=False):
    """What becomes of one service port's traffic."""

    selection: Selection
    internal: Action  # to the cluster IP
    external: Action  # to every other frontend
    no_local_internal: bool = False
    no_local_external: bool = False


def offers(slices: Iterable[EndpointSlice], family: IPFamily) -> Offers:
    """Which slices have which ports: found once, for Service and slices may have thousands of ports each.

    Slices and Services meet by the port's name and protocol, never by its number.
    """
    found: dict[tuple[str, Protocol], list[tuple[EndpointSlice, int]]] = {}
    for each in slices:
        if each.family is family:
            for port in each.ports:
                found.setdefault((port.name, port.protocol), []).append((each, port.port))
    return found


def count(service: Service, offered: Offers) -> int:
    """Endpoints of all ports of a Service, those that repeat included."""
    wanted = (offered.get((port.name, port.protocol), ()) for port in service.ports)
    return sum(len(each.endpoints) for found in wanted for each, _ in found)


def gather(offered: Iterable[tuple[EndpointSlice, int]], view: Viewpoint) -> list[Candidate]:
    """One service port's endpoints of any condition, without repetition, sorted bytewise by ``ip:port``.

    The relay's address is nobody's endpoint: it would be a way into other Services past their source ranges.
    """
    found: dict[str, Candidate] = {}
    opening, closing = ("[", "]:") if view.family is IPFamily.IPV6 else ("", ":")
    ours = view.relay_ip
    for each, number in offered:
        ending = f"{closing}{number}"
        for endpoint in each.endpoints:
            if endpoint.ip == ours:
                continue
            text = f"{opening}{endpoint.ip}{ending}"
            rival = found.get(text)
            if rival is None or _standing(endpoint) > _standing(rival[0]):
                found[text] = (endpoint, number)
    return [found[text] for text in sorted(found)]


def _standing(endpoint: Endpoint) -> tuple[object, ...]:
    """Greater wins. The tail only makes the choice the same whichever endpoint came first."""
    return (
        not endpoint.terminating,
        endpoint.ready,
        endpoint.serving,
        endpoint.node or "",
        sorted(endpoint.node_hints or ()),
        sorted(endpoint.zone_hints or ()),
    )


def select(candidates: Sequence[Candidate], view: Viewpoint, *, uses_cluster: bool, uses_local: bool) -> Selection:
    """The lists that are asked for, the other one empty."""
    ready = [each for each in candidates if each[0].ready]
    draining = [] if ready else _draining(candidates)
    cluster: tuple[Target, ...] = ()
    local: tuple[Target, ...] = ()
    if uses_cluster:
        cluster = _targets(_hinted(ready, view) or draining, view)
    if uses_local and view.node:
        here = [each for each in candidates if each[0].node == view.node]
        local = _targets([each for each in here if each[0].ready] or _draining(here), view)
    return Selection(cluster, cluster if local == cluster else local, usable=bool(ready or draining))


def _draining(candidates: Iterable[Candidate]) -> list[Candidate]:
    return [each for each in candidates if each[0].serving and each[0].terminating]


def _hinted(ready: list[Candidate], view: Viewpoint) -> list[Candidate]:
    """All, unless every ready endpoint carries a hint and one of them is ours; for the node first, then the zone."""
    node, zone = view.node, view.zone
    if node and all(each.node_hints for each, _ in ready):
        ours = [each for each in ready if node in (each[0].node_hints or ())]
        if ours:
            return ours
    if zone and all(each.zone_hints for each, _ in ready):
        ours = [each for each in ready if zone in (each[0].zone_hints or ())]
        if ours:
            return ours
    return ready


def _targets(candidates: Iterable[Candidate], view: Viewpoint) -> tuple[Target, ...]:
    """An endpoint whose node is not known, or any where our own name is not, is neither local nor remote."""
    here = view.node or None
    return tuple(
        [
            Target(
                endpoint.ip,
                port,
                local=here is not None and endpoint.node == here,
                remote=here is not None and endpoint.node is not None and endpoint.node != here,
            )
            for endpoint, port in candidates
        ]
    )


def serving(candidates: Iterable[Candidate]) -> frozenset[tuple[str, int]]:
    """Every endpoint that still answers, whatever policy or hint.

    Ready counts as serving even where the object denies it: the rules send new flows there, so cutting the old ones
    off would do so again in every round.
    """
    return frozenset((each.ip, port) for each, port in candidates if each.serving or each.ready)


def decide(
    service: Service, kinds: Collection[FrontendKind], candidates: Sequence[Candidate], view: Viewpoint
) -> Decision:
    """Choose endpoints and actions for a service port that listens on frontends of these kinds."""
    inside = FrontendKind.CLUSTER_IP in kinds
    outside = any(kind is not FrontendKind.CLUSTER_IP for kind in kinds)
    internal_local = inside and service.internal_policy is TrafficPolicy.LOCAL
    external_local = outside and external_policy_local(service)
    selection = select(
        candidates,
        view,
        uses_cluster=outside or (inside and not internal_local),
        uses_local=internal_local or external_local,
    )
    if not selection.usable:
        return Decision(selection, Reject(), Reject())
    stranded = not selection.local
    internal: Action = masquerade.internal(
        local=internal_local, masquerade_all=view.masquerade_all, detected=view.detected
    )
    external = masquerade.external(local=external_local, served_here=not stranded, detected=view.detected)
    return Decision(
        selection,
        internal=Drop() if internal_local and stranded else internal,
        external=external,
        no_local_internal=internal_local and stranded,
        no_local_external=external_local and stranded,
    )


def external_policy_local(service: Service) -> bool:
    """Whether the external policy is Local, which it can be only where there may be external traffic."""
    return service.external_policy is TrafficPolicy.LOCAL and (
        service.type in {ServiceType.LOAD_BALANCER, ServiceType.NODE_PORT} or bool(service.external_ips)
    )
