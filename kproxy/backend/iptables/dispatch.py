"""Which rule a packet for a frontend meets: the lists that kube-proxy keeps flat, as trees where they are long.

Six chains are lists over all services: where to balance (nat KUBE-SERVICES by address, nat KUBE-NODEPORTS by port),
whom to refuse (filter KUBE-SERVICES, KUBE-EXTERNAL-SERVICES), who was not let in (filter KUBE-PROXY-FIREWALL) and which
health-check ports to open (filter KUBE-NODEPORTS). Up to ``tree_threshold`` entries such a chain is exactly
kube-proxy's, sorted by service port. Above, its entries sit at the leaves of a prefix tree (see trie.py), and a change
rewrites one branch. Every list decides by its own length: a long list of node ports does not make a tree out of ten
cluster IPs.

All external and load-balancer addresses are in the same tree as cluster IPs. The jump to KUBE-NODEPORTS stays the last
rule of nat KUBE-SERVICES: an address that is a frontend wins over the same address as the node's.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import IPv4Network, IPv6Network, ip_address
from typing import NamedTuple

from msgspec import Struct
from msgspec.structs import replace

from kproxy.backend.iptables import names, trie
from kproxy.backend.iptables import rules as r
from kproxy.backend.iptables.dialect import LOCALHOST_COUNTER, Dialect
from kproxy.backend.iptables.fixed import refusal_kind
from kproxy.backend.iptables.rules import Chain, Jump, Rule, Table, Verdict
from kproxy.backend.iptables.service import forward_of, frontend_matches, host, is_firewalled
from kproxy.backend.iptables.trie import Node, Stop
from kproxy.model.enums import IPFamily, Protocol
from kproxy.plan.plan import Frontend, FrontendKind, Pool, Reject, ServicePlan

TO_NODE = r.AddressType(destination="LOCAL")
LOOPBACK = r.Destination("127.0.0.0/8")


class Ends(NamedTuple):
    """The first and the last rules of a list."""

    head: tuple[Rule, ...] = ()
    tail: tuple[Rule, ...] = ()


class Listing(Struct, frozen=True):
    """One of the six chains, with all that hangs below it."""

    table: Table
    chain: str
    prefix: str  # of the names of its branches
    addresses: Node = trie.EMPTY
    ports: Node = trie.EMPTY
    ends: Ends = Ends()

    @property
    def size(self) -> int:
        return self.addresses.size + self.ports.size

    @property
    def is_balancing(self) -> bool:
        return self.table is Table.NAT


Dispatch = tuple[Listing, ...]

NO_DISPATCH: Dispatch = (
    Listing(Table.FILTER, names.SERVICES, names.REJECT_BRANCH),
    Listing(Table.FILTER, names.EXTERNAL_SERVICES, names.EXTERNAL_BRANCH),
    Listing(Table.FILTER, names.PROXY_FIREWALL, names.FIREWALL_BRANCH),
    Listing(Table.FILTER, names.NODE_PORTS, names.HEALTH_BRANCH),
    Listing(Table.NAT, names.NODE_PORTS, names.NAT_BRANCH),
    Listing(Table.NAT, names.SERVICES, names.NAT_BRANCH),  # after the one to which its tail jumps
)
_REFUSED, _REFUSED_OUTSIDE, _NOT_LET_IN, _HEALTH, _SERVED_ON_NODE, _SERVED = range(6)
_REFUSING = (_REFUSED, _REFUSED_OUTSIDE, _NOT_LET_IN)


def with_ends(dispatch: Dispatch, *, refused: Ends, served: Ends, not_let_in: Ends) -> Dispatch:
    """Of filter KUBE-SERVICES (``refused``), nat KUBE-SERVICES (``served``) and KUBE-PROXY-FIREWALL."""
    lists = list(dispatch)
    for number, ends in ((_REFUSED, refused), (_SERVED, served), (_NOT_LET_IN, not_let_in)):
        if lists[number].ends != ends:
            lists[number] = replace(lists[number], ends=ends)
    return tuple(lists)


def edit(dispatch: Dispatch, gone: Iterable[ServicePlan], new: Iterable[ServicePlan], family: IPFamily) -> Dispatch:
    """The lists without the frontends of ``gone`` and with those of ``new``; lists that stay are the same objects."""
    return _edit(dispatch, _sorted_out(gone), _sorted_out(new), family)


def _edit(dispatch: Dispatch, less: list[_Stops], more: list[_Stops], family: IPFamily) -> Dispatch:
    addresses = trie.ADDRESSES4 if family is IPFamily.IPV4 else trie.ADDRESSES6
    return tuple(
        _edit_listing(listing, addresses, less[number], more[number]) for number, listing in enumerate(dispatch)
    )


class _Stops(Struct):
    addresses: list[Stop]
    ports: list[Stop]


def _sorted_out(plans: Iterable[ServicePlan]) -> list[_Stops]:
    return _placed(stop for plan in plans for stop in _stops_of(plan))


def _placed(stops: Iterable[tuple[int, Stop]]) -> list[_Stops]:
    lists = [_Stops([], []) for _ in NO_DISPATCH]
    for number, stop in stops:
        (lists[number].ports if stop.is_node_port else lists[number].addresses).append(stop)
    return lists


def _stops_of(plan: ServicePlan) -> Iterator[tuple[int, Stop]]:
    """(list, stop) for every list in which a service port stands."""
    for nth, frontend in enumerate(plan.frontends):
        by_port = frontend.kind is FrontendKind.NODE_PORT
        at = trie.node_port_number(plan.key.protocol, frontend.port) if by_port else int(ip_address(frontend.ip))
        stop = Stop(at, plan.key, nth, frontend)
        forward = forward_of(frontend)
        if forward is not None:
            yield _SERVED_ON_NODE if by_port else _SERVED, stop
        if forward is None or forward.routes[-1].pool is None:
            yield _REFUSED if frontend.kind is FrontendKind.CLUSTER_IP else _REFUSED_OUTSIDE, stop
        if is_firewalled(frontend):
            yield _NOT_LET_IN, stop
    if plan.health_check_port:
        at = trie.node_port_number(Protocol.TCP, plan.health_check_port)
        yield _HEALTH, Stop(at, plan.key, -1, None)


def _edit_listing(listing: Listing, shape: trie.Shape, less: _Stops, more: _Stops) -> Listing:
    if not (less.addresses or less.ports or more.addresses or more.ports):
        return listing
    if not listing.size:
        addresses, ports = trie.plant(shape, more.addresses), trie.plant(trie.NODE_PORTS, more.ports)
    else:
        addresses = trie.edit(shape, listing.addresses, less.addresses, more.addresses)
        ports = trie.edit(trie.NODE_PORTS, listing.ports, less.ports, more.ports)
    return replace(listing, addresses=addresses, ports=ports)


def needless(before: ServicePlan, after: ServicePlan) -> Iterator[tuple[int, Stop]]:
    """(list, stop): refusals of ``before`` that no packet meets any more once ``after`` is translated."""
    if before.frontends == after.frontends:
        return
    places = {(number, stop.at, stop.port) for number, stop in _stops_of(after)}
    served = {(at, port) for number, at, port in places if number in {_SERVED_ON_NODE, _SERVED}}
    for number, stop in _stops_of(before):
        where = stop.at, stop.port
        if number in _REFUSING and where in served and (number, *where) not in places:
            yield number, stop


def keeping(dispatch: Dispatch, kept: Iterable[tuple[int, Stop]], family: IPFamily) -> Dispatch:
    """The lists with these stops besides."""
    return _edit(dispatch, _placed(()), _placed(kept), family)


# --- lists to chains ------------------------------------------------------------------------------------------


def is_tree(listing: Listing, dialect: Dialect) -> bool:
    return listing.size > dialect.tree_threshold


def rule_count(listing: Listing, dialect: Dialect) -> int:
    """Rules in the chain and everything below it."""
    jumps = listing.addresses.jumps + listing.ports.jumps if is_tree(listing, dialect) else 0
    by_stop = 2 if listing.chain == names.NODE_PORTS and listing.is_balancing and dialect.localhost_counter else 1
    return listing.addresses.size + listing.ports.size * by_stop + jumps + sum(map(len, listing.ends))


class Branch(NamedTuple):
    """A node of one of a list's trees that has, or is about to get, a chain."""

    node: Node
    is_ports: bool  # it groups ports, not addresses
    owner: int | None = None  # the address that has these many ports; None: any address of the node


