"""Whom an endpoint sees where our relay asks it: the node, whoever the client is.

The one rule by which userspace mode may differ from the record, for every probe of a Service that the relay carries,
be it for all of them or because a Service asks for it. Which address of the node it is says the way to the endpoint.
Where the kernel carries a Service (SCTP, an annotation, a proxy that has ended) the record holds as it is; and so it
does where a scenario has the relay show its clients.
"""

from __future__ import annotations

from typing import Any

from tests.conformance.cluster import Cluster
from tests.conformance.modes import MODES, USERSPACE
from tests.conformance.probes import NODE, Target
from tests.conformance.world import NODE_ADDRESSES

Json = dict[str, Any]
SHOWS_CLIENTS = "--userspace-transparent"
_ANNOTATION = "kproxy.io/mode"


def carries(cluster: Cluster, mode: str, target: Target, protocol: str) -> bool:
    """Whether a running proxy of this mode leads what goes to ``target`` to its relay."""
    if protocol not in {"tcp", "udp"}:
        return False
    owner = cluster.owner(target, protocol, is_node=target.address in NODE_ADDRESSES)
    if owner is None:
        return False
    asked = owner["metadata"].get("annotations", {}).get(_ANNOTATION)
    return (asked if asked in MODES else mode) == USERSPACE


def expecting_the_node(result: Json) -> Json:
    """A recorded or wanted result, with the node as whom the backends saw."""
    return {**result, "source_seen": [NODE]} if "source_seen" in result else result
