"""Whose rules a dump holds, as far as they prove it.

In a small cluster the rules of kproxy are those of kube-proxy, by design, so most often nothing proves who wrote them.
What does:

* a branch of a tree, an endpoint's DNAT in a Service's own chain, a comment of the relay: only kproxy writes those;
* a jump of nat KUBE-SERVICES to KUBE-MARK-MASQ, or a chain KUBE-XLB-…: kube-proxy before 1.24;
* Services that are not in the order of their names: kproxy sorts every list, and kube-proxy's Go map does not.

Rejected: the counters of nfacct, which both write where the kernel has them, and KUBE-MARK-DROP, which the kubelet
left, too. A node has one proxy, so what one family proves holds for the other one of the same variant.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise

from kproxy.backend.iptables import names
from kproxy.backend.iptables.parse import SavedChain, SavedTables
from kproxy.backend.iptables.rules import Comment, Dnat, Jump
from kproxy.explain.services.entrances import read_name

KPROXY, KUBE_PROXY, NOBODY = "kproxy", "kube-proxy", ""
EITHER = f"{KUBE_PROXY} or {KPROXY}"

_OWN_PREFIXES = (names.REJECT_BRANCH, names.EXTERNAL_BRANCH, names.FIREWALL_BRANCH, names.HEALTH_BRANCH)
_BRANCH = re.compile(r"KUBE-SV[CL]-(?![A-Z2-7]{16}$)")
_SERVICE = re.compile(r"KUBE-SV[CL]-[A-Z2-7]{16}")
_OWN_COMMENTS = ("no service answers at this address and port", "traffic of the relay", "traffic to the relay")
_OLD_PREFIX = "KUBE-XLB-"
_LISTS = (names.SERVICES, names.NODE_PORTS)


def writer_of(tables: SavedTables, *, planned: bool) -> str:
    """``planned``: kproxy's own headers are in it."""
    nat, filtering = tables.get("nat", {}), tables.get("filter", {})
    if (
        planned
        or any(name.startswith(_OWN_PREFIXES) for name in filtering)
        or any(_BRANCH.match(name) for name in nat)
        or any(text.startswith(_OWN_COMMENTS) for text in _fixed_comments(tables))
        or any(_rewrites(chain) for name, chain in nat.items() if _SERVICE.fullmatch(name))
    ):
        return KPROXY
    if any(name.startswith(_OLD_PREFIX) for name in nat) or _marks(nat) or not all(map(_is_sorted, _lists(nat))):
        return KUBE_PROXY
    return EITHER if names.SERVICES in nat or names.SERVICES in filtering else NOBODY


def settled(writers: Sequence[str]) -> Sequence[str]:
    """Of the dumps of one node and variant: those that prove nothing are by whom the others prove."""
    proven = {each for each in writers if each in {KPROXY, KUBE_PROXY}}
    only = proven.pop() if len(proven) == 1 else EITHER
    return [only if each == EITHER else each for each in writers]


def _fixed_comments(tables: SavedTables) -> Iterator[str]:
    """Of the chains that have few rules however large a cluster is, and of the last rules of KUBE-SERVICES."""
    few = (names.SERVICES, names.POSTROUTING, names.PROXY_FIREWALL, "PREROUTING", "OUTPUT", "POSTROUTING")
    for chains in tables.values():
        for name in few:
            rules = chains[name].rules if name in chains else []
            for saved in (*rules[:20], *rules[-20:]):
                yield from (match.text for match in saved.rule.matches if isinstance(match, Comment))


def _rewrites(chain: SavedChain) -> bool:
    return any(isinstance(saved.rule.target, Dnat) for saved in chain.rules)


def _marks(nat: Mapping[str, SavedChain]) -> bool:
    chain = nat.get(names.SERVICES)
    return chain is not None and any(saved.rule.target == Jump(names.MARK_MASQ) for saved in chain.rules)


def _lists(nat: Mapping[str, SavedChain]) -> Iterator[list[tuple[str, str, str]]]:
    """The service ports of each list over all of them: (namespace, name, port)."""
    for name in _LISTS:
        chain = nat.get(name)
        comments = (match.text for saved in (chain.rules if chain else ()) for match in saved.rule.matches
                    if isinstance(match, Comment))  # fmt: skip
        named = [found for found in map(read_name, comments) if found.service]
        yield [(*found.service.split("/", 1), found.port) for found in named]  # type: ignore[misc]


def _is_sorted(ports: Sequence[tuple[str, str, str]]) -> bool:
    return all(before <= after for before, after in pairwise(ports))
