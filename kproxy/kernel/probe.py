"""Which optional matches and targets work here: found out by trying each in a scratch chain that nothing jumps to.

``iptables-restore --test`` was rejected: on both variants it accepts a match that the kernel lacks, because the kernel
is not asked. So the rules are really committed, and the chain is removed at once. All together first, one by one only
when that fails: an ordinary node pays for two transactions.
Source: spec iptables.md 5 and 14; users' reports of one missing match stopping every sync.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from kproxy.errors import KernelError, ProgramFailed
from kproxy.kernel.doors import Capabilities
from kproxy.kernel.nfacct import Nfacct

if TYPE_CHECKING:
    from kproxy.kernel.iptables import Iptables

CHAIN = "KPROXY-PROBE"
COUNTER = "kproxy_probe"
_TIDY_DEADLINE = 5.0  # seconds

# Field of Capabilities → a rule of the kind that the backend writes; table nat, because MASQUERADE lives only there
RULES = {
    "comment": '-m comment --comment "probe" -j RETURN',
    "addrtype": "-m addrtype --dst-type LOCAL -j RETURN",
    "conntrack": "-m conntrack --ctstate NEW -j RETURN",
    "statistic": "-m statistic --mode random --probability 0.5000000000 -j RETURN",
    "recent": f"-m recent --name {CHAIN} --rcheck --seconds 1 --reap -j RETURN",
    "sctp": "-p sctp -m sctp --dport 1 -j RETURN",
    "nfacct": f"-m nfacct --nfacct-name {COUNTER} -j RETURN",
    "random_fully": "-j MASQUERADE --random-fully",
}


async def try_everything(iptables: Iptables) -> Capabilities:
    """Never fails for a missing match; what says nothing about matches, such as a held lock, is raised."""
    counter = Nfacct()
    missing: dict[str, str] = {}
    names = list(RULES)
    try:
        counter.ensure(COUNTER)
    except KernelError as error:
        missing["nfacct"] = str(error)
        names.remove("nfacct")
    try:
        if await _try(iptables, names):
            for name in names:
                if said := await _try(iptables, [name]):
                    missing[name] = said
    finally:
        # Whoever is told to end while the program hangs must not wait for another one that does; a chain that stays is
        # empty at the next start.
        with contextlib.suppress(KernelError, TimeoutError):
            async with asyncio.timeout(_TIDY_DEADLINE):
                await iptables.restore(f"*nat\n:{CHAIN} - [0:0]\n-X {CHAIN}\nCOMMIT\n".encode())
        with contextlib.suppress(KernelError):
            counter.delete(COUNTER)
    works = {name: name not in missing for name in RULES}
    return Capabilities(**works, missing=tuple(missing.items()))


async def _try(iptables: Iptables, names: list[str]) -> str:
    """What the programs said against these rules; empty: all of them work."""
    rules = "".join(f"-A {CHAIN} {RULES[name]}\n" for name in names)
    try:
        await iptables.restore(f"*nat\n:{CHAIN} - [0:0]\n{rules}COMMIT\n".encode())
    except ProgramFailed as refusal:
        return " ".join(refusal.stderr.split())[:200]
    return ""
