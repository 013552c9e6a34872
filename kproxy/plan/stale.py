"""Which flows the plan orphans: conntrack entries whose packets would go on to endpoints that no longer serve.

A UDP client with a fixed port never starts a new flow, so the kernel would send its packets to a dead pod for as long
as it keeps asking. After each round the flows to frontends whose fate changed are compared with the plan:

* answered by an endpoint that still serves: kept, even if a policy or a hint would choose another one now;
* answered by anybody else: stale, also when the service port has no endpoint left or is gone (kube-proxy leaves
  those two, and a node then feeds a dead address for hours: kubernetes/kubernetes#139628);
* answered by the dialled address itself, so never rewritten because the rules were not there yet: stale as soon as an
  endpoint could answer, else harmless.

SCTP is treated like UDP. TCP never: the peers notice by themselves, and a connection to a terminating pod must be
allowed to end. A node port is meant only if the dialled address is one on which node ports listen here (kube-proxy
looks at the port alone and so cuts other programs' flows through this node).

Only what changed is compared, so nothing may be forgotten in between: what could not be cleaned after one round is
``pending`` in the next. Source: spec: model.md 7.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from kproxy.model.enums import Protocol
from kproxy.model.flow import Destination, Flow
from kproxy.plan.difference import difference
from kproxy.plan.node_ports import listens_on
from kproxy.plan.plan import NodePorts, Plan, ServicePlan

Serving = frozenset[tuple[str, int]]  # address and port of endpoints
Suspects = Mapping[Destination, Serving]  # who may answer; nobody may where the frontend is gone


def suspects(
    plan: Plan, previous: Plan | None = None, pending: Iterable[Destination] = ()
) -> dict[Destination, Serving]:
    """Frontends to which stale flows may exist, and who may answer them now.

    ``previous``: the plan that was built just before this one; None: suspect everything. ``pending``: what an earlier
    round suspected and could not clean, because its sync or the cleaning itself failed.
    """
    if previous is None:
        wanted = {where for each in _datagrams(plan) for where in _destinations(each)}
    else:
        wanted = _changed(plan, previous)
    wanted.update(pending)
    if not wanted:
        return {}
    answers = {where: each.serving for each in _datagrams(plan) for where in _destinations(each)}
    # An external IP may be this node's own and its port that of a suspected node port: its flows are not the latter's.
    ports = {(where.protocol, where.port) for where in wanted if not where.ip}
    wanted.update(where for where in answers if where.ip and ports and (where.protocol, where.port) in ports)
    return {where: answers.get(where, frozenset()) for where in sorted(wanted)}


def _changed(plan: Plan, previous: Plan) -> set[Destination]:
    """The frontends of service ports that came, went or changed; all node ports if they now listen elsewhere."""
    wanted: set[Destination] = set()
    gone, put = difference(previous.services, plan.services)
    for key in (*gone, *put):
        if key.protocol is Protocol.TCP:
            continue
        old, new = previous.services.get(key), plan.services.get(key)
        if old is None or new is None or not _only_gained(old, new):
            wanted.update(where for each in (old, new) if each is not None for where in _destinations(each))
    if plan.node_ports != previous.node_ports:
        wanted.update(where for each in _datagrams(plan) for where in _destinations(each) if not where.ip)
    return wanted


def _datagrams(plan: Plan) -> list[ServicePlan]:
    return [each for key, each in plan.services.items() if key.protocol is not Protocol.TCP]


def _destinations(each: ServicePlan) -> list[Destination]:
    return [Destination(each.key.protocol, frontend.ip, frontend.port) for frontend in each.frontends]


def _only_gained(old: ServicePlan, new: ServicePlan) -> bool:
    """Nothing can be stale: whoever served still does, and every frontend treats its clients as before.

    A frontend that was silent or refused is not trusted to have kept every datagram: a table is written before another
    is, and one datagram that slips through between them, by a client that keeps its port, would do so for ever.
    """
    return old.serving <= new.serving and old.frontends == new.frontends


def stale_flows(
    flows: Iterable[Flow], among: Suspects, node_ports: NodePorts, addresses: Collection[str]
) -> Iterator[Flow]:
    """The flows to forget; ``addresses``: all of this node's, of the family of the flows."""
    for flow in flows:
        serving = among.get(Destination(flow.protocol, flow.destination, flow.port))
        if serving is None:
            serving = among.get(Destination(flow.protocol, "", flow.port))
            if serving is None or not listens_on(node_ports, flow.destination, addresses):
                continue
        answered_by = (flow.reply_source, flow.reply_port)
        rewritten = answered_by != (flow.destination, flow.port)
        if answered_by not in serving and (rewritten or serving):
            yield flow