def chains(listing: Listing, dialect: Dialect) -> Iterator[Chain]:
    """All chains of a list, every chain after those that it jumps to."""
    for branch in branches(listing, dialect):
        yield branch_chain(branch, listing, dialect)
    yield root_chain(listing, dialect)


def root_chain(listing: Listing, dialect: Dialect) -> Chain:
    if is_tree(listing, dialect):
        by_address = _level(Branch(listing.addresses, is_ports=False), listing, dialect)
        by_port = _level(Branch(listing.ports, is_ports=True), listing, dialect)
        rules = (*listing.ends.head, *by_address, *by_port, *listing.ends.tail)
    else:
        flat = sorted((*trie.stops(listing.addresses), *trie.stops(listing.ports)), key=lambda stop: stop[1:3])
        served = (rule for stop in flat for rule in _stop_rules(stop, listing, dialect))
        rules = (*listing.ends.head, *served, *listing.ends.tail)
    return Chain(listing.table, listing.chain, rules)


def branches(listing: Listing, dialect: Dialect) -> Iterator[Branch]:
    """All that have chains, every one after those below it."""
    if is_tree(listing, dialect):
        yield from _below(Branch(listing.addresses, is_ports=False))
        yield from _below(Branch(listing.ports, is_ports=True))


def branch_chain(branch: Branch, listing: Listing, dialect: Dialect) -> Chain:
    return Chain(listing.table, branch_name(branch, listing, dialect), tuple(_level(branch, listing, dialect)))


