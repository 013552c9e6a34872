"""Leads the traffic of relayed service ports to our relay: a plan in, a plan out, in the terms of plans.

To the rules a relayed service port has one endpoint, a socket of ours on this node. So everything that rules decide
(which frontends, source ranges, traffic policies, who is refused) stays where it is, in every backend, and a change of
its endpoints writes no rule at all. Each of its two pools has a socket of its own (a ``Line``): by which one a client
came in says which endpoints may serve it, and nobody has to decide that a second time.

What changes besides:

* Nobody is masqueraded on the way to us: answers leave from here anyway, and the relay wants to know its client. To
  the endpoint the client is this node, except where the relay keeps its address (``Relay.transparent``).
* Affinity is the relay's, for the rules see one endpoint.
* Our socket is ``local``, as it is; and ``remote``, as no pod of this node owns its address and can hairpin to it.

A service port whose sockets are not all open stays with the kernel.

kube-proxy's userspace mode (until 1.25) led to its sockets by REDIRECT. Rejected: it needs an address on the interface
of arrival, which pods' interfaces seldom have, and sockets that are open to everybody.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from types import MappingProxyType
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from kproxy.config import Config
from kproxy.model.enums import IPFamily, Protocol
from kproxy.model.keys import ServicePortKey
from kproxy.plan.plan import Action, Forward, Plan, Pool, ServicePlan, Target
from kproxy.plan.viewpoint import of_family


class Line(NamedTuple):
    """One socket that the relay is to have."""

    key: ServicePortKey
    pool: Pool


def places(config: Config, family: IPFamily) -> tuple[str, str]:
    """Where the relay's sockets are, and the network from which it speaks for clients; empty: nowhere."""
    (ip,), (sources,) = (of_family(each, family) or ("",) for each in (config.relay_address, config.relay_sources))
    return ip, sources


class Steered(Struct, frozen=True):
    """``plan``: what the kernel is to do. ``origins`` and ``ports`` are only for the next round."""

    plan: Plan
    origins: Mapping[ServicePortKey, ServicePlan]
    ports: Mapping[Line, int]


def lines(plan: Plan) -> Iterator[tuple[Line, ServicePlan]]:
    """The sockets that a plan wants, in the order of its service ports."""
    for key, each in plan.services.items():
        if each.relay is not None:
            for pool in Pool:
                if each.targets(pool):
                    yield Line(key, pool), each


def steer(
    plan: Plan, ip: str, ports: Mapping[Line, int], previous: Steered | None = None, *, sources: str = ""
) -> Steered:
    """``ports``: of the sockets that are open, at ``ip``. ``previous`` only saves time.

    ``sources``: the network from which the relay speaks for its clients (``Config.relay_sources``).

    Service ports that are not relayed, and those that were steered before and did not change, are the same objects.
    """
    services = dict(plan.services)
    origins: dict[ServicePortKey, ServicePlan] = {}
    for key, each in plan.services.items():
        if each.relay is None or not _is_open(each, ports):
            continue
        origins[key] = each
        if previous is not None and previous.origins.get(key) is each and _same(key, ports, previous.ports):
            services[key] = previous.plan.services[key]
        else:
            steered = _steered(each, ip, ports)
            old = previous.plan.services.get(key) if previous is not None else None
            services[key] = old if old == steered else steered
    if not origins:
        return Steered(plan, origins, ports)
    speaks = any(each.relay is not None and each.relay.transparent for each in origins.values())
    changed = MappingProxyType(services)
    whole = replace(plan, services=changed, relay_ip=ip, relay_sources=sources if speaks else "")
    return Steered(whole, origins, ports)


def _is_open(each: ServicePlan, ports: Mapping[Line, int]) -> bool:
    return all(Line(each.key, pool) in ports for pool in Pool if each.targets(pool))


def _same(key: ServicePortKey, ports: Mapping[Line, int], before: Mapping[Line, int]) -> bool:
    return all(ports.get(Line(key, pool)) == before.get(Line(key, pool)) for pool in Pool)


def _steered(each: ServicePlan, ip: str, ports: Mapping[Line, int]) -> ServicePlan:
    def lead(pool: Pool) -> tuple[Target, ...]:
        return (Target(ip, ports[Line(each.key, pool)], local=True, remote=True),) if each.targets(pool) else ()

    cluster, local = lead(Pool.CLUSTER), lead(Pool.LOCAL)
    ours = frozenset((target.ip, target.port) for target in (*cluster, *local))
    return replace(
        each,
        frontends=tuple(replace(frontend, action=_spare(frontend.action)) for frontend in each.frontends),
        cluster=cluster,
        local=local,
        affinity_seconds=0,
        serving=frozenset() if each.key.protocol is Protocol.TCP else ours,
        endpoints_total=len(ours),
    )


@cache
def _spare(action: Action) -> Action:
    """The same without masquerading."""
    if not isinstance(action, Forward):
        return action
    return Forward(tuple(replace(route, masquerade=False) for route in action.routes))
