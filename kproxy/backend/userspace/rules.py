"""The nouns of the userspace mode: where we listen, and whom that serves."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from msgspec import Struct

from kproxy.model.enums import Protocol
from kproxy.model.keys import ServicePortKey
from kproxy.model.relay import Relay
from kproxy.plan.plan import Target


class Listener(NamedTuple):
    """A socket that is to be open."""

    ip: str
    port: int
    protocol: Protocol

    def __str__(self) -> str:
        ip = f"[{self.ip}]" if ":" in self.ip else self.ip
        return f"{ip}:{self.port}/{self.protocol}"


class Keeping(Struct, frozen=True, gc=False):
    """Which clients' addresses endpoints see; all are networks in CIDR notation."""

    clients: str  # who is known by its own address
    sources: str  # addresses of this node alone, from which such connections leave before the kernel rewrites them
    beyond: str = ""  # endpoints of other nodes that see it, besides those of this one; empty: none


class Rule(Struct, frozen=True, gc=False):
    """What one listener serves. All of it can be sent to another process (msgspec)."""

    listener: Listener
    key: ServicePortKey
    targets: tuple[Target, ...]  # never empty
    relay: Relay
    affinity_seconds: int = 0  # 0: none
    serving: frozenset[tuple[str, int]] = frozenset()  # UDP: endpoints that may keep their flows
    keeping: Keeping | None = None  # None: to endpoints every client is this node

    def serves(self, target: Target) -> bool:
        """Whether datagrams of a flow may go on to ``target``, though new flows might not be sent there."""
        return target in self.targets or (target.ip, target.port) in self.serving


class Ruleset(Struct, frozen=True):
    """Everything that is to listen, for one family."""

    rules: Mapping[Listener, Rule]
    unserved: tuple[ServicePortKey, ...] = ()  # of a protocol that this mode does not speak


NOTHING = Ruleset({})