def branch_name(branch: Branch, listing: Listing, dialect: Dialect) -> str:
    node = branch.node
    if not branch.is_ports:
        return names.address_chain(listing.prefix, dialect.family, node.network, node.length)
    if branch.owner is None:
        return names.node_port_chain(listing.prefix, *trie.port_range(node))
    return names.port_chain(listing.prefix, branch.owner, *trie.port_range(node))


def _children(branch: Branch) -> Iterator[Branch]:
    node, is_ports, owner = branch
    if node.by_port is not None:
        node, is_ports, owner = node.by_port, True, node.network
    for child in node.children:
        yield Branch(child, is_ports, owner)


def _below(branch: Branch) -> Iterator[Branch]:
    for child in _children(branch):
        if trie.is_chain(child.node):
            yield from _below(child)
            yield child


def _level(branch: Branch, listing: Listing, dialect: Dialect) -> Iterator[Rule]:
    """One chain's rules: a jump to every child, or what stands in its place."""
    leaves: list[Stop] = []
    for child in _children(branch):
        if trie.is_chain(child.node):
            yield _jump(child, listing, dialect)
        else:
            leaves += child.node.stops
    if branch.node.by_port is None:
        leaves += branch.node.stops
    for stop in leaves:
        yield from _stop_rules(stop, listing, dialect)


def _jump(child: Branch, listing: Listing, dialect: Dialect) -> Rule:
    to = Jump(branch_name(child, listing, dialect))
    if child.is_ports:
        protocol, low, high = trie.port_range(child.node)
        return Rule((r.OfProtocol(protocol), r.Ports(protocol, low, high)), to)
    network = IPv4Network if dialect.family is IPFamily.IPV4 else IPv6Network
    return Rule((r.Destination(str(network((child.node.network, child.node.length)))),), to)


