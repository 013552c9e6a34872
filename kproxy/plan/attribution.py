"""To which service port a flow belongs, told by what its client dialled.

A table of all frontends, kept beside the plan and changed only where the plan did: service ports that a round carried
over are the same objects, so beyond a look at which those are a change of one Service costs one Service. Each family
has its own table, because a node port has no address that would tell them apart.

A node port is meant only if the dialled address is one on which node ports listen here, and an address with a frontend
of its own at that port comes first, as in every backend. Flows to anything else belong to nobody: another program's
DNAT, or a Service that is gone, whose figures are gone with it.
Rejected: asking which endpoint answers. Endpoints are shared between Services, and forgotten while their flows live.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from kproxy.model.enums import IPFamily, family_of
from kproxy.model.flow import Destination
from kproxy.model.keys import ServicePortKey
from kproxy.plan.difference import difference
from kproxy.plan.node_ports import listens_on
from kproxy.plan.plan import NodePorts, Plan, ServicePlan


class _Table:
    """One family."""

    def __init__(self) -> None:
        self.services: Mapping[ServicePortKey, ServicePlan] = {}
        self.node_ports = NodePorts(addresses=())
        self.owners: dict[Destination, ServicePortKey] = {}

    def follow(self, plan: Plan) -> list[ServicePortKey]:
        """Returns the service ports that are gone."""
        before, self.services, self.node_ports = self.services, plan.services, plan.node_ports
        gone, put = difference(before, plan.services)
        # All leave before any arrives: an address may go from one Service to another.
        for key in (*gone, *put):
            for destination in _destinations(before[key]) if key in before else ():
                self.owners.pop(destination, None)
        for key in put:
            self.owners.update(dict.fromkeys(_destinations(plan.services[key]), key))
        return gone


class Attribution:
    """Follows the plans of all families."""

    def __init__(self) -> None:
        self._tables: dict[IPFamily, _Table] = {family: _Table() for family in IPFamily}

    def follow(self, plan: Plan) -> list[ServicePortKey]:
        """From here on flows belong to this plan's service ports; returns those that no family has any more."""
        gone = self._tables[plan.family].follow(plan)
        return [key for key in gone if not any(key in table.services for table in self._tables.values())]

    def owner(self, destination: Destination, addresses: Collection[str]) -> ServicePortKey | None:
        """Whose flow it is; ``addresses``: all of this node's. None: nobody's."""
        table = self._tables[family_of(destination.ip)]
        found = table.owners.get(destination)
        if found is None:
            found = table.owners.get(destination._replace(ip=""))
            if found is not None and not listens_on(table.node_ports, destination.ip, addresses):
                return None
        return found

    def service_ports(self, at_most: int) -> frozenset[ServicePortKey]:
        """All that flows may belong to, if there are no more than that; else none."""
        services = [table.services for table in self._tables.values()]
        if max(map(len, services)) > at_most:
            return frozenset()
        found = frozenset().union(*services)
        return found if len(found) <= at_most else frozenset()


def _destinations(each: ServicePlan) -> Iterator[Destination]:
    for frontend in each.frontends:
        yield Destination(each.key.protocol, frontend.ip, frontend.port)
