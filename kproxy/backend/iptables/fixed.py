"""The chains that every node has, and the rules of built-in chains that lead into ours.

Source of every rule: spec: iptables.md 2, 5, 7.6 and 13.
"""

from __future__ import annotations

from kproxy.backend.iptables import names
from kproxy.backend.iptables import rules as r
from kproxy.backend.iptables.dialect import INVALID_COUNTER, Fixtures, canonical_cidr
from kproxy.backend.iptables.rules import Chain, Entry, Jump, Match, Rule, Table, Verdict
from kproxy.model.enums import IPFamily

_NEW = r.Conntrack(("NEW",))
_LAST = r.Comment("kubernetes service nodeports; NOTE: this must be the last rule in this chain")


def fixed_chains(fixtures: Fixtures) -> tuple[Chain, ...]:
    """The chains whose content does not depend on services, canaries included."""
    mark = fixtures.mark
    return (
        Chain(Table.MANGLE, names.CANARY, ()),
        Chain(Table.FILTER, names.CANARY, ()),
        Chain(Table.FILTER, names.FORWARD, _forward_rules(fixtures)),
        Chain(Table.NAT, names.CANARY, ()),
        Chain(Table.NAT, names.MARK_MASQ, (Rule((), r.SetMark(mark, mark)),)),
        Chain(
            Table.NAT,
            names.POSTROUTING,
            (
                *_relay_exit(fixtures),
                Rule((r.Mark(mark, mark, negated=True),), Verdict.RETURN),
                # The mark has done its work; what leaves through a tunnel must not be masqueraded a second time.
                Rule((), r.SetMark(mark, 0)),
                Rule(
                    (r.Comment("kubernetes service traffic requiring SNAT"),),
                    r.Masquerade(fixtures.random_fully),
                ),
            ),
        ),
    )


def _forward_rules(fixtures: Fixtures) -> tuple[Rule, ...]:
    marked = r.Mark(fixtures.mark, fixtures.mark)
    rules = [
        Rule((r.Comment("kubernetes forwarding rules"), marked), Verdict.ACCEPT),
        Rule(
            (r.Comment("kubernetes forwarding conntrack rule"), r.Conntrack(("RELATED", "ESTABLISHED"))),
            Verdict.ACCEPT,
        ),
    ]
    if fixtures.drop_invalid:
        # A packet that conntrack does not place would reach the client from an address it never spoke to.
        counted = (r.Nfacct(INVALID_COUNTER),) if fixtures.invalid_counter else ()
        rules.insert(0, Rule((r.Conntrack(("INVALID",)), *counted), Verdict.DROP))
    return tuple(rules)


def node_port_tail(fixtures: Fixtures) -> tuple[Rule, ...]:
    """The last rules of nat KUBE-SERVICES."""
    where = fixtures.node_ports
    to = Jump(names.NODE_PORTS)
    if where.addresses is not None:
        return tuple(Rule((r.Destination(canonical_cidr(ip)), _LAST), to) for ip in where.addresses)
    loopback: tuple[Match, ...] = ()
    if fixtures.family is IPFamily.IPV6:
        loopback = (r.Destination("::1/128", negated=True),)
    elif not where.localhost:
        loopback = (r.Destination("127.0.0.0/8", negated=True),)
    return (Rule((*loopback, _LAST, r.AddressType(destination="LOCAL")), to),)


def refusal_kind(family: IPFamily) -> str:
    return "icmp-port-unreachable" if family is IPFamily.IPV4 else "icmp6-port-unreachable"


def unserved(fixtures: Fixtures) -> tuple[Rule, ...]:
    """The last rules of filter KUBE-SERVICES: a service address at which no service answered.

    kube-proxy's iptables mode sends such packets to the default gateway, and the client waits; its nftables mode
    refuses unused ports and drops unused addresses. What another program translated is its own (spec: nftables.md 3).
    """
    comment = r.Comment("no service answers at this address and port")
    untranslated = r.Conntrack(("DNAT",), negated=True)
    target = r.RejectWith(refusal_kind(fixtures.family))
    return tuple(Rule((r.Destination(cidr), comment, untranslated), target) for cidr in fixtures.service_cidrs)


def relay_pass(fixtures: Fixtures) -> tuple[Rule, ...]:
    """The first rule of nat KUBE-SERVICES: what the relay sends to endpoints goes where it is sent.

    To the kernel it is a new connection of this node. Were a Service's address an endpoint of a relayed one, even its
    own, it would be led to the relay again, and again, until that had no file left. Rules alone translate once, too.
    """
    if not fixtures.relay_ip:
        return ()
    comment = r.Comment("traffic of the relay is translated no second time")
    return (Rule((comment, r.Mark(fixtures.relay_mark, fixtures.relay_mark)), Verdict.RETURN),)


