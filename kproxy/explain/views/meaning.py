"""What a chain is for, in words: those that every node has, those of one Service, branches of trees, others'."""

from __future__ import annotations

from collections.abc import Sequence

from kproxy.backend.iptables import names
from kproxy.backend.iptables import rules as r
from kproxy.explain.answer import Endpoint, ServicePort
from kproxy.explain.health.strangers import owner_of
from kproxy.explain.services.entrances import entrances
from kproxy.explain.services.graph import HOOKS, hash_of, is_branch
from kproxy.explain.services.survey import Survey

_NAT, _FILTER, _MANGLE = r.Table.NAT.value, r.Table.FILTER.value, r.Table.MANGLE.value
_FIXED = {
    (_NAT, names.SERVICES): "leads packets for Services to the Services' chains, by address and port; what is for the "
    "node itself goes on to KUBE-NODEPORTS",
    (_NAT, names.NODE_PORTS): "leads packets for node ports to the Services' chains",
    (_NAT, names.MARK_MASQ): "marks packets whose source is to be replaced by the node's (SNAT)",
    (_NAT, names.POSTROUTING): "replaces the source of marked packets by the node's (SNAT), and takes the mark off",
    (_NAT, "KUBE-MARK-DROP"): "marks packets that are to be dropped (kube-proxy up to 1.25, the kubelet)",
    (_FILTER, names.SERVICES): "refuses or drops packets for cluster IPs that nobody here serves",
    (_FILTER, names.EXTERNAL_SERVICES): "refuses or drops packets for external addresses and node ports that nobody "
    "here serves",
    (_FILTER, names.NODE_PORTS): "lets in what asks for health check node ports",
    (_FILTER, names.PROXY_FIREWALL): "drops what a Service's source ranges did not let in (loadBalancerSourceRanges)",
    (_FILTER, names.FORWARD): "accepts what Services' rules marked and what belongs to known flows, and may drop what "
    "conntrack cannot place",
    (_FILTER, names.FIREWALL): "keeps neighbours from what listens on loopback; the kubelet and the proxy share it",
}
_CANARY = "is empty; the proxy looks whether it is still there to learn that somebody has flushed the tables"
_TRIAL = "is where kproxy tries rules before anything leads to them; it is left over if it is there now"
_HOOKS = {
    "PREROUTING": "every packet that arrives",
    "INPUT": "every packet for the node itself",
    "FORWARD": "every packet that passes through the node, between pods and the world",
    "OUTPUT": "every packet that a process on the node sends",
    "POSTROUTING": "every packet that is about to leave",
}
_BRANCHES = {
    names.REJECT_BRANCH: names.SERVICES,
    names.EXTERNAL_BRANCH: names.EXTERNAL_SERVICES,
    names.FIREWALL_BRANCH: names.PROXY_FIREWALL,
    names.HEALTH_BRANCH: names.NODE_PORTS,
}


def shown(endpoint: Endpoint) -> str:
    return f"[{endpoint.ip}]:{endpoint.port}" if ":" in endpoint.ip else f"{endpoint.ip}:{endpoint.port}"


def meaning(survey: Survey, table: str, chain: str) -> tuple[str, tuple[str, ...]]:
    """What a chain does, as a sentence whose subject it is, and the Services whose it is."""
    services = [survey.services[place] for place in survey.owners.get((table, chain), ())]
    told = tuple(dict.fromkeys(each.name for each in services))
    if chain not in survey.dump.tables.get(table, {}):
        said = f"; it {_of_service(chain, services)}" if services else ""
        return f"is not in the dump, though rules lead to it{said}", told
    if services:
        return _of_service(chain, services), told
    if is_branch(table, chain):
        return _branch(survey, table, chain)
    return _of_hook(survey, table, chain) or _FIXED.get((table, chain)) or _of_nobody(table, chain), told


def _of_hook(survey: Survey, table: str, chain: str) -> str:
    """Of a built-in chain; empty of every other."""
    if chain not in HOOKS:
        return ""
    policy = survey.dump.tables[table][chain].policy
    return f"is met by {_HOOKS[chain]}" + (f"; what comes to its end meets policy {policy}" if policy != "-" else "")


def _of_nobody(table: str, chain: str) -> str:
    """Of a chain that serves no Service."""
    if chain == names.CANARY:
        return _CANARY
    if (table, chain) in names.SCRATCH:
        return _TRIAL
    if hash_of(chain) or chain.startswith("KUBE-SEP-"):
        return "was a Service's or an endpoint's, and nothing leads from a Service's address to it"
    owner = owner_of(chain)
    return (
        f"belongs to {owner}, not to a service proxy" if owner else "is no service proxy's; who wrote it is not known"
    )


def _of_service(chain: str, services: Sequence[ServicePort]) -> str:
    owner = services[0]
    name = " and ".join(dict.fromkeys(each.name for each in services))
    match chain[:9], chain[:8]:
        case "KUBE-EXT-", _:
            policy = f" (external traffic policy {owner.external_policy})" if owner.external_policy else ""
            return f"takes traffic from outside the cluster to {name}{policy}"
        case "KUBE-XLB-", _:
            return f"takes traffic from outside the cluster to this node's endpoints of {name} (kube-proxy up to 1.23)"
        case _, "KUBE-FW-":
            if not owner.source_ranges:
                return f"takes traffic for a load balancer's address to {name}"
            return f"lets only {', '.join(owner.source_ranges)} use a load balancer's address of {name}"
        case "KUBE-SEP-", _:
            ends = dict.fromkeys(shown(one) for each in services for one in each.endpoints if one.chain == chain)
            return f"rewrites the destination to {' or '.join(ends)}, an endpoint of {name}"
        case prefix, _:
            whose = "this node's" if prefix == "KUBE-SVL-" else "all"
            part = "a part of " if hash_of(chain) and chain[-3:-2] == "-" else ""
            relay = "; its endpoint is kproxy's relay, which chooses" if owner.relayed else ""
            return f"chooses among {part}{whose} endpoints of {name}{relay}"


def _branch(survey: Survey, table: str, chain: str) -> tuple[str, tuple[str, ...]]:
    """A branch says in its name what of, and its entrances say whose."""
    root = next((of for prefix, of in _BRANCHES.items() if chain.startswith(prefix)), "")
    prefix = next((each for each in _BRANCHES if chain.startswith(each)), names.NAT_BRANCH)
    rest = chain.removeprefix(prefix)
    by_port = rest.startswith(("TCP-", "UDP-", "SCTP-"))
    if table == _NAT:
        root = names.NODE_PORTS if by_port and rest.count("-") == 2 and rest.rpartition("-")[2].isdecimal() else (
            names.SERVICES
        )  # fmt: skip
    lines = {each.line: service.name for service in survey.services for each in service.frontends}
    below = entrances(survey.dump.tables.get(table, {}), chain)
    found = tuple(dict.fromkeys(lines[each.saved.line] for each in below if each.saved.line in lines))
    what = f"ports {rest.replace('-', ' ', 1)}" if by_port else f"addresses in {rest.partition('-')[0]}"
    return f"is a branch of {root} for {what}: {len(found)} service port{'s' * (len(found) != 1)}", found
