"""Takes everything of ours out of the tables of one family and variant, and nothing else.

Ours are the chains whose names say so, those of kube-proxy's ipvs mode among them, and every rule of a built-in chain
that jumps to one of them, in whatever words an earlier version of us, or of kube-proxy, wrote it. KUBE-FIREWALL and
its jumps stay: the kubelet relies on them (spec: iptables.md 16). A chain of ours that somebody else's chain jumps to
cannot be deleted; it is emptied.

Each table is one transaction, read first; jumps that somebody removed before are not missed. Not undone: sysctls,
nfacct objects, conntrack entries.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from msgspec import Struct

from kproxy.backend.iptables import names
from kproxy.backend.iptables.rules import Table
from kproxy.backend.iptables.text import restore_text
from kproxy.kernel.doors import IptablesDoor

ORDER = (Table.NAT, Table.FILTER, Table.MANGLE)
Ours = Callable[[Table, str], bool]  # table and chain
_OF_IPVS = frozenset(
    {"KUBE-NODE-PORT", "KUBE-LOAD-BALANCER", "KUBE-SOURCE-RANGES-FIREWALL", "KUBE-IPVS-FILTER", "KUBE-IPVS-OUT-FILTER"}
)


class Cleaned(Struct, frozen=True):
    rules: int  # jumps from built-in chains
    chains: int
    kept: tuple[str, ...] = ()  # emptied, but somebody else's rules still refer to them


def is_of_ipvs(table: Table, chain: str) -> bool:
    """Whether only kube-proxy's ipvs mode has a chain of that name."""
    return table is not Table.MANGLE and chain in _OF_IPVS


def is_ours(table: Table, chain: str) -> bool:
    """Whether a service proxy made the chain, in whatever mode on iptables."""
    return names.is_ours(table, chain) or is_of_ipvs(table, chain)


async def cleanup(door: IptablesDoor, tables: Iterable[Table] = ORDER, ours: Ours = is_ours) -> Cleaned:
    """Remove our rules and chains. Raises KernelError; run it again, it takes what is left."""
    rules = chains = 0
    kept: list[str] = []
    for table in tables:
        found = _find((await door.save(table.value)).decode(errors="replace").split("\n"), table, ours)
        if not found.chains:
            continue
        gone = sorted(found.chains - found.referenced)
        leaves = "".join(f"-D{line[2:]}\n" for line in found.jumps)
        # In one transaction: were the jumps removed first, a failure after that would leave chains without traffic.
        first, *rest = restore_text(table, declare=sorted(found.referenced), delete=gone)
        declared, *deleted = rest
        await door.restore([piece.encode() for piece in (first, declared, leaves, *deleted)])
        rules += len(found.jumps)
        chains += len(gone)
        kept += sorted(found.referenced)
    return Cleaned(rules, chains, tuple(kept))


class _Found(Struct):
    chains: set[str]
    jumps: list[str]  # rules of built-in chains, as saved
    referenced: set[str]  # by chains that are neither built-in nor ours


def _find(lines: Iterable[str], table: Table, ours: Ours) -> _Found:
    found = _Found(set(), [], set())
    built_in: set[str] = set()
    for line in lines:
        if line.startswith(":"):
            name, policy = line[1:].split()[:2]
            if policy != "-":
                built_in.add(name)
            elif ours(table, name):
                found.chains.add(name)
        elif line.startswith("-A "):
            chain, target = line.split(" ", 2)[1], _target(line)
            if target in found.chains and chain not in found.chains:
                if chain in built_in:
                    found.jumps.append(line)
                else:
                    found.referenced.add(target)
    return found


def _target(line: str) -> str:
    """The chain that a saved rule ends in, if it does."""
    words = line.rsplit(" ", 2)
    return words[2] if words[1] in {"-j", "-g"} else ""
