"""Packets for any dump: what its rules name as destinations is what they serve."""

from __future__ import annotations

from kproxy.backend.iptables.parse import SavedTables
from kproxy.backend.iptables.rules import Destination, Dnat, Ports
from kproxy.model.enums import Protocol

Aims = tuple[tuple[str, int, Protocol], ...]  # address (empty: any of the node), port, protocol


def aims(tables: SavedTables) -> tuple[Aims, tuple[str, ...]]:
    """Every destination of a rule with a port, of any table; and the endpoints that rules lead to."""
    found: dict[tuple[str, int, Protocol], None] = {}
    endpoints: dict[str, None] = {}
    for chains in tables.values():
        for chain in chains.values():
            for saved in chain.rules:
                match, target = saved.rule
                ip = next((each.cidr for each in match if isinstance(each, Destination) and not each.negated), "")
                ports = next((each for each in match if isinstance(each, Ports) and each.high), None)
                if ports is not None and ip.endswith(("/32", "/128", "")) and not ip.startswith("127."):
                    found[ip.partition("/")[0], ports.low, ports.protocol] = None
                if isinstance(target, Dnat):
                    endpoints[target.ip] = None
    return tuple(found), tuple(endpoints)
