"""A plan in iptables' terms: which chains there are and what is in each, for one family.

A ``Ruleset`` holds no rule of any service: at 10,000 services of 10 endpoints those would be hundreds of megabytes,
and nearly all of them would never be looked at again. It holds the plan's own service ports by reference, the dialect
they are written in, and the lists that all services share (dispatch.py). Rules are made where they are needed, and
forgotten. Two rulesets are compared by the identity of what they refer to: a service port whose plan did not change is
the same object, so nothing of it is compiled again.

What this node cannot express is left out and said (``unsupported``), never half done. Session affinity without
xt_recent is the exception: the service is balanced without it, which serves everybody, and that is said, too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from operator import itemgetter

from msgspec import Struct

from kproxy.backend.base import Quarantined
from kproxy.backend.iptables import dialect as settings
from kproxy.backend.iptables import dispatch, fixed
from kproxy.backend.iptables.dialect import Abilities, Dialect, Fixtures
from kproxy.backend.iptables.dispatch import Dispatch, Ends
from kproxy.backend.iptables.rules import Chain, Entry, Table
from kproxy.backend.iptables.service import rule_count, service_chains
from kproxy.config import Config
from kproxy.model.enums import Protocol
from kproxy.model.keys import ServicePortKey
from kproxy.plan.plan import Plan, ServicePlan

Services = Mapping[ServicePortKey, ServicePlan]


class Ruleset(Struct, frozen=True):
    """Everything that ought to be in the tables of one family."""

    dialect: Dialect
    fixtures: Fixtures
    services: Services
    dispatch: Dispatch
    service_rules: int  # in the services' own chains
    unsupported: tuple[Quarantined, ...] = ()

    @property
    def entries(self) -> tuple[Entry, ...]:
        return fixed.entries(self.fixtures)

    def fixed_chains(self) -> tuple[Chain, ...]:
        return fixed.fixed_chains(self.fixtures)

    def dispatch_chains(self) -> Iterator[Chain]:
        for listing in self.dispatch:
            yield from dispatch.chains(listing, self.dialect)

    def chains(self) -> Iterator[Chain]:
        """All of ours, every chain after those that it jumps to."""
        yield from self.fixed_chains()
        for plan in self.services.values():
            yield from service_chains(plan, self.dialect)
        yield from self.dispatch_chains()

    def rules_total(self) -> dict[str, int]:
        """Rules of ours by table, entry rules not counted, as kube-proxy counts them (spec: iptables.md 17)."""
        totals = {Table.NAT.value: self.service_rules, Table.FILTER.value: 0}
        for listing in self.dispatch:
            totals[listing.table] += dispatch.rule_count(listing, self.dialect)
        for chain in self.fixed_chains():
            if chain.rules:
                totals[chain.table] += len(chain.rules)
        return totals

    def without(self, keys: Collection[ServicePortKey], instead: Services | None = None) -> Ruleset:
        """The same, as if these service ports did not exist, or were those of ``instead``."""
        removed = [self.services[key] for key in keys if key in self.services]
        if not removed:
            return self
        instead = instead or {}
        count = self.service_rules - sum(rule_count(plan, self.dialect) for plan in removed)
        return Ruleset(
            dialect=self.dialect,
            fixtures=self.fixtures,
            services={
                key: instead.get(key, plan) for key, plan in self.services.items() if key in instead or key not in keys
            },
            dispatch=dispatch.edit(self.dispatch, removed, instead.values(), self.dialect.family),
            service_rules=count + sum(rule_count(plan, self.dialect) for plan in instead.values()),
            unsupported=self.unsupported,
        )


def compile_plan(plan: Plan, config: Config, abilities: Abilities, previous: Ruleset | None = None) -> Ruleset:
    """The rules for ``plan``. Reuses the parts of ``previous`` that still hold; the result is equal without it."""
    dialect = settings.dialect(plan, config, abilities)
    fixtures = settings.fixtures(plan, abilities)
    services, unsupported = _supported(plan.services, dialect)
    if previous is None or previous.dialect != dialect:
        old: Services = {}
        lists, count = dispatch.NO_DISPATCH, 0
    else:
        old, lists, count = previous.services, previous.dispatch, previous.service_rules
    changed = [(old.get(key), new) for key, new in services.items() if old.get(key) is not new]
    removed = [plan for key, plan in old.items() if key not in services]
    count += sum(rule_count(new, dialect) for _, new in changed)
    count -= sum(rule_count(before, dialect) for before in (*removed, *map(itemgetter(0), changed)) if before)
    moved = [(before, new) for before, new in changed if before is None or _stands_elsewhere(before, new)]
    gone = [*removed, *(before for before, _ in moved if before)]
    lists = dispatch.edit(lists, gone, [new for _, new in moved], dialect.family)
    return Ruleset(
        dialect=dialect,
        fixtures=fixtures,
        services=services,
        dispatch=dispatch.with_ends(
            lists,
            refused=Ends(tail=fixed.unserved(fixtures)),
            served=Ends(fixed.relay_pass(fixtures), fixed.node_port_tail(fixtures)),
            not_let_in=Ends(tail=fixed.relay_guard(fixtures)),
        ),
        service_rules=count,
        unsupported=unsupported,
    )


def _stands_elsewhere(before: ServicePlan, after: ServicePlan) -> bool:
    return before.frontends != after.frontends or before.health_check_port != after.health_check_port


def _supported(services: Services, dialect: Dialect) -> tuple[Services, tuple[Quarantined, ...]]:
    if dialect.sctp and dialect.recent:
        return services, ()
    said: list[Quarantined] = []
    kept: dict[ServicePortKey, ServicePlan] = {}
    for key, plan in services.items():
        if key.protocol is Protocol.SCTP and not dialect.sctp:
            why = "this kernel has no sctp match, so the port is not served; load the module xt_sctp"
            said.append(Quarantined(key, why))
            continue
        if plan.affinity_seconds and not dialect.recent:
            why = "this kernel has no recent match, so clients keep no endpoint; load the module xt_recent"
            said.append(Quarantined(key, why))
        kept[key] = plan
    return kept, tuple(said)
