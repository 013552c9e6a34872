"""One service port's own chains: who is masqueraded, who may come in, which endpoint gets the connection.

Chains, rules, order and comments are kube-proxy's (spec: iptables.md 7), with two departures in clusters that are
large anyway:

* Above ``large_cluster_endpoints`` a target that is known to be on another node gets no KUBE-SEP chain; the rule that
  chooses it rewrites the destination at once. Such a chain exists for two things, to masquerade a pod that reached
  itself and to remember the client of a service with affinity. The first cannot happen on this node, and a service
  with affinity keeps its chains. At 10,000 services of 10 endpoints this leaves a fifth of the chains: a change costs
  a third of the CPU on legacy, half on nft. Rejected: keeping the chain and leaving out only its hairpin rule; it
  is the chains that cost. Also rejected: doing it always; small clusters are where people read dumps.
* Above ``endpoint_tree_threshold`` endpoints the list of ``statistic`` rules becomes a tree of fan-out 16, each branch
  weighted by its size, so that every endpoint has the same chance after a few comparisons instead of hundreds.

Rules that name no endpoint keep their comments at any size (spec: iptables.md 10).
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

from kproxy.backend.iptables import names
from kproxy.backend.iptables import rules as r
from kproxy.backend.iptables.dialect import Dialect, from_pod, from_source
from kproxy.backend.iptables.rules import Chain, Jump, Match, Rule, Table
from kproxy.model.keys import ServicePortKey
from kproxy.plan.plan import Client, Forward, Frontend, FrontendKind, Pool, Route, ServicePlan, Target

FAN_OUT = 16
TO_MARK = Jump(names.MARK_MASQ)
FROM_HOST = r.AddressType(source="LOCAL")


def service_chains(plan: ServicePlan, dialect: Dialect) -> tuple[Chain, ...]:
    """All chains that only this service port has."""
    return tuple(_Writer(plan, dialect).chains())


def is_served(plan: ServicePlan) -> bool:
    """Whether a service port has chains at all."""
    return bool(plan.cluster or plan.local) or any(forward_of(frontend) for frontend in plan.frontends)


def rule_count(plan: ServicePlan, dialect: Dialect) -> int:
    """How many rules ``service_chains`` writes; without writing them, for a metric must not cost a compile."""
    writer = _Writer(plan, dialect)
    count = len(writer.external_rules()) + len(writer.firewall_rules())
    for pool in Pool:
        targets = plan.targets(pool)
        if targets:
            count += len(writer.masquerade_rules(pool)) + len(targets) * (2 if writer.sticky else 1)
            count += _branches(len(targets)) if len(targets) > dialect.endpoint_tree_threshold else 0
    return count + 2 * sum(writer.has_chain(target) for target in plan.reachable)


def forward_of(frontend: Frontend) -> Forward | None:
    """How a frontend balances; None where it refuses everybody."""
    match frontend.action:
        case Forward(routes) if frontend.kind is not FrontendKind.CLUSTER_IP or routes[-1].pool is not None:
            return frontend.action
        case _:
            return None


class _Writer:
    def __init__(self, plan: ServicePlan, dialect: Dialect) -> None:
        self.plan = plan
        self.dialect = dialect
        self.hash = names.service_hash(plan.key)
        self.name = str(plan.key)
        self.protocol = r.OfProtocol(plan.key.protocol)
        self.sticky = plan.affinity_seconds > 0 and dialect.recent

    def chains(self) -> Iterator[Chain]:
        if external := self.external_rules():
            yield Chain(Table.NAT, names.external_chain(self.hash), external)
        if firewall := self.firewall_rules():
            yield Chain(Table.NAT, names.firewall_chain(self.hash), firewall)
        for pool in Pool:
            if targets := self.plan.targets(pool):
                yield from self._pool(pool, targets)
        for target in self.plan.reachable:
            if self.has_chain(target):
                yield self._endpoint(target)

    def has_chain(self, target: Target) -> bool:
        return self.sticky or not (self.dialect.large and target.remote)

    # --- the way in -------------------------------------------------------------------------------------------

    def masquerade_rules(self, pool: Pool) -> tuple[Rule, ...]:
        """Who is masqueraded on the way from the cluster IP into this pool."""
        for frontend in self.plan.frontends:
            forward = forward_of(frontend)
            if frontend.kind is not FrontendKind.CLUSTER_IP or forward is None or forward.routes[-1].pool is not pool:
                continue
            anyone = forward.routes[-1]
            spares_pods = any(route.client is Client.POD for route in forward.routes)
            if not anyone.masquerade:
                return ()
            strangers = from_pod(self.dialect.detector, negated=True) if spares_pods else ()
            return (Rule(_in_order(strangers, frontend_matches(self.plan.key, frontend)), TO_MARK),)
        return ()

    def external_rules(self) -> tuple[Rule, ...]:
        """KUBE-EXT: the external traffic policy. All external frontends of a service port share it."""
        for frontend in self.plan.frontends:
            forward = forward_of(frontend)
            if frontend.kind is not FrontendKind.CLUSTER_IP and forward is not None:
                return tuple(rule for route in forward.routes for rule in self._route(route))
        return ()

    def _route(self, route: Route) -> Iterator[Rule]:
        client: tuple[Match, ...] = ()
        if route.client is Client.POD:
            client = from_pod(self.dialect.detector)
        elif route.client is Client.HOST:
            client = (FROM_HOST,)
        if route.masquerade:
            whose = "LOCAL traffic" if route.client is Client.HOST else "traffic"
            comment = r.Comment(f"masquerade {whose} for {self.name} external destinations")
            yield Rule(_in_order(client, (comment,)), TO_MARK)
        if route.pool is not None and self.plan.targets(route.pool):
            whose = {Client.POD: "pod", Client.HOST: "route LOCAL", Client.ANY: ""}[route.client]
            comments = (r.Comment(f"{whose} traffic for {self.name} external destinations"),) if whose else ()
            yield Rule(_in_order(client, comments), Jump(names.pool_chain(route.pool, self.hash)))

    def firewall_rules(self) -> tuple[Rule, ...]:
        """KUBE-FW: who may use the load balancer's addresses."""
        for frontend in self.plan.frontends:
            if is_firewalled(frontend):
                comment = r.Comment(f"{self.name} loadbalancer IP")
                inside = Jump(names.external_chain(self.hash))
                allowed = [Rule((*from_source(cidr), comment), inside) for cidr in frontend.allowed_sources]
                rest = r.Comment(f"other traffic to {self.name} will be dropped by {names.PROXY_FIREWALL}")
                return (*allowed, Rule((rest,), None))
        return ()

    # --- endpoints --------------------------------------------------------------------------------------------

    def _pool(self, pool: Pool, targets: tuple[Target, ...]) -> Iterator[Chain]:
        name = names.pool_chain(pool, self.hash)
        head = (
            *self.masquerade_rules(pool),
            *(self._remembered(target) for target in targets if self.sticky),
        )
        if len(targets) <= self.dialect.endpoint_tree_threshold:
            yield Chain(Table.NAT, name, (*head, *self._choices(targets)))
        else:
            yield from self._tree(name, head, targets)

    def _choices(self, targets: tuple[Target, ...]) -> Iterator[Rule]:
        for position, target in enumerate(targets):
            chance = _chance(1, len(targets) - position)
            matches = (*self._comment(f"{self.name} -> {target}"), *chance)
            if self.has_chain(target):
                yield Rule(matches, Jump(names.endpoint_chain(self.plan.key, target)))
            else:
                yield Rule((self.protocol, *matches), r.Dnat(target.ip, target.port))

    def _tree(self, name: str, head: tuple[Rule, ...], targets: tuple[Target, ...]) -> Iterator[Chain]:
        """The chain and its parts; the parts are numbered in the order in which a reader would visit them."""
        leaf = _leaf_size(len(targets))
        number = 0

        def write(chain: str, first: tuple[Rule, ...], members: tuple[Target, ...]) -> Iterator[Chain]:
            nonlocal number
            if len(members) <= leaf:
                yield Chain(Table.NAT, chain, (*first, *self._choices(members)))
                return
            rules = list(first)
            below: list[Chain] = []
            start = 0
            for size in _shares(len(members), leaf):
                part = names.part_chain(name, number)
                number += 1
                rules.append(Rule(_chance(size, len(members) - start), Jump(part)))
                below += write(part, (), members[start : start + size])
                start += size
            yield Chain(Table.NAT, chain, tuple(rules))
            yield from below

        yield from write(name, head, targets)

    def _remembered(self, target: Target) -> Rule:
        chain = names.endpoint_chain(self.plan.key, target)
        seen = r.RecentCheck(chain, self.plan.affinity_seconds)
        return Rule((*self._comment(f"{self.name} -> {target}"), seen), Jump(chain))

    def _endpoint(self, target: Target) -> Chain:
        chain = names.endpoint_chain(self.plan.key, target)
        comment = self._comment(self.name)
        remember = (r.RecentSet(chain),) if self.sticky else ()
        hairpin = Rule((r.Source(_whole(target.ip)), *comment), TO_MARK)
        matches = (self.protocol, *comment, *remember, r.Ports(self.plan.key.protocol))
        return Chain(Table.NAT, chain, (hairpin, Rule(matches, r.Dnat(target.ip, target.port))))

    def _comment(self, text: str) -> tuple[Match, ...]:
        return () if self.dialect.large else (r.Comment(text),)


