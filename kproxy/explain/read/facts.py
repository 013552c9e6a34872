"""What rules do not say, and a node or an operator may: addresses, kernel settings, clients that were seen."""

from __future__ import annotations

from msgspec import Struct


class HostFacts(Struct, frozen=True):
    """Of the node whose rules these are; what is not known is None or empty."""

    addresses: frozenset[str] = frozenset()  # of its interfaces, besides loopback
    route_localnet: frozenset[str] | None = None  # interfaces (and "all") where it is 1
    recent_clients: int | None = None  # how many each xt_recent list holds (ip_list_tot)
    be_liberal: bool | None = None  # net.netfilter.nf_conntrack_tcp_be_liberal
    remembered: frozenset[str] | None = None  # xt_recent lists that hold the question's source