# --- entries to rules -----------------------------------------------------------------------------------------


def _stop_rules(stop: Stop, listing: Listing, dialect: Dialect) -> tuple[Rule, ...]:
    if stop.frontend is None:
        return (_health_rule(stop),)
    if listing.is_balancing:
        return _node_port_rules(stop, dialect) if stop.is_node_port else (_service_rule(stop, stop.frontend),)
    if listing.chain == names.PROXY_FIREWALL:
        return (_firewall_rule(stop, stop.frontend),)
    return (_refusal(stop, stop.frontend, dialect),)


def _service_rule(stop: Stop, frontend: Frontend) -> Rule:
    """Spec: iptables.md 6, rules 1, 2 and 3."""
    service = names.service_hash(stop.key)
    forward = forward_of(frontend)
    if forward is not None and frontend.kind is FrontendKind.CLUSTER_IP:
        chain = names.pool_chain(forward.routes[-1].pool or Pool.CLUSTER, service)
    elif is_firewalled(frontend):
        chain = names.firewall_chain(service)
    else:
        chain = names.external_chain(service)
    return Rule(frontend_matches(stop.key, frontend), Jump(chain))


def _node_port_rules(stop: Stop, dialect: Dialect) -> tuple[Rule, ...]:
    """Into KUBE-EXT from a node port; first, and counted, from loopback (spec: iptables.md 6, rules 4n and 4)."""
    protocol = r.OfProtocol(stop.key.protocol)
    comment, ports = r.Comment(str(stop.key)), r.Ports(stop.key.protocol, stop.port, stop.port)
    to = Jump(names.external_chain(names.service_hash(stop.key)))
    rule = Rule((protocol, comment, ports), to)
    if not dialect.localhost_counter:
        return (rule,)
    return Rule((LOOPBACK, protocol, comment, ports, r.Nfacct(LOCALHOST_COUNTER)), to), rule


def _refusal(stop: Stop, frontend: Frontend, dialect: Dialect) -> Rule:
    """No endpoint may serve: refuse or drop (spec: iptables.md 6, rules 1' to 4').

    A listener of ours may serve the node itself where nobody else is served, so loopback is left to it.
    """
    ipv4 = dialect.family is IPFamily.IPV4
    nobody = isinstance(frontend.action, Reject)
    target = r.RejectWith(refusal_kind(dialect.family)) if nobody else Verdict.DROP
    comment = r.Comment(f"{stop.key} has no endpoints" if nobody else f"{stop.key} has no local endpoints")
    protocol, ports = (
        r.OfProtocol(stop.key.protocol),
        r.Ports(stop.key.protocol, frontend.port, frontend.port),
    )
    if stop.is_node_port:
        loopback = r.Destination("127.0.0.0/8" if ipv4 else "::1/128", negated=True)
        return Rule((*((loopback,) if dialect.listeners else ()), protocol, comment, TO_NODE, ports), target)
    return Rule((host(frontend.ip), protocol, comment, ports), target)


def _firewall_rule(stop: Stop, frontend: Frontend) -> Rule:
    """Drop what the load balancer's source ranges did not let in (spec: iptables.md 6, rule 3f)."""
    chain = names.firewall_chain(names.service_hash(stop.key))
    comment = r.Comment(f"{stop.key} traffic not accepted by {chain}")
    ports = r.Ports(stop.key.protocol, frontend.port, frontend.port)
    return Rule((host(frontend.ip), r.OfProtocol(stop.key.protocol), comment, ports), Verdict.DROP)


def _health_rule(stop: Stop) -> Rule:
    """Let load balancers reach the health-check node port (spec: iptables.md 6, rule 5)."""
    comment = r.Comment(f"{stop.key} health check node port")
    matches = (r.OfProtocol(Protocol.TCP), comment, r.Ports(Protocol.TCP, stop.port, stop.port))
    return Rule(matches, Verdict.ACCEPT)
