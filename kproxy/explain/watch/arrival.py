"""Whether the end of a packet's way was seen: only then may anybody say what became of it.

No sighting says that it is the last, but each hook has its chains, and a packet that is through has met them all: those
of INPUT where a process of the node gets it, else those of POSTROUTING. What is missing was lost on the way to us, or
the packet was lost on its own: behind PREROUTING by routing (no route, rp_filter), which tells nobody.

Tables of nat are asked once for a flow, and never about one that was known before. A way that ends in them is whole
whatever the last rule did, for nothing can be dropped there.
Rejected: to take a packet that was let through everywhere for one that arrived, because a second half that was not
heard then reads as a success.
Source: linux/netfilter_ipv4.h, the order of hooks; net/netfilter/nf_nat_core.c, nf_nat_inet_fn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence

from kproxy.backend.iptables import rules as r
from kproxy.model.enums import IPFamily, family_of
from kproxy.model.sighting import Header, Kind, Sighting

HOOKS = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
_INPUT, _POSTROUTING, _NAT, _LOOPBACK = "INPUT", "POSTROUTING", "nat", "lo"
_BEFORE_THE_END = ("FORWARD", "OUTPUT")
_ENDING = (r.Masquerade, r.Snat, r.Dnat, r.DnatRange, r.Redirect)

Target = Callable[[Sighting], r.Target | None]  # of the rule that was met; None: none, or it is not known
# By family and variant; then by table and built-in chain: its policy
Chains = Mapping[tuple[IPFamily, str], Mapping[tuple[str, str], str]]


def is_through(sightings: Sequence[Sighting], header: Header, chains: Chains, target: Target) -> bool:
    """Whether it was let through the last chains that it had to meet; ``header``: as it came."""
    met = {(each.variant, each.table, each.chain) for each in sightings if each.chain in HOOKS}
    hooks = {chain for _, _, chain in met}
    family = family_of(header.source)
    last = _last_hook(sightings, hooks)
    last_chains = list(_chains(last, family, chains, asks_nat=any(each.table == _NAT for each in sightings)))
    if not last_chains and last == _POSTROUTING:  # nothing there could have told, so what comes before must do
        before = next((hook for hook in _BEFORE_THE_END if hook in hooks), "")
        last_chains = list(_chains(before, family, chains, asks_nat=False))
    # Of two variants' nat the second is not asked where the first has decided
    due = {table for _, table, _ in last_chains}
    asked = [chain for chain in last_chains if chain[1] != _NAT or chain in met]
    if not due or due != {table for _, table, _ in asked}:
        return False
    return all(chain in met and _lets_through(chain, sightings, chains, target) for chain in asked)


def _last_hook(sightings: Sequence[Sighting], met: set[str]) -> str:
    """INPUT for what a process of the node gets, be it through lo."""
    out = [each.out_interface for each in sightings if each.out_interface]
    return _INPUT if _INPUT in met or (out and out[-1] == _LOOPBACK) else _POSTROUTING


def _chains(hook: str, family: IPFamily, chains: Chains, *, asks_nat: bool) -> Iterator[tuple[str, str, str]]:
    for (of, variant), policies in chains.items():
        for table, chain in policies:
            if of is family and hook == chain and (table != _NAT or (asks_nat and hook != _INPUT)):
                yield variant, table, hook


def _lets_through(chain: tuple[str, str, str], sightings: Sequence[Sighting], chains: Chains, target: Target) -> bool:
    """Its last word, which may be a rule's of a chain behind it."""
    variant, table, hook = chain
    last = next(each for each in reversed(sightings) if (each.variant, each.table) == (variant, table))
    if last.kind is Kind.RETURN:
        return False
    if variant == "nft":
        return last.verdict == "accept"
    if last.kind is Kind.POLICY:
        return chains[last.family, variant][table, hook] != "DROP"
    did = target(last)
    return (did is None and table == _NAT) or did is r.Verdict.ACCEPT or isinstance(did, _ENDING)