def is_firewalled(frontend: Frontend) -> bool:
    """Whether only some clients may use a frontend that serves somebody."""
    restricted = frontend.kind is FrontendKind.LOAD_BALANCER_VIP and bool(frontend.allowed_sources)
    return restricted and isinstance(frontend.action, Forward)


def host(ip: str) -> r.Destination:
    return r.Destination(_whole(ip))


def _whole(ip: str) -> str:
    """One address as iptables-save prints it. Plans hold addresses in canonical text: parsing them again costs."""
    return f"{ip}/{128 if ':' in ip else 32}"


def frontend_matches(key: ServicePortKey, frontend: Frontend) -> tuple[Match, ...]:
    """An address and port, as every rule about them says it, with kube-proxy's comment."""
    return (
        host(frontend.ip),
        r.OfProtocol(key.protocol),
        r.Comment(f"{key} {frontend.kind.value}"),
        r.Ports(key.protocol, frontend.port, frontend.port),
    )


# iptables-save prints what is in every rule's head before any match: source, destination, interfaces, protocol.
_HEAD = (r.Source, r.Destination, r.InInterface, r.OutInterface, r.OfProtocol)


def _in_order(first: tuple[Match, ...], then: tuple[Match, ...]) -> tuple[Match, ...]:
    """Both, heads first. A match that is no head (addrtype) follows the comment in kube-proxy's rules."""
    if not first:
        return then
    heads = sorted((match for match in (*first, *then) if isinstance(match, _HEAD)), key=_place)
    rest = (match for match in (*then, *first) if not isinstance(match, _HEAD))
    return (*heads, *rest)


def _place(match: Match) -> int:
    return _HEAD.index(type(match))


# --- the arithmetic of trees ----------------------------------------------------------------------------------


def _chance(share: int, of: int) -> tuple[Match, ...]:
    return (r.Statistic(share / of),) if share < of else ()


def _leaf_size(count: int) -> int:
    """Endpoints in one leaf: never more than two levels below the top, and so at most 272 parts."""
    return max(FAN_OUT, -(-count // FAN_OUT**2))


def _shares(count: int, leaf: int) -> tuple[int, ...]:
    """Sizes of up to 16 parts, as equal as can be."""
    parts = min(FAN_OUT, -(-count // leaf))
    least, more = divmod(count, parts)
    return (*(least + 1,) * more, *(least,) * (parts - more))


@lru_cache(maxsize=256)
def _branches(count: int) -> int:
    """Chains below the top of a tree."""
    leaf = _leaf_size(count)

    def below(size: int) -> int:
        return 0 if size <= leaf else sum(1 + below(share) for share in _shares(size, leaf))

    return below(count)