def relay_guard(fixtures: Fixtures) -> tuple[Rule, ...]:
    """The last rule of KUBE-PROXY-FIREWALL: our relay's sockets are for those whom a Service's rules led there.

    Nobody else could know which source ranges and policies they should have met. In a chain of kube-proxy's, so that it
    goes when kube-proxy takes over.
    """
    if not fixtures.relay_ip:
        return ()
    comment = r.Comment("traffic to the relay that came by no service will be dropped")
    where = r.Destination(canonical_cidr(fixtures.relay_ip))
    return (Rule((where, comment, r.Conntrack(("DNAT",), negated=True)), Verdict.DROP),)


def _relay_exit(fixtures: Fixtures) -> tuple[Rule, ...]:
    """The relay's connections that speak for a client are rewritten by conntrack entries, without meeting a rule.

    Those that lost theirs, because somebody emptied that table, leave as from this node: no other knows such addresses.
    """
    if not fixtures.relay_sources:
        return ()
    comment = r.Comment("traffic of the relay for a client that conntrack has forgotten")
    return (Rule((r.Source(canonical_cidr(fixtures.relay_sources)), comment), r.Masquerade(fixtures.random_fully)),)


def entries(fixtures: Fixtures) -> tuple[Entry, ...]:
    """Rules in chains that are not ours alone, in the order in which kube-proxy prepends them."""
    return (*_JUMPS, *_localnet_guard(fixtures))


def _entry(table: Table, hook: str, chain: str, matches: tuple[Match, ...], comment: str = "") -> Entry:
    comments = (r.Comment(comment),) if comment else ()
    return Entry(table, hook, Rule((*matches, *comments), Jump(chain)))


_PORTALS = "kubernetes service portals"
_EXTERNAL = "kubernetes externally-visible service portals"
_BALANCER = "kubernetes load balancer firewall"
_JUMPS = (
    _entry(Table.FILTER, "INPUT", names.EXTERNAL_SERVICES, (_NEW,), _EXTERNAL),
    _entry(Table.FILTER, "FORWARD", names.EXTERNAL_SERVICES, (_NEW,), _EXTERNAL),
    _entry(Table.FILTER, "INPUT", names.NODE_PORTS, (), "kubernetes health check service ports"),
    _entry(Table.FILTER, "FORWARD", names.SERVICES, (_NEW,), _PORTALS),
    _entry(Table.FILTER, "OUTPUT", names.SERVICES, (_NEW,), _PORTALS),
    _entry(Table.FILTER, "FORWARD", names.FORWARD, (), "kubernetes forwarding rules"),
    _entry(Table.FILTER, "INPUT", names.PROXY_FIREWALL, (_NEW,), _BALANCER),
    _entry(Table.FILTER, "OUTPUT", names.PROXY_FIREWALL, (_NEW,), _BALANCER),
    _entry(Table.FILTER, "FORWARD", names.PROXY_FIREWALL, (_NEW,), _BALANCER),
    _entry(Table.NAT, "OUTPUT", names.SERVICES, (), _PORTALS),
    _entry(Table.NAT, "PREROUTING", names.SERVICES, (), _PORTALS),
    _entry(Table.NAT, "POSTROUTING", names.POSTROUTING, (), "kubernetes postrouting rules"),
    _entry(Table.FILTER, "INPUT", names.FIREWALL, ()),
    _entry(Table.FILTER, "OUTPUT", names.FIREWALL, ()),
)


def _localnet_guard(fixtures: Fixtures) -> tuple[Entry, ...]:
    """With route_localnet on, neighbours could reach 127.0.0.0/8 (CVE-2020-8558).

    KUBE-FIREWALL is shared with the kubelet, so the rule is inserted beside the kubelet's instead of the chain being
    rewritten. kube-proxy rewrites it; two programs that each rewrite one chain have undone each other before.
    """
    if fixtures.family is not IPFamily.IPV4 or not fixtures.node_ports.localhost:
        return ()
    matches = (
        r.Source("127.0.0.0/8", negated=True),
        r.Destination("127.0.0.0/8"),
        r.Comment("block incoming localnet connections"),
        r.Conntrack(("RELATED", "ESTABLISHED", "DNAT"), negated=True),
    )
    return (Entry(Table.FILTER, names.FIREWALL, Rule(matches, Verdict.DROP)),)
