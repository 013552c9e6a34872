"""Which Services are in a dump: rules to service ports, whoever wrote them.

A structure is read, not comments: what leads from the entry chains to a rewrite of the destination is a service port,
whatever its chains are called. Names come from comments, from hashes of given objects, or are the chain's.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from kproxy.explain.answer import ServicePort
from kproxy.explain.dump import Dump


class Survey(Struct, frozen=True):
    """A dump and what is in it."""

    dump: Dump
    services: tuple[ServicePort, ...]  # by name, port and protocol
    owners: Mapping[tuple[str, str], tuple[int, ...]]  # (table, chain) → whose it is, as places in ``services``
