"""Who else writes rules on the node: other programs' chains before a proxy's, other eras, the other variant.

A network plugin's chains stand first on many healthy nodes, so they are a note: what they can do to a packet is read
from their rules, not known of the program. A firewall's or nobody's that can drop or redirect is a warning. Rules
behind a proxy's matter by what the walk ends with, which is ``hooks.py``'s.
Source of names: the programs' documentation and the dumps in users' reports.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from kproxy.backend.iptables import names
from kproxy.backend.iptables import rules as r
from kproxy.backend.iptables.parse import SavedRule
from kproxy.explain import answer
from kproxy.explain.answer import Severity
from kproxy.explain.health.hooks import is_spared
from kproxy.explain.services.graph import HOOKS, Graph, Place, fate_of, is_branch, is_proxys, next_chain

_LEGACY_REMARK = "legacy tables present"


class _Owner(NamedTuple):
    pattern: re.Pattern[str]
    name: str
    is_firewall: bool = False  # that knows nothing of Services


_IPVS = re.compile(r"KUBE-(?:IPVS|LOAD-BALANCER|NODE-PORT$|SOURCE-RANGES)")
_OWNERS = (
    _Owner(re.compile(r"cali-|felix-"), "Calico"),
    _Owner(re.compile(r"(?:OLD_)?CILIUM_"), "Cilium"),
    _Owner(re.compile(r"FLANNEL-"), "flannel"),
    _Owner(re.compile(r"CNI-"), "the standard CNI plugins (portmap, bridge)"),
    _Owner(re.compile(r"KUBE-(?:ROUTER-|POD-FW-|NWPLCY-|SVC-MARK|SNAT)"), "kube-router"),
    _Owner(re.compile(r"WEAVE"), "Weave Net"),
    _Owner(re.compile(r"AWS-|nat-prefix"), "the Amazon VPC CNI"),
    _Owner(re.compile(r"ANTREA-"), "Antrea"),
    _Owner(re.compile(r"OVN-KUBE-"), "OVN-Kubernetes"),
    _Owner(re.compile(r"IP-MASQ"), "ip-masq-agent"),
    _Owner(re.compile(r"(?:KUBE-KUBELET-|KUBE-IPTABLES-HINT|KUBE-HOSTPORTS|KUBE-HP-)"), "the kubelet"),
    _Owner(_IPVS, "kube-proxy's ipvs mode"),
    _Owner(re.compile(r"ISTIO_"), "Istio"),
    _Owner(re.compile(r"PROXY_INIT_"), "Linkerd"),
    _Owner(re.compile(r"DOCKER"), "Docker"),
    _Owner(re.compile(r"NETAVARK|PODMAN"), "Podman"),
    _Owner(re.compile(r"LIBVIRT_"), "libvirt"),
    _Owner(re.compile(r"ts-|TAILSCALE"), "Tailscale"),
    _Owner(re.compile(r"ufw6?-"), "ufw", is_firewall=True),
    _Owner(
        re.compile(r"(?:IN|FWD|FWDI|FWDO|PRE|POST)_|(?:INPUT|FORWARD|OUTPUT|PREROUTING|POSTROUTING)_(?:direct|ZONES|POL)"),
        "firewalld",
        is_firewall=True,
    ),
    _Owner(re.compile(r"f2b-"), "fail2ban", is_firewall=True),
    _Owner(re.compile(r"csf|LOCALINPUT|DENYIN"), "ConfigServer Firewall", is_firewall=True),
)  # fmt: skip
_SPEAKERS = (  # by comments
    _Owner(re.compile(r"NodeLocal DNS"), "NodeLocal DNSCache"),
    _Owner(re.compile(r"cali:"), "Calico"),
    _Owner(re.compile(r"cilium"), "Cilium"),
    _Owner(re.compile(r"flanneld"), "flannel"),
    _Owner(re.compile(r"AWS|aws-"), "the Amazon VPC CNI"),
)
_NOBODY = _Owner(re.compile(""), "", is_firewall=True)

_VERBS = {
    "ACCEPT": "accept",
    "DROP": "drop",
    "REJECT": "refuse",
    "DNAT": "redirect",
    "REDIRECT": "redirect",
    "NETMAP": "redirect",
    "TPROXY": "redirect",
}
_DEEDS = {
    "SNAT": "change their source",
    "MASQUERADE": "change their source",
    "NOTRACK": "keep them from connection tracking",
    "QUEUE": "hand them to a program",
}
_CAN = frozenset({*_VERBS, *_DEEDS})
_HARM = frozenset({"DROP", "REJECT", "DNAT", "REDIRECT", "NETMAP", "TPROXY", "NOTRACK", "QUEUE"})
_EARLIER = frozenset({"raw", "mangle"})  # their PREROUTING and OUTPUT are asked before nat's


def look(graphs: Sequence[Graph]) -> Iterator[answer.Warning]:
    yield from _both_variants(graphs)
    for graph in graphs:
        yield from _ahead(graph)
        yield from _eras(graph)
        yield from _two_proxies(graph)


# --- the other variant ----------------------------------------------------------------------------------------


def _both_variants(graphs: Sequence[Graph]) -> Iterator[answer.Warning]:
    for family in dict.fromkeys(graph.dump.facts.family for graph in graphs):
        mine = [graph for graph in graphs if graph.dump.facts.family is family]
        holding = {graph.dump.facts.variant: graph for graph in mine if _kube_chains(graph)}
        if len(holding) > 1:
            serving = [graph for graph in holding.values() if graph.rules(r.Table.NAT, names.SERVICES)]
            what = " and ".join(
                f"{variant or 'unnamed'} ({len(_kube_chains(graph))} chains)" for variant, graph in holding.items()
            )
            both = "both send Services' packets somewhere, one after the other" if len(serving) > 1 else (
                "rules in the other one are met as well, and each variant's programs show only their own"
            )  # fmt: skip
            yield answer.Warning(
                "rules-in-both-variants",
                Severity.ERROR if len(serving) > 1 else Severity.WARNING,
                f"Kubernetes' {family.value} chains are in both variants of iptables, {what}: {both}",
                "let kubelet, proxy and network plugin use one variant; `kproxy cleanup` removes a proxy's chains from "
                "both, and the proxy that runs writes its own again",
            )
        remarked = any(_LEGACY_REMARK in text for graph in mine for text in graph.dump.warnings)
        if remarked and len({graph.dump.facts.variant for graph in mine}) < 2:
            yield answer.Warning(
                "legacy-tables-present",
                Severity.NOTE,
                f"iptables-save remarked that {family.value} has legacy tables, too: rules may be there, "
                "and this dump does not show them",
                "give iptables-legacy-save's output as well, in the same file",
            )


def _kube_chains(graph: Graph) -> list[str]:
    return [name for _, name in graph.chains if name.startswith("KUBE-") and not name.startswith("KUBE-ROUTER-")]


# --- chains ahead of ours -------------------------------------------------------------------------------------


class _Stranger(NamedTuple):
    """Chains of one owner, or rules of nobody's, before a proxy's."""

    owner: _Owner
    where: dict[str, None]
    chains: dict[str, None]
    fates: set[str]
    lines: list[int]


def _ahead(graph: Graph) -> Iterator[answer.Warning]:
    found: dict[str, _Stranger] = {}
    for place, base in graph.chains.items():
        if place[1] not in HOOKS:
            continue
        first = next((at for at, saved in enumerate(base.rules) if is_proxys(next_chain(saved.rule.target))), None)
        if first is None and not (place[0] in _EARLIER and place[1] in {"PREROUTING", "OUTPUT"}):
            continue
        for saved in base.rules[:first]:
            _note(graph, place, saved, found)
    for name, stranger in found.items():
        yield _ahead_of_ours(graph, name, stranger)


def _note(graph: Graph, place: Place, saved: SavedRule, found: dict[str, _Stranger]) -> None:
    """Add a rule that stands before a proxy's to its owner's, if it can do anything to a packet that matters."""
    table, hook = place
    chain = next_chain(saved.rule.target)
    if not chain and table not in _EARLIER and is_spared(saved.rule):
        return
    fates = graph.fates((table, chain)) if chain else frozenset({fate_of(saved.rule)})
    fates &= _HARM if table in _EARLIER else _CAN
    if not fates:
        return
    owner = _owner(chain) if chain else _speaker(saved.rule)
    key = owner.name or (f"chain {chain}" if chain else f"rules in {table} {hook}")
    stranger = found.setdefault(key, _Stranger(owner, {}, {}, set(), []))
    stranger.where[f"{table} {hook}"] = None
    if chain:
        stranger.chains[chain] = None
    stranger.fates.update(fates)
    stranger.lines.append(saved.line)


def _ahead_of_ours(graph: Graph, name: str, stranger: _Stranger) -> answer.Warning:
    where = ", ".join(stranger.where)
    chains = list(stranger.chains)
    shown = ", ".join(chains[:4]) + (f" and {len(chains) - 4} more" if len(chains) > 4 else "")
    harmful = bool(stranger.fates & _HARM) and stranger.owner.is_firewall
    if not chains:
        number = len(stranger.lines)
        whose = f" of {stranger.owner.name}" if stranger.owner.name else ""
        subject = f"{number} rules{whose} stand" if number > 1 else f"a rule{whose} stands"
        subject = f"{subject} before the proxy's in {graph.place}{where}"
    elif stranger.owner.name:
        subject = f"chains of {name} ({shown}) stand before the proxy's in {graph.place}{where}"
    else:
        subject = f"{name}, whose owner is not known, stands before the proxy's in {graph.place}{where}"
    return answer.Warning(
        "foreign-chain-ahead" if chains else "foreign-rule-ahead",
        Severity.WARNING if harmful and chains else Severity.NOTE,
        f"{subject} and can {_show_deeds(stranger.fates)} first",
        "when a Service fails, look whether the packet meets it: --from and --to show the way",
        min(stranger.lines),
    )


def owner_of(chain: str) -> str:
    """The program whose chains have such names; empty: nobody known."""
    return _owner(chain).name


def _show_deeds(fates: set[str]) -> str:
    verbs = " or ".join(dict.fromkeys(_VERBS[fate] for fate in sorted(fates) if fate in _VERBS))
    deeds = [f"{verbs} packets"] if verbs else []
    deeds += dict.fromkeys(_DEEDS[fate] for fate in sorted(fates) if fate in _DEEDS)
    said = " or ".join(deeds)
    return said if verbs else said.replace("their", "packets'").replace("them", "packets")


def _speaker(rule: r.Rule) -> _Owner:
    """Who wrote a rule that stands in a built-in chain itself, by its comment."""
    text = next((match.text for match in rule.matches if isinstance(match, r.Comment)), "")
    return next((owner for owner in _SPEAKERS if owner.pattern.match(text)), _NOBODY)


def _owner(chain: str) -> _Owner:
    return next((owner for owner in _OWNERS if owner.pattern.match(chain)), _NOBODY)


# --- other eras, other proxies --------------------------------------------------------------------------------


def _eras(graph: Graph) -> Iterator[answer.Warning]:
    nat = r.Table.NAT.value
    for name, said in (
        ("KUBE-XLB-", "a kube-proxy before 1.24 wrote KUBE-XLB- chains"),
        ("KUBE-MARK-DROP", "a kubelet before 1.27, or a kube-proxy of its age, wrote chain KUBE-MARK-DROP"),
    ):
        chain = next((each for (table, each) in graph.chains if table == nat and each.startswith(name)), None)
        if chain is not None:
            used = any(is_proxys(source) for source, _ in graph.referrers.get((nat, chain), ()))
            yield answer.Warning(
                "old-chains",
                Severity.NOTE,
                f"{graph.place}nat: {said}; " + ("rules use it" if used else "nothing uses it any more"),
                "" if used else "it does no harm; a restart of the node removes it",
                graph.chains[nat, chain].line,
            )
    ipvs = [place for place in graph.chains if _IPVS.match(place[1])]
    if ipvs:
        yield answer.Warning(
            "ipvs-chains",
            Severity.NOTE,
            f"chains of kube-proxy's ipvs mode are in {graph.place}{ipvs[0][0]} ({ipvs[0][1]}): where ipvs serves, "
            "Services are not in these rules; where it served once, they are left over",
            "look with `ipvsadm -L -n`; `kproxy cleanup` removes what is left over",
            graph.chains[ipvs[0]].line,
        )


def _two_proxies(graph: Graph) -> Iterator[answer.Warning]:
    """Trees of kproxy are there, and the list they belong to leads into none of them: somebody rewrote it."""
    roots = {
        r.Table.NAT.value: (names.SERVICES, names.NODE_PORTS),
        r.Table.FILTER.value: (names.SERVICES, names.EXTERNAL_SERVICES, names.PROXY_FIREWALL, names.NODE_PORTS),
    }
    for table, lists in roots.items():
        branches = [place for place in graph.chains if place[0] == table and is_branch(*place)]
        led = {to for each in lists for saved in graph.rules(table, each) if (to := next_chain(saved.rule.target))}
        if branches and not any(is_branch(table, to) for to in led) and any(graph.rules(table, x) for x in lists):
            yield answer.Warning(
                "two-proxies",
                Severity.WARNING,
                f"{graph.place}{table} holds {len(branches)} branches of kproxy's trees ({branches[0][1]}), and "
                f"{' and '.join(lists[:2])} lead into none: kproxy and kube-proxy both wrote here",
                "run one of them; the one that runs removes what the other left, or `kproxy cleanup` does",
                graph.chains[branches[0]].line,
            )
