"""Where the rules in a kernel lead relayed service ports: who was not there when they were written has to read it.

Which port a socket of the relay has is the kernel's choice, so a comparison with the rules that ought to be there takes
the ports from those that are; everything else about them is compared.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from kproxy.backend.iptables import names
from kproxy.plan.steer import Line

_POOL = re.compile(r"-A (KUBE-SV[CL]-\S+) .*-j (?:(KUBE-SEP-\S+)|DNAT --to-destination (\S+))")
_ENDPOINT = re.compile(r"-A (KUBE-SEP-\S+) .*--to-destination (\S+)")


def relay_ports(saved: Iterable[str], lines: Iterable[Line], ip: str) -> dict[Line, int]:
    """The ports at ``ip`` that rules lead to, of those lines that lead there. ``saved``: lines of iptables-save."""
    pools: dict[str, str] = {}
    endpoints: dict[str, str] = {}
    for text in saved:
        if found := _POOL.match(text):
            pools.setdefault(found[1], found[2] or found[3])
        elif found := _ENDPOINT.match(text):
            endpoints[found[1]] = found[2]
    ours = f"[{ip}]:" if ":" in ip else f"{ip}:"
    ports = {}
    for line in lines:
        to = pools.get(names.pool_chain(line.pool, names.service_hash(line.key)), "")
        to = endpoints.get(to, to)
        if to.startswith(ours):
            ports[line] = int(to.removeprefix(ours))
    return ports
