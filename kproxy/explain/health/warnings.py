"""What in a dump looks like trouble, or will matter when something fails.

Each check is about one subject and stands with its like: how chains hang together (``structure.py``), which of them do
nothing (``hollow.py``), the ways into them (``hooks.py``), who else writes rules on the node (``strangers.py``), what
counters and odds tell (``shares.py``), what given objects say instead (``drift.py``), what a Service's clients will
meet (here). A warning must be true of a healthy node, too, or not be given there: what every node has is a note at
most. Every check is a few walks over the dump, however large.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kproxy.backend.iptables import names
from kproxy.backend.iptables import rules as r
from kproxy.explain import answer
from kproxy.explain.answer import DumpFacts, Fate, Frontend, FrontendKind, ServicePort, Severity
from kproxy.explain.health import drift, hollow, hooks, shares, strangers, structure
from kproxy.explain.health.drift import show_frontend
from kproxy.explain.read.facts import HostFacts
from kproxy.explain.read.objects import Objects
from kproxy.explain.services.graph import Graph, is_proxys, next_chain
from kproxy.explain.services.survey import Survey
from kproxy.model.enums import IPFamily

_ORDER = {Severity.ERROR: 0, Severity.WARNING: 1, Severity.NOTE: 2}
_RECENT_CLIENTS = 100  # ip_list_tot of xt_recent, unless somebody set it
_LOOPBACK = r.Destination("127.0.0.0/8")


def warn(surveys: Sequence[Survey], objects: Objects, facts: HostFacts) -> tuple[answer.Warning, ...]:
    """All that is to be said, the gravest first, then by line; each once."""
    graphs = [Graph(each.dump, _place(each.dump.facts, surveys)) for each in surveys]
    found = dict.fromkeys(_nobody(graphs))
    guarded = any(map(_is_guarded, graphs))  # by whichever variant
    for graph, survey in zip(graphs, surveys, strict=True):
        found |= dict.fromkeys(structure.look(graph))
        found |= dict.fromkeys(hollow.look(graph))
        found |= dict.fromkeys(hooks.look(graph))
        found |= dict.fromkeys(shares.look(graph, survey))
        found |= dict.fromkeys(_without_endpoints(survey))
        found |= dict.fromkeys(_claims(survey))
        found |= dict.fromkeys(_forgetful(survey, facts))
        found |= dict.fromkeys(_invalid(graph, facts))
        found |= dict.fromkeys(_localnet(graph, facts, guarded=guarded))
    found |= dict.fromkeys(strangers.look(graphs))
    found |= dict.fromkeys(drift.look(surveys, objects))
    return tuple(sorted(found, key=lambda each: (_ORDER[each.severity], each.line, each.code, each.message)))


def _place(facts: DumpFacts, surveys: Sequence[Survey]) -> str:
    """What tells this dump from the others, as the beginning of a noun."""
    families = {each.dump.facts.family for each in surveys}
    variants = {each.dump.facts.variant for each in surveys}
    words = [facts.family.value] if len(families) > 1 else []
    words += [facts.variant] if len(variants) > 1 and facts.variant else []
    return "".join(f"{word} " for word in words)


def _nobody(graphs: Sequence[Graph]) -> Iterator[answer.Warning]:
    if not any(name == names.SERVICES for graph in graphs for _, name in graph.chains):
        yield answer.Warning(
            "no-proxy",
            Severity.WARNING,
            "there is no chain KUBE-SERVICES: no service proxy in iptables mode wrote rules here",
            "look for the other variant (iptables-legacy-save, iptables-nft-save), another mode of kube-proxy "
            "(`nft list tables`, `ipvsadm -L -n`), or a network plugin that replaces it",
        )


# --- services -------------------------------------------------------------------------------------------------


def _without_endpoints(survey: Survey) -> Iterator[answer.Warning]:
    for service in survey.services:
        for local in (False, True):
            dead = [each for each in service.frontends if _is_dead(each) and ("local" in each.why) == local]
            if dead:
                yield _dead(service, dead, local=local)


def _is_dead(frontend: Frontend) -> bool:
    return frontend.fate in {Fate.REFUSED, Fate.DROPPED}


def _dead(service: ServicePort, dead: list[Frontend], *, local: bool) -> answer.Warning:
    where = ", ".join(map(show_frontend, dead))
    if not local:
        return answer.Warning(
            "no-endpoints",
            Severity.WARNING,
            f"{service.name} ({service.protocol}) has no endpoints: who asks {where} is {dead[0].fate}",
            f"look whether its pods are ready: kubectl get endpointslices -n {_namespace(service)}",
            min(each.line for each in dead),
            service.name,
        )
    inside = any(each.kind is FrontendKind.CLUSTER_IP for each in dead)
    return answer.Warning(
        "no-local-endpoints",
        Severity.WARNING if inside else Severity.NOTE,
        f"{service.name} ({service.protocol}) has no endpoint on this node and its traffic policy is Local: "
        f"who asks {where} here is {dead[0].fate}",
        "run a pod of it on this node, ask another node, or set the traffic policy to Cluster",
        min(each.line for each in dead),
        service.name,
    )


def _namespace(service: ServicePort) -> str:
    return service.service.partition("/")[0] or "NAMESPACE"


# --- what two want, and what is forgotten ---------------------------------------------------------------------


def _claims(survey: Survey) -> Iterator[answer.Warning]:
    """One address, port and protocol of two service ports; the one that serves wins, then the first line."""
    claimed: dict[tuple[str, int, str], tuple[ServicePort, Frontend]] = {}
    for service in survey.services:
        for frontend in service.frontends:
            if frontend.kind is FrontendKind.HEALTH_CHECK:
                continue
            place = (frontend.address, frontend.port, service.protocol)
            other = claimed.setdefault(place, (service, frontend))
            if other[0] is service:
                continue
            both = sorted((other, (service, frontend)), key=lambda each: (_is_dead(each[1]), each[1].line))
            claimed[place] = both[0]
            (winner, first), (loser, second) = both
            yield answer.Warning(
                "duplicate-claim",
                Severity.WARNING,
                f"{show_frontend(first)}/{service.protocol} is claimed by {winner.name} (line {first.line}) and "
                f"{loser.name} (line {second.line}): {winner.name} gets the packets",
                f"give {loser.name} another address or port",
                second.line,
                loser.name,
            )


def _forgetful(survey: Survey, facts: HostFacts) -> Iterator[answer.Warning]:
    most = facts.recent_clients or _RECENT_CLIENTS
    known = "" if facts.recent_clients else ", unless its module was told otherwise"
    for service in survey.services:
        if service.affinity_seconds and not service.relayed:
            yield answer.Warning(
                "affinity-cap",
                Severity.NOTE,
                f"{service.name} ({service.protocol}) has session affinity, and the kernel remembers {most} clients "
                f"for each endpoint{known}: with more, the longest silent ones may come to another endpoint",
                "load xt_recent with a larger ip_list_tot (`options xt_recent ip_list_tot=2000` in /etc/modprobe.d)",
                min((each.line for each in service.endpoints), default=0),
                service.name,
            )


# --- the kernel's settings ------------------------------------------------------------------------------------


def _invalid(graph: Graph, facts: HostFacts) -> Iterator[answer.Warning]:
    chain = graph.chains.get((r.Table.FILTER, names.FORWARD))
    if chain is None or not chain.rules:
        return
    dropping = next(
        (
            saved
            for saved in chain.rules
            if saved.rule.target is r.Verdict.DROP
            and any(isinstance(match, r.Conntrack) and "INVALID" in match.states for match in saved.rule.matches)
        ),
        None,
    )
    if dropping is not None:
        counted = f" ({dropping.packets} so far)" if dropping.packets > 0 else ""
        yield answer.Warning(
            "invalid-drop",
            Severity.NOTE,
            f"{graph.place}KUBE-FORWARD drops packets that conntrack calls INVALID{counted}; where packets of one "
            "connection come by this node and answers by another (asymmetric routing), those are INVALID, too",
            "with such routes set net.netfilter.nf_conntrack_tcp_be_liberal=1 and restart the proxy",
            dropping.line,
        )
    elif facts.be_liberal is False:
        yield answer.Warning(
            "invalid-not-dropped",
            Severity.WARNING,
            f"{graph.place}KUBE-FORWARD does not drop packets that conntrack calls INVALID, and nf_conntrack_tcp_be_"
            "liberal is 0: such a packet of an endpoint's reaches a client untranslated, which answers with a reset",
            "restart the proxy, which writes the rule while that setting is 0, or set it to 1",
            chain.line,
        )


def _localnet(graph: Graph, facts: HostFacts, *, guarded: bool) -> Iterator[answer.Warning]:
    """Only IPv4 has route_localnet, and only where node ports answer on 127.0.0.1 is it needed."""
    if graph.dump.facts.family is not IPFamily.IPV4:
        return
    tail = next((saved for saved in graph.rules(r.Table.NAT, names.SERVICES) if _is_local_tail(saved.rule)), None)
    on = facts.route_localnet
    if tail is not None and not guarded and r.Table.FILTER in graph.tables and on != frozenset():
        yield answer.Warning(
            "localnet-guard-missing",
            Severity.WARNING,
            "node ports answer on 127.0.0.1, for which proxies set route_localnet"
            + (f" (it is on for {', '.join(sorted(on))})" if on else "")
            + ", and KUBE-FIREWALL does not keep neighbours from 127.0.0.0/8 (CVE-2020-8558)",
            "restart the proxy or the kubelet, which write that rule, or turn node ports on loopback off",
            tail.line,
        )
    elif on and graph.rules(r.Table.NAT, names.SERVICES):
        yield answer.Warning(
            "route-localnet",
            Severity.NOTE,
            f"route_localnet is on for {', '.join(sorted(on))}: packets from 127.0.0.1 are routed, "
            + ("which node ports on loopback need" if tail else "which nothing in these rules needs")
            + ("" if guarded else "; no rule keeps neighbours from 127.0.0.0/8"),
            "" if tail else "set net.ipv4.conf.all.route_localnet=0 unless another program wants it",
        )


def _is_guarded(graph: Graph) -> bool:
    """Whether neighbours are kept from 127.0.0.0/8."""
    return any(
        _LOOPBACK in saved.rule.matches and saved.rule.target is r.Verdict.DROP
        for (table, name), chain in graph.chains.items()
        if table == r.Table.FILTER and (is_proxys(name) or name == "INPUT")
        for saved in chain.rules
    )


def _is_local_tail(rule: r.Rule) -> bool:
    """Whether it leads what is sent to 127.0.0.1 to the node ports: with all of the node's addresses, or by itself."""
    if next_chain(rule.target) != names.NODE_PORTS:
        return False
    asked = [match for match in rule.matches if isinstance(match, r.Destination)]
    return not asked or any(not match.negated and match.cidr.startswith("127.") for match in asked)
