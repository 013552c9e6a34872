"""Which sockets on loopback serve which endpoints: a plan's node ports, as a process on this node would get them.

The client is the node itself, so the first route of Client.HOST or Client.ANY applies. Under external policy Local
that is the short-circuit to all endpoints, exactly as with kube-proxy's rule for 127.0.0.1; KEP-6032's proxy keeps to
local endpoints instead, which would make one and the same Service differ between 127.0.0.1 and the node's address.

Where no endpoint may serve, nothing listens: a closed port refuses at once, which is what Reject says. A Drop has the
same answer. Its silence keeps strangers from learning something, and a process on this node is none; it would only
wait. SCTP needs multi-homed associations that a relay cannot pass on, so it is left out and said.

**Whose address endpoints see** where a Service asks for it (``Relay.transparent``): that of whom the kernel's rules
would not masquerade, as far as one who came in by a line can be told from others who did.

* To endpoints of this node alone, by policy Local: everybody's, for answers come back here whoever it is.
* To all endpoints: that of pods, whom the local-traffic detector knows by their network; what it knows by interfaces is
  not to be seen from here. To endpoints of this node always. To those of other nodes only if they are in that network
  as well, for elsewhere pods' addresses may mean nothing; and not where a frontend that masquerades leads to the same
  line (a node port under policy Cluster), as a pod of another node may come by that, and would be answered directly.

An IPv4-only Service answers on 127.0.0.1 alone: each family's plan has its own listeners. Clients that try ``::1``
first for ``localhost`` are refused there at once and go on with 127.0.0.1.
"""

from __future__ import annotations

from collections.abc import Mapping

from kproxy.backend.userspace.rules import NOTHING, Keeping, Listener, Rule, Ruleset
from kproxy.model.enums import IPFamily, Protocol
from kproxy.model.relay import Relay
from kproxy.plan.plan import Client, Forward, FromCIDR, Frontend, FrontendKind, Plan, Pool, Route, ServicePlan, Target
from kproxy.plan.steer import Line
from kproxy.plan.viewpoint import LOOPBACK

_EVERYBODY = {IPFamily.IPV4: "0.0.0.0/0", IPFamily.IPV6: "::/0"}


def localhost_rules(plan: Plan, default: Relay) -> Ruleset:
    """The listeners for node ports on loopback; none unless the plan asks for them.

    ``default``: how Services are served that the kernel carries elsewhere.
    """
    if not plan.node_ports.listeners:
        return NOTHING
    rules: dict[Listener, Rule] = {}
    unserved = []
    ip = LOOPBACK[plan.family]
    for service in plan.services.values():
        for frontend in service.frontends:
            if frontend.kind is not FrontendKind.NODE_PORT:
                continue
            listener = Listener(ip, frontend.port, service.key.protocol)
            if targets := _for_the_node(service, frontend):
                if service.key.protocol is Protocol.SCTP:
                    unserved.append(service.key)
                else:
                    rules[listener] = rule_of(listener, service, targets, service.relay or default)
    return Ruleset(rules, tuple(unserved))


def rule_of(
    listener: Listener,
    plan: ServicePlan,
    targets: tuple[Target, ...],
    relay: Relay,
    keeping: Keeping | None = None,
) -> Rule:
    """What a listener serves that leads to these of a service port's endpoints."""
    affinity, serving = plan.affinity_seconds, plan.serving
    return Rule(listener, plan.key, targets, relay, affinity_seconds=affinity, serving=serving, keeping=keeping)


def relay_rules(plan: Plan, listeners: Mapping[Line, Listener], sources: str = "") -> list[Rule]:
    """What these serve, of the relayed service ports of ``plan``, which was not steered.

    ``sources``: a network that is this node's (``Keeping.sources``); without it no client's address is kept.
    """
    return [
        rule_of(listener, service, service.targets(line.pool), service.relay, _keeping(plan, line, sources))
        for line, listener in listeners.items()
        if (service := plan.services[line.key]).relay is not None
    ]


def _keeping(plan: Plan, line: Line, sources: str) -> Keeping | None:
    service = plan.services[line.key]
    if not sources or service.relay is None or not service.relay.transparent:
        return None
    actions = [each.action for each in service.frontends if isinstance(each.action, Forward)]
    if line.pool is Pool.LOCAL:
        routes = [route for action in actions for route in action.routes if route.pool is line.pool]
        return None if all(route.masquerade for route in routes) else Keeping(_EVERYBODY[plan.family], sources)
    if not isinstance(plan.detector, FromCIDR):
        return None
    routes = [route for route in map(_for_pods, actions) if route.pool is line.pool]
    if all(route.masquerade for route in routes):
        return None
    pods = plan.detector.cidr
    return Keeping(pods, sources, "" if any(route.masquerade for route in routes) else pods)


def _for_pods(action: Forward) -> Route:
    """Where a pod's packets go."""
    return next(each for each in action.routes if each.client in {Client.POD, Client.ANY})


def _for_the_node(service: ServicePlan, frontend: Frontend) -> tuple[Target, ...]:
    """The endpoints that serve a process of this node; none where it is refused."""
    if not isinstance(frontend.action, Forward):
        return ()
    route = next(each for each in frontend.action.routes if each.client in {Client.HOST, Client.ANY})
    return service.targets(route.pool) if route.pool is not None else ()
