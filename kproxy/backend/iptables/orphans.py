"""Where clients of UDP and SCTP were sent by rules that nobody wants any more.

A Service that is deleted while kproxy does not run is in no plan, so no comparison of plans tells that its flows are
stale; but the rules that made them are still in the tables when kproxy starts, and say what was dialled. Only the nat
table counts, for only what was rewritten goes astray. Rules of kube-proxy read the same.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from ipaddress import ip_address

from kproxy.model.enums import Protocol
from kproxy.model.flow import Destination
from kproxy.plan.plan import ServicePlan

# A dispatch rule as iptables-save prints it: one address or, for a node port, none; one port; and into the chains of
# a service port. A range of ports, or all of 127.0.0.0/8, is not what anybody dialled.
_DISPATCH = re.compile(
    r"-A KUBE-(?:SERVICES|NODEPORTS|SVC-\S+) (?:-d (\S+)/(?:32|128) )?-p (udp|sctp) .*"
    r"--dport (\d+) -j KUBE-(?:SVC|SVL|EXT|FW)-"
)


def destination_of(line: str) -> Destination | None:
    """What a rule of the nat table dispatches, if it is one of those."""
    if " -p udp " not in line and " -p sctp " not in line:
        return None
    found = _DISPATCH.match(line)
    if found is None:
        return None
    ip = str(ip_address(found[1])) if found[1] else ""
    return Destination(Protocol(found[2].upper()), ip, int(found[3]))


def unwanted(served: Collection[Destination], plans: Iterable[ServicePlan]) -> set[Destination]:
    """Those of ``served`` that are no frontend of any plan."""
    left = set(served)
    if left:
        for plan in plans:
            if plan.key.protocol is not Protocol.TCP:
                left.difference_update(Destination(plan.key.protocol, each.ip, each.port) for each in plan.frontends)
    return left
